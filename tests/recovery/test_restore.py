"""What a restore does with each thing that it finds, on real folders from a real store."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat as st
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from sidecar.errors import EX_CONFIG, ManifestError, RestoreFailed
from sidecar.recovery import journal
from sidecar.roots import Root
from sidecar.snapshot.index import Known, Row, Stat
from sidecar.snapshot.manifest import Entry, SnapshotId
from tests.recovery.world import STORE_ID, World, fill, picture
from tests.snapshot.shapes import segments

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where a property test's many small worlds cost no disk."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# The whole of it


def odd_tree(root: Path) -> None:
    fill(
        root,
        {
            "plain": "x",
            "empty": b"",
            "same as plain": "x",
            "deep/er/and/deeper/file": "y",
            "new\nline": "z",
            "big": os.urandom(300_000),
            "deep/.gitignore": "*",
            os.fsdecode(b"caf\xe9/\xff\xfe"): "latin",
            "read only/inside": "r",
            "secret": "s",
        },
    )
    (root / "nothing in it").mkdir()
    (root / "link").symlink_to("deep/er")
    (root / "dangling").symlink_to("/nowhere/at/all")
    os.symlink(b"\xff", os.fsencode(root / "odd link"))
    (root / "secret").chmod(0o600)
    (root / "plain").chmod(0o4755)
    os.utime(root / "plain", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "empty", ns=(1, -5_000_000_000))
    os.utime(root / "deep", ns=(1, 1_000_000_000_000_000_001))
    (root / "read only").chmod(0o555)
    root.chmod(0o750)


def test_a_fresh_disk_gets_everything_back(world: World) -> None:
    odd_tree(world.root)
    before = picture(world.root)
    revision, manifest = world.snapshot()
    world.empty_disk()
    done = world.restore(revision, manifest)
    assert picture(world.root) == before
    sizes = [e.size for e in manifest.entries.values() if e.kind == "file"]
    assert (done.files, done.bytes, done.fetched) == (len(sizes), sum(sizes), len(sizes))
    assert (done.conflicts, done.conflict_count, done.kept_newer, done.skipped, done.blocked) == (None, 0, 0, (), ())
    shown = world.progress
    assert (shown.files_done, shown.files_total) == (len(sizes), len(sizes))
    assert (shown.bytes_done, shown.bytes_total) == (sum(sizes), sum(sizes))
    assert not journal.is_open(world.state)
    assert sorted(os.listdir(world.state)) == ["index.db"]


def test_afterwards_the_index_describes_the_disk(world: World) -> None:
    odd_tree(world.root)
    revision, manifest = world.snapshot()
    world.empty_disk()
    world.restore(revision, manifest)
    with closing(world.index()) as index:
        assert index.known() == Known(STORE_ID, manifest.snapshot, revision)
        assert index.note(journal.NOTE) is None
        rows = {r.entry.path: r for r in index.rows()}
        assert {p: r.entry for p, r in rows.items()} == manifest.entries
        for path, row in rows.items():
            if row.entry.kind != "dir":
                assert row.stat == Stat.of(os.lstat(world.where(path))), path


def test_a_second_restore_fetches_nothing_and_changes_nothing(world: World) -> None:
    odd_tree(world.root)
    revision, manifest = world.snapshot()
    world.empty_disk()
    world.restore(revision, manifest)
    before = picture(world.root)
    inodes = {p: os.lstat(str(world.root) + p).st_ino for p in before}
    done = world.restore(revision, manifest)
    assert (done.fetched, done.conflict_count, done.kept_newer) == (0, 0, 0)
    assert picture(world.root) == before
    assert {p: os.lstat(str(world.root) + p).st_ino for p in before} == inodes


@some.composite
def trees(draw: some.DrawFn) -> list[tuple[str, str, bytes, int, int]]:
    """(relative path, kind, bytes or target, mode, mtime in ns) without contradictions."""
    found: dict[str, tuple[str, str, bytes, int, int]] = {}
    for parts in draw(some.lists(some.lists(segments, min_size=1, max_size=4), max_size=10)):
        path = "/".join(parts)
        above = ["/".join(parts[:n]) for n in range(1, len(parts))]
        if path in found or any(found.get(a, (0, "dir"))[1] != "dir" for a in above):
            continue
        for folder in above:
            found.setdefault(folder, (folder, "dir", b"", 0o755, 1))
        kind = draw(some.sampled_from(["file", "file", "dir", "symlink"]))
        content = draw(some.binary(min_size=1, max_size=300))
        if kind == "symlink":
            content = content.replace(b"\0", b"0")
        mode = draw(some.sampled_from([0o644, 0o600, 0o755, 0o4711, 0o500, 0o777]))
        mtime = draw(some.integers(-(10**18), 4 * 10**18))
        found[path] = (path, kind, content, mode, mtime)
    return list(found.values())


@given(trees(), some.data())
@settings(max_examples=35, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tree_comes_back_onto_any_other(
    tree: list[tuple[str, str, bytes, int, int]], data: some.DataObject
) -> None:
    """Onto a fresh disk, and onto whatever another tree has left: then nothing of that is lost either."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        world = World(Path(name))
        world.root.mkdir()
        grow(world.root, tree)
        before = picture(world.root)
        revision, manifest = world.snapshot(bundled=lambda p: len(p) % 2 == 0 or not p.isprintable())
        world.empty_disk()
        if data.draw(some.booleans(), label="disk survives"):
            world.root.mkdir()
            grow(world.root, data.draw(trees(), label="what is there"))
        local = picture(world.root) if world.root.exists() else {}
        done = world.restore(revision, manifest)
        after = picture(world.root)
        assert {p: after[p] for p in before} == before
        moved = bytes_of(picture(world.state / "conflicts")) if done.conflicts else []
        for path, seen in local.items():
            if st.S_ISREG(seen[0]):
                assert after.get(path, (0,) * 4)[-1] == seen[-1] or seen[-1] in moved, f"{path!r} is lost"


