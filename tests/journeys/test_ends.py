"""Every way in which a life can end, and what of it must be in the store afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.past import LEASE, SNAPSHOT
from tests.journeys.space import Space, agent_of, living, tree

FIRST = "mkdir -p disk/data; echo started > disk/data/started"
IDLE = f"{FIRST}; exec sleep 1000"


@contextlib.contextmanager
def in_folder(tmp: Path, **settings: str) -> Iterator[Space]:
    settings = {"SIDECAR_COMMITS_PER_HOUR": "100", **settings}
    with living(Space(tmp / "space", f"file://{tmp}/store", **settings)) as space:
        yield space


@contextlib.contextmanager
def on_hub(tmp: Path, **settings: str) -> Iterator[tuple[Space, LocalHub]]:
    with LocalHub(tmp / "hub", process=True) as hub, living(past.hub_space(hub, tmp / "space", REPO, **settings)) as s:
        yield s, hub


REPO = "alice/ends"


def restored(space: Space) -> Mapping[str, bytes]:
    """What a start on an empty disk brings back."""
    space.lose_disk()
    space.start("true", SIDECAR_ON_RESTORE_FAILURE="exit")
    assert space.process is not None
    assert space.process.wait(30) == 0, space.said()
    return files(space.disk)


def files(disk: Path) -> dict[str, bytes]:
    return {path: (disk / path).read_bytes() for path, facts in tree(disk).items() if facts[0] == "file"}


def started(space: Space, then: str = "exec sleep 1000") -> dict[str, Any]:
    """Run a main that does nothing more, and make its first state durable."""
    space.start("sh", "-c", f"{FIRST}; {then}")
    status = space.running()
    space.wait(lambda s: (space.disk / "data/started").exists())
    space.checkpoint()
    return status


def after_main_is_killed(tmp: Path) -> None:
    with in_folder(tmp) as space:
        pid = started(space)["main"]["pid"]
        (space.disk / "data/late").write_text("late")
        os.kill(pid, signal.SIGKILL)
        assert space.process is not None
        assert space.process.wait(20) == 137, space.said()
        assert restored(space) == {"data/started": b"started\n", "data/late": b"late"}
        assert "ended cleanly" in space.said()


def after_the_agent_is_killed(tmp: Path, index: bool = True) -> None:
    with in_folder(tmp, SIDECAR_QUIET="5s") as space:
        (space.disk / "data").mkdir()
        for n in range(20):
            (space.disk / f"data/f{n}").write_text(f"first {n}")
        main = started(space)["main"]["pid"]
        agent = agent_of(space)
        os.kill(agent, signal.SIGSTOP)  # what follows is not seen by it
        (space.disk / "data/f0").write_text("changed while nobody looked")
        (space.disk / "data/f1").unlink()
        (space.disk / "data/new").write_text("new")
        if not index:
            for path in space.state.glob("index.db*"):
                path.unlink()
        os.kill(agent, signal.SIGKILL)
        space.wait(lambda s: agent_of(space) != agent and s["sync"]["revision"] is not None)
        body = space.checkpoint()
        status = space.get()
        assert status["main"]["pid"] == main, "main was restarted"
        assert status["lease"] == {**status["lease"], "state": "held", "epoch": 1}
        now = files(space.disk)
        assert now["data/f0"] == b"changed while nobody looked", "restored over a live main"
        assert "data/f1" not in now, "a file that main deleted came back"
        assert body["snapshot"].startswith("1.")
        assert space.end() == 143, space.said()
        assert restored(space) == now
        assert "Traceback" not in space.said()
        assert ("index was lost" in space.said()) is not index


def after_the_agent_is_killed_without_its_index(tmp: Path) -> None:
    after_the_agent_is_killed(tmp, index=False)


def after_the_agent_dies_in_a_commit(tmp: Path) -> None:
    """The commit has landed, and nobody was told: the next agent finds out, and makes no second one of it."""
    with on_hub(tmp) as (space, hub):
        started(space)
        hub.fault("land_then_hang", endpoint="commit", times=1)
        (space.disk / "data/more").write_text("more")
        before = len(hub.commits(REPO))
        until = time.monotonic() + 10
        while len(hub.commits(REPO)) == before and time.monotonic() < until:
            time.sleep(0.05)
        agent = agent_of(space)
        os.kill(agent, signal.SIGKILL)
        space.wait(lambda s: agent_of(space) != agent and s["sync"]["revision"] is not None)
        body = space.checkpoint()
        snapshots = [c["title"] for c in hub.commits(REPO) if c["title"].startswith(SNAPSHOT)]
        assert len(snapshots) == len(set(snapshots))
        assert body["snapshot"] == snapshots[0].removeprefix(SNAPSHOT)
        assert len(hub.commits(REPO)) == before + 1, "nothing had changed since"
        assert space.end() == 143, space.said()
        assert restored(space) == {"data/started": b"started\n", "data/more": b"more"}


def after_the_supervisor_is_killed(tmp: Path) -> None:
    """Main outlives it, and is kept in sync until its own end; nobody else gets its roots so long."""
    with in_folder(tmp) as space:
        main, agent = orphaned(space)
        space.start("true")
        assert space.process is not None
        assert space.process.wait(20) == 75, space.said()
        assert "is in use by" in space.said()
        os.kill(main, signal.SIGKILL)
        ended(space, agent)
        all_is_back(space)


def after_the_supervisor_everything_is_told_to_end(tmp: Path) -> None:
    """Nobody is left to order the last snapshot: the agent's own SIGTERM does, and leaves main its time."""
    with in_folder(tmp) as space:
        main, agent = orphaned(space, LAST_WORDS)
        os.kill(main, signal.SIGTERM)
        os.kill(agent, signal.SIGTERM)
        ended(space, agent)
        assert restored(space) == {"data/started": b"started\n", "data/after": b"after", "data/bye": b"bye\n"}


