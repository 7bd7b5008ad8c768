"""The folder store's own: what stands in the folder, damage, full disks, locks, pruning, and its cost."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from sidecar.stores import disk
from sidecar.stores.base import (
    Conflict,
    Corrupt,
    Denied,
    NotFound,
    Refused,
    Source,
    Store,
    StoreError,
    Unavailable,
    Unsupported,
)
from sidecar.stores.folder import FolderStore
from sidecar.stores.ledger import Ledger
from tests.stores.folders import leftovers, needed, on_disk, put, read, run
from tests.stores.test_contract import ODD_NAMES

PROJECT = Path(__file__).parents[2]


def fails(kind: type[StoreError], call: Callable[[], object], *words: str) -> StoreError:
    """It must fail as exactly ``kind``, on one line, with each of ``words`` in its message."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message, caught.value.message
    return caught.value


def content(root: Path, data: bytes) -> Path:
    oid = hashlib.sha256(data).hexdigest()
    return root / "contents" / oid[:2] / oid[2:]


def revision_file(root: Path, revision: str) -> Path:
    return root / "revisions" / revision[:2] / revision[2:]


# The folder


def test_a_new_store_is_private(tmp_path: Path) -> None:
    root = tmp_path / "not/yet/there"
    access = run(root, lambda s: s.check())
    assert (access.writable, access.exists, access.created) == (True, False, False)
    assert not (tmp_path / "not").exists()
    access = run(root, lambda s: s.check(create=True))
    assert (access.writable, access.exists, access.created) == (True, False, True)
    put(root, {"r/a": b"1"})
    for path in [tmp_path / "not", root, *root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert leftovers(root) == []


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    (tmp_path / "refs").mkdir()
    fails(Denied, lambda: run(tmp_path, lambda s: s.check()), "photo.jpg", str(tmp_path))
    fails(Denied, lambda: run(tmp_path, lambda s: s.check(create=True)), "photo.jpg", str(tmp_path))
    fails(Denied, lambda: run(tmp_path, lambda s: s.commit(None, {"a": b""}, [], "x")), "photo.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photo.jpg", "refs"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fails(Denied, lambda: run(tmp_path / "file", lambda s: s.check(create=True)), "no folder")


def test_a_fresh_volume_and_a_creation_that_was_cut_off_will_do(tmp_path: Path) -> None:
    for name in ("lost+found", "tmp", "contents", "refs"):
        (tmp_path / name).mkdir()
    (tmp_path / "sidecar-store.json.0a0a0a0a").touch()
    access = run(tmp_path, lambda s: s.check())
    assert not access.exists
    assert run(tmp_path, lambda s: s.check(create=True)).created
    put(tmp_path, {"r/a": b"1"})
    assert read(tmp_path, tmp_path / "lost+found/into") == {"r/a": b"1"}


def test_a_store_that_lost_a_part_is_never_taken_for_new(tmp_path: Path) -> None:
    root = tmp_path / "store"
    put(root, {"r/a": b"1"})
    marker = root / "sidecar-store.json"
    good = marker.read_bytes()

    for bad, words in ((b"{}", "can't be read"), (b"", "can't be read"), (b'{"format":2}', "newer sidecar")):
        marker.write_bytes(bad)
        fails(Denied, lambda: run(root, lambda s: s.check(create=True)), words)
        fails(Denied, lambda: run(root, lambda s: s.head()), words)
    marker.unlink()
    fails(Denied, lambda: run(root, lambda s: s.check(create=True)), "sidecar-store.json is gone")
    marker.write_bytes(good)

    for damage in (b"", b"not a revision\n", b"\xff\xff"):
        (root / "refs" / "main").write_bytes(damage)
        fails(Corrupt, lambda: run(root, lambda s: s.head()), "refs/main")
        fails(Corrupt, lambda: put(root, {"r/a": b"2"}), "refs/main")
    (root / "refs" / "main").unlink()
    calls: list[Callable[[Store], Awaitable[object]]] = [
        lambda s: s.head(), lambda s: s.check(create=True), lambda s: s.history(1)
    ]  # fmt: skip
    for call in calls:
        fails(Corrupt, partial(run, root, call), "lost the names", str(root))
    assert not list((root / "refs").iterdir())


def test_a_main_line_that_went_missing_beside_what_was_kept_of_it_is_no_new_one(tmp_path: Path) -> None:
    root = tmp_path / "store"
    head = put(root, {"r/a": b"1"})
    run(root, lambda s: s.keep(head, "kept/1.1"))
    (root / "refs" / "main").unlink()
    calls: list[Callable[[Store], Awaitable[object]]] = [lambda s: s.head(), lambda s: s.check(create=True)]
    for call in calls:
        fails(Corrupt, partial(run, root, call), "lost the names", "refs/main is gone")
    fails(Corrupt, lambda: put(root, {"r/a": b"2"}), "refs/main is gone")
    assert len(list((root / "refs").iterdir())) == 1


def test_a_volume_that_is_not_mounted_is_no_empty_store(tmp_path: Path) -> None:
    root = tmp_path / "store"
    revision = put(root, {"r/a": b"1"})

    async def scenario(s: Store) -> None:
        assert await s.head() == revision
        root.rename(tmp_path / "unmounted")
        for state in ("gone", "empty"):
            if state == "empty":
                root.mkdir()
            for call in (s.head, lambda: s.history(1), lambda: s.commit(revision, {"r/a": b"2"}, [], "two")):
                with pytest.raises(NotFound) as caught:
                    await call()
                assert "mounted" in caught.value.message
            with pytest.raises(NotFound):
                await s.commit(revision, {"r/a": b"2"}, [], "two", branch="fenced/1")
        assert list(root.iterdir()) == []

    run(root, scenario)
    fails(NotFound, lambda: run(root, lambda s: s.head()), "mounted")


def test_a_branch_as_main_line_and_prefixes_share_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "store"
    put(root, {"r/a": b"main"})

    async def on_branch(s: Store) -> None:
        with pytest.raises(NotFound):
            await s.head()
        assert not (await s.check()).exists
        access = await s.check(create=True)
        assert access.created
        assert await s.head() is None
        one = await s.commit(None, {"r/b": b"aside"}, [], "aside")
        assert await s.listing(one) == {"r/b": 5}
        assert (await s.check(create=True)).exists
        assert (await s.head(), len(await s.history(9, "main"))) == (one, 1)

    run(root, on_branch, branch="state/v1")

    async def below(s: Store) -> str:
        one = await s.commit(await s.head(), {"r/a": b"below", "b": b"1"}, ["never"], "below")
        assert await s.listing(one) == {"r/a": 5, "b": 1}
        two = await s.commit(one, {}, ["b"], "less")
        (tmp_path / "into").mkdir()
        await s.fetch(two, ["r/a"], tmp_path / "into")
        with pytest.raises(NotFound):
            await s.fetch(two, ["x/y/r/a"], tmp_path / "into")
        return two

    two = run(root, below, prefix="x/y")
    assert (tmp_path / "into/r/a").read_bytes() == b"below"
    assert read(root, tmp_path / "all", two) == {"r/a": b"main", "x/y/r/a": b"below"}
    for prefix in ("..", "/a", "a/", "a//b"):
        with pytest.raises(ValueError):
            FolderStore(root, prefix=prefix)


def test_every_name_that_a_linux_folder_can_hold_comes_back(tmp_path: Path) -> None:
    root = tmp_path / "store"
    names = [*ODD_NAMES, "r/" + "ü" * 127, "r/" + "d/" * 1100 + "x", "\x01\x1b[31m", "sidecar-store.json", "-"]
    put(root, {name: name.encode() for name in names})
    # Not below tmp_path: what cleans up there recurses, and a tree this deep would stop everybody's tests.
    base = Path(tempfile.mkdtemp(prefix="sidecar-test-"))
    try:
        assert read(root, base / "into") == {name: name.encode() for name in names}
    finally:
        subprocess.run(["rm", "-rf", str(base)], check=True)
    for name in ("r/" + "n" * 256, "r/" + "ü" * 128, "d/" * 1600 + "x"):
        error = fails(Refused, partial(put, root, {name: b""}), "longer than")
        assert isinstance(error, Refused)
        assert error.path == name


# Damage


def test_bytes_that_changed_are_never_given_out(tmp_path: Path) -> None:
    root = tmp_path / "store"
    good = os.urandom(3_000_000)
    put(root, {"r/good": b"good", "r/bad": good})
    victim = content(root, good)
    for damage in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], good + b"\0", b""):
        victim.write_bytes(damage)
        (into := tmp_path / f"into-{len(damage)}-{damage[-1:].hex()}").mkdir()

        async def scenario(s: Store, into: Path = into) -> None:
            head = await s.head()
            assert head is not None
            with pytest.raises(Corrupt) as caught:
                await s.fetch(head, ["r/good", "r/bad"], into)
            assert "r/bad" in caught.value.message

        run(root, scenario)
        assert [p.name for p in into.rglob("*") if p.is_file()] == ["good"]
    victim.unlink()
    fails(Corrupt, lambda: read(root, tmp_path / "missing"), "r/bad", "missing")


