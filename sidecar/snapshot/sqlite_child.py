"""The child that copies one SQLite database: ``python -I -S sqlite_child.py SOURCE TARGET SECONDS``.

Ends with 0 (the copy is whole), or with another number (below, else 1) and the reason as the last line of stderr.
It imports nothing of the package, so that it starts in milliseconds, and never writes beside the source.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import time
from urllib.parse import quote

GONE, NO_ROOM, DAMAGED = 3, 4, 5


class Busy(Exception):
    """No gap was found; the database may be fine."""


class Unsound(Exception):
    """SQLite opens the copy, and finds it broken."""


def main(source: str, target: str, seconds: float) -> int:
    try:
        if os.path.exists(source + "-wal") and os.path.exists(source + "-shm"):
            online(source, target, seconds)
        else:
            in_a_gap(source, target, seconds)
        check(target)
    except (Busy, Unsound, OSError, sqlite3.Error) as error:
        print(error, file=sys.stderr)
        return verdict(error) if os.path.exists(source) else GONE
    return 0


def verdict(error: Exception) -> int:
    if isinstance(error, OSError):
        return NO_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1
    code = getattr(error, "sqlite_errorcode", None)
    kind = code & 0xFF if isinstance(code, int) else None
    if kind == sqlite3.SQLITE_FULL:
        return NO_ROOM
    return DAMAGED if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(error, Unsound) else 1


def uri(path: str, mode: str) -> str:
    return f"file:{quote(os.fsencode(path))}?mode={mode}"


def online(source: str, target: str, seconds: float) -> None:
    """The online backup in one step, so under one read transaction: in WAL mode it blocks no writer."""
    until = time.monotonic() + seconds
    with open(target, "xb"):
        pass
    reader = sqlite3.connect(uri(source, "ro"), uri=True, timeout=seconds, isolation_level=None)
    writer = sqlite3.connect(uri(target, "rw"), uri=True, isolation_level=None)

    def progress(status: int, remaining: int, total: int) -> None:
        # Python's backup() retries a locked source for ever unless this raises.
        if remaining and time.monotonic() > until:
            raise Busy("the database stayed locked")

    try:
        writer.execute("PRAGMA synchronous=OFF")
        reader.backup(writer, pages=-1, progress=progress, sleep=0.05)
    finally:
        writer.close()
        reader.close()


def in_a_gap(source: str, target: str, seconds: float) -> None:
    """Copy database and journal raw between two writes, without any lock; SQLite then recovers the copy."""
    until = time.monotonic() + seconds
    pause = 0.002
    while True:
        if os.path.exists(source + "-wal") and os.path.exists(source + "-shm"):
            return online(source, target, max(until - time.monotonic(), 0.5))
        for ending in ("", "-journal", "-wal"):
            if os.path.exists(target + ending):
                os.unlink(target + ending)
        before = fingerprint(source)
        copy(source, target)
        for ending in ("-journal", "-wal"):
            try:
                copy(source + ending, target + ending)
            except FileNotFoundError:
                pass
        if fingerprint(source) == before:
            return None
        if time.monotonic() > until:
            raise Busy("it was written without a pause while it was copied")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def fingerprint(source: str) -> tuple[object, ...]:
    """What would differ if the database had been written: stat, change counter, and the journal's stat and head."""
    out: list[object] = []
    for ending in ("", "-journal", "-wal"):
        try:
            fd = os.open(source + ending, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if not ending:
                raise
            out.append(None)
            continue
        try:
            s = os.fstat(fd)
            out.append((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, os.pread(fd, 100, 0)))
        finally:
            os.close(fd)
    return tuple(out)


def copy(source: str, target: str) -> None:
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with open(target, "xb", buffering=0) as out:
            offset = 0
            while piece := os.pread(fd, 1 << 20, offset):
                view = memoryview(piece)
                while view:
                    view = view[out.write(view) :]
                offset += len(piece)
    finally:
        os.close(fd)


def check(target: str) -> None:
    """Open the copy, which lets SQLite roll a hot journal back or a log forward, and read it through."""
    db = sqlite3.connect(uri(target, "rw"), uri=True, isolation_level=None)
    try:
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise Unsound(f"quick_check of the copy says: {found}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        db.close()
    for ending in ("-journal", "-wal", "-shm"):
        if os.path.exists(target + ending):
            os.unlink(target + ending)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