def after_the_supervisor_only_the_agent_is_told_to_end(tmp: Path) -> None:
    """A main that stays has its time, and no more."""
    with in_folder(tmp, SIDECAR_STOP_TIMEOUT="1s", SIDECAR_SHUTDOWN_GRACE="5s") as space:
        main, agent = orphaned(space)
        os.kill(agent, signal.SIGTERM)
        ended(space, agent)
        os.kill(main, signal.SIGKILL)
        all_is_back(space)


def after_a_stop_that_the_supervisor_did_not_live_to_see(tmp: Path) -> None:
    """Its deadline is nobody's any more: what main writes later has all of the grace, on a slow store too."""
    with on_hub(tmp, SIDECAR_STOP_TIMEOUT="2s", SIDECAR_SHUTDOWN_GRACE="3s") as (space, _):
        space.start("sh", "-c", f"trap '' TERM; {IDLE}")
        main = space.running()["main"]["pid"]
        space.wait(lambda s: (space.disk / "data/started").exists())
        agent = agent_of(space)
        assert space.process is not None
        space.process.terminate()
        time.sleep(0.5)
        os.kill(space.process.pid, signal.SIGKILL)
        space.process.wait(5)
        time.sleep(3)
        assert space.get()["phase"] == "running"
        (space.disk / "data/after").write_text("after")
        os.kill(agent, signal.SIGTERM)
        ended(space, agent)
        os.kill(main, signal.SIGKILL)
        all_is_back(space)


LAST_WORDS = "trap 'sleep 1; echo bye > disk/data/bye; exit' TERM; while :; do sleep 0.1; done"


def orphaned(space: Space, *then: str) -> tuple[int, int]:
    """Main and agent of a space whose supervisor was killed, which its health says; a file was written since."""
    main = started(space, *then)["main"]["pid"]
    agent = agent_of(space)
    assert space.process is not None
    os.kill(space.process.pid, signal.SIGKILL)
    space.process.wait(5)
    until = time.monotonic() + 5
    while "supervisor-gone" not in space.get()["notes"] and time.monotonic() < until:
        time.sleep(0.05)
    assert space.get()["health"] == "warn"
    assert "supervisor-gone" in space.get()["notes"]
    (space.disk / "data/after").write_text("after")
    return main, agent


def ended(space: Space, agent: int) -> None:
    until = time.monotonic() + 15
    while os.path.exists(f"/proc/{agent}") and time.monotonic() < until:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{agent}"), space.said()
    assert "the supervisor is gone" in space.said()


def all_is_back(space: Space) -> None:
    assert restored(space) == {"data/started": b"started\n", "data/after": b"after"}
    assert "ended cleanly" in space.said()


