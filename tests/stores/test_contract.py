"""What every store promises, whatever it is made of; ``conftest.KINDS`` says which ones there are.

Only paths below ``r/`` are looked at: a store may put something of its own beside them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sidecar.stores.base import (
    Conflict,
    Corrupt,
    Identified,
    NotFound,
    Ranged,
    Refused,
    Revision,
    Source,
    Store,
    StoreError,
)
from tests.stores.conftest import Subject

ODD_NAMES = (
    "r/with space", "r/ leading", "r/trailing ", "r/'single' \"double\"", "r/new\nline", "r/tab\t", "r/#hash?query",
    "r/100%", "r/%20%2F%00", "r/naïve ünïcödé", "r/日本語/ファイル", "r/emoji-🦊", "r/e\u0301 and é", "r/back\\slash",
    "r/-dash", "r/~tilde", "r/.hidden/.file", "r/a:b*c|d<e>", "r/$HOME;`x`&", "r/" + "n" * 255,
    "r/" + "/".join(["deep"] * 60), "r/...", "r/..a", "r/con", "r/CASE", "r/case",
)  # fmt: skip


async def listing(store: Store, revision: Revision) -> dict[str, int]:
    return {path: size for path, size in (await store.listing(revision)).items() if path.startswith("r/")}


async def contents(store: Store, revision: Revision, paths: Iterable[str], into: Path) -> dict[str, bytes]:
    into.mkdir(parents=True)  # noqa: ASYNC240
    wanted = list(paths)
    await store.fetch(revision, wanted, into)
    return {path: (into / path).read_bytes() for path in wanted}


def raw(source: Source) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_a_store_that_tells_files_apart_without_reading_them_is_right(store: Subject) -> None:
    large = os.urandom(9_000_000)

    async def scenario(s: Store) -> None:
        if not isinstance(s, Identified):
            pytest.skip("this one can't")
        put = {"r/a": b"1", "r/same": b"1", "r/large": large, "r/stays": b"stays"}
        first = await s.commit(await s.head(), put, [], "first")
        second = await s.commit(first, {"r/a": b"2", "r/large": large[::-1]}, ["r/same"], "second")
        before, after = await s.identities(first), await s.identities(second)
        assert set(before) == set(await s.listing(first))
        assert before["r/a"] == before["r/same"]
        differing = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        assert differing == {"r/a", "r/same", "r/large"}
        with pytest.raises(NotFound):
            await s.identities("0" * 40)

    store.run(scenario)


def test_a_new_place_is_empty(store: Subject) -> None:
    async def scenario(s: Store) -> None:
        head = await s.head()
        if store.kind.first_head:
            assert head is not None
            assert await listing(s, head) == {}
        else:
            assert head is None
            assert await s.history(10) == []

    store.run(scenario)


def test_check_creates_a_place_once(store: Subject) -> None:
    async def scenario() -> None:
        s = store.open()
        try:
            first = await s.check(create=True)
            again = await s.check(create=True)
            plain = await s.check()
        finally:
            await s.close()
        assert first.writable
        # What we have made just now never held anything; what was there is never taken for new.
        assert first.created == (not first.exists)
        assert again.writable
        assert again.exists
        assert not again.created
        assert (plain.writable, plain.exists, plain.created) == (True, True, False)
        assert not plain.public
        assert plain.now is not None
        assert abs(plain.now - time.time()) < 5

    asyncio.run(scenario())


def test_what_was_committed_comes_back(store: Subject, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(20_000_000))
    small = tmp_path / "small"
    small.write_bytes(b"from a file")
    empty = tmp_path / "empty"
    empty.touch()
    put: dict[str, Source] = {
        "r/bytes": b"from memory",
        "r/binary": bytes(range(256)) * 10,
        "r/empty-bytes": b"",
        "r/empty-file": empty,
        "r/small": small,
        "r/deep/er/large": large,
        "r/same-as-small": small,
    }

    async def scenario(s: Store) -> None:
        revision = await s.commit(await s.head(), put, [], "sidecar: snapshot 0.1")
        assert await s.head() == revision
        assert await contents(s, revision, put, tmp_path / "into") == {p: raw(b) for p, b in put.items()}
        assert files_below(tmp_path / "into") == sorted(put)
        assert await listing(s, revision) == {path: len(raw(source)) for path, source in put.items()}

    store.run(scenario)
    assert small.read_bytes() == b"from a file"


def test_what_a_source_becomes_later_changes_nothing(store: Subject, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"then" * 100_000)

    async def scenario(s: Store) -> None:
        revision = await s.commit(await s.head(), {"r/x": source}, [], "one")
        with source.open("r+b") as file:
            file.write(b"now!" * 100_000)
        assert await contents(s, revision, ["r/x"], tmp_path / "into") == {"r/x": b"then" * 100_000}
        # Nor does what becomes of a fetched file.
        (tmp_path / "into" / "r/x").write_bytes(b"written over")
        assert await contents(s, revision, ["r/x"], tmp_path / "again") == {"r/x": b"then" * 100_000}

    store.run(scenario)


def test_odd_names_come_back_or_are_refused_by_name(store: Subject, tmp_path: Path) -> None:
    put: dict[str, Source] = {name: name.encode() for name in ODD_NAMES}

    async def scenario(s: Store) -> None:
        parent = await s.head()
        revision = None
        while revision is None:
            try:
                revision = await s.commit(parent, put, [], "odd")
            except Refused as error:
                refused = error.path
            else:
                break
            assert refused in store.kind.refuses & put.keys()
            assert await s.head() == parent
            del put[refused]
        assert await listing(s, revision) == {name: len(name.encode()) for name in put}
        assert await contents(s, revision, put, tmp_path / "into") == {name: name.encode() for name in put}

    store.run(scenario)


@pytest.mark.parametrize("bad", ["", "/r", "r/", "r//x", "r/./x", "r/../x", "..", "r/\ud800", "r/nul\0"])
def test_paths_that_are_none_are_refused_by_name(store: Subject, bad: str) -> None:
    async def scenario(s: Store) -> None:
        head = await s.head()
        with pytest.raises(Refused) as caught:
            await s.commit(head, {"r/good": b"1", bad: b"2"}, [], "bad")
        assert caught.value.path == bad
        assert await s.head() == head
        revision = await s.commit(head, {"r/good": b"1"}, [bad], "the rest goes without it")
        assert await listing(s, revision) == {"r/good": 1}

    store.run(scenario)


def test_put_and_delete(store: Subject, tmp_path: Path) -> None:
    async def scenario(s: Store) -> None:
        one = await s.commit(await s.head(), {"r/a": b"1", "r/b/c": b"2", "r/b/d": b"3"}, [], "one")
        two = await s.commit(one, {"r/a": b"11", "r/e": b"4"}, ["r/b/c"], "two")
        assert await listing(s, two) == {"r/a": 2, "r/b/d": 1, "r/e": 1}
        three = await s.commit(two, {}, ["r/b/d", "r/never-there", "r/b"], "three")
        assert await listing(s, three) == {"r/a": 2, "r/e": 1}
        four = await s.commit(three, {}, ["r/never-there", "r/a/below-a-file"], "four")
        assert await listing(s, four) == {"r/a": 2, "r/e": 1}
        assert await s.head() == four
        five = await s.commit(four, {"r/a": b"put wins"}, ["r/a", "r/e"], "five")
        assert await listing(s, five) == {"r/a": 8}
        # Old revisions stay as they were.
        assert await listing(s, one) == {"r/a": 1, "r/b/c": 1, "r/b/d": 1}
        assert await contents(s, one, ["r/a", "r/b/c"], tmp_path / "one") == {"r/a": b"1", "r/b/c": b"2"}
        assert await contents(s, two, ["r/a"], tmp_path / "two") == {"r/a": b"11"}

    store.run(scenario)


def test_no_path_is_a_file_and_a_folder(store: Subject) -> None:
    async def scenario(s: Store) -> None:
        one = await s.commit(await s.head(), {"r/file": b"1", "r/folder/x": b"2"}, [], "one")
        before = await listing(s, one)
        for put in ({"r/file/below": b"3"}, {"r/folder": b"3"}, {"r/new": b"3", "r/new/below": b"4"}):
            with pytest.raises(Refused) as caught:
                await s.commit(one, put, [], "clash")
            assert caught.value.path in put
            assert await s.head() == one
        assert await listing(s, one) == before
        # With the other one gone in the same commit it is a change like any other.
        two = await s.commit(one, {"r/file/below": b"33", "r/folder": b"44"}, ["r/file", "r/folder/x"], "swapped")
        assert await listing(s, two) == {"r/file/below": 2, "r/folder": 2}

    store.run(scenario)


def test_a_stale_parent_conflicts_and_commits_nothing(store: Subject) -> None:
    async def scenario(s: Store) -> None:
        one = await s.commit(await s.head(), {"r/a": b"1"}, [], "one")
        two = await s.commit(one, {"r/a": b"2"}, [], "two")
        for parent in (one, None, "0" * len(one)):
            with pytest.raises(Conflict):
                await s.commit(parent, {"r/b": b"3"}, ["r/a"], "late")
        assert await s.head() == two
        assert await listing(s, two) == {"r/a": 1}
        assert [c.title for c in await s.history(2)] == ["two", "one"]

    store.run(scenario)


def test_of_two_writers_exactly_one_wins_each_round(store: Subject) -> None:
    rounds = 3 if store.kind.slow else 12
    parent = store.run(lambda s: s.commit(None, {"r/n": b"0"}, [], "start"))
    start = threading.Barrier(2, timeout=30)
    results: dict[int, Any] = {}

    def writer(me: int, parent: Revision, n: int) -> None:
        async def main() -> Revision:
            s = store.open()
            try:
                await s.head()
                start.wait()
                return await s.commit(parent, {f"r/{n}-{me}": b"x" * 1000, "r/n": b"%d" % me}, [], f"{n}-{me}")
            finally:
                await s.close()

        try:
            results[me] = asyncio.run(main())
        except BaseException as error:
            results[me] = error

    for n in range(rounds):
        results.clear()
        threads = [threading.Thread(target=writer, args=(me, parent, n)) for me in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        won = [me for me in (0, 1) if isinstance(results[me], str)]
        assert len(won) == 1, results
        assert isinstance(results[1 - won[0]], Conflict), results
        parent = results[won[0]]

        async def look(s: Store, expected: Revision = parent, n: int = n, me: int = won[0]) -> None:
            assert await s.head() == expected
            assert (await s.history(1))[0].title == f"{n}-{me}"
            paths = (await listing(s, expected)).keys()
            assert f"r/{n}-{me}" in paths
            assert f"r/{n}-{1 - me}" not in paths

        store.run(look)


def test_calls_at_once_on_one_store(store: Subject, tmp_path: Path) -> None:
    async def scenario(s: Store) -> None:
        one = await s.commit(await s.head(), {"r/a": b"1" * 100_000}, [], "one")
        tries = [s.commit(one, {"r/a": b"%d" % n * 100_000}, [], f"try {n}") for n in range(2, 6)]
        reads = [contents(s, one, ["r/a"], tmp_path / f"into-{n}") for n in range(4)]
        done = await asyncio.gather(*tries, *reads, return_exceptions=True)
        won = [r for r in done[:4] if isinstance(r, str)]
        assert len(won) == 1, done
        assert all(isinstance(r, str | Conflict) for r in done[:4]), done
        assert done[4:] == [{"r/a": b"1" * 100_000}] * 4
        assert await s.head() == won[0]

    store.run(scenario)


def test_a_branch_begins_at_the_parent_and_leaves_the_main_line_alone(store: Subject, tmp_path: Path) -> None:
    async def scenario(s: Store) -> None:
        one = await s.commit(await s.head(), {"r/a": b"1"}, [], "one")
        two = await s.commit(one, {"r/a": b"2"}, [], "two")
        aside = await s.commit(one, {"r/b": b"1"}, [], "aside", branch="fenced/i-1")
        assert await s.head() == two
        assert await listing(s, aside) == {"r/a": 1, "r/b": 1}
        more = await s.commit(aside, {}, ["r/a"], "more", branch="fenced/i-1")
        assert await listing(s, more) == {"r/b": 1}
        for parent in (one, aside, two):
            with pytest.raises(Conflict):
                await s.commit(parent, {"r/c": b"1"}, [], "late", branch="fenced/i-1")
        assert [c.title for c in await s.history(3, branch="fenced/i-1")] == ["more", "aside", "one"]
        assert [c.title for c in await s.history(2)] == ["two", "one"]
        assert await s.head() == two
        assert await contents(s, more, ["r/b"], tmp_path / "more") == {"r/b": b"1"}
        with pytest.raises(StoreError):
            await s.commit("0" * len(one), {"r/c": b"1"}, [], "from nowhere", branch="fenced/i-2")

    store.run(scenario)


def test_history_is_newest_first_and_ends_at_the_limit(store: Subject) -> None:
    count = 3 if store.kind.has_ceiling else 6

    async def scenario(s: Store) -> None:
        before = len(await s.history(100))
        revisions = []
        parent = await s.head()
        for n in range(count):
            parent = await s.commit(parent, {"r/n": b"%d" % n}, [], f"sidecar: snapshot 0.{n}\n\nmore\nwords {n}")
            revisions.append(parent)
        found = await s.history(100)
        assert len(found) == before + count
        assert [c.revision for c in found[:count]] == revisions[::-1]
        assert [c.title for c in found[:count]] == [f"sidecar: snapshot 0.{n}" for n in reversed(range(count))]
        times = [c.at for c in found if c.at is not None]
        assert times == sorted(times, reverse=True)
        assert all(abs(at - time.time()) < 120 for at in times[:count])
        for limit in (0, 1, 2):
            assert await s.history(limit) == found[:limit]
        assert await s.history(5, branch="never-there") == []

    store.run(scenario)


def test_a_branch_that_keeps_another_revision_is_a_conflict(store: Subject) -> None:
    async def scenario(s: Store) -> None:
        first = await s.commit(await s.head(), {"r/a": b"1"}, [], "sidecar: snapshot 0.1")
        second = await s.commit(first, {"r/a": b"2"}, [], "sidecar: snapshot 0.2")
        await s.keep(first, "kept/0.1")
        with pytest.raises(Conflict, match=r"kept/0\.1.*another name"):
            await s.keep(second, "kept/0.1")
        assert (await s.branches())["kept/0.1"] == first

    store.run(scenario)


def test_compact_keeps_the_heads_tree_and_what_is_kept(store: Subject, tmp_path: Path) -> None:
    async def scenario(s: Store) -> None:
        revisions = []
        parent = await s.head()
        for n in range(4):
            put: Mapping[str, Source] = {"r/same": b"same", f"r/{n}": b"only %d" % n}
            parent = await s.commit(parent, put, [f"r/{n - 1}"], f"sidecar: snapshot 0.{n}")
            revisions.append(parent)
        await s.keep(revisions[1], "damaged/0.1")
        await s.keep(revisions[1], "damaged/0.1")
        await s.compact()
        head = await s.head()
        assert head is not None
        assert [c.title for c in await s.history(10)] == ["sidecar: snapshot 0.3"]
        assert (await s.history(1))[0].revision == head
        assert await listing(s, head) == {"r/same": 4, "r/3": 6}
        assert await contents(s, head, ["r/same", "r/3"], tmp_path / "head") == {"r/same": b"same", "r/3": b"only 3"}
        assert await contents(s, revisions[1], ["r/same", "r/1"], tmp_path / "kept") == {
            "r/same": b"same",
            "r/1": b"only 1",
        }
        assert (await s.history(1, branch="damaged/0.1"))[0].title == "sidecar: snapshot 0.1"
        # And it goes on from there.
        after = await s.commit(head, {"r/4": b"only 4"}, ["r/3"], "sidecar: snapshot 0.4")
        with pytest.raises(Conflict):
            await s.commit(revisions[3], {"r/5": b""}, [], "on what was squashed")
        await s.compact(title="sidecar: snapshot 0.9")
        assert [c.title for c in await s.history(9)] == ["sidecar: snapshot 0.9"]
        assert await listing(s, await s.head() or "") == {"r/same": 4, "r/4": 6}
        assert after is not None

    store.run(scenario)


def test_a_branch_is_listed_squashed_and_let_go(store: Subject, tmp_path: Path) -> None:
    async def scenario(s: Store) -> None:
        first = await s.commit(await s.head(), {"r/a": b"1"}, [], "sidecar: snapshot 0.1\n\nfiles: 1")
        second = await s.commit(first, {"r/a": b"2"}, [], "sidecar: snapshot 0.2")
        assert [c.body for c in await s.history(2)] == ["", "files: 1"]
        assert await s.branches() == {}
        await s.keep(first, "kept/0.1")
        await s.commit(second, {"r/side": b"x"}, [], "sidecar: snapshot 0.3", branch="fenced/me")
        found = await s.branches()
        assert set(found) == {"kept/0.1", "fenced/me"}
        assert found["kept/0.1"] == first
        await s.compact(branch="kept/0.1")
        await s.compact(branch="kept/0.1")
        at = (await s.branches())["kept/0.1"]
        assert (await s.history(1, "kept/0.1"))[0].title == "sidecar: snapshot 0.1"
        assert await contents(s, at, ["r/a"], tmp_path / "kept") == {"r/a": b"1"}
        assert await s.head() == second, "the main line is as it was"
        usage = await s.usage()
        assert usage.commits == len(await s.history(100))
        assert usage.bytes is not None
        for _ in range(2):
            await s.drop("kept/0.1")
            assert set(await s.branches()) == {"fenced/me"}
        with pytest.raises(StoreError):
            await s.drop("main")
        assert await s.head() == second

    store.run(scenario)


def test_what_is_not_there_is_not_found(store: Subject, tmp_path: Path) -> None:
    async def scenario(s: Store) -> None:
        one = await s.commit(await s.head(), {"r/a": b"1", "r/b/c": b"2"}, [], "one")
        nowhere = "0" * len(one)
        for path in ("r/never", "r/b", "r/a/b", "r", "", "../r/a", "r/../r/a", "/etc/passwd", "r/nul\0", "r/\udcff"):
            with pytest.raises(NotFound):
                await s.fetch(one, [path], tmp_path)
        with pytest.raises(NotFound):
            await s.fetch(nowhere, ["r/a"], tmp_path)
        with pytest.raises(NotFound):
            await s.listing(nowhere)
        with pytest.raises(NotFound):
            await s.keep(nowhere, "kept")
        assert files_below(tmp_path) == []

    (tmp_path := tmp_path / "into").mkdir()
    store.run(scenario)


def test_a_fetch_that_fails_leaves_only_whole_files(store: Subject, tmp_path: Path) -> None:
    data = os.urandom(300_000)

    async def scenario(s: Store) -> None:
        one = await s.commit(await s.head(), {"r/a": data, "r/b": data[::-1]}, [], "one")
        with pytest.raises(NotFound) as caught:
            await s.fetch(one, ["r/a", "r/missing", "r/b"], into)
        assert "r/missing" in caught.value.message
        (into / "in the way").mkdir()
        (into / "r").mkdir(exist_ok=True)
        (into / "r" / "b").unlink(missing_ok=True)
        (into / "r" / "b").mkdir()  # what a caller shouldn't do: a folder where a file is to be
        with pytest.raises(StoreError):
            await s.fetch(one, ["r/b"], into)

    (into := tmp_path / "into").mkdir()
    store.run(scenario)
    left = files_below(into)
    assert left in ([], ["r/a"])
    assert all((into / path).read_bytes() == data for path in left)


def test_progress_adds_up(store: Subject, tmp_path: Path) -> None:
    sizes = {"r/empty": 0, "r/small": 10, "r/large": 3_500_000, "r/twin": 10}

    async def scenario(s: Store) -> None:
        put = {path: hashlib.sha256(b"x").digest()[:1] * size for path, size in sizes.items()}
        one = await s.commit(await s.head(), put, [], "one")
        seen: list[int] = []
        await s.fetch(one, sizes, into, seen.append)
        assert sum(seen) == sum(sizes.values())
        assert all(isinstance(n, int) and n >= 0 for n in seen)

    (into := tmp_path / "into").mkdir()
    store.run(scenario)


def test_a_part_goes_to_its_place(store: Subject, tmp_path: Path) -> None:
    """Where the store can give parts at all."""
    whole, text = os.urandom(3_000_000), b"line\n" * 1000

    async def scenario(s: Store) -> None:
        if not isinstance(s, Ranged):
            pytest.skip("gives no parts")
        one = await s.commit(await s.head(), {"r/large": whole, "r/text": text, "r/empty": b""}, [], "one")
        seen: list[int] = []
        await s.fetch_range(one, "r/large", range(1_000_000, 2_500_000), into, seen.append)
        assert sum(seen) == 1_500_000
        assert into.read_bytes() == b"\0" * 1_000_000 + whole[1_000_000:2_500_000]
        await s.fetch_range(one, "r/large", range(10), into)
        await s.fetch_range(one, "r/large", range(2_500_000, len(whole)), into)
        assert into.read_bytes() == whole[:10] + b"\0" * 999_990 + whole[1_000_000:]
        await s.fetch_range(one, "r/large", range(len(whole)), into)
        assert into.read_bytes() == whole
        into.unlink()
        await s.fetch_range(one, "r/text", range(len(text)), into)
        assert into.read_bytes() == text
        for path, span in (("r/text", range(4000, 5001)), ("r/text", range(6000, 7000)), ("r/empty", range(1))):
            with pytest.raises(Corrupt):
                await s.fetch_range(one, path, span, into)
        for path in ("r/none", "../r/text", "r"):
            with pytest.raises(NotFound):
                await s.fetch_range(one, path, range(5), into)
        assert into.read_bytes() == text, "what failed changed nothing"

    into = tmp_path / "into"
    store.run(scenario)


def test_a_part_that_nobody_waits_for_is_written_no_more(store: Subject, tmp_path: Path) -> None:
    """The file may be the app's own by then."""

    async def scenario(s: Store) -> None:
        if not isinstance(s, Ranged):
            pytest.skip("gives no parts")
        one = await s.commit(await s.head(), {"r/large": os.urandom(12_000_000)}, [], "one")
        came = asyncio.Event()
        loop = asyncio.get_running_loop()

        def progress(size: int) -> None:
            loop.call_soon_threadsafe(came.set)

        fetching = asyncio.create_task(s.fetch_range(one, "r/large", range(12_000_000), into, progress))
        await came.wait()
        fetching.cancel()
        await asyncio.wait([fetching])
        found = await asyncio.to_thread(into.read_bytes)
        await asyncio.sleep(0.3)
        assert await asyncio.to_thread(into.read_bytes) == found

    into = tmp_path / "into"
    store.run(scenario)