def bytes_of(seen: dict[str, tuple[object, ...]]) -> list[bytes]:
    return [s[-1] for s in seen.values() if isinstance(s[-1], bytes)]


def grow(root: Path, tree: list[tuple[str, str, bytes, int, int]]) -> None:
    for path, kind, content, mode, _ in tree:
        at = root / path
        if kind == "dir":
            at.mkdir(exist_ok=True)
        elif kind == "file":
            at.write_bytes(content)
            at.chmod(mode)
        else:
            os.symlink(content, os.fsencode(at))
    for path, kind, _, mode, mtime in reversed(tree):
        if kind != "symlink":
            (root / path).chmod(mode)
            os.utime(root / path, ns=(mtime, mtime))


# A disk that survived, with an index of this very snapshot: local changes are newer


def test_local_changes_since_the_snapshot_stay_and_what_is_missing_comes(world: World) -> None:
    fill(world.root, {"a": "one", "b/c": "two", "gone": "three", "touched": "four", "mode": "five"})
    (world.root / "link").symlink_to("a")
    revision, manifest = world.snapshot()
    world.restore(revision, manifest)
    fill(world.root, {"a": "newer", "extra": "mine"})
    (world.root / "gone").unlink()
    (world.root / "mode").chmod(0o700)
    (world.root / "link").unlink()
    (world.root / "link").symlink_to("b")
    done = world.restore(revision, manifest)
    assert (done.kept_newer, done.fetched, done.conflicts) == (2, 1, None)
    assert (world.root / "a").read_text() == "newer"
    assert (world.root / "gone").read_text() == "three"
    assert (world.root / "extra").read_text() == "mine"
    assert (world.root / "mode").stat().st_mode & 0o777 == 0o700, "a newer mode is a change like any other"
    assert os.readlink(world.root / "link") == "b"
    with closing(world.index()) as index:
        stats = {r.entry.path: r.stat for r in index.rows()}
        assert (stats["data/a"], stats["data/link"], stats["data/mode"]) == (None, None, None)
        assert stats["data/touched"] == Stat.of(os.lstat(world.root / "touched"))
        assert stats["data/gone"] == Stat.of(os.lstat(world.root / "gone"))