def after_everything_is_killed(tmp: Path) -> None:
    """What was durable is there; the disk survives, and what only it had is newer."""
    with in_folder(tmp) as space:
        started(space)
        space.wait(lambda s: s["sync"]["pending"] == 0)
        os.kill(agent_of(space), signal.SIGSTOP)
        (space.disk / "data/undurable").write_text("on this disk only")
        space.kill()
        space.start("sh", "-c", "cat disk/data/undurable > seen")
        assert space.process is not None
        assert space.process.wait(20) == 0, space.said()
        assert (space.home / "seen").read_text() == "on this disk only"
        assert "ended uncleanly" in space.said()
        assert restored(space) == {"data/started": b"started\n", "data/undurable": b"on this disk only"}


WRITES_TO_THE_END = """
import os, signal, sys, time
last = 0
def stop(*_):
    for n in range(20):
        time.sleep(0.02)
        write()
    open("disk/data/last", "w").write(str(last))
    sys.exit(9)
def write():
    global last
    last += 1
    open("disk/data/counter", "w").write(str(last))
os.makedirs("disk/data", exist_ok=True)
signal.signal(signal.SIGTERM, stop)
open("disk/data/started", "w").close()
while True:
    write()
    time.sleep(0.01)
"""


def after_a_main_that_writes_to_its_last_moment(tmp: Path) -> None:
    with in_folder(tmp) as space:
        (space.home / "app.py").write_text(WRITES_TO_THE_END)
        space.start(sys.executable, "app.py")
        space.running()
        space.wait(lambda s: (space.disk / "data/started").exists())
        time.sleep(0.5)
        assert space.end() == 9, space.said()
        at_end = files(space.disk)
        assert at_end["data/counter"] == at_end["data/last"]
        assert restored(space) == at_end


def after_mains_that_end_at_once(tmp: Path) -> None:
    with in_folder(tmp) as space:
        for n, (command, code) in enumerate(
            [("true", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143), ("exit 75", 75)]
        ):
            if n:
                space.lose_disk()
            line = f"ls disk/data > seen 2>&1; mkdir -p disk/data; echo {n} > disk/data/f{n}; {command}"
            space.start("sh", "-c", line)
            assert space.process is not None
            assert space.process.wait(20) == code, space.said()
            if n:
                assert (space.home / "seen").read_text().split() == [f"f{m}" for m in range(n)]
        assert restored(space) == {f"data/f{n}": f"{n}\n".encode() for n in range(5)}
        space.start("no-such-command")
        assert space.process is not None
        assert space.process.wait(20) == 127
        assert restored(space) == {f"data/f{n}": f"{n}\n".encode() for n in range(5)}
        assert "ended uncleanly" not in space.said()
        assert "Traceback" not in space.said()


def stopped_before_ready(tmp: Path) -> None:
    """SIGTERM while files are fetched: the lease is given back as it was found, and no snapshot is made."""
    with on_hub(tmp) as (space, hub):
        started(space)
        assert space.end() == 143
        snapshots = [c["title"] for c in hub.commits(REPO) if c["title"].startswith(SNAPSHOT)]
        for at in ("resolve", "commit"):
            space.lose_disk()
            # In the middle of the restore; then with the claim made, and its answer never to come.
            if at == "resolve":
                hub.fault("hang", endpoint="resolve*", path="started", times=None)
            else:
                hub.fault("land_then_hang", endpoint="commit", times=1)
            before = len(hub.commits(REPO))
            space.start("sh", "-c", "touch ran")
            assert space.process is not None
            until = time.monotonic() + 20
            while len(hub.commits(REPO)) == before and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(0.3)
            began = time.monotonic()
            assert space.end() == 143, space.said()
            assert time.monotonic() - began < 10
            assert not (space.home / "ran").exists()
            hub.clear_faults()
            lease = json.loads(hub.read(REPO, LEASE))
            assert lease["state"] == "released", f"{at}: {lease}\n{space.said()}"
            assert lease["clean"] is True, "the one before had ended cleanly"
            assert [c["title"] for c in hub.commits(REPO) if c["title"].startswith(SNAPSHOT)] == snapshots
        assert restored(space) == {"data/started": b"started\n"}
        assert "ended uncleanly" not in space.said()