def test_putting_the_same_bytes_again_mends_a_damaged_object(tmp_path: Path) -> None:
    root = tmp_path / "store"
    put(root, {"r/x": b"good"})
    for damage in (lambda p: p.write_bytes(b"bad!"), Path.unlink):
        damage(content(root, b"good"))
        source = tmp_path / "source"
        source.write_bytes(b"good")
        put(root, {"r/again": b"good", "r/and": source})
        assert read(root, Path(tempfile.mkdtemp(dir=tmp_path)) / "into")["r/x"] == b"good"


@pytest.mark.parametrize("kind", ["trees", "revisions"])
@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b"{}"), lambda p: p.write_bytes(b""), Path.unlink])
def test_damage_to_the_head_stops_reading_and_pruning(
    tmp_path: Path, kind: str, damage: Callable[[Path], object]
) -> None:
    root = tmp_path / "store"
    old = put(root, {"r/a": b"1"})
    new = put(root, {"r/a": b"2"})
    before = on_disk(root)
    if kind == "revisions":
        damage(revision_file(root, new))
    else:
        newest = hashlib.sha256(b"2").hexdigest().encode()
        trees = [path for path in (root / "trees").rglob("*") if path.is_file()]
        (tree,) = (path for path in trees if newest in path.read_bytes())
        damage(tree)
    fails(Corrupt, lambda: read(root, tmp_path / "into"))
    fails(Corrupt, lambda: run(root, lambda s: s.compact()))
    if kind == "revisions":
        fails(Corrupt, lambda: run(root, lambda s: s.history(5)))
    # Nothing was pruned, and what is whole still comes back.
    assert len(before - on_disk(root)) <= 1
    assert read(root, tmp_path / "old", old) == {"r/a": b"1"}