def test_folder_times_are_as_they_were_where_something_came_back(world: World) -> None:
    fill(world.root, {"d/a": "one", "d/b": "two"})
    revision, manifest = world.snapshot()
    world.restore(revision, manifest)
    (world.root / "d/a").unlink()
    os.utime(world.root / "d", ns=(5, 777))
    os.utime(world.root, ns=(5, 888))
    (world.root / "d").chmod(0o700)
    world.restore(revision, manifest)
    assert (world.root / "d/a").read_text() == "one"
    assert os.stat(world.root / "d").st_mtime_ns == 777
    assert os.stat(world.root / "d").st_mode & 0o777 == 0o700
    assert os.stat(world.root).st_mtime_ns == 888


def test_kind_that_changed_since_is_newer_too(world: World) -> None:
    fill(world.root, {"file": "one", "folder/x": "two", "folder/y": "three"})
    revision, manifest = world.snapshot()
    world.restore(revision, manifest)
    (world.root / "file").unlink()
    fill(world.root, {"file/now": "a folder"})
    shutil.rmtree(world.root / "folder")
    (world.root / "folder").write_text("now a file")
    before = picture(world.root)
    done = world.restore(revision, manifest)
    assert picture(world.root) == before
    assert (done.kept_newer, done.fetched, done.conflicts) == (2, 0, None)


def test_file_that_moved_before_a_known_link_is_not_followed(world: World, tmp_path: Path) -> None:
    fill(world.root, {"d/x": "one"})
    fill(tmp_path / "outside", {"y": "not ours"})
    revision, manifest = world.snapshot()
    world.restore(revision, manifest)
    shutil.rmtree(world.root / "d")
    (world.root / "d").symlink_to(tmp_path / "outside")
    world.restore(revision, manifest)
    assert os.listdir(tmp_path / "outside") == ["y"]
    assert os.readlink(world.root / "d") == str(tmp_path / "outside")


# The head moved on


def test_unchanged_files_are_replaced_and_changed_ones_moved_aside(world: World) -> None:
    fill(world.root, {"same": "s", "replaced": "old", "touched": "old", "changed": "old", "d/changed": "old"})
    (world.root / "link").symlink_to("old")
    world.restore(*world.snapshot())
    fill(world.root, {"replaced": "new", "touched": "new", "changed": "new", "d/changed": "new", "added": "new"})
    (world.root / "link").unlink()
    (world.root / "link").symlink_to("new")
    later, newer = world.snapshot()
    # Another machine made that one: this disk is still as it was restored, but for what follows.
    fill(world.root, {"replaced": "old", "touched": "old", "changed": "mine", "d/changed": "my own", "extra": "e"})
    (world.root / "added").unlink()
    (world.root / "link").unlink()
    (world.root / "link").symlink_to("old")
    remember(world, "replaced", "old")
    done = world.restore(later, newer)
    assert {n: (world.root / n).read_text() for n in ("replaced", "touched", "changed", "added", "extra")} == {
        **dict.fromkeys(("replaced", "touched", "changed", "added"), "new"),
        "extra": "e",
    }
    assert os.readlink(world.root / "link") == "new"
    assert done.conflicts is not None
    assert done.conflicts.parent == world.state / "conflicts"
    assert done.conflict_count == 2
    found = {p: s[-1] for p, s in picture(done.conflicts).items() if isinstance(s[-1], bytes)}
    assert found == {"/data/changed": b"mine", "/data/d/changed": b"my own"}


def remember(world: World, name: str, content: str) -> None:
    """Make the index say that this file is as it is now, by stat."""
    with closing(world.index()) as index:
        row = index.get(f"data/{name}")
        assert row is not None
        index.touch([Row(row.entry, Stat.of(os.lstat(world.root / name)))])