def test_a_commit_of_many_files(store: Subject, tmp_path: Path) -> None:
    put: dict[str, Source] = {f"r/{n % 7}/file {n}": b"%d" % n * (n % 50) for n in range(500)}

    async def scenario(s: Store) -> None:
        one = await s.commit(await s.head(), put, [], "many")
        assert await listing(s, one) == {path: len(raw(source)) for path, source in put.items()}
        some = list(put)[::50]
        assert await contents(s, one, some, tmp_path / "into") == {path: put[path] for path in some}
        gone = [path for n, path in enumerate(put) if n % 3]
        two = await s.commit(one, {}, gone, "fewer")
        assert (await listing(s, two)).keys() == put.keys() - set(gone)

    store.run(scenario)


def test_nothing_blocks_the_event_loop(store: Subject, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(1_000_000) * (30 if store.kind.slow else 60))

    (into := tmp_path / "into").mkdir()

    def change(n: int) -> None:
        with source.open("r+b") as file:
            file.write(b"%d" % n)

    async def longest_gap(work: Awaitable[Any]) -> float:
        gaps = [0.0]

        async def tick() -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.002)
                gaps.append(time.perf_counter() - before)

        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0.01)
        await work
        await asyncio.sleep(0.01)  # else a loop that stood still to the end would never tell
        ticking.cancel()
        return max(gaps)

    async def scenario(s: Store) -> None:
        parent = await s.head()
        commits, fetches = [], []
        # The best of three: the machine may have other things to do, the store must not.
        for n in range(3):
            change(n)
            begin = time.perf_counter()
            commits.append(await longest_gap(s.commit(parent, {"r/large": source}, [], f"{n}")))
            assert time.perf_counter() - begin > 0.06, "too fast to tell whether it blocks"
            parent = await s.head()
            assert parent is not None
            fetches.append(await longest_gap(s.fetch(parent, ["r/large"], into)))
            if min(commits) < 0.05 and min(fetches) < 0.05:
                return
        raise AssertionError(f"the loop stood still: {commits}, {fetches}")

    store.run(scenario)


