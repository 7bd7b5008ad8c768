from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.state import Keepalive, LeaseState, MainState, Phase, State, SyncState
from sidecar.web.health import FAIL, WARN, health, judge, keepalive, lag_s, readiness, rfc3339
from tests.web.serving import state_of

NOW = 100_000.0


def well(**changes: Any) -> State:
    return state_of(**{"started_mono": NOW - 5000, "loop_beat_mono": NOW - 1, **changes})


def syncing(**changes: Any) -> SyncState:
    return SyncState(**changes)


def test_a_running_agent_passes_with_exactly_the_promised_keys():
    code, body = health(well(sync=syncing(last_durable=1_000_000_000.5, last_durable_mono=NOW - 9)), NOW)
    assert code == 200
    assert body == {
        "status": "pass",
        "phase": "running",
        "epoch": 7,
        "lag_s": 0.0,
        "last_durable": "2001-09-09T01:46:40.500Z",
        "notes": [],
    }


def test_times_are_rfc_3339_in_utc():
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_000_000_000.5) == "2001-09-09T01:46:40.500Z"
    assert rfc3339(None) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"recovered": False, "phase": "restoring", "main_state": "waiting"}, "recovering"),
        ({"recovered": False, "phase": "waiting", "recovery_error": "401", "main_state": "waiting"}, "recovery-failed"),
        ({"recovered": False, "phase": "failed", "main_state": "waiting"}, "recovery-failed"),
        ({"mode": "orphan"}, "recovery-failed"),
        ({"main_state": "exited", "main_exit": 1}, "main-not-running"),
        ({"failed_checks": ["sqlite: /a", "!json: /b"]}, "check-failed"),
        ({"loop_beat_mono": NOW - 31}, "loop-stuck"),
    ],
)
def test_what_fails(changes, code):
    status, body = health(well(**changes), NOW)
    assert (status, body["status"]) == (503, "fail")
    assert body["notes"][0] == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sync": syncing(pending=1, pending_since_mono=NOW - 301)}, "not-durable"),
        ({"sync": syncing(error="timed out")}, "store-out-of-reach"),
        ({"sync": syncing(error="401", denied=True)}, "store-denied"),
        ({"sync": syncing(error="no space left", error_code="no-room")}, "disk-full"),
        ({"sync": syncing(error="refused", error_code="failed")}, "sync-failed"),
        ({"sync": syncing(error="timed out", error_code="unavailable")}, "store-out-of-reach"),
        ({"sync": syncing(error="another holds it", error_code="fenced")}, "fenced"),
        ({"lease": "unleased"}, "unleased"),
        ({"lease": "fenced"}, "fenced"),
        ({"persistent": False}, "not-persisted"),
        ({"sync": syncing(stale=1, trouble_since_mono=NOW - 601)}, "stale-entries"),
        ({"sync": syncing(unsettled=1, trouble_since_mono=NOW - 601)}, "unsettled-entries"),
        ({"sync": syncing(unreadable=1, trouble_since_mono=NOW - 601)}, "unreadable-entries"),
        ({"failed_checks": ["cookies: /a"]}, "verify-failed"),
        ({"keepalive": Keepalive(last=1.0, last_mono=NOW - 3 * 3600)}, "keepalive-overdue"),
        ({"notes": {"damaged-head": "The head 7.4 is damaged."}}, "damaged-head"),
        ({"notes": {"anything": "else"}}, "anything"),
    ],
)
def test_what_warns_and_goes_on_answering_200(changes, code):
    status, body = health(well(**changes), NOW)
    assert (status, body["status"], body["notes"]) == (200, "warn", [code])


@pytest.mark.parametrize(
    "changes",
    [
        {"sync": syncing(pending=5, pending_since_mono=NOW - 299)},
        {"sync": syncing(pending=5, pending_since_mono=NOW - 500), "max_delay_s": 130.0},
        {"sync": syncing(pending=5, pending_since_mono=NOW - 900, last_durable_mono=NOW - 10)},
        {"sync": syncing(stale=1, unsettled=1, unreadable=1, trouble_since_mono=NOW - 599)},
        {"sync": syncing(stale=1)},
        {"loop_beat_mono": NOW - 29},
        {"lease": "released"},
        {"lease": "none"},
        {"main_state": "waiting"},  # a bare `sidecar agent` has no main program
        {"keepalive": Keepalive()},
        {"phase": "stopping"},
    ],
)
def test_what_is_no_reason_to_worry_yet(changes):
    assert health(well(**changes), NOW)[1]["notes"] == []


def test_lag_counts_from_the_first_change_that_waits():
    assert lag_s(well(sync=syncing(pending=2, pending_since_mono=NOW - 12.34)), NOW) == 12.3
    assert lag_s(well(sync=syncing(last_durable_mono=NOW - 90)), NOW) == 0.0
    assert lag_s(well(sync=syncing(pending_since_mono=NOW + 1)), NOW) == 0.0