def test_what_equals_the_new_head_already_stays_in_place(world: World) -> None:
    fill(world.root, {"a": "one"})
    world.restore(*world.snapshot())
    fill(world.root, {"a": "two"})
    revision, manifest = world.snapshot()
    inode = os.stat(world.root / "a").st_ino
    (world.root / "a").chmod(0o600)
    done = world.restore(revision, manifest)
    assert (done.fetched, done.conflicts) == (0, None)
    found = os.stat(world.root / "a")
    assert (found.st_ino, found.st_mode & 0o777) == (inode, manifest.entries["data/a"].mode)


def test_unsettled_row_proves_nothing_by_its_stat(world: World) -> None:
    fill(world.root, {"a": "one"})
    world.restore(*world.snapshot())
    fill(world.root, {"a": "two"})
    revision, manifest = world.snapshot()
    fill(world.root, {"a": "not"})
    with closing(world.index()) as index:
        row = index.get("data/a")
        assert row is not None
        index.touch([Row(row.entry, Stat.of(os.lstat(world.root / "a")), settled=False)])
    assert world.restore(revision, manifest).conflict_count == 1


def test_index_of_another_store_is_worth_nothing(world: World) -> None:
    fill(world.root, {"a": "one"})
    revision, manifest = world.snapshot()
    with closing(world.index()) as index:
        index.replace(
            Known("another store", manifest.snapshot, revision),
            manifest,
            {"data/a": Stat.of(os.lstat(world.root / "a"))},
        )
    fill(world.root, {"a": "other"})
    assert world.restore(revision, manifest).conflict_count == 1


def test_index_that_does_not_agree_with_the_manifest_makes_nothing_newer(world: World) -> None:
    """The same id twice, of two lives of a store: its rows say so."""
    fill(world.root, {"a": "one", "b": "same"})
    world.restore(*world.snapshot())
    fill(world.root, {"a": "two"})
    world.sequence = 0
    revision, manifest = world.snapshot()
    fill(world.root, {"a": "mine"})
    done = world.restore(revision, manifest)
    assert (done.conflict_count, done.kept_newer) == (1, 0)
    assert (world.root / "a").read_text() == "two"


# No index


def test_without_an_index_whatever_differs_is_moved_aside(world: World) -> None:
    fill(world.root, {"a": "one", "b/c": "two"})
    revision, manifest = world.snapshot()
    fill(world.root, {"a": "mine", "b/c": "two", "extra": "mine"})
    (world.root / "b/c").chmod(0o600)
    done = world.restore(revision, manifest)
    assert (done.conflict_count, done.fetched) == (1, 1)
    assert done.conflicts is not None
    assert (done.conflicts / "data/a").read_text() == "mine"
    assert (world.root / "a").read_text() == "one"
    assert (world.root / "extra").read_text() == "mine"
    assert (world.root / "b/c").stat().st_mode & 0o777 == 0o644


def test_two_restores_within_a_second_do_not_share_a_folder(world: World) -> None:
    fill(world.root, {"a": "one"})
    revision, manifest = world.snapshot()
    folders = set()
    for content in ("mine", "mine too"):
        fill(world.root, {"a": content})
        with closing(world.index()) as index:
            index.forget()
        done = world.restore(revision, manifest)
        assert done.conflicts is not None
        assert (done.conflicts / "data/a").read_text() == content
        folders.add(done.conflicts)
    assert len(folders) == 2


def test_wrong_kinds_are_moved_aside_whole(world: World) -> None:
    fill(world.root, {"file": "f", "folder/x": "x", "to link": "l", "d/e/f": "deep"})
    (world.root / "link").symlink_to("file")
    revision, manifest = world.snapshot()
    before = picture(world.root)
    shutil.rmtree(world.base / "disk")
    fill(world.root, {"file/a": "1", "file/b/c": "2", "folder": "3", "link/d": "4", "d": "5"})
    (world.root / "to link").symlink_to("/etc")
    done = world.restore(revision, manifest)
    assert picture(world.root) == before
    assert done.conflicts is not None
    assert done.conflict_count == 6
    moved = {p: s[-1] for p, s in picture(done.conflicts).items() if not st.S_ISDIR(s[0])}
    assert moved == {
        "/data/file/a": b"1",
        "/data/file/b/c": b"2",
        "/data/folder": b"3",
        "/data/link/d": b"4",
        "/data/d": b"5",
        "/data/to link": "/etc",
    }


