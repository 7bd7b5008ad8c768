"""A start while others are at the same store: they change it under it, hold its lease, or can't be asked."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import RestoreFailed
from sidecar.recovery import claim as claims
from sidecar.recovery import patience
from sidecar.recovery.again import regain
from sidecar.recovery.lease import Me
from sidecar.recovery.origin import Origin
from sidecar.recovery.reading import read_manifest
from sidecar.recovery.record import Record
from sidecar.recovery.restore import Restored, restore
from sidecar.recovery.start import Start
from sidecar.recovery.terms import Plan, Recovered
from sidecar.recovery.turns import Waiting
from sidecar.roots import Root
from sidecar.snapshot.index import Index
from sidecar.state import RootState, State
from sidecar.stores.base import Access, Store, Unavailable
from sidecar.stores.folder import FolderStore
from sidecar.sync.handover import heed_lease
from tests.recovery.test_journal import file_ops, interrupted
from tests.recovery.world import World, fill
from tests.sync.faulty import Faulty, opened
from tests.sync.lives import Life


@contextmanager
def starting(
    base: Path,
    store: Store,
    wait_s: float = 1.0,
    instance: str = "new",
    timeout_s: float = 5.0,
    *,
    there: bool = False,
) -> Iterator[tuple[Start, Path]]:
    """A start on a fresh disk, or one that is ``there``; the disk is given too."""
    disk, state_dir = base / "disk", base / "state"
    disk.mkdir(parents=True, exist_ok=there)
    state_dir.mkdir(exist_ok=there)
    plan = Plan(
        roots=(Root("data", str(disk / "data")),),
        me=Me(instance, "local"),
        store_id="test-store",
        state_dir=state_dir,
        cold_start="allow",
        revision=None,
        handoff_wait_s=wait_s,
        timeout_s=timeout_s,
        on_failure="exit",
    )
    index = Index(state_dir / "index.db")
    state = State(instance, "0", "local", store.url, True)
    state.roots = {"data": RootState("data")}
    try:
        yield Start(store, index, plan, state, Record(instance)), disk
    finally:
        index.close()


def test_a_start_says_what_the_restore_that_it_finished_moved_aside(tmp_path: Path) -> None:
    world = World(tmp_path)
    fill(world.root, {"a": "one"})
    revision, manifest = world.snapshot(change=lambda m: replace(m, space="local"))
    ops = file_ops(world, manifest)
    (world.root / "a").unlink()
    interrupted(world, manifest, revision, ops)
    fill(world.root, {"a": "mine"})

    async def scenario() -> None:
        async with opened(tmp_path / "store") as store:
            with starting(tmp_path, store, there=True) as (start, _):
                recovered = await start.recover()
                assert recovered is not None
                assert recovered.restored.conflicts == world.state / "conflicts/1"
                assert recovered.restored.conflict_count == 1

    asyncio.run(scenario())
    assert (world.root / "a").read_text() == "one"


class Vanishing(FolderStore):
    """Is moved away when the first file is asked for; with ``anew`` an empty one stands there then."""

    away: Path
    anew: bool

    async def fetch(self, revision: str, paths: Iterable[str], into: Path, *args: Any, **more: Any) -> None:
        asked = list(paths)
        if any(path.startswith("data/") for path in asked) and not self.away.exists():
            at = self.url.removeprefix("file://")
            os.rename(at, self.away)
            if self.anew:
                await FolderStore(at).check(create=True)
        await super().fetch(revision, asked, into, *args, **more)


@pytest.mark.parametrize("anew", [False, True])
def test_a_store_that_goes_in_a_start_is_no_first_deploy(tmp_path: Path, anew: bool) -> None:
    """The disk knows nothing of it, but this very start has read a snapshot: main never starts on an empty state."""
    world = World(tmp_path)
    fill(world.root, {"a": "one"})
    world.snapshot(change=lambda m: replace(m, space="local"))
    (world.root / "a").unlink()
    store = Vanishing(tmp_path / "store")
    store.away, store.anew = tmp_path / "away", anew

    async def scenario() -> None:
        with starting(tmp_path, store, there=True, timeout_s=0.5) as (start, _):
            with pytest.raises(RestoreFailed, match=r"this start has read its snapshot 1\.1") as failure:
                await start.recover()
            assert failure.value.exit_code == 75

    asyncio.run(scenario())
    assert (tmp_path / "store").exists() is anew, "nothing is created in its place"
    assert not (world.root / "a").exists()


class Watched(FolderStore):
    """Notes, in order, which of main's files are fetched and which commits are made."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.did: list[str] = []

    async def fetch(self, revision: str, paths: Iterable[str], into: Path, progress: Any = None) -> None:
        wanted = list(paths)
        await super().fetch(revision, wanted, into, progress)
        self.did += [path for path in wanted if path.startswith("data/")]

    async def commit(self, parent: Any, put: Any, delete: Any, message: str, branch: str | None = None) -> str:
        revision = await super().commit(parent, put, delete, message, branch)
        self.did.append(message.partition(" by ")[0])
        return revision


