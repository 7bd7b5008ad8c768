"""Databases in every state that a running, stopped or killed app leaves them in, and what their copies hold."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.snapshot import sqlite
from sidecar.snapshot.stage import Stage, stage
from tests.snapshot.bank import audit, teller
from tests.snapshot.disk import FAST, Disk


def files(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """What stands in the folder, to the last byte and time."""
    out = {}
    for at in sorted(folder.iterdir()):
        status, digest = at.stat(), hashlib.sha256(at.read_bytes()).hexdigest()
        out[at.name] = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, digest)
    return out


@pytest.fixture
def room() -> Iterator[Path]:
    """Instead of pytest's own: where no disk has to turn for each commit."""
    with tempfile.TemporaryDirectory(dir=FAST, prefix="sidecar-sqlite-") as name:
        yield Path(name)


@pytest.fixture
def home(room: Path) -> Path:
    (room / "home").mkdir()
    return room / "home"


# Live


def test_a_live_log_is_copied_under_a_writer_at_full_speed_that_never_waits(home: Path, room: Path) -> None:
    at, seen = home / "x.db", set()
    with teller(at, "journal_mode=wal,synchronous=off,wal_autocheckpoint=20") as writer:
        for _ in range(6):
            outcome = sqlite.copy(str(at), room / "copy")
            assert (outcome.ok, outcome.how, audit(room / "copy")) == (True, "live", "")
            seen.add((room / "copy").read_bytes())
            (room / "copy").unlink()
        fared = writer.stop()
    assert (fared["busy"], len(seen) > 3) == (0, True), "with a busy timeout of 0 it never met a lock of ours"


