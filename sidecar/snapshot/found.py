"""One thing on disk as a scan finds it, and the files that SQLite keeps beside a database."""

from __future__ import annotations

import os
import stat as st
from collections.abc import Container

from sidecar.records import record
from sidecar.snapshot.index import Stat
from sidecar.snapshot.manifest import Kind

SIDE_FILES = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite keeps beside a database; they are no entries, but changes of it."""

SQLITE_MAGIC = b"SQLite format 3\0"


@record(frozen=True, slots=True)
class Found:
    """Something on disk that is to be staged. ``absolute`` is where, ``path`` its name in the snapshot."""

    path: str
    absolute: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    stat: Stat


def found(path: str, absolute: str, status: os.stat_result, siblings: Container[str] | None = None) -> Found | None:
    """What stands at ``absolute``, or None for a socket, a device or a pipe.

    ``siblings`` are the names in its folder, where they are known.
    """
    kind: Kind
    stat = Stat.of(status)
    if st.S_ISREG(status.st_mode):
        kind, stat = "file", database_stat(absolute, stat, siblings)
    elif st.S_ISDIR(status.st_mode):
        kind = "dir"
    elif st.S_ISLNK(status.st_mode):
        kind = "symlink"
    else:
        return None
    return Found(path, absolute, kind, status.st_mode & 0o7777, status.st_uid, status.st_gid, stat)


def database_stat(absolute: str, own: Stat, siblings: Container[str] | None = None) -> Stat:
    """``own`` of a file, together with the write-ahead log or journal beside it where it is a database that has one.

    A database in WAL mode changes without its own file being touched.
    """
    base = os.path.basename(absolute)
    sides = []
    for ending in ("-wal", "-journal"):
        if siblings is not None and base + ending not in siblings:
            continue  # spares a system call for each file of a large folder
        try:
            side = os.lstat(absolute + ending)
        except OSError:
            continue
        if st.S_ISREG(side.st_mode):
            sides.append(side)
    if not sides or not is_database(absolute):
        return own
    return Stat(
        *(own.dev, own.ino, own.size + sum(s.st_size for s in sides)),
        max(own.mtime_ns, *(s.st_mtime_ns for s in sides)),
        own.ctime_ns,  # not the log's: SQLite's own chown of it, when root reads, is no write
    )


def database_of(absolute: str) -> str | None:
    """The database beside which SQLite would keep a file of this name, if there is one."""
    for ending in SIDE_FILES:
        if absolute.endswith(ending) and is_database(absolute[: -len(ending)]):
            return absolute[: -len(ending)]
    return None


def is_database(absolute: str) -> bool:
    """Whether the regular file at ``absolute`` starts as SQLite's format does."""
    try:
        fd = os.open(absolute, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return st.S_ISREG(os.fstat(fd).st_mode) and os.pread(fd, len(SQLITE_MAGIC), 0) == SQLITE_MAGIC
    except OSError:
        return False
    finally:
        os.close(fd)