def test_a_hostile_tree_writes_nowhere_else(tmp_path: Path) -> None:
    """Whoever can write to the folder can make a tree with valid checksums that names any path."""
    from sidecar.stores import pathtree
    from sidecar.stores.ledger import Ledger, Nodes, Record, stage_record
    from sidecar.stores.objects import Staging

    root = tmp_path / "store"
    put(root, {"r/a": b"1"})
    ledger = Ledger(root, "main")
    with Staging(ledger.objects, lambda: None) as staging:
        entry = pathtree.Entry(staging.add("contents", b"evil"), 4)
        tree = Nodes(ledger.objects, staging).save(pathtree.Leaf(["../evil"], [entry]))
        evil = stage_record(staging, Record(None, tree, "evil", 0.0))
        staging.install()
        ledger.point("main", evil)
    fails(NotFound, lambda: read(root, tmp_path / "into"), "../evil")
    assert not (tmp_path / "evil").exists()


def test_trouble_with_the_callers_disk_is_none_of_the_stores(tmp_path: Path) -> None:
    """A missing or unfit staging folder must not read as a snapshot that isn't there, or a store that says no."""
    root = tmp_path / "store"
    one = put(root, {"r/a": b"1"})
    (tmp_path / "file").touch()
    (tmp_path / "into/r/a/in-the-way").mkdir(parents=True)
    for into in ("missing", "file", "into"):
        fails(Unavailable, lambda: run(root, lambda s: s.fetch(one, ["r/a"], tmp_path / into)), "r/a", into)  # noqa: B023
    assert [p.name for p in (tmp_path / "into").rglob(".sidecar*")] == []


# Locks