@pytest.mark.parametrize("what", ["source missing", "source a folder", "into missing", "long branch", "no branch name"])
def test_misuse_ends_as_a_store_error(store: Subject, tmp_path: Path, what: str) -> None:
    async def scenario(s: Store) -> None:
        one = await s.commit(await s.head(), {"r/a": b"1"}, [], "one")
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "source missing": lambda: s.commit(one, {"r/b": tmp_path / "missing"}, [], "two"),
            "source a folder": lambda: s.commit(one, {"r/b": tmp_path}, [], "two"),
            "into missing": lambda: s.fetch(one, ["r/a"], tmp_path / "missing"),
            "long branch": lambda: s.keep(one, "b" * 5000),
            "no branch name": lambda: s.keep(one, ""),
        }
        with pytest.raises(StoreError) as caught:
            await calls[what]()
        assert caught.value.message
        assert await s.head() == one
        assert await listing(s, one) == {"r/a": 1}

    store.run(scenario)


def test_a_cancelled_commit_leaves_a_good_store(store: Subject, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(8_000_000))

    async def scenario(s: Store) -> None:
        one = await s.commit(await s.head(), {"r/a": b"1"}, [], "one")
        for delay in (0.0, 0.005, 0.02):
            head = await s.head()
            task = asyncio.create_task(s.commit(head, {"r/large": source}, [], "two"))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.wait([task])
        head = await s.head()
        assert head is not None
        assert (await listing(s, head)) in ({"r/a": 1}, {"r/a": 1, "r/large": 8_000_000})
        assert (await listing(s, one)) == {"r/a": 1}

    store.run(scenario)