ASKED = "sidecar: lease requested"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_S", 0.02)


def beside_a_holder(tmp_path: Path, scenario: Callable[[Life, Watched], Awaitable[None]]) -> None:
    """``scenario`` with a life that holds the lease and has ``one`` and ``two`` durable, and its store as another."""

    async def main() -> None:
        async with opened(tmp_path / "store") as first:
            life = Life(tmp_path / "old", first, store_at=tmp_path / "store")
            store = Watched(tmp_path / "store")
            try:
                await life.begin()
                life.fill("one", "two")
                assert (await life.engine.snapshot("asked")).ok
                await scenario(life, store)
            finally:
                life.close()
                await store.close()

    asyncio.run(main())


async def heeding(life: Life) -> None:
    while life.state.lease == "held":
        await asyncio.sleep(0.02)
        await heed_lease(life.engine)


def test_all_is_downloaded_before_the_holder_is_asked_and_the_difference_after_it(tmp_path: Path) -> None:
    async def scenario(life: Life, store: Watched) -> None:
        life.fill("three")  # of which no snapshot knows yet
        with starting(tmp_path / "new", store, wait_s=20) as (start, disk):
            answers = asyncio.create_task(heeding(life))
            found = await start.recover()
            await answers
            assert found is not None
            assert found.clean, "handed over in order"
            assert sorted(p.name for p in (disk / "data").iterdir()) == ["one", "three", "two"]
        claimed = store.did.index("sidecar: lease 2 claimed")
        asked = store.did.index(ASKED)
        assert sorted(store.did[:asked]) == ["data/one", "data/two"]
        assert store.did[asked + 1 : claimed] == []
        assert store.did[claimed + 1 :] == ["data/three"], "what was verified is not fetched again"
        assert [step["step"] for step in start.record.steps] == ["download", "claim", "restore"]

    beside_a_holder(tmp_path, scenario)


def test_what_a_holder_commits_while_it_is_waited_for_is_downloaded_meanwhile(tmp_path: Path) -> None:
    """It lives, but doesn't look at the lease any more: its next container waits no longer for that."""

    async def scenario(life: Life, store: Watched) -> None:
        async def commits() -> None:
            while ASKED not in store.did:
                await asyncio.sleep(0.01)
            life.fill("three")
            assert (await life.engine.snapshot("asked")).ok

        with starting(tmp_path / "new", store, wait_s=1.5) as (start, disk):
            began = time.monotonic()
            busy = asyncio.create_task(commits())
            found = await start.recover()
            assert 1.4 < time.monotonic() - began < 5
            await busy
            assert found is not None
            assert found.clean is False
            assert (disk / "data/three").exists()
        assert store.did.count(ASKED) == 1
        assert store.did.index("data/three") < store.did.index("sidecar: lease 2 claimed")

    beside_a_holder(tmp_path, scenario)


def test_a_restore_timeout_shorter_than_the_wait_for_a_holder_ends_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "POLL_S", 60.0)
    monkeypatch.setattr(patience, "LEAST_S", 0.1)

    async def scenario(life: Life, store: Watched) -> None:
        with starting(tmp_path / "new", store, wait_s=1.8, timeout_s=0.3) as (start, _):
            found = await start.recover()
            assert found is not None
            assert found.clean is False
        assert store.did.count(ASKED) == 1

    beside_a_holder(tmp_path, scenario)


def test_a_free_lease_is_claimed_before_anything_is_fetched(tmp_path: Path) -> None:
    async def scenario(life: Life, store: Watched) -> None:
        assert (await life.engine.final(time.monotonic() + 10)).ok
        with starting(tmp_path / "new", store, wait_s=20) as (start, _):
            assert await start.recover() is not None
        assert store.did[0] == "sidecar: lease 2 claimed"
        assert sorted(store.did[1:]) == ["data/one", "data/two"]

    beside_a_holder(tmp_path, scenario)


def test_who_cannot_restore_asks_nobody(tmp_path: Path) -> None:
    async def scenario(life: Life, store: Watched) -> None:
        with starting(tmp_path / "new", store) as (start, disk):
            (disk / "data").write_text("no folder")
            with pytest.raises(RestoreFailed):
                await start.recover()
            await start.claimant.give_back()
        assert ASKED not in store.did
        assert (await life.lease()).state == "held"

    beside_a_holder(tmp_path, scenario)


# Unleased


