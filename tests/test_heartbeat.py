"""What is posted, and when: success only when all is durable, failure after too long, nothing by the fenced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sidecar import heartbeat
from sidecar.heartbeat import HOLD_S, Heartbeat, durable, verdict
from sidecar.state import State, SyncState
from tests.heard import hearing

NOW, DUE = 1000.0, 995.0


def a_state(sync: dict[str, Any] | None = None, **more: Any) -> State:
    """A life in which all is well and durable."""
    state = State("me", "0.1", "alice/app", "hf://datasets/a/b", True)
    state.recovered, state.phase, state.main_state, state.lease = True, "running", "running", "held"
    state.loop_beat_mono = NOW
    state.sync = SyncState(snapshot="7.113", looked_mono=DUE - 60)
    for name, value in more.items():
        setattr(state, name, value)
    for name, value in (sync or {}).items():
        setattr(state.sync, name, value)
    return state


@pytest.mark.parametrize(
    ("sync", "more", "is_so"),
    [
        ({}, {}, True),
        ({"looked_mono": None}, {}, False),  # nobody has looked yet
        ({"pending_since_mono": DUE - 1}, {}, False),
        ({"pending_since_mono": DUE - 1, "looked_mono": DUE + 1}, {}, True),  # under steady change: what was due is in
        ({"pending_since_mono": DUE - 1, "looked_mono": DUE - 0.1}, {}, False),
        ({"error": "401"}, {}, False),
        ({"stale": 1}, {}, False),
        ({"unsettled": 1}, {}, False),
        ({"unreadable": 1}, {}, False),
        ({"paced": 1}, {}, True),
        ({}, {"persistent": False}, False),
        ({}, {"lease": "unleased"}, False),
        ({}, {"lease": "fenced"}, False),
        ({}, {"mode": "orphan"}, False),
        ({}, {"recovered": False}, False),
        ({}, {"notes": {"held-deletion": "x"}}, False),
        ({}, {"notes": {"keepalive-overdue": "x"}}, True),
    ],
)
def test_durable_is_what_is_in_a_store_elsewhere(sync: dict[str, Any], more: dict[str, Any], is_so: bool) -> None:
    assert durable(a_state(sync, **more), DUE) is is_so


WAITS: dict[str, Any] = {"pending_since_mono": DUE - 1}


@pytest.mark.parametrize(
    ("sync", "more", "due", "found"),
    [
        ({}, {}, DUE, "success"),
        (WAITS, {}, DUE, "wait"),
        (WAITS | {"looked_mono": 1.0}, {}, NOW - HOLD_S, "fail"),
        (WAITS | {"looked_mono": NOW - HOLD_S}, {}, NOW - HOLD_S, "success"),
        ({"error": "401"}, {}, NOW - HOLD_S + 1, "wait"),
        ({}, {"lease": "unleased"}, NOW - HOLD_S, "fail"),
        ({}, {"lease": "fenced"}, NOW - HOLD_S, "silent"),
        ({}, {"phase": "stopping"}, NOW - HOLD_S, "silent"),
        ({}, {"recovered": False, "phase": "restoring"}, NOW - HOLD_S, "wait"),
        ({}, {"recovered": False, "phase": "waiting"}, DUE, "fail"),
        ({}, {"recovered": False, "phase": "failed"}, DUE, "fail"),
        ({}, {"mode": "orphan"}, DUE, "fail"),
        ({}, {"main_state": "exited"}, DUE, "fail"),
        ({}, {"failed_checks": ["!cookies: /x"]}, DUE, "fail"),
        ({}, {"failed_checks": ["cookies: /x"]}, DUE, "success"),
    ],
)
def test_what_is_said(sync: dict[str, Any], more: dict[str, Any], due: float, found: str) -> None:
    assert verdict(a_state(sync, **more), due, NOW) == found


def heard_of(state: State, live: Callable[[Heartbeat], Any], path: str = "/hook") -> list[dict[str, Any]]:
    with hearing() as heard:

        async def main() -> None:
            one = Heartbeat(heard.url + path, state)
            running = [asyncio.create_task(work) for work in (one.posting.run(), one.beat())]
            await live(one)
            await one.posting.flush(10)
            for task in running:
                task.cancel()

        asyncio.run(main())
        return [call.body for call in heard.calls]


async def _until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.01)


def test_a_life_from_its_start_to_a_bad_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOOK_S": 0.02, "LOOK_AGAIN_S": 0.02, "EVERY_S": 0.4, "HOLD_S": 0.2}.items():
        monkeypatch.setattr(heartbeat, name, value)
    monkeypatch.setattr("sidecar.web.health.LOOP_STUCK_S", 1e12)
    state = a_state(recovered=False, phase="restoring")

    async def live(one: Heartbeat) -> None:
        def last() -> str:
            return state.heartbeat["event"] if state.heartbeat else ""

        one.start()
        await asyncio.sleep(0.1)
        one.recovered({"result": "ok", "snapshot": "7.112"})
        state.recovered, state.phase = True, "running"
        one.ready()
        await _until(lambda: last() == "success")
        state.sync.error = "Hub answers 401"
        await _until(lambda: last() == "fail")
        state.sync.error = None
        await _until(lambda: last() == "success")
        state.phase = "stopping"
        await one.ended("")
        await one.ended("https://me:secret@host has not answered")

    found = heard_of(state, live)
    assert [f["event"] for f in found] == ["start", "recovery", "success", "fail", "success", "fail"]
    assert [f["recovery"]["snapshot"] for f in found if "recovery" in f] == ["7.112", "7.112"]
    assert found[2]["message"] == "alice/app: all roots are durable as of 7.113"
    assert found[3]["message"] == "alice/app: Hub answers 401"
    assert found[5]["message"] == "alice/app: the last sync failed: https://***@host has not answered"
    assert found[2]["at"].endswith("Z")
    assert {k: found[2][k] for k in ("space", "instance", "health", "snapshot")} == {
        "space": "alice/app",
        "instance": "me",
        "health": "pass",
        "snapshot": "7.113",
    }


def test_a_recovery_that_fails_is_a_failure_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "LOOK_S", 0.01)
    monkeypatch.setattr(heartbeat, "LOOK_AGAIN_S", 0.01)
    state = a_state(recovered=False, phase="waiting", recovery_error="the store denies")

    async def live(one: Heartbeat) -> None:
        one.start()
        one.recovered({"result": "waiting"})
        await asyncio.sleep(0.2)

    found = heard_of(state, live, "/ping/x")
    assert [f["event"] for f in found] == ["start", "fail"]
    assert found[1]["recovery"] == {"result": "waiting"}
    assert found[1]["message"] == "alice/app: the store denies"


def test_a_fenced_one_says_nothing_at_its_end() -> None:
    async def live(one: Heartbeat) -> None:
        await one.ended("fenced")

    assert heard_of(a_state(lease="fenced"), live) == []
