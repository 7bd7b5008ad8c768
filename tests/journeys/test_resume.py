"""The resume commands run once in each epoch, by nobody but its holder; what was cut off, the next start is told."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.space import Space, agent_of, descendants, living
from tests.journeys.test_recoveries import recorded, titles, until

TELL = "echo " + " ".join(
    f"${{SIDECAR_RECOVERY_{name}:-none}}" for name in ("EPOCH", "INTERRUPTED", "CLEAN", "SNAPSHOT")
)


def a_space(tmp: Path, name: str = "one", **settings: str) -> Space:
    space = Space(tmp / name, f"file://{tmp}/store", **settings)
    space.hurry(**{"sync.rides.ALONE_S": 0.3, "recovery.held.LOOK_S": 0.2, "LEASE_YOUNG_S": 0.5})
    return space


def told(space: Space) -> list[str]:
    """What the TELL of each resume said: epoch, interrupted, clean, snapshot."""
    return re.findall(r"^sidecar resume: (\d+ [01] [01] \S+)$", space.said(), re.M)


def says(space: Space, words: str, seconds: float = 15) -> None:
    until(lambda: words in space.said(), space, seconds)


def another_agent(space: Space) -> None:
    """The agent beside main is killed, and the next one has taken up its work."""
    old = agent_of(space)
    os.kill(old, signal.SIGKILL)
    space.wait(lambda s: agent_of(space) != old and s["lease"]["state"] == "held")


def once_in_an_epoch(tmp: Path) -> None:
    """Cold, after a kill, with agents killed beside main, after a clean end: one run each, that knows what was."""
    with living(a_space(tmp, SIDECAR_RESUME=f"{TELL}; test -z '' && echo ${{HOME}}")) as space:
        past.write(space.disk, {"data/a": b"a"})
        space.start()
        status = space.running()
        assert status["recovery"]["resume"]["state"] == "ok"
        assert [s["step"] for s in status["recovery"]["steps"]][-1] == "resume"
        space.checkpoint()
        space.kill()
        space.lose_disk()
        space.start()
        space.running()
        for _ in range(2):  # the first one perhaps before the store knows that the resume is over
            another_agent(space)
            until(lambda: "recovery record" in titles(tmp / "store")[0], space)
        space.kill()
        space.lose_disk()
        space.start()
        space.running()
        assert space.end() == 143, space.said()
        space.start()
        space.running()
        assert told(space) == ["1 0 1 none", "2 0 0 1.1", "3 0 0 1.1", "4 0 1 3.1"], space.said()
        assert "Traceback" not in space.said()


def cut_off(tmp: Path) -> None:
    """All of it is gone in the middle of a resume: the next start knows, though its disk is new; the one after not."""
    hangs = f"{TELL}; test $SIDECAR_RECOVERY_EPOCH -gt 1 || sleep 1000"
    with living(a_space(tmp, SIDECAR_RESUME=hangs)) as space:
        space.start("sh", "-c", "echo ran >> main; exec sleep 1000")
        says(space, "resume: 1 0 1 none")
        assert space.wait(lambda s: s["phase"] == "resuming")["main"]["state"] == "waiting"
        space.kill()
        assert not (space.home / "main").exists()
        space.lose_disk()
        space.start()
        assert space.running()["recovery"]["resume"]["interrupted"] is True
        assert "was never heard to end" in space.said()
        until(lambda: len(recorded(tmp / "store")) == 1, space)
        assert told(space) == ["1 0 1 none", "2 1 0 none"], space.said()
        assert space.end() == 143


def stopped(tmp: Path) -> None:
    """SIGTERM in the middle of one: it ends with all that it started, the lease is given back, and the next knows."""
    hangs = f"{TELL}; test $SIDECAR_RECOVERY_EPOCH -gt 1 || {{ sleep 987 & sleep 987; }}"
    with living(a_space(tmp, SIDECAR_RESUME=hangs)) as space:
        space.start()
        says(space, "resume: 1 0 1 none")
        assert space.end() == 143, space.said()
        assert not [p for p in Path("/proc").glob("[0-9]*/environ") if _has(p, str(space.home))], space.said()
        assert titles(tmp / "store")[0].startswith("sidecar: lease 1 withdrawn")
        (record,) = recorded(tmp / "store")
        assert (record["result"], record["resume"]["state"]) == ("stopped", "cut off")
        space.lose_disk()
        space.start()
        space.running()
        assert told(space) == ["1 0 1 none", "2 1 0 none"], space.said()


def _has(environ: Path, home: str) -> bool:
    try:
        return f"SIDECAR_STATE_DIR={home}/state\0".encode() in environ.read_bytes()
    except OSError:
        return False


def its_agent_dies(tmp: Path) -> None:
    """The agent is killed in the middle of one: its command goes with it, the next agent resumes in an epoch more.

    That one still knows how the life before ended.
    """
    hangs = f"{TELL}; echo begun $SIDECAR_RECOVERY_EPOCH >> events"
    hangs += "; case $SIDECAR_RECOVERY_EPOCH in 1|3) sleep 1000;; esac"
    with living(a_space(tmp, SIDECAR_RESUME=hangs)) as space:
        space.cwd = space.home
        space.start("sh", "-c", "echo main >> events; exec sleep 1000")
        says(space, "resume: 1 0 1 none")
        assert space.process is not None
        first = set(descendants(space.process.pid))
        os.kill(agent_of(space), signal.SIGKILL)
        status = space.running()
        assert (status["lease"]["epoch"], status["recovery"]["resume"]["interrupted"]) == (2, True)
        assert not first & set(descendants(space.process.pid))
        another_agent(space)
        space.checkpoint()
        until(lambda: (space.home / "events").read_text().count("main") == 1, space)
        assert (space.home / "events").read_text().splitlines() == ["begun 1", "begun 2", "main"]
        assert space.end() == 143
        space.start()
        says(space, "resume: 3 0 1 2.")
        os.kill(agent_of(space), signal.SIGKILL)
        assert space.running()["recovery"]["clean"] is True
        assert [line.split()[:3] for line in told(space)[-2:]] == [["3", "0", "1"], ["4", "1", "1"]], space.said()
        assert space.end() == 143


def fails(tmp: Path) -> None:
    """Main starts all the same, and health warns; with ! it doesn't start, and the lease is free for the next try."""
    with living(a_space(tmp, SIDECAR_RESUME="exit 3\nfalse || echo second")) as space:
        space.start()
        status = space.running()
        assert [(c["result"], c["code"]) for c in status["recovery"]["resume"]["commands"]] == [
            ("failed", 3),
            ("ok", 0),
        ]
        assert "resume-failed" in space.get("/health")["notes"]
        assert space.end() == 143
        space.start("touch", "ran", SIDECAR_RESUME="!exit 4\necho never")
        assert space.process is not None
        assert space.process.wait(20) == 75, space.said()
        assert not (space.home / "ran").exists()
        assert "resume: never" not in space.said()
        assert "failed (exit 4), and it must not" in space.said()
        last = recorded(tmp / "store")[-1]
        assert last["result"] == "failed"
        assert [c["result"] for c in last["resume"]["commands"]] == ["failed", "not run"]
        again = "!test $SIDECAR_RECOVERY_EPOCH -gt 4"
        space.hurry(**{"resuming.AGAIN_S": 0.2})
        space.start("touch", "ran", SIDECAR_RESUME=again, SIDECAR_ON_RESTORE_FAILURE="wait")
        assert space.process.wait(20) == 0, space.said()
        assert (space.home / "ran").exists()
        assert "main waits until it works" in space.said()
        assert [d["epoch"] for d in recorded(tmp / "store")] == [1, 2, 5]


