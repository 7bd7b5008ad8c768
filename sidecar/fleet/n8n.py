"""A workflow that n8n imports as it is: a schedule, one HTTP request a Space, a branch for what is not well. Pure.

Node types and parameters are those of n8n-nodes-base 2.41 in versions that n8n has had since 1.60: schedule trigger
1.2, HTTP request 4.2, IF 2.2.
"""

from __future__ import annotations

import math
import uuid
from typing import Any

from sidecar.fleet.roster import Fleet, Space

_OURS = uuid.UUID("6f0b1f0a-6a64-4f0e-9c43-3f1c8e2f7a55")
ROW = 160
TIMEOUT_MS = 30_000
TRIES, PAUSE_MS = 3, 5000

_BASE = "n8n-nodes-base."
SCHEDULE, IF, WELL, NOT_WELL = "Schedule", "Answers 200?", "Well", "Not well"


def workflow(fleet: Fleet, name: str = "Ping the Spaces") -> dict[str, Any]:
    """The document to print. It is not active: whoever imports it looks at it first."""
    requests = [_request(space, n) for n, space in enumerate(fleet.spaces)]
    middle = ROW * (len(requests) - 1) // 2
    nodes = [
        _node(SCHEDULE, "scheduleTrigger", 1.2, (0, middle), _rule(min(space.every_s for space in fleet.spaces))),
        *requests,
        _node(IF, "if", 2.2, (520, middle), _condition()),
        _node(WELL, "noOp", 1, (780, middle - ROW // 2), {}),
        _told(fleet, (780, middle + ROW // 2)),
    ]
    to_if = {request["name"]: {"main": [[_to(IF)]]} for request in requests}
    return {
        "name": name,
        "nodes": nodes,
        "connections": {
            SCHEDULE: {"main": [[_to(request["name"]) for request in requests]]},
            **to_if,
            IF: {"main": [[_to(WELL)], [_to(NOT_WELL)]]},
        },
        "active": False,
        "settings": {"executionOrder": "v1"},
        "pinData": {},
    }


def _node(name: str, kind: str, version: float, at: tuple[int, int], parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "id": str(uuid.uuid5(_OURS, name)),
        "name": name,
        "type": _BASE + kind,
        "typeVersion": version,
        "position": list(at),
    }


def _to(name: str) -> dict[str, Any]:
    return {"node": name, "type": "main", "index": 0}


def _rule(every_s: float) -> dict[str, Any]:
    """The most frequent of all intervals, in whole minutes or hours, as the trigger takes them."""
    minutes = max(1, math.floor(every_s / 60))
    if minutes < 60:
        return {"rule": {"interval": [{"field": "minutes", "minutesInterval": minutes}]}}
    return {"rule": {"interval": [{"field": "hours", "hoursInterval": min(23, minutes // 60)}]}}


def _request(space: Space, row: int) -> dict[str, Any]:
    """What can't be reached goes on as an item without a status: one Space never keeps the others from their ping."""
    parameters: dict[str, Any] = {
        "url": f"{space.url}/health",
        "options": {
            "timeout": TIMEOUT_MS,
            "response": {"response": {"fullResponse": True, "neverError": True, "responseFormat": "text"}},
        },
    }
    if space.token_env is not None:
        bearer = {"name": "Authorization", "value": f"={{{{ 'Bearer ' + $env.{space.token_env} }}}}"}
        parameters |= {"sendHeaders": True, "headerParameters": {"parameters": [bearer]}}
    node = _node(f"Ping {space.id}", "httpRequest", 4.2, (260, row * ROW), parameters)
    return node | {
        "retryOnFail": True,
        "maxTries": TRIES,
        "waitBetweenTries": PAUSE_MS,
        "onError": "continueRegularOutput",
        "alwaysOutputData": True,
    }


def _condition() -> dict[str, Any]:
    condition = {
        "id": str(uuid.uuid5(_OURS, "condition")),
        "leftValue": "={{ $json.statusCode }}",
        "rightValue": 200,
        "operator": {"type": "number", "operation": "equals"},
    }
    options = {"caseSensitive": True, "leftValue": "", "typeValidation": "loose", "version": 2}
    return {
        "conditions": {"options": options, "conditions": [condition], "combinator": "and"},
        "looseTypeValidation": True,
        "options": {},
    }


def _told(fleet: Fleet, at: tuple[int, int]) -> dict[str, Any]:
    """Where the failures go: to the webhook, else to an empty node for the mail or chat of whoever imports this."""
    if fleet.webhook is None:
        return _node(NOT_WELL, "noOp", 1, at, {})
    node = _node(
        NOT_WELL,
        "httpRequest",
        4.2,
        at,
        {
            "method": "POST",
            "url": fleet.webhook,
            "sendBody": True,
            "contentType": "json",
            "specifyBody": "json",
            "jsonBody": "={{ JSON.stringify({ node: $prevNode.name, status: $json.statusCode, said: $json.data }) }}",
            "options": {"timeout": TIMEOUT_MS},
        },
    )
    return node | {"retryOnFail": True, "maxTries": TRIES, "waitBetweenTries": PAUSE_MS}
