"""The workflow: every node is reachable, every Space is in it, no token is."""

from __future__ import annotations

import json

import pytest

from sidecar.fleet.n8n import NOT_WELL, SCHEDULE, WELL, workflow
from sidecar.fleet.roster import Fleet, Space

FLEET = Fleet((Space("me/a", "https://me-a.hf.space"), Space("me/b", "https://me-b.hf.space", "B_TOKEN")))


def test_a_schedule_one_request_a_space_and_a_branch_on_failure():
    flow = workflow(FLEET)
    nodes = {node["name"]: node for node in flow["nodes"]}
    assert len(nodes) == len(flow["nodes"]), "n8n knows nodes by their names"
    assert len({node["id"] for node in flow["nodes"]}) == len(nodes)
    assert nodes[SCHEDULE]["parameters"] == {"rule": {"interval": [{"field": "minutes", "minutesInterval": 45}]}}
    requests = [n for n in nodes.values() if n["type"] == "n8n-nodes-base.httpRequest"]
    assert [n["parameters"]["url"] for n in requests] == [f"{space.url}/health" for space in FLEET.spaces]
    assert all(n["onError"] == "continueErrorOutput" and n["retryOnFail"] for n in requests)
    ((started,),) = (flow["connections"][SCHEDULE]["main"],)
    assert [to["node"] for to in started] == [n["name"] for n in requests]
    for request in requests:
        branches = flow["connections"][request["name"]]["main"]
        assert [[to["node"] for to in branch] for branch in branches] == [[WELL], [NOT_WELL]]
    named = {to["node"] for outs in flow["connections"].values() for out in outs["main"] for to in out}
    assert named | {SCHEDULE} == nodes.keys(), "every node is reached, and there"
    assert flow["active"] is False
    assert json.loads(json.dumps(flow)) == flow
    assert workflow(FLEET) == flow, "the same every time: a diff shows what changed"


def test_a_token_is_named_by_its_variable_only():
    text = json.dumps(workflow(FLEET))
    assert "={{ 'Bearer ' + $env.B_TOKEN }}" in text
    assert text.count("Authorization") == 1


def test_failures_go_to_the_webhook_where_there_is_one():
    told = {n["name"]: n for n in workflow(Fleet(FLEET.spaces, "https://hook.example.org/x"))["nodes"]}[NOT_WELL]
    assert told["parameters"]["url"] == "https://hook.example.org/x"
    assert told["parameters"]["method"] == "POST"


@pytest.mark.parametrize(
    ("every_s", "rule"),
    [
        (20.0, {"field": "minutes", "minutesInterval": 1}),
        (1800.0, {"field": "minutes", "minutesInterval": 30}),
        (3600.0, {"field": "hours", "hoursInterval": 1}),
        (7199.0, {"field": "hours", "hoursInterval": 1}),
        (99 * 3600.0, {"field": "hours", "hoursInterval": 23}),
    ],
)
def test_the_schedule_is_never_rarer_than_the_most_frequent_interval(every_s, rule):
    spaces = (Space("me/a", "https://a.org", None, every_s), Space("me/b", "https://b.org", None, 1e6))
    assert workflow(Fleet(spaces))["nodes"][0]["parameters"]["rule"]["interval"] == [rule]
