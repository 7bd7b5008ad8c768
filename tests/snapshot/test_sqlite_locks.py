"""What our locks keep others from, and what theirs keep us from: between processes, as they are meant."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from sidecar.snapshot import sqlite, sqlite_child
from sidecar.snapshot import sqlite_files as files
from sidecar.snapshot.sqlite_check import check
from sidecar.snapshot.sqlite_copy import Busy
from tests.snapshot.alone import run_alone
from tests.snapshot.disk import FAST

# Runs each line that it is sent, and answers with what it came to.
APP = """
import sqlite3, sys
def open_(timeout=0):
    return sqlite3.connect(sys.argv[1], isolation_level=None, timeout=timeout)
db = open_()
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except Exception as error:
        print("!", error, flush=True)
"""


class App:
    """Another process that has a database open."""

    def __init__(self, at: Path) -> None:
        argv = [sys.executable, "-I", "-S", "-c", APP, str(at)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, code: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(code + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def sql(self, *statements: str) -> str:
        for statement in statements:
            said = self(f"db.execute({statement!r}).fetchall()")
            assert not said.startswith("!"), said
        return said


@contextmanager
def app(at: Path, *statements: str) -> Iterator[App]:
    made = App(at)
    try:
        if statements:
            made.sql(*statements)
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


@pytest.fixture
def room() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=FAST, prefix="sidecar-locks-") as name:
        (Path(name) / "home").mkdir()
        yield Path(name)


@pytest.fixture
def at(room: Path) -> Path:
    return room / "home" / "x.db"


def rows(copy: Path) -> list[object]:
    with closing(sqlite3.connect(copy)) as db:
        return [x for (x,) in db.execute("SELECT x FROM t ORDER BY rowid")]


def capture(at: Path, target: Path, *, seconds: float = 0.3, lock: bool = False) -> str:
    """As the child does it; it needs no process of its own where this one has no database open."""
    how = sqlite_child.capture(str(at), str(target), seconds, lock, lambda: None)
    check(str(target))
    return how


WAL = ("PRAGMA journal_mode=wal", "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
DELETE = ("CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")


@contextmanager
def held(at: Path) -> Iterator[None]:
    """All the locks that a live copy holds, for as long as it takes to see what they do to others."""
    with files.opened(f"{at}-shm") as shm, files.opened(str(at)) as fd:
        assert files.share_database(fd)
        assert files.share(shm, files.SLOT_0)
        yield


# Ours


def test_no_writer_and_no_checkpoint_of_a_live_log_ever_fails_for_us(at: Path) -> None:
    with app(at, *WAL) as other, held(at):
        before = at.read_bytes()
        other.sql("INSERT INTO t VALUES (2)", "PRAGMA wal_checkpoint(PASSIVE)", "BEGIN EXCLUSIVE")
        other.sql("UPDATE t SET x = x + 1", "COMMIT", "VACUUM", "PRAGMA wal_checkpoint", "INSERT INTO t VALUES (4)")
        assert at.read_bytes() == before, "no checkpoint touches the file meanwhile"
        with app(at) as another:
            another.sql("INSERT INTO t VALUES (5)")
        assert other.sql("SELECT x FROM t") == "[(2,), (3,), (4,), (5,)]"


def test_an_app_that_closes_or_dies_under_our_locks_loses_nothing(at: Path) -> None:
    for end in ("db.close()", ""):
        with app(at, *(WAL if not at.exists() else ["INSERT INTO t VALUES (1)"])) as other, held(at):
            other.sql("INSERT INTO t VALUES (2)")
            if end:
                other(end)
            else:
                other.process.kill()
                other.process.wait()
            with app(at, "INSERT INTO t VALUES (3)") as next_one:
                next_one("db.close()")
        with app(at, "PRAGMA wal_checkpoint(TRUNCATE)") as after:
            assert after.sql("SELECT count(*) FROM t") == ("[(3,)]" if end else "[(6,)]")


def test_a_copy_ends_where_the_log_would_wait_too_long_or_grow_too_far(
    at: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app(at, *WAL) as other:
        guard = sqlite_child.Guard(str(at), 100, lambda: None)
        guard()
        monkeypatch.setattr(sqlite_child, "LOG_GROWTH", 50_000)
        small = sqlite_child.Guard(str(at), 100, lambda: None)
        other.sql("INSERT INTO t VALUES (zeroblob(100000))")
        with pytest.raises(Busy, match="grew"):
            small()
        guard.until = time.monotonic() - 1
        with pytest.raises(Busy, match="waiting"):
            guard()
        monkeypatch.setattr(sqlite_child, "Guard", lambda *_: small)
        with pytest.raises(Busy, match="grew"):
            capture(at, room / "copy")
        other.sql("PRAGMA wal_checkpoint(TRUNCATE)")


def test_the_lock_of_a_database_is_let_go_of_in_time_whatever_the_disk_does(at: Path) -> None:
    with app(at, *DELETE) as other, files.opened(str(at)) as fd:
        leash = sqlite_child.Leash(fd)
        assert leash.take()
        began = time.monotonic()
        assert other("open_(0).execute('INSERT INTO t VALUES (2)')") == "! database is locked"
        waited = other("open_(1).execute('INSERT INTO t VALUES (3)').rowcount")
        took = time.monotonic() - began
        assert (waited, took < 0.5) == ("1", True)
        with pytest.raises(Busy, match="too large"):
            leash()
        leash.drop()
    assert sqlite_child.LOCK_S < 0.1


def test_a_lock_that_is_let_go_of_early_is_gone_at_once(at: Path) -> None:
    with app(at, *DELETE) as other, files.opened(str(at)) as fd:
        leash = sqlite_child.Leash(fd)
        assert leash.take()
        leash.drop()
        leash()
        other.sql("INSERT INTO t VALUES (2)")


def test_a_copy_that_came_too_late_under_the_lock_is_none(
    at: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_child, "LOCK_S", 0.01)
    monkeypatch.setattr(sqlite_child, "pour", lambda *_: time.sleep(0.05))
    with app(at, *DELETE), pytest.raises(Busy, match="too large"):
        sqlite_child.locked(str(at), str(room / "copy"), lambda: None)


def test_under_the_lock_a_journal_is_copied_only_if_its_writer_is_dead(at: Path, room: Path) -> None:
    spill = ["PRAGMA cache_size=5", "BEGIN", "UPDATE t SET x = 'torn'", "INSERT INTO t VALUES (zeroblob(200000))"]
    with app(at, *DELETE) as other:
        other.sql("BEGIN IMMEDIATE", "UPDATE t SET x = 'coming'")
        assert sqlite_child.locked(str(at), str(room / "copy"), lambda: None)
        assert not (room / "copy-journal").exists()
        check(str(room / "copy"))
        assert rows(room / "copy") == [1]
        other.sql("ROLLBACK", *spill)
        assert files.Look(str(at)).exclusive
        other.process.kill()
    assert sqlite_child.locked(str(at), str(room / "copy"), lambda: None)
    assert (room / "copy-journal").exists()
    check(str(room / "copy"))
    assert rows(room / "copy") == [1]


# Theirs


def test_a_log_that_is_being_folded_in_all_the_time_gives_no_copy_in_bounded_time(at: Path, room: Path) -> None:
    with app(at, *WAL) as other:
        other(f"__import__('fcntl').lockf(globals().setdefault('f', open({str(at)!r} + '-shm', 'r+b')), 2, 1, 123)")
        began = time.monotonic()
        with pytest.raises(Busy, match="folded in all the time"):
            capture(at, room / "copy")
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("mode", ["wal", "delete", "memory"])
def test_one_that_its_app_keeps_to_itself_is_copied_while_nothing_moves(
    at: Path, room: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_child, "STILL_S", 0.2)
    with app(at, "PRAGMA locking_mode=exclusive", f"PRAGMA journal_mode={mode}", *DELETE) as other:
        assert files.Look(str(at)).exclusive
        assert capture(at, room / "copy", seconds=2) == "gap"
        assert rows(room / "copy") == [1]
        other.sql("INSERT INTO t VALUES (2)")
        assert capture(at, room / "copy", seconds=2) == "gap"
        assert rows(room / "copy") == [1, 2]


def test_one_that_became_exclusive_in_the_middle_of_its_life_is_copied_with_its_log(at: Path, room: Path) -> None:
    with app(at, *WAL, "PRAGMA locking_mode=exclusive", "INSERT INTO t VALUES (2)"):
        assert files.Look(str(at)).exclusive
        assert capture(at, room / "copy") == "gap"
    assert rows(room / "copy") == [1, 2]


def test_an_exclusive_lock_that_is_written_under_all_the_time_ends_in_bounded_time(at: Path, room: Path) -> None:
    with app(at, "PRAGMA locking_mode=exclusive", "PRAGMA synchronous=off", *DELETE) as other:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                other.sql("INSERT INTO t VALUES (2)")

        writing = threading.Thread(target=write)
        writing.start()
        try:
            began = time.monotonic()
            with pytest.raises(Busy, match="keeps it locked"):
                capture(at, room / "copy", lock=True)
            assert time.monotonic() - began < 2
        finally:
            stop.set()
            writing.join()


def test_a_log_that_was_deleted_under_its_app_is_no_copy_of_half_of_it(at: Path, room: Path) -> None:
    with app(at, *WAL) as other:
        Path(f"{at}-wal").unlink()
        with pytest.raises(Busy, match="removed"):
            capture(at, room / "copy")
        Path(f"{at}-wal").write_bytes(b"another" * 1000)
        with pytest.raises(Busy, match="another one"):
            capture(at, room / "copy")
        assert other.sql("SELECT x FROM t") == "[(1,)]"


def test_what_a_reader_of_old_pages_keeps_from_being_folded_in_is_copied_too(at: Path, room: Path) -> None:
    with app(at, *WAL) as writer, app(at, "BEGIN", "SELECT * FROM t") as reader:
        writer.sql("INSERT INTO t VALUES (2)", "PRAGMA wal_checkpoint", "INSERT INTO t VALUES (3)")
        assert capture(at, room / "copy") == "live"
        assert rows(room / "copy") == [1, 2, 3]
        reader.sql("COMMIT")
        writer.sql("PRAGMA wal_checkpoint", "INSERT INTO t VALUES (4)")
        assert capture(at, room / "copy") == "live"
        assert rows(room / "copy") == [1, 2, 3, 4]
        writer.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        assert capture(at, room / "copy") == "live"
        assert rows(room / "copy") == [1, 2, 3, 4]


def test_one_whose_app_died_is_not_taken_for_one_in_use(at: Path, room: Path) -> None:
    with app(at, *WAL) as other:
        os.kill(other.process.pid, signal.SIGKILL)
        other.process.wait()
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in at.parent.iterdir()}
    assert set(before) == {"x.db", "x.db-wal", "x.db-shm"}
    assert capture(at, room / "copy") == "gap"
    assert rows(room / "copy") == [1]
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in at.parent.iterdir()} == before


def test_one_that_is_being_closed_is_copied_however_it_comes_out(at: Path, room: Path) -> None:
    """In use when it is looked at first, closed a moment later, or the other way round."""
    for n in range(4):
        with app(at, *(WAL if not n else ["INSERT INTO t VALUES (2)"])) as other:
            closing_it = threading.Timer(0.001 * n, lambda app=other: app("db.close()"))
            closing_it.start()
            assert sqlite.copy(str(at), room / f"copy-{n}").ok
            closing_it.join()
        assert rows(room / f"copy-{n}") == [1] + [2] * n
        assert sorted(p.name for p in at.parent.iterdir())[:1] == ["x.db"]


def test_where_nothing_can_be_written() -> None:
    run_alone("read_only_mount", "tests.snapshot.alone_sqlite")


# Which file is which


def test_what_a_database_holds_shows_in_its_state(at: Path) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(app(at, *WAL))
        first = files.state(str(at))
        assert first.startswith("wal ")
        other.sql("PRAGMA wal_checkpoint(PASSIVE)", "SELECT * FROM t", "UPDATE t SET x = x")
        assert files.state(str(at)) == first, "a checkpoint moves frames, and changes nothing"
        other.sql("UPDATE t SET x = x + 1")
        second = files.state(str(at))
        other.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        third = files.state(str(at))
        other.sql("INSERT INTO t VALUES (2)", "DELETE FROM t WHERE x = 2")
        assert len({first, second, third, files.state(str(at))}) == 4
        other("db.close()")
        assert files.state(str(at)) == "", "closed in WAL mode, its change counter tells nothing"
        other("globals().update(db=open_())")
        other.sql("PRAGMA journal_mode=delete")
        rollback = files.state(str(at))
        assert rollback.startswith("file ")
        other.sql("BEGIN IMMEDIATE", "ROLLBACK", "SELECT * FROM t")
        assert files.state(str(at)) == rollback
        other.sql("INSERT INTO t VALUES (5)")
        assert files.state(str(at)) not in ("", rollback)
        other.sql("PRAGMA locking_mode=exclusive", "UPDATE t SET x = x + 1")
        assert files.state(str(at)) == "", "in exclusive mode SQLite doesn't count"
    assert files.state(f"{at}-none") == ""
    at.write_bytes(files.HEAD * b"x")
    at.write_bytes(b"SQLite format 3\0")
    assert files.state(str(at)) == ""


def test_an_index_that_is_being_written_is_not_believed(at: Path) -> None:
    with app(at, *WAL):
        raw = Path(f"{at}-shm").read_bytes()
        copy = at.parent / "shm"
        for n in (0, 8, 12, 16, 24, 40, 50, 60, 90):
            copy.write_bytes(raw[:n] + bytes([raw[n] ^ 1]) + raw[n + 1 :])
            with files.opened(str(copy)) as fd:
                assert files.read_index(fd) is None, n
        both = bytearray(raw)
        both[16] ^= 1
        both[64] ^= 1
        for broken in (bytes(both), raw[:90], b"", bytes(136)):
            copy.write_bytes(broken)
            with files.opened(str(copy)) as fd:
                assert files.read_index(fd) is None
        copy.write_bytes(raw)
        with files.opened(str(copy)) as fd:
            index = files.read_index(fd)
        assert index is not None
        assert (index.page_size, index.pages, index.filled) == (4096, 2, 0)
        assert index.log_bytes <= Path(f"{at}-wal").stat().st_size
        assert Path(f"{at}-wal").read_bytes()[16:24] == index.salts
