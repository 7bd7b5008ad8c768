"""The bytes of one moment: whatever the app does meanwhile, what is staged is something that it wrote, or flagged."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sidecar.snapshot import copies
from sidecar.snapshot import stage as staging
from sidecar.snapshot.found import Found
from sidecar.snapshot.index import Row
from sidecar.snapshot.manifest import Frame, SnapshotId
from sidecar.snapshot.spool import Slice
from sidecar.snapshot.stage import Stage, Staged, stage
from tests.snapshot.alone import run_alone
from tests.snapshot.disk import FAST, Disk

LONG_AGO = 1_600_000_000


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


def staged(disk: Disk, **more: bool) -> Stage:
    """What the next scan finds, staged into a new folder."""
    folder = disk.base / f"staging-{time.monotonic_ns()}"
    folder.mkdir()
    return stage([f for f in disk.scan().changed if f.path != "data"], disk.index, folder, **more)


def commit(disk: Disk, result: Stage) -> None:
    disk.sequence += 1
    disk.index.begin(SnapshotId(1, disk.sequence), [s.row for s in result.staged], [], {}, [])
    disk.index.promote("store", f"r{disk.sequence}")
    disk.index.touch(result.same)


def only(result: Stage) -> Staged:
    assert (result.same, result.unreadable, result.vanished, result.stale) == ([], {}, [], {})
    [one] = result.staged
    return one


def data(one: Staged) -> bytes:
    assert one.source is not None
    if isinstance(one.source, bytes):
        return one.source
    return one.source.read_bytes() if isinstance(one.source, Path) else one.source.read()


def honest(one: Staged) -> bytes:
    """The bytes of what was staged, which are those that its entry names."""
    raw = data(one)
    assert (len(raw), hashlib.sha256(raw).hexdigest()) == (one.entry.size, one.entry.sha256)
    return raw


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """``work`` over and over on another thread."""
    over = threading.Event()

    def go() -> None:
        while not over.is_set():
            work()

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# What is staged


@pytest.mark.parametrize("size", [0, 1, copies.SMALL, copies.SMALL + 1, 3 * copies.PIECE + 7])
def test_a_file_is_staged_with_its_bytes_and_what_its_entry_says(disk: Disk, size: int) -> None:
    at = disk.root / "a"
    at.write_bytes(os.urandom(size))
    at.chmod(0o4751)
    os.utime(at, ns=(1, 1_600_000_000_123_456_789))
    one = only(staged(disk))
    assert honest(one) == at.read_bytes()
    assert isinstance(one.source, bytes) == (size <= copies.SMALL)
    e = one.entry
    assert (e.path, e.kind, e.mode, e.uid, e.gid, e.flag) == ("data/a", "file", 0o4751, os.getuid(), os.getgid(), "")
    assert e.mtime_ns == 1_600_000_000_123_456_789


def test_small_files_in_memory_have_a_bound_together(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "IN_MEMORY_TOTAL", 25)
    for n in range(5):
        (disk.root / str(n)).write_bytes(b"0123456789")
    result = staged(disk)
    assert sum(len(s.source) for s in result.staged if isinstance(s.source, bytes)) == 20
    assert [honest(s) for s in result.staged] == [b"0123456789"] * 5
    assert len({s.source.path for s in result.staged if isinstance(s.source, Slice)}) == 1, "the others share a file"


def test_links_and_folders_have_no_bytes(disk: Disk) -> None:
    (disk.root / "link").symlink_to(b"to \xff")
    (disk.root / "folder").mkdir(0o701)
    found = {s.entry.path: s for s in staged(disk).staged}
    assert found["data/link"].entry.target == "to \udcff"
    assert found["data/folder"].entry.mode == 0o701
    assert {s.source for s in found.values()} == {None}


def test_a_large_file_needs_little_memory(disk: Disk) -> None:
    with open(disk.root / "big", "wb") as file:
        file.truncate(100 * 1024 * 1024)
    tracemalloc.start()
    try:
        one = only(staged(disk))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert one.entry.size == 100 * 1024 * 1024
    assert peak < 4 * 1024 * 1024


# What is the same after all


def test_a_touched_file_with_its_old_bytes_is_no_news_but_for_its_time(disk: Disk) -> None:
    at = disk.root / "a"
    at.write_text("1")
    commit(disk, staged(disk))
    old = disk.index.get("data/a")
    at.write_text("1")
    os.utime(at, ns=(1, 7))
    one = only(staged(disk))
    assert (one.source, one.entry.mtime_ns) == (None, 7), "its bytes are in the store"
    assert old is not None
    assert replace(one.entry, mtime_ns=old.entry.mtime_ns) == old.entry


def test_new_metadata_alone_keeps_the_place_in_a_bundle(disk: Disk) -> None:
    at = disk.root / "a"
    at.write_text("1")
    commit(disk, staged(disk))
    row = disk.index.get("data/a")
    assert row is not None
    frame = Frame("ab" * 32, 0, 10)
    disk.index.touch([replace(row, entry=replace(row.entry, frame=frame))])
    at.chmod(0o600)
    one = only(staged(disk))
    assert (one.source, one.entry.frame, one.entry.mode) == (None, frame, 0o600)


def test_an_equal_file_with_another_stat_is_the_same(disk: Disk) -> None:
    for name, size in (("a", 10), ("b", 200_000)):
        (disk.root / name).write_bytes(b"x" * size)
        os.utime(disk.root / name, (LONG_AGO, LONG_AGO))
    commit(disk, staged(disk))
    for name in "ab":
        at = disk.root / name
        (disk.root / "new").write_bytes(at.read_bytes())
        os.utime(disk.root / "new", (LONG_AGO, LONG_AGO))
        os.replace(disk.root / "new", at)
    before = list(disk.base.glob("staging-*/*"))
    result = staged(disk)
    assert result.staged == []
    assert {row.entry.path for row in result.same} == {"data/a", "data/b"}
    assert list(disk.base.glob("staging-*/*")) == before, "a copy that isn't needed takes no room"
    commit(disk, result)
    stat = os.lstat(disk.root / "a")
    row = disk.index.get("data/a")
    assert row is not None
    assert row.stat is not None
    assert row.stat.ino == stat.st_ino


def test_with_force_all_is_staged(disk: Disk) -> None:
    (disk.root / "a").write_text("1")
    commit(disk, staged(disk))
    row = disk.index.get("data/a")
    assert row is not None
    assert row.stat is not None
    e = row.entry
    found = [Found(e.path, str(disk.root / "a"), "file", e.mode, e.uid, e.gid, row.stat)]
    result = stage(found, disk.index, disk.base, force=True)
    assert honest(only(result)) == b"1"


# Settled


def test_only_what_did_not_change_just_now_is_settled(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    (disk.root / "a").write_text("1")
    assert only(staged(disk)).row.settled is False
    monkeypatch.setattr(staging, "SETTLE_NS", 0)
    assert only(staged(disk)).row.settled is True


def test_a_clock_that_was_set_back_settles_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    (disk.root / "a").write_text("1")
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
    assert only(staged(disk)).row.settled is False


def test_a_rewrite_in_the_same_tick_is_found_by_the_next_scan(disk: Disk) -> None:
    at = disk.root / "a"
    at.write_text("1")
    commit(disk, staged(disk))
    row = disk.index.get("data/a")
    assert row is not None
    at.write_text("2")
    # As if the clock of the disk had not moved between the two writes.
    disk.index.touch([Row(row.entry, disk.scan().changed[-1].stat, row.settled)])
    assert honest(only(staged(disk))) == b"2"


# While it is written


def test_what_is_rewritten_in_place_is_what_it_was_at_one_moment_or_flagged(disk: Disk) -> None:
    at = disk.root / "a"
    chunks, chunk, version = 8, 50_000, 0
    at.write_bytes(bytes(chunks * chunk))

    def rewrite() -> None:
        nonlocal version
        version += 1
        fd = os.open(at, os.O_WRONLY)
        for number in range(chunks):
            os.pwrite(fd, version.to_bytes(4, "big") * (chunk // 4), number * chunk)
        os.close(fd)
        time.sleep(0.002)

    with meanwhile(rewrite):
        seen = [only(staged(disk)) for _ in range(60)]
    for one in seen:
        raw = honest(one)
        versions = [int.from_bytes(raw[n : n + 4], "big") for n in range(0, len(raw), 400)]
        # Written from the front: at every moment it is a version's beginning, and the end of the one before.
        at_one_moment = versions == sorted(versions, reverse=True) and versions[0] - versions[-1] <= 1
        assert at_one_moment or (one.entry.flag, one.row.settled) == ("unsettled", False)
    assert len({one.entry.sha256 for one in seen}) > 10, "it was written while we looked"


def test_what_is_replaced_by_rename_is_always_one_of_its_versions(disk: Disk) -> None:
    at = disk.root / "a"
    versions = [bytes([v]) * 300_000 for v in (65, 66)]
    at.write_bytes(versions[0])

    def rewrite() -> None:
        for version in versions:
            (disk.base / "new").write_bytes(version)
            os.replace(disk.base / "new", at)

    with meanwhile(rewrite):
        seen = [only(staged(disk)) for _ in range(60)]
    assert {honest(one) for one in seen} <= set(versions)


def test_a_growing_file_is_something_that_it_was(disk: Disk) -> None:
    at = disk.root / "log"
    line = b"0123456789abcdef\n"
    at.write_bytes(line * 20_000)

    def grow() -> None:
        with open(at, "ab") as file:
            file.write(line)
        time.sleep(0.0005)

    with meanwhile(grow):
        seen = [only(staged(disk)) for _ in range(30)]
    for one in seen:
        raw = honest(one)
        assert raw == (line * (len(raw) // len(line) + 1))[: len(raw)]
    assert len(list(disk.base.glob("staging-*/*"))) == 30, "what was copied in vain is let go"


def test_what_never_holds_still_is_flagged_after_three_copies(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    at = disk.root / "a"
    at.write_bytes(b"x" * 100_000)
    real, targets = copies._spool, []

    def spool(source: int, target: Path) -> tuple[int, str]:
        done = real(source, target)
        targets.append(target)
        with open(at, "ab") as file:
            file.write(b"y")
        return done

    monkeypatch.setattr(copies, "_spool", spool)
    one = only(staged(disk))
    assert (one.entry.flag, one.row.settled, len(targets)) == ("unsettled", False, 3)
    honest(one)
    commit(disk, Stage([one]))
    monkeypatch.undo()
    one = only(staged(disk))
    assert one.entry.flag == ""
    assert honest(one) == at.read_bytes()


def test_the_mode_is_that_of_the_moment(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    at = disk.root / "a"
    at.write_bytes(b"x" * 100_000)
    real = copies._spool

    def spool(source: int, target: Path) -> tuple[int, str]:
        done = real(source, target)
        monkeypatch.undo()
        (disk.base / "new").write_bytes(b"new")
        (disk.base / "new").chmod(0o600)
        os.replace(disk.base / "new", at)
        return done

    at.chmod(0o644)
    monkeypatch.setattr(copies, "_spool", spool)
    one = only(staged(disk))
    assert (honest(one), one.entry.mode) == (b"new", 0o600)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("now", ["gone", "folder", "pipe", "link"])
def test_what_turns_into_something_else_before_it_is_staged(disk: Disk, now: str, large: bool) -> None:
    at = disk.root / "a"
    at.write_bytes(b"x" * (100_000 if large else 1))
    found = [f for f in disk.scan().changed if f.path == "data/a"]
    at.unlink()
    if now == "folder":
        at.mkdir()
    elif now == "pipe":
        os.mkfifo(at)
    elif now == "link":
        at.symlink_to("/etc/passwd")
    folder = disk.base / "staging"
    folder.mkdir()
    result = stage(found, disk.index, folder)
    assert result.staged == []
    assert result.same == []
    assert (result.vanished, result.unreadable) == (["data/a"], {}), "the next scan says what it is now"
    assert list(folder.iterdir()) == []


def test_what_goes_while_it_is_copied_is_gone(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    at = disk.root / "a"
    at.write_bytes(b"x" * 100_000)
    real = copies._spool

    def spool(source: int, target: Path) -> tuple[int, str]:
        at.unlink()
        return real(source, target)

    monkeypatch.setattr(copies, "_spool", spool)
    result = staged(disk)
    assert (result.staged, result.vanished) == ([], ["data/a"])
    assert list(disk.base.glob("staging-*/*")) == []


# Disks


@pytest.mark.parametrize("scenario", ["full_staging", "holes_stay_holes", "unreadable_file", "database_without_room"])
def test_on_disks_that_fail(scenario: str) -> None:
    run_alone(scenario)


def test_a_clone_is_read_back_from_the_copy(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the filesystem shares extents: here a copy stands for the clone, as this disk may not know how."""
    at = disk.root / "a"
    at.write_bytes(os.urandom(2_500_000))

    def clone(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        offset = 0
        while piece := os.pread(source, 1 << 20, offset):
            offset += os.pwrite(target, piece, offset)
        at.write_bytes(b"written after the clone")  # must not matter
        return 0

    at_first = at.read_bytes()
    monkeypatch.setattr("fcntl.ioctl", clone)
    with open(at, "rb") as source:
        size, digest = copies._spool(source.fileno(), disk.base / "copy")
    assert (disk.base / "copy").read_bytes() == at_first
    assert (size, digest) == (len(at_first), hashlib.sha256(at_first).hexdigest())


def test_nothing_is_read_through_a_folder_that_became_a_link(disk: Disk) -> None:
    outside = disk.base / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (disk.root / "sub").mkdir()
    (disk.root / "sub" / "secret").write_text("own")
    db = sqlite3.connect(outside / "db")
    db.execute("CREATE TABLE t (a)")
    db.close()
    shutil.copy(outside / "db", disk.root / "sub" / "db")
    found = [f for f in disk.scan().changed if f.path != "data"]
    shutil.rmtree(disk.root / "sub")
    (disk.root / "sub").symlink_to(outside)  # after the scan, before the copies
    folder = disk.base / "staging"
    folder.mkdir()
    result = stage(found, disk.index, folder)
    assert set(result.vanished) == {"data/sub/secret", "data/sub/db"}
    assert all(s.entry.kind == "dir" for s in result.staged)