def test_a_held_lock_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    root = tmp_path / "store"
    one = put(root, {"r/a": b"1"})
    (into := tmp_path / "into").mkdir()

    async def scenario(s: Store) -> None:
        for call in (
            lambda: s.commit(one, {"r/b": b"2"}, [], "two"),
            lambda: s.keep(one, "kept"),
            s.compact,
        ):
            begin = time.monotonic()
            with pytest.raises(Unavailable) as caught:
                await call()
            assert 0.2 <= time.monotonic() - begin < 2
            assert "lock" in caught.value.message
            assert caught.value.retry_after
            assert not caught.value.unclear
        # Reading doesn't ask for it.
        assert await s.head() == one
        await s.fetch(one, ["r/a"], into)
        assert len(await s.history(5)) == 1
        assert (await s.check(create=True)).writable
        fcntl.flock(fd, fcntl.LOCK_UN)
        await s.commit(one, {"r/b": b"2"}, [], "two")

    fd = os.open(root / "lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        run(root, scenario, lock_timeout=0.2)
    finally:
        os.close(fd)
    assert leftovers(root) == []


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    root = tmp_path / "store"
    one = put(root, {"r/a": b"1"})
    fd = os.open(root / "lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)

    async def main() -> None:
        s = FolderStore(root, lock_timeout=60)
        tasks = [asyncio.create_task(s.commit(one, {"r/b": b"2"}, [], f"{n}")) for n in range(10)]
        await asyncio.sleep(0.1)
        begin = time.monotonic()
        await s.close()
        assert time.monotonic() - begin < 2
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert type(result) is Unavailable
        await s.close()
        with pytest.raises(StoreError):
            await s.head()

    try:
        asyncio.run(main())
    finally:
        os.close(fd)
    assert leftovers(root) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("folder-store")]


# Pruning


def test_pruned_objects_stay_readable_for_a_grace_and_then_go(tmp_path: Path) -> None:
    root = tmp_path / "store"
    old = put(root, {"r/a": b"only old" * 1000, "r/b": b"both"})
    put(root, {"r/a": b"new"})
    run(root, lambda s: s.compact())
    assert on_disk(root) == needed(root)
    assert read(root, tmp_path / "old", old) == {"r/a": b"only old" * 1000, "r/b": b"both"}
    # It is on its way out: nothing new may build on it.
    fails(NotFound, lambda: run(root, lambda s: s.keep(old, "kept")))
    fails(NotFound, lambda: run(root, lambda s: s.commit(old, {}, [], "x", branch="fenced/1")))
    (heap,) = (root / "trash").iterdir()
    heap.rename(root / "trash" / str(int(heap.name) - 3700))
    put(root, {"r/c": b"any commit tidies"})
    assert list((root / "trash").iterdir()) == []
    fails(NotFound, lambda: read(root, tmp_path / "gone", old))
    assert read(root, tmp_path / "head") == {"r/a": b"new", "r/b": b"both", "r/c": b"any commit tidies"}


def test_compact_again_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "store"
    put(root, {"r/a": b"1"})
    put(root, {"r/a": b"2"})
    run(root, lambda s: s.compact(), grace=0)
    before, head = on_disk(root), run(root, lambda s: s.head())
    run(root, lambda s: s.compact(), grace=0)
    assert (on_disk(root), run(root, lambda s: s.head())) == (before, head)
    assert before == needed(root)


def test_a_branch_keeps_its_tip_and_its_own_commits_but_not_the_main_line(tmp_path: Path) -> None:
    root = tmp_path / "store"
    mains = [put(root, {"r/n": b"main %d" % n}) for n in range(5)]

    async def scenario(s: Store) -> list[str]:
        await s.keep(mains[2], "kept")
        aside = await s.commit(mains[3], {"r/n": b"aside"}, [], "aside", branch="fenced/1")
        more = await s.commit(aside, {"r/n": b"more"}, [], "more", branch="fenced/1")
        with pytest.raises(Conflict):
            await s.keep(mains[3], "kept")
        await s.compact()
        await s.compact()
        assert [c.title for c in await s.history(9, "fenced/1")] == ["more", "aside"]
        return [aside, more]

    asides = run(root, scenario, grace=0)
    assert on_disk(root) == needed(root)
    assert read(root, tmp_path / "kept", mains[2]) == {"r/n": b"main 2"}
    assert read(root, tmp_path / "aside", asides[0]) == {"r/n": b"aside"}
    assert read(root, tmp_path / "head") == {"r/n": b"main 4"}
    for gone in (0, 1, 3, 4):
        fails(NotFound, partial(read, root, tmp_path / f"gone-{gone}", mains[gone]))


def test_the_history_is_cut_and_what_stays_has_its_name_and_its_bytes(tmp_path: Path) -> None:
    root = tmp_path / "store"
    mains = [put(root, {"r/n": b"main %d" % n * 1000, "r/same": b"same"}, title=f"{n}") for n in range(8)]

    async def scenario(s: FolderStore) -> list[str]:
        await s.keep(mains[1], "kept")
        aside = await s.commit(mains[3], {"r/n": b"aside"}, [], "aside", branch="fenced/1")
        size = (await s.usage()).bytes
        before = on_disk(root)
        frees = await s.compact(mains[5], dry_run=True)
        assert (on_disk(root), await s.head(), len(await s.history(99))) == (before, mains[7], 8), "it is only asked"
        assert await s.compact(mains[5]) == frees
        assert [c.title for c in await s.history(99)] == ["7", "6", "5"], "at once, not after the grace"
        assert (await s.usage()).commits == 3
        assert await s.compact(mains[5]) == 0
        await s.commit(mains[7], {"r/more": b"goes on"}, [], "8")  # which empties the trash: there is no grace here
        assert size is not None
        assert frees is not None
        assert frees > 0
        left = (await s.usage()).bytes
        assert left is not None
        assert left < size
        with pytest.raises(NotFound):
            await s.compact(mains[2])
        return [aside]

    (aside,) = run(root, scenario, grace=0)
    assert on_disk(root) == needed(root)
    for n in (1, 3, 5, 6, 7):  # kept, the one that a branch came from, and the newest
        assert read(root, tmp_path / f"main-{n}", mains[n]) == {"r/n": b"main %d" % n * 1000, "r/same": b"same"}
    assert read(root, tmp_path / "aside", aside)["r/n"] == b"aside"
    for n in (0, 2, 4):
        fails(NotFound, partial(read, root, tmp_path / f"gone-{n}", mains[n]))
    run(root, lambda s: s.drop("fenced/1"))
    run(root, lambda s: s.compact(mains[7]), grace=0)
    fails(NotFound, partial(read, root, tmp_path / "aside-gone", aside))
    assert on_disk(root) == needed(root)


def test_old_damage_stops_no_pruning_of_it(tmp_path: Path) -> None:
    """As a power loss in the middle of a pruning may leave it: revisions that stay listed, contents that are gone."""
    root = tmp_path / "store"
    mains = [put(root, {"r/n": b"main %d" % n}, title=f"{n}") for n in range(4)]
    content(root, b"main 0").unlink()
    tree = Ledger(root, "main").record(mains[0]).tree
    (root / "trees" / tree[:2] / tree[2:]).unlink()
    run(root, lambda s: s.compact(mains[2]), grace=0)
    assert [c.title for c in run(root, lambda s: s.history(9))] == ["3", "2"]
    assert read(root, tmp_path / "stays", mains[2]) == {"r/n": b"main 2"}
    assert on_disk(root) == needed(root)


def test_a_part_of_a_store_is_not_pruned(tmp_path: Path) -> None:
    root = tmp_path / "store"
    put(root, {"one/r/a": b"1"})
    put(root, {"other/r/a": b"1"})
    fails(Unsupported, lambda: run(root, lambda s: s.compact(), prefix="one"))
    assert len(run(root, lambda s: s.history(9))) == 2


def test_pruning_beside_a_commit_takes_nothing_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit finds its bytes in the store, and before it has the lock they are pruned, without a grace."""
    root = tmp_path / "store"
    put(root, {"r/old": b"shared", "r/stays": b"1"})
    head = put(root, {}, ("r/old",))
    run(root, lambda s: s.keep(head, "keeps this id"))
    assert content(root, b"shared").exists()
    locked = disk.locked
    pruned: list[bool] = []

    @contextmanager
    def prune_first(path: Path, timeout: float, alive: disk.Alive) -> Iterator[int]:
        if not pruned and threading.current_thread().name.startswith("folder-store"):
            pruned.append(True)
            prune = threading.Thread(target=lambda: run(root, lambda s: s.compact(), grace=0))
            prune.start()
            prune.join()
            assert not content(root, b"shared").exists()
        with locked(path, timeout, alive) as fd:
            yield fd

    monkeypatch.setattr(disk, "locked", prune_first)
    # On a branch, because a squash renames the main line's head.
    new = run(root, lambda s: s.commit(head, {"r/new": b"shared"}, [], "x", branch="keeps this id"))
    assert pruned
    assert read(root, tmp_path / "into", new) == {"r/new": b"shared", "r/stays": b"1"}
    assert on_disk(root) >= needed(root)


def test_reading_goes_on_beside_a_writer_that_prunes(tmp_path: Path) -> None:
    root = tmp_path / "store"
    put(root, {f"r/{n}": b"0" * 1000 for n in range(300)})
    stop = threading.Event()

    def write() -> None:
        async def scenario(s: Store) -> None:
            for n in range(1, 1000):
                if stop.is_set():
                    return
                files = {f"r/{i}": b"%d" % n * 1000 for i in range(0, 300, 30)}
                await s.commit(await s.head(), files, [], f"{n}")
                if n % 2 == 0:
                    await s.compact()

        run(root, scenario)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for n in range(4):
            found = read(root, tmp_path / f"into-{n}")
            assert len(found) == 300
            assert len({found[f"r/{i}"][:4] for i in range(0, 300, 30)}) == 1, "half of a commit"
            assert run(root, lambda s: s.history(1)) != []
    finally:
        stop.set()
        writer.join()
    assert on_disk(root) == needed(root)


# Cost


def test_a_small_commit_in_a_large_tree_writes_and_costs_little(tmp_path: Path) -> None:
    root = tmp_path / "store"
    paths = [f"r/folder-{n % 100}/file-{n}.txt" for n in range(30_000)]
    put(root, dict.fromkeys(paths, b"same"))
    before = len(on_disk(root))
    used = []

    async def scenario(s: Store) -> None:
        for n in range(7):
            files: dict[str, Source] = {path: b"%d %d" % (n, i) for i, path in enumerate(paths[n::3000])}
            assert len(files) == 10
            head = await s.head()
            begin = time.process_time()
            await s.commit(head, files, [], f"{n}")
            used.append(time.process_time() - begin)

    run(root, scenario)
    written = (len(on_disk(root)) - before) / 7
    assert written <= 10 + 10 + 2 + 1  # contents, leaves, two levels above, the revision
    assert sorted(used)[3] < 0.06


def test_equal_contents_are_kept_once(tmp_path: Path) -> None:
    root = tmp_path / "store"
    data = os.urandom(2_000_000)
    (source := tmp_path / "source").write_bytes(data)
    put(root, {"r/a": data, "r/b": source, "r/c": source})
    put(root, {"r/d": source, "r/e": data})
    assert sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) < 2_100_000
    assert leftovers(root) == []


# Disks that say no


def test_an_unwritable_folder_is_denied_with_the_fix() -> None:
    """As somebody who is not root, in a folder that root made."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else then")
    base = Path(tempfile.mkdtemp(prefix="sidecar-test-"))
    code = (
        "import asyncio, os, sys\n"
        "from sidecar.stores.folder import FolderStore\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "async def main():\n"
        "    s = FolderStore(sys.argv[1])\n"
        "    access = await s.check()\n"
        "    print(access.writable, access.exists, 'chown -R 65534' in access.detail)\n"
        "    head = await s.head()\n"
        "    for path, call in ((1, s.commit(head, {'r/b': b''}, [], 'x')), (2, s.keep(head, 'k')),\n"
        "                 (3, FolderStore(sys.argv[1] + '-new').check(create=True))):\n"
        "        try:\n"
        "            await call\n"
        "        except Exception as e:\n"
        "            print(type(e).__name__, 'chown -R 65534' in e.message and e.message.count('\\n'))\n"
        "    print((await FolderStore(sys.argv[1] + '-new').check()).writable)\n"
        "asyncio.run(main())\n"
    )
    try:
        put(base / "store", {"r/a": b"1"})
        base.chmod(0o755)
        for path in (base / "store").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (base / "store").chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", code, str(base / "store")],
            capture_output=True, text=True, timeout=60, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )  # fmt: skip
        assert done.stderr == ""
        assert done.stdout == "False True True\nDenied 0\nDenied 0\nDenied 0\nFalse\n"
    finally:
        shutil.rmtree(base)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Callable[[str], str]:
    """Runs Python code with ``disk`` a tmpfs of 3 MB, in a mount namespace of its own; gives its output."""
    (tmp_path / "disk").mkdir()
    setup = f'mount -t tmpfs -o size=3m none {tmp_path}/disk && exec {sys.executable} -c "$0" {tmp_path}/disk'
    probe = subprocess.run(["unshare", "-m", "sh", "-c", setup, "pass"], capture_output=True, text=True, timeout=30)
    if probe.returncode:
        pytest.skip(f"no mount namespace here: {probe.stderr.strip()}")

    def run_there(code: str) -> str:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", setup, code],
            capture_output=True, text=True, timeout=60, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout

    return run_there


