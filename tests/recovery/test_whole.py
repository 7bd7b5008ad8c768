"""Folders that aren't there yet: staged as they will be, and in their place by one rename; by file where that fails."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from sidecar.recovery import redo
from sidecar.recovery.journal import finish_journal
from sidecar.recovery.plan import WHOLE, Op, Step, staged, wholes
from sidecar.recovery.tree import Tree
from sidecar.snapshot.index import Stat
from sidecar.snapshot.manifest import Entry, Manifest
from sidecar.stores.base import Store
from tests.recovery.world import World, Wrapped, fill, picture

FILES = {f"new/{n}": f"file {n}" for n in range(WHOLE)} | {f"new/in/{n}": f"inner {n}" for n in range(WHOLE)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def lost_disk(world: World, **more: str) -> tuple[tuple[str, Manifest], dict[str, tuple[object, ...]]]:
    fill(world.root, {**FILES, "few/1": "one", "top": "top", **more})
    os.symlink("0", world.root / "new/link")
    os.chmod(world.root / "new", 0o750)
    os.chmod(world.root / "new/3", 0o400)
    os.utime(world.root / "new/in", ns=(1_600_000_000_000_000_001,) * 2)
    before = picture(world.root)
    snapshot = world.snapshot()
    world.empty_disk()
    return snapshot, before


def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are put in their place one by one, from now on."""
    seen: list[str] = []
    real = Tree.move_file

    def move_file(self: Tree, rel: str, to: Tree, new: str) -> os.stat_result:
        seen.append(new)
        return real(self, rel, to, new)

    monkeypatch.setattr(Tree, "move_file", move_file)
    return seen


def test_it_comes_as_one_with_all_that_is_in_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, before = lost_disk(world)
    alone = moved(monkeypatch)
    done = world.restore(*snapshot)
    assert picture(world.root) == before
    assert sorted(alone) == ["few/1", "top"]
    assert done.fetched == len(FILES) + 2
    with_rows = world.index()
    for path in FILES:
        row, found = with_rows.get(f"data/{path}"), os.lstat(world.root / path)
        assert row is not None
        assert row.stat is not None
        assert (row.stat.ino, row.stat.ctime_ns) == (found.st_ino, found.st_ctime_ns), "a scan would read it again"
    with_rows.close()