def test_sockets_and_pipes_stay_and_are_reported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world.root, {"a": "1", "b/c": "2", "b/d": "3", "e": "4"})
    revision, manifest = world.snapshot()
    shutil.rmtree(world.base / "disk")
    world.root.mkdir(parents=True)
    os.mkfifo(world.root / "a")
    monkeypatch.chdir(world.root)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("b")
        done = world.restore(revision, manifest)
    assert done.blocked == ("data/a", "data/b", "data/b/c", "data/b/d")
    assert (done.files, done.fetched, done.conflicts) == (1, 1, None)
    assert st.S_ISFIFO(os.lstat(world.root / "a").st_mode)
    assert st.S_ISSOCK(os.lstat(world.root / "b").st_mode)
    assert (world.root / "e").read_text() == "4"


# Links never lead out


@pytest.mark.parametrize("entry_for_folder", [True, False])
def test_link_in_the_root_never_leads_a_write_out(world: World, tmp_path: Path, entry_for_folder: bool) -> None:
    fill(world.root, {"d/sub/x": "1", "f": "2"})

    def change(manifest: object) -> object:
        assert hasattr(manifest, "entries")
        if entry_for_folder:
            return manifest
        entries = {p: e for p, e in manifest.entries.items() if e.kind != "dir"}
        return replace(manifest, entries=entries)  # type: ignore[type-var]

    revision, manifest = world.snapshot(change=change)  # type: ignore[arg-type]
    shutil.rmtree(world.root)
    outside = tmp_path / "outside"
    fill(outside, {"sub/x": "theirs", "f": "theirs"})
    before = picture(outside)
    world.root.mkdir()
    (world.root / "d").symlink_to(outside)
    (world.root / "f").symlink_to(outside / "f")
    done = world.restore(revision, manifest)
    assert picture(outside) == before
    assert (world.root / "d/sub/x").read_text() == "1"
    assert (world.root / "f").read_text() == "2"
    assert not (world.root / "d").is_symlink()
    assert not (world.root / "f").is_symlink()
    assert done.conflict_count == 2


def test_our_staging_folder_planted_as_a_link(world: World, tmp_path: Path) -> None:
    fill(world.root, {"f": "2"})
    revision, manifest = world.snapshot()
    shutil.rmtree(world.root)
    outside = tmp_path / "outside"
    fill(outside, {"x": "theirs"})
    world.root.mkdir()
    (world.root / ".sidecar-tmp-restore").symlink_to(outside)
    world.restore(revision, manifest)
    assert os.listdir(outside) == ["x"]
    assert os.listdir(world.root) == ["f"]


def entry(path: str, kind: str = "file", **more: object) -> Entry:
    return Entry(path, kind, 0o644, 0, 0, 0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "planted",
    [
        entry("data", "symlink", target="/etc"),
        entry("data/.sidecar-tmp-restore/x", sha256="ab" * 32),
        entry("data/d/.sidecar-tmp-1", "dir"),
        entry("data/\udcff", sha256="ab" * 32),
    ],
    ids=["root as a link", "into our staging", "our staging deeper", "a name that no store holds"],
)
def test_manifest_that_reaches_for_more_is_refused_before_anything_is_done(world: World, planted: Entry) -> None:
    fill(world.root, {"a": "1"})
    revision, manifest = world.snapshot()
    (world.root / "a").unlink()
    entries = {**manifest.entries, planted.path: planted}
    if planted.path == "data":
        entries = {"data": planted}
    with pytest.raises(ManifestError) as refused:
        world.restore(revision, replace(manifest, entries=entries))
    assert repr(planted.path) in refused.value.message
    assert os.listdir(world.root) == []