def test_a_full_disk_commits_nothing_and_says_so(tiny_disk: Callable[[str], str]) -> None:
    out = tiny_disk(
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from sidecar.stores.base import Unavailable\n"
        "from sidecar.stores.folder import FolderStore\n"
        "root, filler = Path(sys.argv[1], 'store'), Path(sys.argv[1], 'filler')\n"
        "async def main():\n"
        "    s = FolderStore(root)\n"
        "    await s.check(create=True)\n"
        "    head = await s.commit(None, {'r/a': b'1'}, [], 'one')\n"
        "    try:\n"
        "        await s.commit(head, {'r/large': b'x' * 8_000_000}, [], 'two')\n"
        "    except Unavailable as e:\n"
        "        print('disk full' in e.message, ' MB free at ' in e.message, str(root) in e.message)\n"
        "    full = landed = 0\n"
        "    for pages in [*range(14), 20, 30]:\n"  # so that it gets full at each step of a commit
        "        with open(filler, 'wb', 0) as f:\n"
        "            try:\n"
        "                while True: f.write(b'x' * 4096)\n"
        "            except OSError: pass\n"
        "            f.truncate(os.fstat(f.fileno()).st_size - pages * 4096)\n"
        "        try:\n"
        "            head = await s.commit(head, {f'r/{pages}': os.urandom(5000), 'r/b': b''}, [], 'three')\n"
        "            landed += 1\n"
        "        except Unavailable as e:\n"
        "            assert 'disk full' in e.message and not e.unclear, e.message\n"
        "            full += 1\n"
        "        filler.unlink()\n"
        "        assert await s.head() == head and len(await s.listing(head)) == (landed + 2 if landed else 1)\n"
        "        assert not list((root / 'tmp').iterdir()), list((root / 'tmp').iterdir())\n"
        "        assert not (root / 'landing.json').exists()\n"
        "    print(full > 3, landed > 1)\n"
        "    from tests.stores.folders import needed, on_disk\n"
        "    print(needed(root) == on_disk(root))\n"
        "asyncio.run(main())\n"
    )
    assert out == "True True True\nTrue True\nTrue\n"


