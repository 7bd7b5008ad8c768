"""The OpenAPI document says what we answer, and we answer what it says."""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from starlette.routing import Route

from sidecar.web.app import ALWAYS, OPENAPI, build
from tests.web.serving import Verbs, serving, state_of

DOCUMENT = json.loads(OPENAPI.read_text(encoding="utf-8"))
COMMANDS_ONLY = {"/forget", "/prune"}
EXAMPLES = 8


def test_every_path_of_ours_is_in_it_and_no_other():
    app = build(state_of(), Verbs(), prefix=None, api_token=None, upstream=False)
    routes = {
        (route.path.removeprefix(ALWAYS), method.lower())
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    said = {(path.removeprefix(ALWAYS), method) for path, each in DOCUMENT["paths"].items() for method in each}
    assert {each for each in routes if each[0] not in COMMANDS_ONLY} == said


def test_it_is_served_as_it_lies_there(tmp_path):
    with serving(tmp_path) as one:
        reply = one.ask("/_sidecar/openapi.json")
        assert (reply.status, reply.json) == (200, DOCUMENT)
        assert reply.headers["content-type"] == "application/json"
        assert one.ask("/openapi.json").status == 404, "an app's own may be there"


@pytest.mark.timeout(180)  # 2 s of CPU
def test_whatever_schemathesis_sends_is_answered_as_the_document_says(tmp_path):
    import schemathesis  # 2 s: only where it is used
    from schemathesis import GenerationMode
    from schemathesis.checks import CHECKS, load_all_checks

    load_all_checks()
    document = copy.deepcopy(DOCUMENT)
    document["paths"]["/checkpoint"]["post"]["parameters"][0]["schema"]["items"] = {"enum": ["data"]}  # as it is here
    tried = []
    state = state_of(recovery={"result": "ok"}, loop_beat_mono=time.monotonic() + 3600)  # nobody marks its beat here
    with serving(tmp_path, state) as one:
        for found in schemathesis.openapi.from_dict(document).get_all_operations():
            operation: Any = found.ok()  # type: ignore[union-attr]
            takes_something = bool(operation.query)
            for mode in GenerationMode if takes_something else (GenerationMode.POSITIVE,):

                @settings(
                    max_examples=EXAMPLES if takes_something else 1,
                    deadline=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                    database=None,
                    derandomize=True,
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def answers(case):
                    response = case.call(base_url=f"http://127.0.0.1:{one.port}", timeout=10)
                    case.validate_response(response, checks=list(CHECKS.get_all()))
                    tried.append((case.method, case.path))

                answers()
    assert {path for _, path in tried} == set(DOCUMENT["paths"])
    assert len(tried) >= len(DOCUMENT["paths"]) + EXAMPLES


def test_what_it_says_of_the_status_holds_for_the_page_that_most_is_known_of(tmp_path):
    """jsonschema's answer for a state that is full; schemathesis sees an ordinary one."""
    import jsonschema_rs

    from sidecar.measures import Seen
    from sidecar.web.health import health
    from sidecar.web.status import status

    state = state_of(commits_per_hour=30, commits_total=3, stored_bytes=4, main_pid=17)
    state.measures.seen(Seen("7.1", time.time(), 1, 2, 3, "fenced/a"))
    state.keepalive.ping("n8n")
    for schema, body in (
        ("Status", status(state, time.monotonic(), names=True)),
        ("Health", health(state, time.monotonic())[1]),
    ):
        whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
        validator = jsonschema_rs.validator_for(whole)
        assert [error.message for error in validator.iter_errors(json.loads(json.dumps(body)))] == []
        wrong = {**body, "phase": "sideways"}
        assert not validator.is_valid(json.loads(json.dumps(wrong))), "the schema refuses something"
