"""Two containers of one Space at a time, as while it is rebuilt: neither overwrites what the other has written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

from sidecar.stores.folder import FolderStore
from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.space import Space, agent_of, descendants, living

REPO = "alice/two"


@contextlib.contextmanager
def two(tmp: Path, **settings: str) -> Iterator[tuple[LocalHub, Space, Space]]:
    """An old container that runs, with one durable file, and a new one that is yet to start."""
    settings = {"SIDECAR_HANDOFF_WAIT": "20s", **settings}
    with LocalHub(tmp / "hub", process=True) as hub:
        old = past.hub_space(hub, tmp / "old", REPO, **settings)
        new = past.hub_space(hub, tmp / "new", REPO, **settings)
        for space in (old, new):
            space.hurry(LEASE_YOUNG_S=0.5)
        past.write(old.disk, {"data/first": b"first"})
        with living(old), living(new):
            old.start("sleep", "1000")
            old.running()
            old.settle()
            yield hub, old, new


def whole(hub: LocalHub, branch: str = "main") -> dict[str, bytes]:
    """The files that a branch's manifest names, by what its tree holds of them."""
    named = [e["path"] for e in past.manifest_of(hub, REPO, branch)["entries"] if e["kind"] == "file"]
    return {path: hub.read(REPO, path, branch) for path in named}


def hands_over(tmp: Path) -> None:
    """The old one is asked, syncs a last time, and hands over; what it writes then goes to a branch."""
    with two(tmp, SIDECAR_QUIET="30s", SIDECAR_MAX_DELAY="60s") as (hub, old, new):
        past.write(old.disk, {"data/late": b"not yet synced"})
        new.start("sleep", "1000")
        new.running(30)
        assert (new.disk / "data/late").read_bytes() == b"not yet synced"
        assert "to hand over" in new.said()
        assert "taken for dead" not in new.said()
        assert new.get()["lease"]["epoch"] == 2
        old.wait(lambda s: s["lease"]["state"] == "fenced")
        assert "fenced" in old.get()["notes"]
        assert old.post("/checkpoint")[0] == 409
        branch = f"fenced/{old.get()['instance']}"
        past.write(old.disk, {"data/after": b"after"})
        past.write(new.disk, {"data/mine": b"new's"})
        new.checkpoint()
        assert old.end() == 143, old.said()
        assert "data/after" not in whole(hub)
        assert whole(hub, branch)["data/after"] == b"after"
        assert whole(hub) == {"data/first": b"first", "data/late": b"not yet synced", "data/mine": b"new's"}
        assert new.end() == 143, new.said()
        assert "Traceback" not in old.said() + new.said()


def silent(tmp: Path) -> None:
    """The old one stands still and is taken for dead; when it comes back it is fenced at its first word."""
    with two(tmp, SIDECAR_HANDOFF_WAIT="1s") as (hub, old, new):
        assert old.process is not None
        everybody = [old.process.pid, *descendants(old.process.pid)]
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        past.write(old.disk, {"data/late": b"late"})
        new.start("sleep", "1000")
        new.running(30)
        assert "taken for dead" in new.said()
        past.write(new.disk, {"data/mine": b"new's"})
        new.checkpoint()
        for pid in everybody:
            os.kill(pid, signal.SIGCONT)
        old.wait(lambda s: s["lease"]["state"] == "fenced")
        branch = f"fenced/{old.get()['instance']}"
        until = time.monotonic() + 20
        while not (branch in hub.branches(REPO) and "data/late" in whole(hub, branch)):  # it is there before its commit
            assert time.monotonic() < until, old.said()
            time.sleep(0.1)
        assert whole(hub, branch)["data/late"] == b"late"
        assert (old.post("/checkpoint")[0], old.post("/checkpoint")[1]["error"]) == (409, "fenced")
        assert "fenced" in old.get("/health")["notes"]
        assert "FENCED: another instance holds the lease" in old.said()
        # Its agent dies: the next one is fenced as well.
        agent = agent_of(old)
        os.kill(agent, signal.SIGKILL)
        past.write(old.disk, {"data/later": b"later"})
        old.wait(lambda s: s["lease"]["state"] == "fenced" and agent_of(old) != agent)
        assert old.end() == 143, old.said()
        assert whole(hub, branch)["data/later"] == b"later"
        assert whole(hub, branch)["data/first"] == b"first"
        assert whole(hub) == {"data/first": b"first", "data/mine": b"new's"}
        assert new.end() == 143, new.said()
        shutil.rmtree(new.disk / "data")
        assert "Traceback" not in old.said() + new.said()