def the_store_away_at_the_end(tmp: Path) -> None:
    """Out in time, and the owner is told what is lost; a disk that survives brings it to the store later."""
    with on_hub(tmp, SIDECAR_SHUTDOWN_GRACE="4s", SIDECAR_STOP_TIMEOUT="1s") as (space, hub):
        started(space)
        for fault, words in (
            ({"action": "status", "status": 503}, "503|answer|in time"),
            ({"action": "hang"}, "answer|in time"),
        ):
            hub.fault(path=REPO, times=None, **fault)
            (space.disk / "data/late").write_text(str(fault))
            began = time.monotonic()
            assert space.end() == 143
            assert time.monotonic() - began < 5, space.said()
            lines = space.said().rpartition("SIGTERM: main has")[2]
            assert "ERROR" in lines
            assert re.search(f"the last sync failed: .*({words}).* since [0-9.]+ is on this disk only", lines), lines
            assert "Traceback" not in lines
            hub.clear_faults()
            space.start("sh", "-c", "exec sleep 1000")
            space.running(30)
            space.checkpoint()
            assert hub.read(REPO, "data/late").decode() == str(fault)


def a_commit_that_hangs_at_the_end(tmp: Path) -> None:
    """Its answer never comes, whether it got through or not: the last sync goes past it, and has all of the rest."""
    with on_hub(tmp, SIDECAR_SHUTDOWN_GRACE="6s", SIDECAR_STOP_TIMEOUT="1s") as (space, hub):
        started(space)
        for action in ("hang", "land_then_hang"):
            fault = hub.fault(action, endpoint="commit", times=1)
            (space.disk / "data/one").write_text(f"one {action}")
            while not hub.fired(fault):
                space.wait(lambda s: True)
                time.sleep(0.05)
            (space.disk / "data/two").write_text(f"two {action}")
            assert space.end() == 143
            assert "ERROR" not in space.said()
            titles = [c["title"] for c in hub.commits(REPO)]
            assert len(titles) == len(set(titles)), titles
            assert hub.read(REPO, "data/two").decode() == f"two {action}"
            assert json.loads(hub.read(REPO, LEASE))["state"] == "released"
            assert restored(space)["data/one"].decode() == f"one {action}"
            space.start("sh", "-c", IDLE)
            space.running()
            space.checkpoint()
        assert "edited by somebody else" not in space.said()


def two_on_the_same_roots(tmp: Path) -> None:
    with in_folder(tmp) as space:
        started(space)
        other = Space(tmp / "other", f"file://{tmp}/other-store", paths=space.env["SIDECAR_PATHS"])
        with living(other):
            other.start("touch", "ran")
            assert other.process is not None
            assert other.process.wait(20) == 75, other.said()
            assert "is in use by" in other.said()
            assert not (other.home / "ran").exists()
        assert not (tmp / "other-store").exists()
        assert space.end() == 143


def the_agent_dies_in_the_last_sync(tmp: Path) -> None:
    with in_folder(tmp) as space:
        started(space)
        (space.disk / "data/late").write_text("late")
        assert space.process is not None
        agent = agent_of(space)
        os.kill(agent, signal.SIGSTOP)
        space.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        os.kill(agent, signal.SIGKILL)
        assert space.process.wait(20) == 143, space.said()
        assert restored(space) == {"data/started": b"started\n", "data/late": b"late"}
        assert "ended cleanly" in space.said()


JOBS: dict[str, Callable[[Path], None]] = {
    job.__name__: job
    for job in (
        the_store_away_at_the_end,
        a_commit_that_hangs_at_the_end,
        after_mains_that_end_at_once,
        stopped_before_ready,
        after_main_is_killed,
        after_the_agent_is_killed,
        after_the_agent_is_killed_without_its_index,
        after_the_agent_dies_in_a_commit,
        after_the_supervisor_is_killed,
        after_the_supervisor_everything_is_told_to_end,
        after_the_supervisor_only_the_agent_is_told_to_end,
        after_a_stop_that_the_supervisor_did_not_live_to_see,
        after_everything_is_killed,
        after_a_main_that_writes_to_its_last_moment,
        two_on_the_same_roots,
        the_agent_dies_in_the_last_sync,
    )
}


@pytest.mark.parametrize("how", JOBS)
def test_what_was_written_is_there(how: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[how].result()