def test_keepalive_is_judged_only_after_a_ping_or_a_promise():
    assert keepalive(well(), NOW) == "unknown"
    assert keepalive(well(keepalive=Keepalive(every_s=60.0), started_mono=NOW - 119), NOW) == "unknown"
    assert keepalive(well(keepalive=Keepalive(every_s=60.0), started_mono=NOW - 121), NOW) == "overdue"
    assert keepalive(well(keepalive=Keepalive(last_mono=NOW - 50 * 60)), NOW) == "ok"
    assert keepalive(well(keepalive=Keepalive(last_mono=NOW - 89 * 60)), NOW) == "ok"
    assert keepalive(well(keepalive=Keepalive(last_mono=NOW - 91 * 60)), NOW) == "overdue"
    assert keepalive(well(keepalive=Keepalive(last_mono=NOW - 91 * 60, every_s=7200.0)), NOW) == "ok"


def test_a_ping_of_an_earlier_life_makes_the_next_one_due_from_the_start_of_this_one():
    seen = Keepalive(last=1.0)
    assert keepalive(well(keepalive=seen, started_mono=NOW - 89 * 60), NOW) == "unknown"
    assert keepalive(well(keepalive=seen, started_mono=NOW - 91 * 60), NOW) == "overdue"
    seen = Keepalive(last=1.0, since_mono=NOW - 91 * 60)
    assert keepalive(well(keepalive=seen, started_mono=NOW - 5), NOW) == "overdue", "the agent alone was new"


def test_ready_means_recovered_and_started_and_with_an_upstream_reached():
    assert readiness(well(), upstream=False) is None
    assert readiness(well(recovered=False), upstream=False) == "recovery is not done"
    assert readiness(well(main_state="waiting"), upstream=False) is not None
    assert readiness(well(main_state="exited"), upstream=False) == "the main program has ended"
    assert readiness(well(upstream_seen=False), upstream=True) is not None
    assert readiness(well(upstream_seen=False), upstream=False) is None
    assert readiness(well(upstream_seen=True), upstream=True) is None


def ages() -> st.SearchStrategy[float | None]:
    return st.none() | st.floats(0, 50_000).map(lambda age: NOW - age)


@st.composite
def states(draw: st.DrawFn) -> State:
    text = st.none() | st.text(max_size=20)
    return well(
        phase=draw(st.sampled_from(get_args(Phase))),
        main_state=draw(st.sampled_from(get_args(MainState))),
        lease=draw(st.sampled_from(get_args(LeaseState))),
        mode=draw(st.sampled_from(["normal", "orphan"])),
        recovered=draw(st.booleans()),
        recovery_error=draw(text),
        persistent=draw(st.booleans()),
        epoch=draw(st.none() | st.integers(0, 10**6)),
        max_delay_s=draw(st.floats(0.1, 10_000)),
        started_mono=NOW - draw(st.floats(0, 50_000)),
        loop_beat_mono=NOW - draw(st.floats(0, 60)),
        notes=draw(st.dictionaries(st.sampled_from(["damaged-head", "fenced", "x"]), st.text(max_size=9))),
        failed_checks=draw(st.lists(st.sampled_from(["!json: /a", "jwt: /b"]), max_size=2)),
        keepalive=Keepalive(last_mono=draw(ages()), every_s=draw(st.none() | st.floats(1, 10_000))),
        sync=SyncState(
            last_durable=draw(st.none() | st.floats(0, 4e9)),
            last_durable_mono=draw(ages()),
            pending=draw(st.integers(0, 9)),
            pending_since_mono=draw(ages()),
            error=draw(text),
            error_code=draw(st.sampled_from(["", "fenced", "unavailable", "denied", "no-room", "failed", "timeout"])),
            denied=draw(st.booleans()),
            unsettled=draw(st.integers(0, 2)),
            stale=draw(st.integers(0, 2)),
            unreadable=draw(st.integers(0, 2)),
            trouble_since_mono=draw(ages()),
        ),
    )


@settings(deadline=None)  # a busy machine is no finding
@given(states())
def test_every_state_has_one_consistent_answer(state):
    code, body = health(state, NOW)
    assert list(body) == ["status", "phase", "epoch", "lag_s", "last_durable", "notes"]
    assert (code == 503) == (body["status"] == "fail") == any(note in FAIL for note in body["notes"])
    assert (body["status"] == "pass") == (not body["notes"])
    assert len(set(body["notes"])) == len(body["notes"])
    assert set(state.notes) <= set(body["notes"]) <= set(state.notes) | set(FAIL) | set(WARN)
    assert body["lag_s"] >= 0
    assert len(json.dumps(body)) < 1000
    assert health(state, NOW) == (code, body), "a judgement changes nothing"


@settings(deadline=None)  # a busy machine is no finding
@given(states())
def test_a_store_outage_alone_never_fails(state):
    state.phase, state.recovered, state.mode, state.recovery_error = "running", True, "normal", None
    state.main_state, state.failed_checks, state.loop_beat_mono = "running", [], NOW
    assert health(state, NOW)[0] == 200


@settings(deadline=None)  # a busy machine is no finding
@given(states())
def test_no_start_without_its_files_is_ever_well(state):
    state.recovered = False
    assert health(state, NOW)[0] == 503


@settings(deadline=None)  # a busy machine is no finding
@given(states(), st.floats(0, 1000))
def test_waiting_longer_never_makes_changes_less_late(state, more):
    late = "not-durable" in judge(state, NOW)[1]
    assert "not-durable" in judge(state, NOW + more)[1] or not late
