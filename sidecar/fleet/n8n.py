"""A workflow that n8n imports as it is: a schedule, one HTTP request a Space, a branch for what is not well. Pure.

The branch is each request's own error output: behind it `$prevNode` is the request, and so says which Space it is.
Node types and parameters are those of n8n-nodes-base 2.41 in versions that n8n has had since 1.60: schedule trigger
1.2, HTTP request 4.2.
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
SCHEDULE, WELL, NOT_WELL = "Schedule", "Well", "Not well"


def workflow(fleet: Fleet, name: str = "Ping the Spaces") -> dict[str, Any]:
    """The document to print. It is not active: whoever imports it looks at it first."""
    requests = [_request(space, n) for n, space in enumerate(fleet.spaces)]
    middle = ROW * (len(requests) - 1) // 2
    nodes = [
        _node(SCHEDULE, "scheduleTrigger", 1.2, (0, middle), _rule(min(space.every_s for space in fleet.spaces))),
        *requests,
        _node(WELL, "noOp", 1, (560, middle - ROW // 2), {}),
        _told(fleet, (560, middle + ROW // 2)),
    ]
    branches = {request["name"]: {"main": [[_to(WELL)], [_to(NOT_WELL)]]} for request in requests}
    return {
        "name": name,
        "nodes": nodes,
        "connections": {
            SCHEDULE: {"main": [[_to(request["name"]) for request in requests]]},
            **branches,
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
    """What isn't answered by 2xx leaves by the second output: one Space never keeps the others from their ping."""
    parameters: dict[str, Any] = {
        "url": f"{space.url}/health",
        "options": {
            "timeout": TIMEOUT_MS,
            "response": {"response": {"fullResponse": True, "responseFormat": "text"}},
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
        "onError": "continueErrorOutput",
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
            "jsonBody": "={{ JSON.stringify({ node: $prevNode.name, error: $json.error }) }}",
            "options": {"timeout": TIMEOUT_MS},
        },
    )
    return node | {"retryOnFail": True, "maxTries": TRIES, "waitBetweenTries": PAUSE_MS}
