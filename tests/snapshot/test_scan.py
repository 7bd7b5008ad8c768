"""What a scan says of every way in which a file can change, vanish or hide, and never guesses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings

from sidecar.snapshot.found import database_stat, is_database
from sidecar.snapshot.index import Stat
from tests.snapshot.alone import run_alone
from tests.snapshot.disk import FAST, NAME, Disk, edit, edits, news

MAGIC = b"SQLite format 3\0"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Instead of pytest's own: where no disk has to turn for each commit."""
    with TemporaryDirectory(dir=FAST, prefix="sidecar-") as name:
        yield Path(name)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.close()


def fill(disk: Disk, *paths: str) -> None:
    for path in paths:
        at = disk.root / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(path)
    disk.learn()


# Unchanged


@pytest.mark.parametrize("part", ["dev", "ino", "size", "mtime_ns", "ctime_ns"])
def test_a_file_is_unchanged_only_if_all_five_numbers_are(disk: Disk, part: str) -> None:
    fill(disk, "a")
    row = disk.index.get("data/a")
    assert row is not None
    assert row.stat is not None
    numbers = {n: getattr(row.stat, n) for n in ("dev", "ino", "size", "mtime_ns", "ctime_ns")}
    numbers[part] += 1
    disk.index.touch([type(row)(row.entry, Stat(**numbers), True)])
    assert news(disk.scan()) == ({"data/a"}, set(), {})


