"""Each start leaves a record: in the status, on this disk, in the store, on a table; one that fails does too."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sidecar.recovery import record
from sidecar.snapshot.manifest import RECOVERY
from sidecar.stores.folder import FolderStore
from sidecar.sync.reads import read_small
from tests.journeys import past
from tests.journeys.space import Space, agent_of, living


def recorded(store: Path) -> list[dict[str, Any]]:
    """The records in a folder store, oldest first."""

    async def read() -> bytes | None:
        opened = FolderStore(store)
        try:
            return await read_small(opened, await opened.head(), RECOVERY)
        finally:
            await opened.close()

    return record.read(asyncio.run(read()))


def titles(store: Path) -> list[str]:
    async def read() -> list[str]:
        opened = FolderStore(store)
        try:
            return [commit.title for commit in await opened.history(50)]
        finally:
            await opened.close()

    return asyncio.run(read())


def until(what: Callable[[], Any], space: Space, seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, space.said()
        time.sleep(0.05)
    return found


def each_start(tmp: Path) -> None:
    """A cold start, one after a kill, with a new agent in its midst; nothing changed: the record goes alone."""
    store = tmp / "store"
    with living(Space(tmp / "one", f"file://{store}")) as space:
        space.hurry(**{"sync.rides.ALONE_S": 0.3})
        past.write(space.disk, {"data/a": b"a" * 1000, "conf/b": b"b"})
        space.start()
        space.running()
        space.checkpoint()
        space.kill()
        space.lose_disk()
        space.start()
        status = space.running()
        until(lambda: len(recorded(store)) == 2, space)
        cold, restored = recorded(store)
        assert (cold["cold_start"], cold["epoch"], cold["clean"], cold["result"]) == (True, 1, None, "ok")
        assert (restored["epoch"], restored["clean"], restored["snapshot"]) == (2, False, "1.1")
        assert (restored["files"], restored["bytes"], restored["instance"]) == (2, 1001, status["instance"])
        assert 0 <= restored["snapshot_age_s"] < 60
        assert [s["step"] for s in restored["steps"] if s["ok"]] == ["download", "claim", "restore"]
        assert max(s["ms"] for s in restored["steps"]) <= restored["ms"] < 20_000
        assert "recovery ok in " in space.said()
        newest, *before = titles(store)
        assert newest == f"sidecar: recovery record of {status['instance']}", titles(store)
        assert sum("snapshot" in title for title in before) == 1

        agent = agent_of(space)
        os.kill(agent, signal.SIGKILL)
        again = space.wait(lambda s: agent_of(space) != agent and s["lease"]["state"] == "held")
        assert again["recovery"]["epoch"] == 2
        assert again["recovery"]["ms"] == restored["ms"]
        table = space.sidecar("recoveries")
        assert table.returncode == 0, table.stderr
        head, first, second = table.stdout.splitlines()
        assert head.split()[:3] == ["WHEN", "RESULT", "EPOCH"]
        assert " 1.1 " in first
        assert "uncleanly" in first
        assert "cold start" in second
        listed = json.loads(space.sidecar("recoveries", "--json", "--limit", "1").stdout)
        assert [d["epoch"] for d in listed] == [2]
        assert space.end() == 143, space.said()
        assert len(recorded(store)) == 2
        assert "Traceback" not in space.said()


def fails(tmp: Path) -> None:
    """A restore that can't be done gives the lease back, with its record; a store out of reach is told of later."""
    store = tmp / "store"
    with living(Space(tmp / "one", f"file://{store}", SIDECAR_RESTORE_TIMEOUT="0.5s")) as space:
        past.write(space.disk, {"data/a": b"a"})
        space.start("true")
        assert space.process is not None
        assert space.process.wait(20) == 0, space.said()
        space.lose_disk()
        (space.disk / "data").write_text("no folder")
        space.start("true")
        assert space.process.wait(30) not in (0, None), space.said()
        (_, failed) = recorded(store)
        assert (failed["result"], failed["epoch"]) == ("failed", 2)
        assert failed["error"]
        assert [(s["step"], s["ok"]) for s in failed["steps"]] == [("claim", True), ("restore", False)]
        assert titles(store)[0].startswith("sidecar: lease 2 withdrawn")

        (space.disk / "data").unlink()
        store.rename(tmp / "away")
        (tmp / "store").write_text("no folder")
        space.start("true")
        assert space.process.wait(30) not in (0, None), space.said()
        shown = space.sidecar("recoveries")
        assert shown.returncode == 0
        assert "only what this machine knows" in shown.stderr
        assert len(shown.stdout.splitlines()) == 1 + 2  # the disk of the first was lost
        (tmp / "store").unlink()
        (tmp / "away").rename(store)
        space.start("true")
        assert space.process.wait(30) == 0, space.said()
        assert [d["result"] for d in recorded(store)] == ["ok", "failed", "failed", "ok"]
        assert "Traceback" not in space.said()


JOBS: dict[str, Callable[[Path], None]] = {job.__name__: job for job in (each_start, fails)}


@pytest.mark.parametrize("how", JOBS)
def test_a_start_is_recorded(how: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[how].result()