@contextlib.contextmanager
def in_a_folder(tmp: Path, **more: float | str) -> Iterator[tuple[Space, Space, Space]]:
    """One that runs, with one durable file, and two that are yet to start, over a folder store.

    ``more`` are settings of all of them, and constants of the first.
    """
    settings = {name: value for name, value in more.items() if isinstance(value, str)}
    one, two, three = (Space(tmp / name, f"file://{tmp}/store", **settings) for name in ("one", "two", "three"))
    one.hurry(**{name: value for name, value in more.items() if not isinstance(value, str)})
    past.write(one.disk, {"data/first": b"first"})
    with living(one), living(two), living(three):
        one.start()
        one.running()
        one.settle()
        yield one, two, three


def asks(space: Space) -> None:
    """``space`` has said that it wants the lease, and waits."""
    until = time.monotonic() + 10
    while "to hand over" not in space.said():
        assert time.monotonic() < until, space.said()
        time.sleep(0.02)


def restored(one: Space, other: Space, *files: str) -> None:
    """``one`` is on the main line: once it has ended ``other`` gets ``files``, which it wrote, back."""
    assert one.end() == 143, one.said()
    other.start()
    other.running()
    for path in files:
        assert (other.disk / path).exists(), f"{path}\n{one.said()}\n{other.said()}"
    assert "Traceback" not in one.said() + other.said()


def thinks_better_of_it(tmp: Path) -> None:
    """The new one is stopped while it waits: it asks no more, and the old one goes on as if nothing had been."""
    with in_a_folder(tmp, LEASE_YOUNG_S=8.0) as (one, two, three):
        two.start(SIDECAR_HANDOFF_WAIT="20s")
        asks(two)
        time.sleep(0.5)
        assert two.end() == 143, two.said()
        assert "the request is withdrawn" in two.said()
        past.write(one.disk, {"data/later": b"later"})
        one.checkpoint()
        time.sleep(8)  # by then it has looked at the lease
        assert one.get()["lease"]["state"] == "held"
        assert "handing over" not in one.said()
        assert "edited" not in one.said()
        restored(one, three, "data/first", "data/later")


def never_comes(tmp: Path) -> None:
    """The new one is gone without a word once it has asked: the old one hands over, and takes the lease again."""
    with in_a_folder(tmp, LEASE_YOUNG_S=0.5, NOBODY_S=1.0) as (one, two, three):
        two.start(SIDECAR_HANDOFF_WAIT="20s")
        one.wait(lambda s: s["lease"]["state"] == "fenced")
        two.kill()
        assert "epoch 2" not in two.said()
        past.write(one.disk, {"data/meanwhile": b"meanwhile"})
        one.wait(lambda s: s["lease"]["state"] == "held")
        assert "nobody came for the lease" in one.said()
        past.write(one.disk, {"data/later": b"later"})
        assert one.checkpoint()["snapshot"].startswith("2.")
        assert "fenced" not in one.get()["notes"]
        restored(one, three, "data/first", "data/meanwhile", "data/later")


def ends_while_it_claims(tmp: Path) -> None:
    """Fenced for nobody, it is about to take the lease again when SIGTERM comes: its last sync is the new epoch's."""
    with two(tmp, SIDECAR_HANDOFF_WAIT="1s") as (hub, old, new):
        old.hurry(LEASE_YOUNG_S=0.5, NOBODY_S=3.0)
        assert old.end() == 143
        old.start("sleep", "1000")  # with the other constants
        old.running()
        old.checkpoint()
        new.start("sleep", "1000", SIDECAR_HANDOFF_WAIT="20s")
        until = time.monotonic() + 30
        while json.loads(hub.read(REPO, past.LEASE))["state"] == "held":
            assert time.monotonic() < until, new.said()
            time.sleep(0.02)
        new.kill()
        old.wait(lambda s: s["lease"]["state"] == "fenced", 40)
        past.write(old.disk, {"data/meanwhile": b"meanwhile"})
        branch = f"fenced/{old.get()['instance']}"
        while branch not in hub.branches(REPO):
            assert time.monotonic() < until, old.said()
            time.sleep(0.02)
        slow = hub.fault("pass", endpoint="commit", path=".*/commit/main", delay=2.0, times=1)
        until = time.monotonic() + 30
        while not hub.fired(slow):
            assert time.monotonic() < until, old.said()
            time.sleep(0.02)
        assert old.end() == 143, old.said()
        assert "nobody came for the lease" in old.said()
        assert whole(hub)["data/meanwhile"] == b"meanwhile"
        lease = json.loads(hub.read(REPO, past.LEASE))
        assert (lease["state"], lease["clean"], lease["epoch"]) == ("released", True, 3)
        assert "Traceback" not in old.said()