async def looked(start: Start) -> Recovered:
    """What a start restores where it can't write to the store."""
    head = await start.store.head()
    assert head is not None
    manifest = await read_manifest(start.store, head, start.plan.state_dir)
    assert manifest is not None
    await restore(
        *(start.store, head, manifest, start.plan.roots),
        index=start.index,
        store_id="test-store",
        state_dir=start.plan.state_dir,
        progress=start.state.restore,
        instance="new",
    )
    return Recovered(head, Origin(head, manifest, head), None, None, Restored(), Access(False, True), "read-only")


def test_an_unleased_start_asks_a_holder_that_lives_and_gets_what_it_has_restored(tmp_path: Path) -> None:
    """The last snapshot of who hands over has another number, and the same in it."""

    async def scenario(life: Life, store: Watched) -> None:
        with starting(tmp_path / "new", store) as (start, _):
            found = await looked(start)
            answers = asyncio.create_task(heeding(life))
            got = await regain(store, found, start.plan, Waiting(20))
            await answers
            assert got is not None
            assert (got.taken.tenure.epoch, got.taken.clean) == (2, True)
            assert got.manifest is not None
            assert str(got.manifest.snapshot) == "1.2"
            assert ASKED in store.did

    beside_a_holder(tmp_path, scenario)


def test_an_unleased_start_waits_for_a_silent_holder_and_then_takes_its_lease(tmp_path: Path) -> None:
    async def scenario(life: Life, store: Watched) -> None:
        with starting(tmp_path / "new", store) as (start, _):
            found = await looked(start)
            began = time.monotonic()
            got = await regain(store, found, start.plan, Waiting(0.5))
            assert time.monotonic() - began >= 0.45
            assert got is not None
            assert got.manifest is found.manifest
            assert got.taken.tenure.epoch == 2
            assert store.did[-2:] == [ASKED, "sidecar: lease 2 claimed"]

    beside_a_holder(tmp_path, scenario)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_an_unleased_start_never_gets_a_store_that_has_more_than_it_restored(tmp_path: Path, when: str) -> None:
    async def scenario(life: Life, store: Watched) -> None:
        with starting(tmp_path / "new", store) as (start, _):
            found = await looked(start)
            life.fill("three")
            if when == "before":
                assert (await life.engine.snapshot("asked")).ok
            answers = asyncio.create_task(heeding(life))
            assert await regain(store, found, start.plan, Waiting(20)) is None
            assert (ASKED in store.did) == (when == "meanwhile")
            if when == "meanwhile":
                await answers
                assert (await life.lease()).state == "released"
            answers.cancel()
            asked = store.did.count(ASKED)
            assert await regain(store, found, start.plan, Waiting(0.1)) is None
            assert store.did.count(ASKED) == asked, "it asks no more"

    beside_a_holder(tmp_path, scenario)


def test_nobody_is_taken_for_dead_who_could_not_be_asked(tmp_path: Path) -> None:
    async def scenario(life: Life, store: Watched) -> None:
        faulty = Faulty(store)
        faulty.plan["commit"] = [Unavailable("503")] * 40
        with starting(tmp_path / "new", store) as (start, _):
            found = await looked(start)
            waiting = Waiting(0.2)
            assert await regain(faulty, found, start.plan, waiting) is None
            faulty.plan["commit"].clear()
            answers = asyncio.create_task(heeding(life))
            got = await regain(faulty, found, start.plan, Waiting(20))
            await answers
            assert got is not None
            assert got.taken.clean, "it was asked, and has answered"

    beside_a_holder(tmp_path, scenario)


class Squashed(FolderStore):
    """Is squashed while the first files are fetched: their revision has another name then, and the old one is gone."""

    squashed = 0

    async def fetch(self, revision: str, paths: Iterable[str], into: Path, progress: Any = None) -> None:
        wanted = list(paths)
        if not self.squashed and any(p.startswith("data/") for p in wanted):
            self.squashed += 1
            await self.compact()
        await super().fetch(revision, wanted, into, progress)


def test_a_restore_whose_revision_is_squashed_away_goes_on_from_the_head(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "store") as first:
            life = Life(tmp_path / "life", first)
            await life.begin()
            life.fill(*(f"d/{n}" for n in range(20)))
            assert (await life.engine.final(time.monotonic() + 10)).ok
            life.close()
        store = Squashed(tmp_path / "store", grace=0)
        with starting(tmp_path / "new", store) as (start, disk):
            found = await start.recover()
            assert store.squashed == 1
            assert found is not None
            assert found.tenure is not None
            assert found.head == await store.head()
            assert (disk / "data/d/7").read_text() == "d/7"
            known = await asyncio.to_thread(start.index.known)
            assert known is not None
            assert str(known.snapshot) == "1.1"
        await store.close()

    asyncio.run(main())