def after_ready(tmp: Path) -> None:
    """It waits for main; one that the end of main cuts off is told to the next start."""
    later = f"echo early\nafter-ready: {TELL}; test -e ../one/main && test $SIDECAR_RECOVERY_EPOCH -gt 1 || sleep 1000"
    with living(a_space(tmp, SIDECAR_RESUME=later)) as space:
        space.start("sh", "-c", "touch main; exec sleep 1000")
        says(space, "resume: 1 0 1 none")
        space.running()
        assert (
            space.said().index("resume: early") < space.said().index("ready; starting") < space.said().index(": 1 0 1")
        )
        began = time.monotonic()
        assert space.end() == 143, space.said()
        assert time.monotonic() - began < 10
        assert [c["result"] for c in recorded(tmp / "store")[-1]["resume"]["commands"]] == ["ok", "cut off"]
        space.start("sh", "-c", "touch main; exec sleep 1000")
        says(space, "resume: 2 1 1 1.")
        space.wait(lambda s: s["recovery"]["resume"]["state"] == "ok")
        until(lambda: recorded(tmp / "store")[-1]["resume"]["state"] == "ok", space)
        assert space.end() == 143
        space.start(SIDECAR_RESUME="after-ready: echo began; sleep 1000")
        says(space, "resume: began")
        another_agent(space)
        assert space.get()["recovery"]["resume"]["state"] == "cut off", "the agent that ran it was killed"
        assert "resume-failed" in space.get("/health")["notes"]
        until(lambda: recorded(tmp / "store")[-1]["resume"]["state"] == "cut off", space)
        assert "Traceback" not in space.said()