def comes_in_vain(tmp: Path) -> None:
    """The new one takes the lease, can't restore and gives it back: the old one goes on with it.

    All that it downloads before it asks fits; what comes with the hand-over doesn't.
    """
    with in_a_folder(tmp, LEASE_YOUNG_S=0.5, NOBODY_S=1000.0, SIDECAR_QUIET="60s", SIDECAR_MAX_DELAY="60s") as spaces:
        one, two, three = spaces
        past.write(one.disk, {"conf/late": b"late"})
        (two.disk / "conf").write_text("no folder")
        two.start(SIDECAR_HANDOFF_WAIT="20s", SIDECAR_RESTORE_TIMEOUT="1s")
        assert two.process is not None
        assert two.process.wait(30) != 0, two.said()
        assert "to hand over" in two.said()
        one.wait(lambda s: (s["lease"]["state"], s["lease"]["epoch"]) == ("held", 3))
        assert "it was given back" in one.said()
        past.write(one.disk, {"data/later": b"later"})
        assert one.checkpoint()["snapshot"].startswith("3.")
        restored(one, three, "data/first", "data/later", "conf/late")


def disturbs_nobody(tmp: Path) -> None:
    """The new one can't restore what there is: it finds out before it asks, and the old one never hears of it."""
    with in_a_folder(tmp, LEASE_YOUNG_S=0.2) as (one, two, three):
        (two.disk / "data").write_text("no folder")
        before = asyncio.run(titles_of(tmp / "store"))
        two.start(SIDECAR_HANDOFF_WAIT="20s", SIDECAR_RESTORE_TIMEOUT="1s")
        assert two.process is not None
        assert two.process.wait(30) != 0, two.said()
        assert "to hand over" not in two.said()
        assert asyncio.run(titles_of(tmp / "store")) == before
        assert one.get()["lease"] == {**one.get()["lease"], "state": "held", "epoch": 1}
        restored(one, three, "data/first")


JOBS: dict[str, Callable[[Path], None]] = {
    job.__name__: job
    for job in (
        hands_over,
        silent,
        thinks_better_of_it,
        never_comes,
        ends_while_it_claims,
        comes_in_vain,
        disturbs_nobody,
    )
}


@pytest.mark.parametrize("how", JOBS)
def test_the_old_one(how: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[how].result()


def test_without_its_lease_a_store_is_still_not_anybodys(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with living(Space(tmp_path / "one", f"file://{store}", SIDECAR_IDENTITY="production")) as first:
        first.start("sh", "-c", "mkdir -p disk/data && echo x > disk/data/x")
        assert first.process is not None
        assert first.process.wait(30) == 0, first.said()

    async def lose_the_lease() -> None:
        opened = FolderStore(store)
        try:
            await opened.commit(await opened.head(), {}, [".sidecar/lease.json"], "by hand")
        finally:
            await opened.close()

    asyncio.run(lose_the_lease())
    titles = asyncio.run(titles_of(store))
    with living(Space(tmp_path / "two", f"file://{store}", SIDECAR_IDENTITY="laptop")) as other:
        other.start("true")
        assert other.process is not None
        assert other.process.wait(30) == 69, other.said()
        assert "SIDECAR_ADOPT=production" in other.said()
        listed = other.sidecar("snapshots")
        assert listed.returncode == 0

    assert asyncio.run(titles_of(store)) == titles


async def titles_of(store: Path) -> list[str]:
    opened = FolderStore(store)
    try:
        return [commit.title for commit in await opened.history(50)]
    finally:
        await opened.close()
