"""Somebody elsewhere hears of each life, by a real address: what is durable, what isn't; and nothing waits for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.heard import hearing
from tests.journeys import past
from tests.journeys.space import Space, agent_of, living


def a_space(tmp: Path, url: str, **settings: str) -> Space:
    space = Space(tmp / "one", f"file://{tmp}/store", SIDECAR_HEARTBEAT_URL=url, **settings)
    space.hurry(
        **{"heartbeat.LOOK_S": 0.1, "heartbeat.LOOK_AGAIN_S": 0.1, "heartbeat.HOLD_S": 1.0, "heartbeat.EVERY_S": 3.0}
    )
    return space


def a_life(tmp: Path) -> None:
    """In the manner of healthchecks.io: start, success, failure while the store is away, and the same at the end."""
    with (
        hearing() as heard,
        living(a_space(tmp, f"{heard.url}/ping/very-secret-uuid", SIDECAR_SHUTDOWN_GRACE="3s")) as space,
    ):
        past.write(space.disk, {"data/a": b"a"})
        space.start()
        status = space.running()
        heard.until(lambda calls: len(calls) >= 2, else_=space.said)
        assert heard.paths()[:2] == ["/ping/very-secret-uuid/start", "/ping/very-secret-uuid"]
        start, success = (call.body for call in heard.calls[:2])
        assert (start["event"], start["snapshot"], "recovery" in start) == ("start", None, False)
        assert success["recovery"]["instance"] == success["instance"] == status["instance"]
        assert (success["snapshot"], success["epoch"]) == ("1.1", 1)
        os.kill(agent_of(space), signal.SIGKILL)  # another agent is no other start
        (tmp / "store").rename(tmp / "away")
        (tmp / "store").write_text("no folder")
        past.write(space.disk, {"data/b": b"b"})
        failed = heard.until(lambda calls: [c for c in calls if c.path.endswith("/fail")], 20, space.said)[0]
        assert failed.body["message"].startswith("local: ")
        before = len(heard.calls)
        (tmp / "store").unlink()
        (tmp / "away").rename(tmp / "store")
        heard.until(lambda calls: [c for c in calls[before:] if c.path.endswith("uuid")], 20, space.said)
        assert heard.events().count("start") == 1
        assert space.get()["heartbeat"]["event"] == "success"
        assert space.get()["heartbeat"]["error"] is None
        (tmp / "store").rename(tmp / "away")
        (tmp / "store").write_text("no folder")
        past.write(space.disk, {"data/c": b"c"})
        before = len(heard.calls)
        assert space.process is not None
        assert space.end() == 143
        last = heard.until(lambda calls: calls[before:], 5, space.said)[-1]
        assert last.path.endswith("/fail")
        said = space.said() + space.sidecar("config").stdout + space.sidecar("doctor").stdout
        assert "very-secret" not in said
        assert "Traceback" not in said


def in_vain(tmp: Path) -> None:
    """A start that fails says so by a plain POST, with its record; one that waits says it once."""
    with hearing() as heard, living(a_space(tmp, f"{heard.url}/webhook/x", SIDECAR_RESTORE_TIMEOUT="0.5s")) as space:
        (tmp / "store").write_text("no folder")
        space.start()
        assert space.process is not None
        assert space.process.wait(30) != 0
        heard.until(lambda calls: len(calls) == 2, else_=space.said)
        assert heard.paths() == ["/webhook/x"] * 2
        assert heard.events() == ["start", "fail"]
        assert heard.calls[1].body["recovery"]["result"] == "failed"
        assert heard.calls[1].body["recovery"]["error"] in heard.calls[1].body["message"]
        space.start(SIDECAR_ON_RESTORE_FAILURE="wait")
        heard.until(lambda calls: len(calls) == 4, else_=space.said)
        assert heard.calls[3].body["recovery"]["result"] == "waiting"
        assert space.get()["recovery"]["result"] == "waiting"
        (tmp / "store").unlink()
        space.running(30)
        heard.until(lambda calls: [c.body["event"] for c in calls][4:] == ["recovery", "success"], else_=space.said)
        assert heard.calls[5].body["recovery"]["result"] == "ok"
        told = heard.calls[4].body
        assert ("recovering" in told["notes"], told["phase"] in ("ready", "running")) == (False, True), told
        began = time.monotonic()
        assert space.end() == 143
        assert time.monotonic() - began < 10
        assert heard.events()[6:] in ([], ["success"])


def nobody_answers(tmp: Path) -> None:
    """Main starts, a checkpoint is made and the end comes as soon as without it."""
    with hearing() as heard:
        heard.answers = [0] * 100
        with living(a_space(tmp, f"{heard.url}/hook", SIDECAR_SHUTDOWN_GRACE="10s")) as space:
            began = time.monotonic()
            space.start()
            space.running()
            assert space.checkpoint()["snapshot"].startswith("1.")
            assert space.end() == 143
            assert time.monotonic() - began < 10, space.said()
            assert heard.events() == ["start"]


JOBS: dict[str, Callable[[Path], None]] = {job.__name__: job for job in (a_life, in_vain, nobody_answers)}


@pytest.mark.parametrize("how", JOBS)
def test_a_heartbeat_tells_of(how: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[how].result()