def test_root_that_is_a_link_is_followed(tmp_path: Path) -> None:
    world = World(tmp_path)
    fill(world.root, {"d/a": "1"})
    revision, manifest = world.snapshot()
    shutil.rmtree(world.root)
    (tmp_path / "volume").mkdir()
    world.root.symlink_to(tmp_path / "volume")
    world.restore(revision, manifest)
    assert (tmp_path / "volume/d/a").read_text() == "1"
    assert world.root.is_symlink()
    shutil.rmtree(tmp_path / "volume")
    with closing(world.index()) as index:
        index.forget()
    world.restore(revision, manifest)
    assert (tmp_path / "volume/d/a").read_text() == "1"


# Roots


def test_single_file_root_and_a_folder_beside_it(tmp_path: Path) -> None:
    world = World(tmp_path, ("app.json", "home/user/.n8n"))
    world.root.parent.mkdir(exist_ok=True)
    world.root.write_text("{}")
    world.root.chmod(0o600)
    fill(Path(world.roots[1].path), {"x": "1"})
    before = picture(tmp_path / "disk", times=False)
    revision, manifest = world.snapshot()
    world.empty_disk()
    world.restore(revision, manifest)
    assert picture(tmp_path / "disk", times=False) == before
    world.root.write_text("mine")
    with closing(world.index()) as index:
        index.forget()
    done = world.restore(revision, manifest)
    assert done.conflicts is not None
    assert (done.conflicts / "app.json").read_text() == "mine"
    assert picture(tmp_path / "disk", times=False) == before


