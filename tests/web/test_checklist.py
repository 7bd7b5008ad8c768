"""The checklist as a running agent shows it: what holds, what doesn't, what can't be told."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.state import Inspection, Keepalive, LocalOnly, State, SyncState
from sidecar.web.checklist import LONG_HISTORY, Item, of_agent
from tests.web.serving import state_of

NOW, WALL = 100_000.0, 1_800_000_000.0
DRILLED = {"result": "pass", "at": WALL - 3600, "snapshot": "7.112", "files": 1204}
LOOKED = Inspection(writable=True, public=False, wider="", commits=12, turns=(), local=LocalOnly())


def well(**changes: Any) -> State:
    fine = {
        "started_mono": NOW - 5000,
        "loop_beat_mono": NOW - 1,
        "keepalive": Keepalive(last=WALL - 5, last_mono=NOW - 5, agent="n8n"),
        "recovery": {"at": "x"},
        "sync": SyncState(last_durable=WALL - 60, snapshot="7.113"),
        "hub": True,
        "drill": DRILLED,
        "inspection": LOOKED,
    }
    return state_of(**{**fine, **changes})


def items(state: State, *, names: bool = False) -> dict[str, Item]:
    found = of_agent(state, NOW, WALL, names=names)
    assert all((item.fix == "") == (item.state == "pass") for item in found), "a fix where, and only where, one is due"
    assert len({item.id for item in found}) == len(found)
    assert all(item.document().keys() == {"id", "state", "text", "fix"} for item in found)
    return {item.id: item for item in found}


def test_a_healthy_agent_passes_all_of_it():
    found = items(well())
    assert {item.state for item in found.values()} == {"pass"}
    assert list(found) == [
        "health-endpoint",
        "poller-seen",
        "remote-persistence",
        "restore-on-restart",
        "restore-drill",
        "observable-recovery",
        "token-scope",
        "store-private",
        "commit-count",
        "single-writer",
        "local-only",
    ]
    assert "data durable as 7.113, since 2027-01-15T07:59:00.000Z" in found["remote-persistence"].text
    assert "n8n" in found["poller-seen"].text
    assert "1,204 files" in found["restore-drill"].text


def test_what_can_not_be_known_yet():
    fresh = state_of(phase="restoring", recovered=False, recovery=None, hub=True, drill_s=60.0)
    unknown = {name for name, item in items(fresh).items() if item.state == "unknown"}
    assert unknown == set(items(well())) - {"health-endpoint"}
    assert items(well(cold_start=True))["restore-on-restart"].state == "unknown"


@pytest.mark.parametrize(
    ("changes", "name", "state", "said"),
    [
        ({"notes": {"port-unavailable": "x"}}, "health-endpoint", "fail", "port"),
        ({"keepalive": Keepalive(last_mono=NOW - 5401)}, "poller-seen", "warn", "overdue"),
        ({"persistent": False}, "remote-persistence", "fail", "on this machine"),
        ({"lease": "fenced"}, "remote-persistence", "fail", "newer instance"),
        ({"lease": "unleased"}, "remote-persistence", "fail", "without the lease"),
        ({"sync": SyncState(error="x", last_durable=1.0)}, "remote-persistence", "warn", "can't be reached"),
        ({"sync": SyncState(error="x", denied=True)}, "remote-persistence", "fail", "refuses"),
        ({"mode": "orphan"}, "restore-on-restart", "fail", "could not"),
        ({"recovered": False, "phase": "waiting", "recovery_error": "x"}, "restore-on-restart", "fail", "could not"),
        ({"drill": None}, "restore-drill", "warn", "no restore drill"),
        ({"drill": None, "drill_s": 60.0}, "restore-drill", "unknown", "scheduled"),
        ({"drill": {**DRILLED, "result": "fail"}}, "restore-drill", "fail", "not come back whole"),
        ({"drill": {**DRILLED, "result": "no-room"}}, "restore-drill", "warn", "no room"),
        ({"drill": {**DRILLED, "result": "error"}}, "restore-drill", "unknown", "no end"),
        ({"drill_s": 600.0}, "restore-drill", "warn", "none since"),
        ({"drill": {**DRILLED, "at": WALL - 31 * 86400}}, "restore-drill", "warn", "none since"),
        ({"inspection": Inspection(writable=True, wider="write all (role write)")}, "token-scope", "warn", "write all"),
        ({"inspection": Inspection(denied=True, trouble="read only")}, "token-scope", "fail", "read only"),
        ({"inspection": Inspection(trouble="timed out")}, "token-scope", "unknown", "could not tell"),
        ({"inspection": Inspection(public=True)}, "store-private", "fail", "public"),
        ({"inspection": Inspection(public=True), "public_allowed": True}, "store-private", "warn", "=allow"),
        ({"inspection": Inspection(commits=LONG_HISTORY)}, "commit-count", "warn", "1,500 commits"),
        ({"inspection": Inspection(turns=("a", "b"), turns_at=WALL)}, "single-writer", "warn", "a, b"),
        ({"inspection": Inspection(local=LocalOnly((("/h/x.db", "login"),)))}, "local-only", "warn", "/h/x.db"),
    ],
)
def test_what_is_wrong_is_said_with_its_fix(changes, name, state, said):
    found = items(well(**changes), names=True)[name]
    assert found.state == state
    assert said in found.text


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"hub": False, "inspection": Inspection(commits=99_999)}, "commit-count"),
        ({"hub": False, "inspection": None}, "token-scope"),
        ({"encrypted": True, "inspection": Inspection(public=True)}, "store-private"),
        ({"drill": {**DRILLED, "at": WALL - 59 * 3600}, "drill_s": 86400.0}, "restore-drill"),
        ({"sync": SyncState(snapshot="7.1")}, "remote-persistence"),
    ],
)
def test_what_is_no_reason_to_worry(changes, name):
    assert items(well(**changes))[name].state == "pass"


def test_files_outside_of_the_roots_are_named_to_the_owner_only():
    local = LocalOnly((("/home/me/bot.db", "SQLite database"),), ("/home/me/bot.db",), complete=False)
    state = well(inspection=Inspection(local=local))
    owner, stranger = items(state, names=True)["local-only"], items(state)["local-only"]
    assert "/home/me/bot.db (SQLite database)" in owner.text
    assert "SIDECAR_PATHS=/home/me/bot.db" in owner.fix
    assert "bot.db" not in stranger.text + stranger.fix
    assert "as far as the search got" in stranger.text