def test_a_folder_that_is_there_takes_them_one_by_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, _ = lost_disk(world)
    fill(world.root, {"new/local": "mine"})
    alone = moved(monkeypatch)
    world.restore(*snapshot)
    assert (world.root / "new/local").read_text() == "mine"
    assert sorted(alone) == sorted(["few/1", "top", *(f"new/{n}" for n in range(WHOLE))])


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EACCES, errno.ENOTEMPTY])
def test_where_the_folder_will_not_go_its_files_do(world: World, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    snapshot, before = lost_disk(world)
    real = Tree.rename

    def rename(self: Tree, rel: str, to: Tree, new: str) -> None:
        if rel.startswith("folder-"):
            raise OSError(number, os.strerror(number))
        real(self, rel, to, new)

    monkeypatch.setattr(Tree, "rename", rename)
    alone = moved(monkeypatch)
    world.restore(*snapshot)
    assert picture(world.root) == before
    assert len(alone) == len(FILES) + 2


def test_a_folder_that_appeared_meanwhile_is_not_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sidecar restore` beside a running main."""
    snapshot, _ = lost_disk(world)
    real = redo._Run.one

    def one(self: redo._Run, op: Op) -> None:
        if op.what == "dir" and op.rel == "new":
            fill(world.root, {"new/mains": "written just now"})
        real(self, op)

    monkeypatch.setattr(redo._Run, "one", one)
    world.restore(*snapshot)
    assert (world.root / "new/mains").read_text() == "written just now"
    assert all((world.root / path).read_text() == text for path, text in FILES.items())


def on_arrival(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """``act`` happens as soon as the folder ``new`` is in its place."""
    real = redo._Run._whole

    def whole(self: redo._Run, op: Op, tree: Tree) -> bool:
        came = real(self, op, tree)
        if came and op.rel == "new":
            act()
        return came

    monkeypatch.setattr(redo._Run, "_whole", whole)


def test_what_is_written_as_soon_as_it_is_there_is_newer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sidecar restore` beside a running main: else no sync would ever see that write."""
    snapshot, _ = lost_disk(world)
    on_arrival(monkeypatch, lambda: fill(world.root, {"new/1": "FILE 1"}))
    world.restore(*snapshot)
    assert (world.root / "new/1").read_text() == "FILE 1"
    index, found = world.index(), os.stat(world.root / "new/1")
    row = index.get("data/new/1")
    index.close()
    assert row is not None
    assert row.stat != Stat.of(found)
    assert found.st_mtime_ns > row.entry.mtime_ns, "its own time stays"


def test_what_goes_or_grows_as_soon_as_it_is_there_is_no_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, _ = lost_disk(world)

    def act() -> None:
        (world.root / "new/1").unlink()
        fill(world.root, {"new/2": "much more than there was"})

    on_arrival(monkeypatch, act)
    assert world.restore(*snapshot).fetched == len(FILES) + 2
    assert not (world.root / "new/1").exists()
    assert not list(world.root.glob(".sidecar-*"))


@pytest.mark.parametrize("how", ["setgid", "acl"])
def test_below_a_folder_that_shapes_what_is_made_in_it_they_go_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A folder that is made in its place has its parent's group, or default rights; one that is moved there hasn't."""
    snapshot, _ = lost_disk(world)
    world.root.mkdir()
    if how == "setgid":
        world.root.chmod(0o2755)
    else:
        access = struct.pack("<IHHIHHIHHI", 2, 1, 7, 2**32 - 1, 4, 5, 2**32 - 1, 32, 5, 2**32 - 1)
        try:
            os.setxattr(world.root, "system.posix_acl_default", access)
        except OSError:
            pytest.skip("this filesystem has no ACLs")
    alone = moved(monkeypatch)
    world.restore(*snapshot)
    assert len(alone) == len(FILES) + 2


class Counting(Wrapped):
    """Fails once it was asked for ``path``, and knows what it was asked for."""

    path = ""

    async def before(self, paths: list[str]) -> None:
        if self.path in paths:
            raise RuntimeError("the container is killed here")


def test_what_an_earlier_attempt_left_is_used_and_nothing_else_comes_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.recovery.staging.BATCH_FILES", 1)
    monkeypatch.setattr("sidecar.recovery.staging.PARALLEL", 1)
    monkeypatch.setattr(Counting, "path", "data/new/7")
    snapshot, before = lost_disk(world)
    with pytest.raises(RuntimeError):
        world.restore(*snapshot, wrap=Counting)
    staging = world.root / ".sidecar-tmp-restore"
    (folder,) = [p for p in staging.glob("folder-*") if (p / "0").exists() and (p / "0").read_text() == "file 0"]
    (folder / "1").write_text("file x")  # as many bytes as the right ones
    (folder / "stray").write_text("of a file that was deleted since")
    (folder / "strays").mkdir()
    (folder / "strays/1").write_text("1")
    (folder / "2").unlink()
    (folder / "2").symlink_to("/etc/passwd")
    again: list[Counting] = []

    def wrap(store: Store) -> Counting:
        again.append(Counting(store))
        again[0].path = ""
        return again[0]

    world.restore(*snapshot, wrap=wrap)
    assert picture(world.root) == before
    asked = set(again[0].asked)
    assert {"data/new/1", "data/new/2", "data/new/7"} <= asked
    assert "data/new/0" not in asked


@pytest.mark.parametrize("at", range(0, len(FILES) + 8, 3))
def test_cut_off_anywhere_the_next_start_finishes_it(world: World, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    snapshot, before = lost_disk(world)
    real, count = redo._Run.one, 0

    class Killed(BaseException):
        pass

    def one(self: redo._Run, op: Op) -> None:
        nonlocal count
        count += 1
        if count > at:
            raise Killed
        real(self, op)

    with monkeypatch.context() as patch:
        patch.setattr(redo._Run, "one", one)
        with pytest.raises(Killed):
            world.restore(*snapshot)
    index = world.index()
    outcome = finish_journal(world.state, index)
    index.close()
    assert outcome is not None
    assert outcome.complete
    assert picture(world.root) == before


def file(path: str, size: int = 1, sha: str = "") -> Step:
    entry = Entry(path, "file", 0o600, 0, 0, 0, size, sha or f"{abs(hash(path)):064x}"[:64])
    return Step("fetch", entry, 0, path.partition("/")[2])


def folder(path: str, action: str = "fetch") -> Step:
    return Step(action, Entry(path, "dir", 0o700, 0, 0, 0), 0, path.partition("/")[2])  # type: ignore[arg-type]


def named(steps: Iterable[Step], most: int = 100) -> dict[str, str]:
    needs: dict[tuple[int, str], list[Step]] = {}
    for step in steps:
        if step.fetches:
            needs.setdefault((step.place, step.entry.sha256), []).append(step)
    names = staged(needs, wholes(steps), most)
    return {of[0].rel: names[key].partition("/")[0] for key, of in needs.items()}


def test_which_folders_are_staged_as_a_whole() -> None:
    steps = [folder("data"), folder("data/old", "keep"), folder("data/new"), folder("data/few")]
    steps += [file(f"data/{at}/{n}") for at in ("old", "new") for n in range(WHOLE)]
    steps += [file(f"data/few/{n}") for n in range(WHOLE - 1)] + [file(f"data/{n}") for n in range(WHOLE)]
    found = wholes(steps)
    assert list(found) == [(0, "new")], "no folder that is there, none for a few files, never the root itself"
    assert found == wholes(steps), "the next attempt looks for the same name"


def test_what_is_large_or_used_twice_is_known_by_its_content() -> None:
    """Large files go on after a cut, and a copy needs a source that stays where it is until it was made."""
    steps = [folder("data/new"), *(file(f"data/new/{n}") for n in range(WHOLE))]
    steps += [file("data/new/large", 100), file("data/new/a", 5, "a" * 64), file("data/new/b", 5, "a" * 64)]
    where = named(steps)
    assert where["new/0"].startswith("folder-")
    assert where["new/large"] == steps[-3].entry.sha256
    assert where["new/a"] == "a" * 64