def test_single_file_root_in_folders_that_are_gone(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.roots = [Root("state", str(tmp_path / "disk/deep/er/state.json"))]
    fill(tmp_path / "disk/deep/er", {"state.json": "{}"})
    revision, manifest = world.snapshot()
    world.empty_disk()
    world.restore(revision, manifest)
    assert picture(tmp_path / "disk").keys() == {"", "/deep", "/deep/er", "/deep/er/state.json"}


def test_root_that_is_declared_elsewhere_now(world: World, tmp_path: Path) -> None:
    fill(world.root, {"a": "1"})
    revision, manifest = world.snapshot()
    done = world.restore(revision, manifest, roots=[Root("data", str(tmp_path / "other"))])
    assert (tmp_path / "other/a").read_text() == "1"
    assert done.skipped == ()


def test_roots_that_are_not_declared_are_skipped_and_said_so(tmp_path: Path) -> None:
    world = World(tmp_path, ("data", "more"))
    for root in world.roots:
        fill(Path(root.path), {"a": "1"})
    revision, manifest = world.snapshot()
    world.empty_disk()
    done = world.restore(revision, manifest, roots=[world.roots[0], Root("new", str(tmp_path / "new"))])
    assert os.listdir(tmp_path / "disk") == ["data"]
    assert not (tmp_path / "new").exists()
    assert (done.skipped, done.files) == (("more",), 1)
    with closing(world.index()) as index:
        row = index.get("more/a")
        assert row is not None, "carried forward until it is forgotten"
        assert row.stat is None


def test_root_that_was_absent_or_empty(tmp_path: Path) -> None:
    world = World(tmp_path, ("data", "none"))
    world.root.mkdir(mode=0o700)
    revision, manifest = world.snapshot()
    world.empty_disk()
    done = world.restore(revision, manifest)
    assert os.listdir(tmp_path / "disk") == ["data"]
    assert os.listdir(world.root) == []
    assert os.stat(world.root).st_mode & 0o777 == 0o700
    assert done.files == 0


@pytest.mark.parametrize("was", ["file", "folder"])
def test_root_of_another_kind_is_left_and_said_so(world: World, was: str) -> None:
    if was == "folder":
        fill(world.root, {"a": "1"})
    else:
        world.root.write_text("1")
    revision, manifest = world.snapshot()
    world.empty_disk()
    if was == "file":
        fill(world.root, {"a": "1"})
    else:
        world.root.write_text("1")
    before = picture(world.base / "disk")
    with pytest.raises(RestoreFailed) as refused:
        world.restore(revision, manifest)
    assert repr(str(world.root)) in refused.value.message
    assert (refused.value.final, refused.value.exit_code) == (True, EX_CONFIG)
    assert picture(world.base / "disk") == before


def test_state_dir_inside_of_a_root_is_never_written_by_a_snapshot(tmp_path: Path) -> None:
    """HOME as the root: the state dir lies in it."""
    world = World(tmp_path)
    world.state = world.root / ".local/state/sidecar"
    world.state.mkdir(parents=True)
    fill(world.root, {"a": "1", ".local/state/sidecar/index.db": "evil", ".local/state/sidecar/new": "evil"})
    revision, manifest = world.snapshot()
    shutil.rmtree(world.state)
    world.state.mkdir()
    done = world.restore(revision, manifest)
    assert done.blocked == tuple(f"data/.local/state/sidecar{name}" for name in ("", "/index.db", "/new"))
    assert not (world.state / "new").exists()
    with closing(world.index()) as index:
        assert index.known() is not None


def test_folder_that_holds_the_state_dir_is_not_moved_into_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    fill(world.root, {"a": "1", ".local": "a file"})
    revision, manifest = world.snapshot()
    world.empty_disk()
    world.state = world.root / ".local/state"
    world.state.mkdir(parents=True)
    done = world.restore(revision, manifest)
    assert done.blocked == ("data/.local",)
    assert world.state.is_dir()
    assert (world.root / "a").read_text() == "1"


def test_working_directory_stays_valid(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(world.root, {"a": "1", "d/b": "2"})
    revision, manifest = world.snapshot()
    shutil.rmtree(world.root)
    world.root.mkdir()
    monkeypatch.chdir(world.root)
    inode = os.stat(".").st_ino
    world.restore(revision, manifest)
    assert os.stat(".").st_ino == inode
    assert Path("d/b").read_text() == "2"
    assert os.getcwd() == str(world.root)


# Our own leftovers


def test_leftovers_of_crashed_starts_go(world: World) -> None:
    fill(world.root, {"a": "1"})
    revision, manifest = world.snapshot()
    fill(world.root, {".sidecar-tmp-77/x": "stale", ".sidecar-tmp-restore/in-1/y": "stale"})
    world.restore(revision, manifest)
    assert os.listdir(world.root) == ["a"]


def test_leftovers_beside_a_single_file_are_only_ours(tmp_path: Path) -> None:
    world = World(tmp_path, ("x.json",))
    world.root.write_text("1")
    revision, manifest = world.snapshot()
    fill(world.base / "disk", {".sidecar-tmp-restore-00000000/x": "another root's"})
    world.root.unlink()
    world.restore(revision, manifest)
    assert sorted(os.listdir(world.base / "disk")) == [".sidecar-tmp-restore-00000000", "x.json"]


# Pending snapshots


@pytest.mark.parametrize("landed", [True, False])
def test_pending_snapshot_is_settled_first(world: World, landed: bool) -> None:
    """The agent died after its commit was sent: the head tells whether this disk is that snapshot."""
    fill(world.root, {"a": "one", "b": "1"})
    world.restore(*world.snapshot())
    fill(world.root, {"a": "two"})
    revision, manifest = world.snapshot()
    pending = manifest.snapshot if landed else SnapshotId(1, 9)
    with closing(world.index()) as index:
        changed = Row(manifest.entries["data/a"], Stat.of(os.lstat(world.root / "a")))
        index.begin(pending, [changed], [], {}, manifest.roots)
    fill(world.root, {"a": "three", "b": "2"})
    done = world.restore(revision, manifest)
    with closing(world.index()) as index:
        assert index.pending() is None
        assert index.known() == Known(STORE_ID, manifest.snapshot, revision)
    if landed:
        assert (done.kept_newer, done.conflict_count) == (2, 0)
        assert (world.root / "a").read_text() == "three"
    else:
        assert (done.kept_newer, done.conflict_count) == (0, 2)
        assert (world.root / "a").read_text() == "two"


def test_pending_snapshot_of_another_store_is_no_claim_on_this_one(world: World) -> None:
    """Both stores have a snapshot of that id."""
    fill(world.root, {"a": "one", "b": "same"})
    revision, manifest = world.snapshot()
    with closing(world.index()) as index:
        index.replace(Known("another store", SnapshotId(9, 9), "r"), manifest, {})
        index.begin(manifest.snapshot, [Row(manifest.entries["data/a"])], [], {}, manifest.roots)
    fill(world.root, {"b": "mine"})
    done = world.restore(revision, manifest)
    assert (done.kept_newer, done.conflict_count) == (0, 1)


# SQLite


def database(path: Path, value: int, *, wal: bool = False) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    if wal:
        db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
    db.execute("INSERT INTO t VALUES (?)", (value,))
    return db


def values(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [n for (n,) in db.execute("SELECT n FROM t ORDER BY n")]


SIDES = ("-wal", "-shm", "-journal")


def test_side_files_go_before_their_database_comes(world: World) -> None:
    """An old log beside a restored database would be played into it."""
    database(world.root / "x.db", 1).close()
    database(world.root / "y.db", 1).close()
    revision, manifest = world.snapshot()
    world.empty_disk()
    for side in SIDES:
        fill(world.root, {f"x.db{side}": "left over", f"plain{side}": "no database's"})
    world.restore(revision, manifest)
    assert sorted(os.listdir(world.root)) == ["plain-journal", "plain-shm", "plain-wal", "x.db", "y.db"]
    assert values(world.root / "x.db") == [1]


def test_database_with_commits_in_its_log_is_moved_aside_with_it(world: World) -> None:
    """Its own bytes may even be the snapshot's: what is newer stands in the log."""
    database(world.root / "x.db", 1, wal=True).close()
    revision, manifest = world.snapshot()
    with closing(database(world.root / "x.db", 2, wal=True)):
        for name in ("x.db", "x.db-wal", "x.db-shm"):
            shutil.copy2(world.root / name, world.base / name)
    for name in ("x.db", "x.db-wal", "x.db-shm"):
        shutil.move(world.base / name, world.root / name)
    done = world.restore(revision, manifest)
    assert values(world.root / "x.db") == [1]
    assert done.conflicts is not None
    assert sorted(os.listdir(done.conflicts / "data")) == ["x.db", "x.db-shm", "x.db-wal"]
    assert values(done.conflicts / "data/x.db") == [1, 2]


def test_database_that_went_on_after_the_snapshot_is_newer(world: World) -> None:
    database(world.root / "x.db", 1, wal=True).close()
    revision, manifest = world.snapshot()
    world.restore(revision, manifest)
    with closing(database(world.root / "x.db", 2, wal=True)):
        done = world.restore(revision, manifest)
        with closing(world.index()) as index:
            row = index.get("data/x.db")
            assert row is not None
            assert row.stat is None
    assert done.kept_newer == 1
    assert values(world.root / "x.db") == [1, 2]


def test_unchanged_database_is_replaced_together_with_its_log(world: World) -> None:
    """Unchanged with its log, as the scan saw both: the index's stat is of the two together."""
    database(world.root / "x.db", 1).close()
    first, old = world.snapshot()
    database(world.root / "x.db", 2).close()
    later, new = world.snapshot()
    (world.root / "x.db").unlink()
    live = database(world.root / "x.db", 7, wal=True)
    try:
        own, log = os.lstat(world.root / "x.db"), os.lstat(world.root / "x.db-wal")
        together = Stat(
            *(own.st_dev, own.st_ino, own.st_size + log.st_size),
            max(own.st_mtime_ns, log.st_mtime_ns),
            max(own.st_ctime_ns, log.st_ctime_ns),
        )
        with closing(world.index()) as index:
            index.replace(Known(STORE_ID, old.snapshot, first), old, {"data/x.db": together})
        done = world.restore(later, new)
    finally:
        live.close()
    assert done.conflict_count == 0
    assert values(world.root / "x.db") == [1, 2]


def test_file_that_only_ends_like_a_side_file_survives(world: World) -> None:
    database(world.root / "x.db", 1).close()
    fill(world.root, {"x.db-journal": "an entry of its own"})
    revision, manifest = world.snapshot()
    world.empty_disk()
    world.restore(revision, manifest)
    assert (world.root / "x.db-journal").read_text() == "an entry of its own"
