"""What of the past stays and what goes, as values; and on real stores, that what stays is what it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.snapshot.keeping import branch_name, kept_as
from sidecar.snapshot.manifest import snapshot_in
from sidecar.stores.base import Commit, NotFound, Store, StoreError
from sidecar.stores.folder import FolderStore
from sidecar.sync import history
from sidecar.sync.history import Past, Retention, body, past, plan
from tests.stores.hubs import local_hub
from tests.stores.hubs import store as hub_store

DAY = 86400.0


def commits(*titles: str, ages: Mapping[int, float] | None = None, now: float = 1e9) -> list[Commit]:
    """Newest first, a day apart."""
    ages = ages or {}
    return [Commit(f"r{n}", t, now - ages.get(n, n * DAY), body(n, n * 10, 1)) for n, t in enumerate(titles)]


def ids(found: tuple[Past, ...] | list[Past]) -> list[str]:
    return [p.snapshot for p in found]


SNAPS = [f"sidecar: snapshot 1.{n}" for n in range(9, 0, -1)]


def test_the_newest_stay_and_the_commits_between_count_for_nothing() -> None:
    line = commits("sidecar: lease released", SNAPS[0], "sidecar: lease 2", *SNAPS[1:], "by hand")
    found = plan(line, {}, Retention(3), 1e9, squashes=False)
    assert ids(found.stays) == ["1.9", "1.8", "1.7"]
    assert ids(found.goes) == [f"1.{n}" for n in range(6, 0, -1)]
    assert found.oldest == "r4"
    assert found.commits == len(line)
    assert found.stays[0].counts == {"files": 1, "bytes": 10, "changed": 1}
    assert not found.nothing


def test_whichever_keeps_more_counts() -> None:
    line = commits(*SNAPS)
    assert len(plan(line, {}, Retention(2, 4.5 * DAY), 1e9, squashes=False).stays) == 5
    assert len(plan(line, {}, Retention(7, 4.5 * DAY), 1e9, squashes=False).stays) == 7
    assert len(plan(line, {}, Retention(None, 0.5 * DAY), 1e9, squashes=False).stays) == 1
    assert len(plan(line, {}, Retention(None, 0), 1e12, squashes=False).stays) == 1, "the newest stays, however old"
    assert plan([], {}, Retention(1), 1e9, squashes=True).nothing
    assert plan(line, {}, Retention(99), 1e9, squashes=False).nothing
    assert not plan(line, {}, Retention(99), 1e9, squashes=True).nothing, "a squash has something to do all the same"


def test_without_a_word_a_store_that_cuts_keeps_a_month() -> None:
    assert Retention.of(None, None, squashes=False) == Retention(10, 30 * DAY)
    assert Retention.of(None, None, squashes=True) == Retention(10)
    assert Retention.of(3, None, squashes=False) == Retention(3)
    assert Retention.of(None, 60.0, squashes=True) == Retention(None, 60.0)


def test_branches_that_keep_a_snapshot_are_part_of_the_past() -> None:
    at = 1e9 - 50 * DAY
    old = branch_name("1.2", at)
    branches = {
        old: "b2",
        "past/1.1": "b1",
        "kept/1.3": "b3",
        "kept/odd": "x",
        "fenced/me": "f",
        "mine": "m",
    }
    found = past(commits(*SNAPS[:4]), branches)
    assert ids(found) == ["1.9", "1.8", "1.7", "1.6", "1.3", "1.2", "1.1"]
    assert [p.branch for p in found[4:]] == ["kept/1.3", old, "past/1.1"]
    assert found[5].at == at
    assert found[4].at is None
    made = plan(commits(*SNAPS[:4]), branches, Retention(5), 1e9, squashes=True)
    assert ids(made.stays) == ["1.9", "1.8", "1.7", "1.6", "1.2"]
    assert ids(made.goes) == ["1.1"], "what a mass deletion left is not for a prune to take"
    assert (made.kept, made.others) == (("kept/1.3", "kept/odd"), ("fenced/me", "mine"))
    assert (kept_as(branches, "1.3"), kept_as(branches, "1.2"), kept_as(branches, "b1")) == ("b3", "b2", "b1")
    assert past([], {"past/1.1_20269999T000000Z": "b"})[0].at is None, "anybody may name a branch"
    assert (kept_as(branches, "1.9"), kept_as(branches, "odd")) == (None, None)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=30),
    st.none() | st.integers(1, 40),
    st.none() | st.floats(0, 100),
    st.booleans(),
)
def test_what_stays_is_the_newest_run_of_all(
    days: list[float], last: int | None, within: float | None, squashes: bool
) -> None:
    days = sorted(days)
    line = [Commit(f"r{n}", f"sidecar: snapshot 1.{99 - n}", 1e9 - d * DAY) for n, d in enumerate(days)]
    within_s = None if within is None else within * DAY
    found = plan(line, {}, Retention(last, within_s), 1e9, squashes=squashes)
    assert [*found.stays, *found.goes] == past(line, {})
    assert len(found.stays) >= min(len(line), last or 1)
    for p in found.goes:
        assert within_s is None or p.at is None or 1e9 - p.at > within_s
    assert found.oldest == found.stays[-1].revision


# On real stores


@contextmanager
def folder() -> Iterator[Store]:
    with TemporaryDirectory() as name:
        yield FolderStore(Path(name) / "store", grace=0)


@contextmanager
def hub() -> Iterator[Store]:
    with local_hub() as server:
        yield hub_store(server)


def run(opened: AbstractContextManager[Store], scenario: Callable[[Store], Awaitable[None]]) -> None:
    async def main(store: Store) -> None:
        try:
            await store.check(create=True)
            await scenario(store)
        finally:
            await store.close()

    with opened as store:
        asyncio.run(main(store))


async def snapshot(store: Store, number: int) -> str:
    put: dict[str, Any] = {"data/n": b"%d" % number, "data/same": b"same", f"data/of-{number}": b"x" * 1000}
    title = f"sidecar: snapshot 1.{number}\n\n{body(3, 1000, 2)}"
    return await store.commit(await store.head(), put, [f"data/of-{number - 1}"], title)


async def read(store: Store, revision: str) -> dict[str, bytes]:
    with TemporaryDirectory() as into:
        paths = [p for p in await store.listing(revision) if p.startswith("data/")]
        await store.fetch(revision, paths, Path(into))
        return {path: (Path(into) / path).read_bytes() for path in paths}


def whole(number: int) -> dict[str, bytes]:
    return {"data/n": b"%d" % number, "data/same": b"same", f"data/of-{number}": b"x" * 1000}


async def kept(store: Store) -> dict[str, str]:
    return {p.snapshot: p.revision for p in past(await store.history(100), await store.branches())}


@pytest.mark.parametrize("opened", [folder, hub])
def test_what_stays_can_be_read_and_what_goes_cant(opened: Callable[[], AbstractContextManager[Store]]) -> None:
    async def scenario(store: Store) -> None:
        revisions = {n: await snapshot(store, n) for n in range(1, 9)}
        await store.keep(revisions[2], "kept/1.2")
        await store.commit(revisions[3], {"data/aside": b"1"}, [], "sidecar: snapshot 1.4", branch="fenced/me")
        asked = await history.look(store, Retention(3))
        assert (ids(asked.stays), ids(asked.goes)) == (["1.8", "1.7", "1.6"], ["1.5", "1.4", "1.3", "1.2", "1.1"])
        assert len(await store.history(100)) >= 8, "it was only asked"
        assert (asked.frees is None) == store.squashes
        await history.carry_out(store, asked)
        left = await kept(store)
        assert set(left) == {"1.8", "1.7", "1.6", "1.2"}
        for number, revision in left.items():
            assert await read(store, revision) == whole(int(number[2:])), number
        assert snapshot_in((await store.history(1))[0].title) == "1.8"
        fork = (await store.history(9, "fenced/me"))[-1 if store.squashes else 0]
        assert fork is not None
        if not store.squashes:
            assert left["1.8"] == revisions[8], "nothing that stays is renamed"
            assert await read(store, revisions[3]) == whole(3), "where a branch came from"
        # The head is a lease's commit: a squash must not leave the store without a snapshot's title.
        await store.commit(await store.head(), {".sidecar/lease.json": b"x"}, [], "sidecar: lease 2 claimed by me")
        await history.carry_out(store, await history.look(store, Retention(3)))
        assert "1.8" in await kept(store)
        # It goes on from there, and the next one takes what was kept before too.
        await snapshot(store, 9)
        await snapshot(store, 10)
        await history.carry_out(store, await history.look(store, Retention(3)))
        left = await kept(store)
        assert set(left) == {"1.10", "1.9", "1.8", "1.2"}
        for number, revision in left.items():
            assert await read(store, revision) == whole(int(number[2:])), number
        assert set(await store.branches()) >= {"kept/1.2", "fenced/me"}
        if store.squashes:
            assert len(await store.history(100)) == 1
            for name in await store.branches():
                assert len(await store.history(100, name)) == 1 or name == "fenced/me", "no ancestors stay with it"
        else:
            await snapshot(store, 11)
            with pytest.raises(NotFound):
                await read(store, revisions[5])
        again = await history.look(store, Retention(5))
        assert again.goes == ()

    run(opened(), scenario)


def test_a_squash_that_is_cut_off_leaves_all_of_it_and_is_done_again() -> None:
    async def scenario(store: Store) -> None:
        for n in range(1, 6):
            await snapshot(store, n)
        found = await history.look(store, Retention(3))
        real, done = store.compact, 0

        async def compact(oldest: str | None = None, *, dry_run: bool = False, **more: Any) -> int | None:
            nonlocal done
            done += not dry_run
            if done == 2 and not dry_run:
                raise StoreError("cut off")
            return await real(oldest, dry_run=dry_run, **more)

        vars(store)["compact"] = compact
        with pytest.raises(StoreError):
            await history.carry_out(store, found)
        assert set(await kept(store)) == {f"1.{n}" for n in range(1, 6)}, "the main line goes last"
        await history.carry_out(store, await history.look(store, Retention(3)))
        left = await kept(store)
        assert set(left) == {"1.5", "1.4", "1.3"}
        for number, revision in left.items():
            assert await read(store, revision) == whole(int(number[2:])), number

    run(hub(), scenario)


def test_too_many_to_be_branches_are_refused() -> None:
    async def scenario(store: Store) -> None:
        for n in range(1, 4):
            await snapshot(store, n)
        with pytest.raises(StoreError, match="--keep-last"):
            await history.look(store, Retention(99))

    most = history.BRANCHES
    history.BRANCHES = 2
    try:
        run(hub(), scenario)
    finally:
        history.BRANCHES = most