def test_a_live_copy_is_what_the_app_itself_leaves_when_it_closes(home: Path, room: Path) -> None:
    """To the byte: so nothing is sent again when an app ends or starts."""
    at = home / "x.db"
    with closing(sqlite3.connect(at, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=wal")
        db.execute("CREATE TABLE t (x)")
        for n in range(50):
            db.execute("INSERT INTO t VALUES (zeroblob(?))", (n * 100,))
        db.execute("PRAGMA wal_checkpoint")
        db.execute("DELETE FROM t WHERE length(x) % 3 = 0")
        assert sqlite.copy(str(at), room / "copy").how == "live"
    assert [f.name for f in home.iterdir()] == ["x.db"]
    assert at.read_bytes() == (room / "copy").read_bytes()
    assert sqlite.copy(str(at), room / "closed").how == "gap"
    assert at.read_bytes() == (room / "closed").read_bytes()


def test_what_only_the_log_holds_is_in_the_copy(home: Path, room: Path) -> None:
    at = home / "x.db"
    with closing(sqlite3.connect(at, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=wal")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE t AS SELECT 'only in the log' AS x")
        before = files(home)
        assert sqlite.copy(str(at), room / "copy").ok
        assert files(home) == before
        with closing(sqlite3.connect(room / "copy")) as copy:
            assert copy.execute("SELECT x FROM t").fetchall() == [("only in the log",)]


def test_an_open_transaction_is_not_in_the_copy_and_goes_on(home: Path, room: Path) -> None:
    for mode in ("wal", "delete"):
        at = home / f"{mode}.db"
        with closing(sqlite3.connect(at, isolation_level=None, timeout=0)) as db:
            db.execute(f"PRAGMA journal_mode={mode}")
            db.execute("PRAGMA cache_size=5")  # so that what isn't committed yet is in the file all the same
            db.execute("CREATE TABLE t (x)")
            db.execute("INSERT INTO t VALUES ('before')")
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE t SET x='never'")
            db.executemany("INSERT INTO t VALUES (?)", [("x" * 4000,) for _ in range(50)])
            assert sqlite.copy(str(at), room / mode).ok
            db.execute("COMMIT")
        with closing(sqlite3.connect(room / mode)) as copy:
            assert copy.execute("SELECT x FROM t").fetchall() == [("before",)]


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "memory"])
def test_a_rollback_journal_is_copied_in_a_gap_without_any_lock(home: Path, room: Path, mode: str) -> None:
    at = home / "x.db"
    with teller(at, f"journal_mode={mode},synchronous=off", pause=0.02) as writer:
        for _ in range(4):
            outcome = sqlite.copy(str(at), room / "copy", lock=False)
            assert (outcome.ok, outcome.how, audit(room / "copy")) == (True, "gap", "")
            (room / "copy").unlink()
        assert writer.stop()["busy"] == 0, "no lock of ours was ever in its way"


def test_a_journal_that_never_rests_is_copied_under_a_lock_that_nobody_waits_long_for(
    home: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "GAP_S", 0.1)
    at, how = home / "x.db", []
    with teller(at, "journal_mode=delete,synchronous=off", timeout_ms=1000, accounts=400) as writer:
        for _ in range(4):
            outcome = sqlite.copy(str(at), room / "copy")
            assert (outcome.ok, audit(room / "copy")) == (True, "")
            how.append(outcome.how)
            (room / "copy").unlink()
        assert writer.stop()["busy"] == 0
    assert "locked" in how


def test_a_journal_that_never_rests_gives_no_copy_without_a_lock(
    home: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "GAP_S", 0.2)
    at = home / "x.db"
    with teller(at, "journal_mode=delete,synchronous=off", accounts=2000) as writer:
        outcomes = [sqlite.copy(str(at), room / f"copy-{n}", lock=False) for n in range(2)]
        assert writer.stop()["busy"] == 0
    for n, outcome in enumerate(outcomes):
        if outcome.ok:
            assert audit(room / f"copy-{n}") == ""
        else:
            assert "without a pause" in outcome.reason
            assert not outcome.damaged
            assert list(room.glob(f"copy-{n}*")) == []


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_an_exclusive_lock_stops_nobody(home: Path, room: Path, mode: str) -> None:
    at = home / "x.db"
    with closing(sqlite3.connect(at, isolation_level=None, timeout=0)) as db:
        db.execute("PRAGMA locking_mode=exclusive")
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE t AS SELECT 1 AS x")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("INSERT INTO t VALUES (2)")
        began = time.monotonic()
        assert sqlite.copy(str(at), room / "copy").ok
        assert time.monotonic() - began < 5
        db.execute("COMMIT")
    with closing(sqlite3.connect(room / "copy")) as copy:
        assert copy.execute("SELECT x FROM t").fetchall() == [(1,)]


# At rest


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_nothing_is_created_or_changed_beside_a_closed_database(home: Path, room: Path, mode: str) -> None:
    at = home / "x.db"
    with closing(sqlite3.connect(at, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE t AS SELECT 1 AS x")
    before = files(home)
    assert set(before) == {"x.db", "x.db-journal"} if mode in ("persist", "truncate") else {"x.db"}
    assert sqlite.copy(str(at), room / "copy").ok
    assert files(home) == before
    with closing(sqlite3.connect(room / "copy")) as copy:
        assert copy.execute("SELECT x FROM t").fetchall() == [(1,)]


def kill_within_a_transaction(at: Path, mode: str) -> None:
    script = (
        "import os, signal, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        f"db.execute('PRAGMA journal_mode={mode}'); db.execute('PRAGMA cache_size=5')\n"
        "db.execute('PRAGMA wal_autocheckpoint=0')\n"
        "db.execute('CREATE TABLE t (x)'); db.execute(\"INSERT INTO t VALUES ('kept')\")\n"
        "db.execute('BEGIN'); db.execute(\"UPDATE t SET x='torn'\")\n"
        "db.executemany('INSERT INTO t VALUES (?)', [('x' * 4000,) for _ in range(200)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script, str(at)], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("mode", ["wal", "delete", "persist"])
def test_what_a_killed_writer_leaves_is_recovered_in_the_copy_alone(home: Path, room: Path, mode: str) -> None:
    at = home / "x.db"
    kill_within_a_transaction(at, mode)
    assert (home / ("x.db-wal" if mode == "wal" else "x.db-journal")).stat().st_size > 0
    before = files(home)
    assert sqlite.copy(str(at), room / "copy").ok
    assert files(home) == before
    with closing(sqlite3.connect(room / "copy")) as copy:
        assert copy.execute("SELECT x FROM t").fetchall() == [("kept",)]


def test_a_log_whose_index_is_lost_is_recovered_in_the_copy(home: Path, room: Path) -> None:
    at = home / "x.db"
    kill_within_a_transaction(at, "wal")
    (home / "x.db-shm").unlink()
    before = files(home)
    assert sqlite.copy(str(at), room / "copy").ok
    assert files(home) == before, "no index is made beside it"
    with closing(sqlite3.connect(room / "copy")) as copy:
        assert copy.execute("SELECT x FROM t").fetchall() == [("kept",)]


@pytest.mark.parametrize("name", [b"a?b#c%20.db", b"\xff\xfe.db", b"new\nline.db", b"-x.db", b"file:x.db"])
def test_any_name(home: Path, room: Path, name: bytes) -> None:
    for mode in ("wal", "delete"):
        at = home / "plain.db"
        with closing(sqlite3.connect(at, isolation_level=None)) as db:
            db.execute(f"PRAGMA journal_mode={mode}")
            db.execute("CREATE TABLE t AS SELECT 1 AS x")
            if mode == "wal":
                db.execute("PRAGMA wal_autocheckpoint=0")
                for ending in ("", "-wal", "-shm"):
                    shutil.copyfile(f"{at}{ending}", os.fsencode(home) + b"/" + name + ending.encode())
        if mode == "delete":
            shutil.copyfile(at, os.fsencode(home) + b"/" + name)
        target = room / os.fsdecode(b"copy-" + mode.encode() + b"-" + name)
        assert sqlite.copy(os.fsdecode(os.fsencode(home) + b"/" + name), target) == sqlite.Outcome(True)
        assert target.stat().st_size > 0
        for each in home.iterdir():
            each.unlink()


# Broken


def test_one_that_is_gone(home: Path, room: Path) -> None:
    assert sqlite.copy(str(home / "none.db"), room / "copy") == sqlite.Outcome(False, vanished=True)
    assert sqlite.copy(str(home), room / "copy").ok is False


BREAKS = {
    "no database": lambda raw: b"SQLite format 3\0" + b"no database" * 500,
    "a page of zeros": lambda raw: raw[:4096] + bytes(4096) + raw[8192:],
    "cut short": lambda raw: raw[: len(raw) // 2],
    "nothing but the magic": lambda raw: raw[:16],
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_one_is_said_to_be_broken(home: Path, room: Path, how: str) -> None:
    at = home / "x.db"
    make(at)
    at.write_bytes(BREAKS[how](at.read_bytes()))
    outcome = sqlite.copy(str(at), room / "copy")
    assert (outcome.ok, outcome.damaged, outcome.vanished) == (False, True, False)
    assert outcome.reason
    assert list(room.glob("copy*")) == []


def test_a_copy_that_hangs_is_given_up(home: Path, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(home / "x.db")
    boot = "import sys, time; [open(sys.argv[3] + e, 'w').close() for e in ('', '-wal')]; time.sleep(60)"
    monkeypatch.setattr(sqlite, "BOOT", boot)
    monkeypatch.setattr(sqlite, "SLACK_S", -4.4)
    outcome = sqlite.copy(str(home / "x.db"), room / "copy")
    assert (outcome.ok, outcome.reason) == (False, "no copy within 1 s")
    assert list(room.glob("copy*")) == []


def test_a_copy_whose_agent_was_killed_ends_at_once(home: Path, room: Path) -> None:
    make(home / "x.db")
    argv = [sys.executable, "-I", "-S", "-c", sqlite.BOOT, str(sqlite.ROOM), str(home / "x.db"), str(room / "copy")]
    done = subprocess.run([*argv, "5", "lock", "1"], capture_output=True, check=False)
    assert (done.returncode, done.stdout, list(room.glob("copy*"))) == (1, b"", [])


# As part of a snapshot


def make(at: Path, rows: int = 300) -> None:
    with closing(sqlite3.connect(at, isolation_level=None)) as db:
        db.execute("CREATE TABLE t (x)")
        db.execute("CREATE INDEX i ON t (x)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t VALUES (?)", [(f"row {n}" * 10,) for n in range(rows)])
        db.execute("COMMIT")


@pytest.fixture
def disk(room: Path) -> Iterator[Disk]:
    made = Disk(room)
    yield made
    made.close()


def stage_all(disk: Disk, name: str = "staging") -> Stage:
    folder = disk.base / f"{name}-{time.monotonic_ns()}"
    folder.mkdir()
    return stage([f for f in disk.scan().changed if f.path != "data"], disk.index, folder)


def test_a_database_that_breaks_keeps_its_last_good_copy_as_stale(disk: Disk) -> None:
    at = disk.root / "x.db"
    make(at)
    disk.learn()
    good = disk.index.get("data/x.db")
    assert good is not None
    whole = at.read_bytes()
    at.write_bytes(BREAKS["a page of zeros"](whole))
    result = stage_all(disk)
    assert (result.staged, result.unreadable) == ([], {})
    assert set(result.stale) == {"data/x.db"}
    [row] = result.same
    assert (row.entry.sha256, row.entry.flag, row.settled) == (good.entry.sha256, "stale", False)
    disk.index.touch(result.same)
    again = stage_all(disk)
    assert (again.staged, again.same, set(again.stale)) == ([], [], {"data/x.db"}), "said each time, written once"
    at.write_bytes(whole)
    mended = stage_all(disk)
    assert [s.entry.flag for s in mended.staged] == [""]
    assert mended.stale == {}


def test_one_that_was_broken_from_the_first_is_kept_as_it_is_and_flagged(disk: Disk) -> None:
    """Its owner may mend it from these bytes; without them there would be none."""
    at = disk.root / "x.db"
    make(at)
    at.write_bytes(BREAKS["cut short"](at.read_bytes()))
    for change in (b"", b"more"):
        with open(at, "ab") as file:
            file.write(change)
        result = stage_all(disk)
        [one] = result.staged
        assert (one.entry.flag, one.entry.sha256) == ("unsettled", hashlib.sha256(at.read_bytes()).hexdigest())
        assert set(result.stale) == {"data/x.db"}
        disk.learn(settled=False)
        disk.index.touch([one.row])


def test_one_that_is_busy_and_was_never_copied_is_not_kept_torn(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    make(disk.root / "x.db")
    monkeypatch.setattr(sqlite, "copy", lambda *_, **__: sqlite.Outcome(False, reason="busy"))
    result = stage_all(disk)
    assert (result.staged, result.same) == ([], [])
    assert "busy" in result.unreadable["data/x.db"]


def test_an_unchanged_database_is_the_same_although_its_log_was_folded_in(disk: Disk) -> None:
    at = disk.root / "x.db"
    with closing(sqlite3.connect(at, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=wal")
        db.execute("CREATE TABLE t AS SELECT 1 AS x")
        first = stage_all(disk)
        [one] = first.staged
        assert one.row.settled is False, "its log was written a moment ago"
        disk.index.touch([one.row])
        assert {f.path for f in disk.scan().changed} == {"data", "data/x.db"}
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        again = stage_all(disk)
        assert isinstance(one.source, Path)
        assert [s.source for s in again.staged if s.entry.sha256 != one.entry.sha256] == []