def test_a_rewrite_that_sets_the_old_time_is_seen(disk: Disk) -> None:
    fill(disk, "a")
    before = os.stat(disk.root / "a")
    (disk.root / "a").write_text("A")
    os.utime(disk.root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert news(disk.scan())[0] == {"data/a"}


def test_a_file_that_was_staged_too_young_is_looked_at_again(disk: Disk) -> None:
    (disk.root / "a").write_text("1")
    disk.learn(settled=False)
    assert news(disk.scan())[0] == {"data/a"}
    assert news(disk.hinted("a"))[0] == {"data/a"}


@pytest.mark.parametrize("change", ["chmod", "chown"])
def test_mode_and_owner_are_changes(disk: Disk, change: str) -> None:
    fill(disk, "a", "d/b")
    if change == "chmod":
        (disk.root / "a").chmod(0o600)
        (disk.root / "d").chmod(0o711)
    elif os.geteuid() == 0:
        os.chown(disk.root / "a", 1000, -1)
        os.chown(disk.root / "d", -1, 1000)
    else:
        pytest.skip("only root gives files away")
    assert news(disk.scan())[0] == {"data/a", "data/d"}


def test_a_folders_time_is_no_reason_but_told(disk: Disk) -> None:
    fill(disk, "d/a")
    os.utime(disk.root / "d", ns=(1, 1))
    scan = disk.scan()
    assert news(scan) == (set(), set(), {})
    assert [f.path for f in scan.touched] == ["data/d"]


# Deletion


def test_what_is_deleted_is_missing_with_all_below_it(disk: Disk) -> None:
    fill(disk, "a", "d/b", "d/e/c", "keep")
    (disk.root / "a").unlink()
    shutil.rmtree(disk.root / "d")
    gone = {"data/a", "data/d", "data/d/b", "data/d/e", "data/d/e/c"}
    assert news(disk.scan()) == (set(), gone, {})
    assert news(disk.hinted("a", "d")) == (set(), gone, {})
    assert news(disk.hinted("d/e/c")) == (set(), gone - {"data/a"}, {}), "the highest folder that is gone"


def test_a_root_that_is_gone_misses_everything(disk: Disk) -> None:
    fill(disk, "a", "d/b")
    shutil.rmtree(disk.root)
    for scan in (disk.scan(), disk.hinted("a")):
        assert scan.kind == "absent"
        assert set(scan.missing) == {"data", "data/a", "data/d", "data/d/b"}


def test_a_root_below_a_folder_that_is_gone_too_is_gone(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "outer" / "inner")
    fill(disk, "a")
    keep = shutil.copy(tmp_path / "outer" / "inner" / "index.db", tmp_path / "index.db")
    assert keep
    shutil.rmtree(disk.root)
    disk.index.close()
    shutil.rmtree(tmp_path / "outer")
    os.makedirs(tmp_path / "outer2")
    disk.base = tmp_path / "outer2"
    disk.__post_init__()
    disk.base = tmp_path / "outer"
    assert disk.scan().kind == "absent"
    (tmp_path / "outer").write_text("a file stands where its folder was")
    assert disk.scan().kind == "absent"
    disk.close()


@pytest.mark.parametrize("above_too", [False, True])
def test_a_root_that_went_with_its_device_is_not_gone(disk: Disk, above_too: bool) -> None:
    fill(disk, "a")
    disk.device = (disk.device or 0) + 1  # as if the restore had found it on a volume
    if above_too:
        shutil.rmtree(disk.root)
    scan = disk.scan()
    assert scan.kind == "unreadable"
    assert scan.missing == []
    assert set(scan.unreadable) == {NAME}
    assert "volume" in scan.unreadable[NAME]


@pytest.mark.parametrize(
    "scenario",
    ["unreadable_places", "unreadable_root", "volume_inside_goes", "volume_covers", "mounted_in_a_files_place"],
)
def test_what_cannot_be_seen_is_no_deletion(scenario: str) -> None:
    run_alone(scenario)


def test_a_name_that_a_listing_misses_is_looked_at_all_the_same(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(disk, "a", "b", "c", "d/e")

    real = os.listdir

    def without(fd: int) -> list[str]:
        """A listing without "a" and "d", as one may be while files are renamed over each other."""
        return [name for name in real(fd) if name not in ("a", "d")]

    monkeypatch.setattr(os, "listdir", without)
    assert news(disk.scan()) == (set(), set(), {})
    (disk.root / "a").write_text("changed")
    (disk.root / "d" / "e").write_text("changed")
    (disk.root / "d" / "new").write_text("new")
    assert news(disk.scan()) == ({"data/a", "data/d/e", "data/d/new"}, set(), {})


def test_a_name_that_goes_after_it_was_listed_is_gone(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(disk, "a", "b", "c")
    real = os.listdir

    def listed(fd: int) -> list[str]:
        found = real(fd)
        (disk.root / "a").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os, "listdir", listed)
    assert news(disk.scan()) == (set(), {"data/a"}, {})


# Kinds

KINDS = ["file", "dir", "symlink", "socket", "fifo", "absent"]


def make(at: Path, kind: str) -> None:
    if kind == "file":
        at.write_text("file")
    elif kind == "dir":
        at.mkdir()
        (at / "child").write_text("child")
    elif kind == "symlink":
        at.symlink_to("elsewhere")
    elif kind == "socket":
        edit(at.parent, "socket", at.name, "")
    elif kind == "fifo":
        os.mkfifo(at)


@pytest.mark.parametrize("now", KINDS)
@pytest.mark.parametrize("before", ["file", "dir", "symlink", "absent"])
def test_one_kind_replaced_by_another(disk: Disk, before: str, now: str) -> None:
    at = disk.root / "x"
    make(at, before)
    disk.learn()
    if before == now:
        return
    if at.is_dir():
        shutil.rmtree(at)
    elif before != "absent":
        at.unlink()
    make(at, now)
    changed = {"file": {"data/x"}, "symlink": {"data/x"}, "dir": {"data/x", "data/x/child"}}.get(now, set())
    was = {"data/x", "data/x/child"} if before == "dir" else {"data/x"} if before != "absent" else set()
    special = now in ("socket", "fifo")
    for scan in (disk.scan(), disk.hinted("x")):
        assert scan.skipped == special
        if special and was:  # only ENOENT is a deletion
            assert (scan.missing, set(scan.unreadable)) == ([], {"data/x"})
        else:
            assert news(scan) == (changed, was - changed, {})


def test_a_root_that_becomes_a_file_and_back(disk: Disk) -> None:
    fill(disk, "a", "d/b")
    shutil.rmtree(disk.root)
    disk.root.write_text("x")
    for scan in (disk.scan(), disk.hinted("a"), disk.hinted("")):
        assert scan.kind == "file"
        assert news(scan) == ({"data"}, {"data/a", "data/d", "data/d/b"}, {})
    disk.learn()
    disk.root.unlink()
    (disk.root / "a").parent.mkdir()
    (disk.root / "a").write_text("1")
    for scan in (disk.scan(), disk.hinted("")):
        assert news(scan) == ({"data", "data/a"}, set(), {})


def test_a_root_that_is_a_pipe_is_not_taken_for_empty(disk: Disk) -> None:
    fill(disk, "a")
    shutil.rmtree(disk.root)
    os.mkfifo(disk.root)
    scan = disk.scan()
    assert (scan.kind, scan.missing) == ("unreadable", [])


def test_a_file_where_an_entry_was_whose_folder_is_no_entry(disk: Disk) -> None:
    """A manifest with a file and something below it can't be restored."""
    disk.patterns = []
    fill(disk, "d/x.pid")
    disk.patterns = ["*.pid"]
    shutil.rmtree(disk.root / "d")
    assert news(disk.scan()) == (set(), {"data/d"}, {}), "what is newly excluded is carried forward"
    disk.learn()
    (disk.root / "d").write_text("now a file")
    assert news(disk.scan()) == ({"data/d"}, {"data/d/x.pid"}, {})
    assert news(disk.hinted("d")) == ({"data/d"}, {"data/d/x.pid"}, {})


def test_an_entry_whose_folder_is_no_entry_can_be_deleted(disk: Disk) -> None:
    fill(disk, "d/x.pid", "d/y")
    disk.patterns = ["*.pid"]
    shutil.rmtree(disk.root / "d")
    disk.learn()
    assert [r.entry.path for r in disk.index.under("data")] == ["data", "data/d/x.pid"]
    disk.patterns = []
    assert news(disk.scan()) == (set(), {"data/d/x.pid"}, {})


def test_an_entry_whose_folder_is_no_entry_but_is_there_is_found_once(disk: Disk) -> None:
    fill(disk, "d/a", "d/b")
    row = disk.index.get("data/d/a")
    assert row is not None
    disk.index.forget()
    disk.index.touch([row])  # as of a manifest that names no folders
    scan = disk.scan()
    assert news(scan) == ({"data", "data/d", "data/d/b"}, set(), {})
    (disk.root / "d" / "a").write_text("changed")
    assert news(disk.scan())[0] == {"data", "data/d", "data/d/a", "data/d/b"}
    (disk.root / "d" / "a").unlink()
    assert news(disk.scan())[1] == {"data/d/a"}


# Excluded


def test_what_is_newly_excluded_is_carried_forward_whether_there_or_not(disk: Disk) -> None:
    fill(disk, "a.tmp", "cache/x", "keep", "d/b.tmp")
    disk.patterns = ["*.tmp", "cache/"]
    assert news(disk.scan()) == (set(), set(), {})
    assert disk.scan().excluded == 3
    shutil.rmtree(disk.root / "cache")
    (disk.root / "a.tmp").unlink()
    (disk.root / "d" / "b.tmp").write_text("changed")
    for scan in (disk.scan(), disk.hinted("cache/x", "cache", "a.tmp", "d/b.tmp")):
        assert news(scan) == (set(), set(), {})


def test_a_pattern_for_folders_hides_no_file(disk: Disk) -> None:
    fill(disk, "cache")
    disk.patterns = ["cache/"]
    (disk.root / "cache").unlink()
    assert news(disk.scan()) == (set(), {"data/cache"}, {})
    assert news(disk.hinted("cache")) == (set(), {"data/cache"}, {})


def test_staging_is_never_looked_at(disk: Disk) -> None:
    fill(disk, "a")
    (disk.root / ".sidecar-tmp-1").mkdir()
    (disk.root / ".sidecar-tmp-1" / "x").write_text("x")
    assert news(disk.scan()) == (set(), set(), {})
    assert news(disk.hinted(".sidecar-tmp-1/x")) == (set(), set(), {})


def test_a_link_to_a_folder_is_a_link(disk: Disk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    (disk.root / "link").symlink_to(outside)
    (disk.root / "loop").symlink_to(".")
    for scan in (disk.scan(), disk.hinted("link/secret", "link", "loop/loop/link")):
        assert {f.path: f.kind for f in scan.changed if f.path != NAME} == {
            "data/link": "symlink",
            "data/loop": "symlink",
        }


def test_a_folder_that_turns_into_a_link_under_the_walk_is_not_followed(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    fill(disk, "d/a")
    real = os.open

    def swap(path: str, flags: int) -> int:
        if path == str(disk.root / "d"):
            monkeypatch.setattr(os, "open", real)
            shutil.rmtree(path)
            os.symlink(outside, path)
        return real(path, flags)

    monkeypatch.setattr(os, "open", swap)
    assert news(disk.scan()) == (set(), set(), {})
    assert news(disk.scan()) == ({"data/d"}, {"data/d/a"}, {})


# SQLite's files


def test_side_files_are_changes_of_their_database(disk: Disk) -> None:
    (disk.root / "x.db").write_bytes(MAGIC)
    disk.learn()
    for ending in ("-wal", "-journal", "-shm"):
        (disk.root / f"x.db{ending}").write_bytes(b"log")
        changed = set() if ending == "-shm" else {"data/x.db"}
        assert news(disk.scan()) == (changed, set(), {})
        assert news(disk.hinted(f"x.db{ending}")) == (changed, set(), {})
        disk.learn()
    (disk.root / "x.db-wal").write_bytes(b"another log")
    assert news(disk.scan())[0] == {"data/x.db"}
    disk.learn()
    (disk.root / "x.db-wal").unlink()
    assert news(disk.scan())[0] == {"data/x.db"}
    assert news(disk.hinted("x.db-wal"))[0] == {"data/x.db"}


def test_such_names_beside_what_is_no_database_are_files(disk: Disk) -> None:
    fill(disk, "notes", "notes-wal", "alone-journal", "d.db-wal/inside")
    assert {r.entry.path for r in disk.index.under("data")} >= {"data/notes-wal", "data/alone-journal"}
    (disk.root / "notes-wal").write_text("longer than before")
    assert news(disk.scan()) == ({"data/notes-wal"}, set(), {})
    assert news(disk.hinted("notes-wal")) == ({"data/notes-wal"}, set(), {})
    status = os.lstat(disk.root / "notes")
    assert database_stat(str(disk.root / "notes"), Stat.of(status)) == Stat.of(status)


def test_a_folder_named_like_a_log_is_a_folder(disk: Disk) -> None:
    (disk.root / "x.db").write_bytes(MAGIC)
    (disk.root / "x.db-wal").mkdir()
    (disk.root / "x.db-wal" / "a").write_text("a")
    assert {"data/x.db-wal", "data/x.db-wal/a"} <= news(disk.scan())[0]


def test_a_file_that_becomes_a_database_takes_its_log_out_of_the_snapshot(disk: Disk) -> None:
    fill(disk, "x", "x-wal")
    (disk.root / "x").write_bytes(MAGIC)
    for scan in (disk.scan(), disk.hinted("x"), disk.hinted("x-wal", "x")):
        assert news(scan) == ({"data/x"}, {"data/x-wal"}, {})
    disk.learn()
    (disk.root / "x").unlink()
    for scan in (disk.scan(), disk.hinted("x")):
        assert news(scan) == ({"data/x-wal"}, {"data/x"}, {})


def test_a_pipe_is_no_database(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    (tmp_path / "link").symlink_to("db")
    (tmp_path / "db").write_bytes(MAGIC)
    assert is_database(str(tmp_path / "db"))
    assert not is_database(str(tmp_path / "p"))
    assert not is_database(str(tmp_path / "link"))
    assert not is_database(str(tmp_path))
    assert not is_database(str(tmp_path / "none"))


# Hints


def test_a_known_folder_that_is_another_one_now_is_looked_into(disk: Disk) -> None:
    fill(disk, "a/old", "b/new", "c/x")
    (disk.root / "a" / "old").unlink()
    disk.learn()
    os.rename(disk.root / "b", disk.root / "a")  # over the empty folder
    assert news(disk.hinted("a", "b")) == ({"data/a/new"}, {"data/b", "data/b/new"}, {})
    assert news(disk.scan()) == ({"data/a/new"}, {"data/b", "data/b/new"}, {})


def test_hints_look_at_no_more_than_they_name(disk: Disk) -> None:
    fill(disk, "a", "d/b", "d/c")
    for name in ("a", "d/b", "d/c"):
        (disk.root / name).write_text("changed")
    assert news(disk.hinted("d/b"))[0] == {"data/d/b"}
    assert news(disk.hinted(""))[0] == set()
    assert news(disk.hinted())[0] == set()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits, edits)
@example([("folder", "a", "b"), ("write", "b/c", "a")], [("rename", "b", "a")])
@example([("write", "a/b", "a")], [("remove", "a", "a"), ("write", "a", "a")])
@example([("write", "x.db", "a"), ("write", "x.db-wal", "a")], [("database", "x.db", "b")])
@example([("database", "x.db", "a"), ("write", "x.db-wal", "a")], [("remove", "x.db", "b")])
@example([("database", "x.db", "a")], [("folder", "x.db-wal", "a")])
@example([("write", "a/skip.pid", "a")], [("remove", "a", "a"), ("link", "a", "b")])
@example([("write", "a", "a")], [("remove", "a", "a"), ("socket", "a", "a")])
def test_hints_find_what_a_whole_scan_finds(
    before: list[tuple[str, str, str]], after: list[tuple[str, str, str]]
) -> None:
    with TemporaryDirectory(dir=FAST) as base:
        disk = Disk(Path(base), patterns=["*.pid"])
        try:
            for verb, path, other in before:
                edit(disk.root, verb, path, other)
            disk.learn()
            touched = {p for verb, path, other in after for p in edit(disk.root, verb, path, other)}
            whole, hinted = disk.scan(), disk.hinted(*touched)
            assert news(hinted) == news(whole)
            assert sorted(hinted.changed, key=repr) == sorted(whole.changed, key=repr)
            assert {f.path for f in whole.touched} >= {f.path for f in hinted.touched}
            disk.learn()
        finally:
            disk.close()