def one_at_a_time(tmp: Path) -> None:
    """Of three that start at once each resumes in an epoch of its own, and never while another one does."""
    line = f"echo begin $SIDECAR_RECOVERY_EPOCH >> {tmp}/log; sleep 1; echo end $SIDECAR_RECOVERY_EPOCH >> {tmp}/log"
    spaces = [a_space(tmp, name, SIDECAR_RESUME=line, SIDECAR_HANDOFF_WAIT="20s") for name in ("a", "b", "c")]
    with living(spaces[0]), living(spaces[1]), living(spaces[2]):
        for space in spaces:
            space.start()
        for space in spaces:
            says(space, "ready; starting", 60)
        lines = (tmp / "log").read_text().splitlines()
        assert lines == [f"{word} {epoch}" for epoch in (1, 2, 3) for word in ("begin", "end")], [
            s.said() for s in spaces
        ]
        assert "taken for dead" not in "".join(s.said() for s in spaces)
        assert "it waits until the resume commands are through" in "".join(s.said() for s in spaces)


def taken_for_dead(tmp: Path) -> None:
    """One that stands still in its resume, and comes to itself when another one has its lease: its command is ended."""
    line = f"{TELL}; test -e {tmp}/quick || sleep 1000"
    old, new = (a_space(tmp, name, SIDECAR_RESUME=line) for name in ("old", "new"))
    with living(old), living(new):
        old.start()
        says(old, "resume: 1 0 1 none")
        assert old.process is not None
        everybody = [old.process.pid, *descendants(old.process.pid)]
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):  # what the command itself began is over soon
                os.kill(pid, signal.SIGSTOP)
        (tmp / "quick").touch()
        new.start()
        new.running()
        assert told(new) == ["2 1 0 none"]
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        says(old, "what was resumed here is cut off")
        old.wait(lambda s: s["lease"]["state"] == "fenced")
        assert old.get()["recovery"]["resume"]["state"] == "cut off"
        assert new.end() == 143


def without_a_lease(tmp: Path) -> None:
    """A start that may not write doesn't resume, nor when it gets the lease later."""
    with LocalHub(tmp / "hub", process=True) as hub:
        repo = "alice/resume"
        with living(past.hub_space(hub, tmp / "one", repo, SIDECAR_RESUME=TELL)) as space:
            space.hurry(REGAIN_S=0.3)
            past.write(space.disk, {"data/a": b"a"})
            space.start()
            space.running()
            space.checkpoint()
            assert space.end() == 143
            rule = hub.fault("status", path=f"{repo}/commit/", times=None, status=403)
            space.start()
            status = space.wait(lambda s: s["main"]["state"] == "running" and s["lease"]["state"] == "unleased")
            assert status["recovery"]["resume"]["state"] == "skipped"
            hub.clear_faults(rule)
            space.wait(lambda s: s["lease"]["state"] == "held")
            space.checkpoint()
            assert space.end() == 143
            assert told(space) == ["1 0 1 none"]


JOBS: dict[str, Callable[[Path], None]] = {
    job.__name__: job
    for job in (
        once_in_an_epoch,
        cut_off,
        stopped,
        its_agent_dies,
        fails,
        after_ready,
        one_at_a_time,
        taken_for_dead,
        without_a_lease,
    )
}


@pytest.mark.parametrize("how", JOBS)
def test_a_resume(how: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[how].result()