def test_a_read_only_disk_is_denied_and_can_be_read(tiny_disk: Callable[[str], str]) -> None:
    out = tiny_disk(
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from sidecar.stores.base import Denied\n"
        "from sidecar.stores.folder import FolderStore\n"
        "async def main():\n"
        "    s = FolderStore(Path(sys.argv[1], 'store'))\n"
        "    await s.check(create=True)\n"
        "    head = await s.commit(None, {'r/a': b'1'}, [], 'one')\n"
        "    os.system(f'mount -o remount,ro {sys.argv[1]}')\n"
        "    access = await s.check()\n"
        "    print(access.writable, 'read-only' in access.detail, await s.listing(await s.head()))\n"
        "    try:\n"
        "        await s.commit(head, {'r/b': b'2'}, [], 'two')\n"
        "    except Denied as e:\n"
        "        print('read-only' in e.message)\n"
        "asyncio.run(main())\n"
    )
    assert out == "False True {'r/a': 1}\nTrue\n"


def test_a_store_that_is_moved_away_is_an_outage_and_not_a_missing_revision(tmp_path: Path) -> None:
    """In the middle of a start: what it says is what to do, and it may be tried again."""

    async def moves() -> None:
        (tmp_path / "into").mkdir()
        store = FolderStore(tmp_path / "store")
        await store.check(create=True)
        revision = await store.commit(None, {"a": b"1"}, [], "one")
        (tmp_path / "store").rename(tmp_path / "away")
        with pytest.raises(Unavailable, match=r"moved away.*Bring it back"):
            await store.fetch(revision, ["a"], tmp_path / "into")
        (tmp_path / "away").rename(tmp_path / "store")
        await store.fetch(revision, ["a"], tmp_path / "into")
        assert (tmp_path / "into/a").read_bytes() == b"1"
        await store.close()

    asyncio.run(moves())
