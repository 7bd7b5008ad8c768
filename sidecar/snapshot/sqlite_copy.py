"""The bytes of a database's files, copied as they are: as a clone where the filesystem can."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from sidecar.snapshot import sqlite_files as files

PIECE = 1 << 19
FICLONE = 0x40049409  # linux/fs.h


class Busy(Exception):
    """No moment was found; the database may be fine."""


class Moved(Exception):
    """It isn't as it was a moment ago: look anew."""


def clear(target: str) -> None:
    """Remove what an earlier try left of a copy."""
    for ending in ("", "-journal", "-wal", "-shm"):
        if os.path.exists(target + ending):
            os.unlink(target + ending)


def copy_file(source: str, target: str, guard: Callable[[], None]) -> None:
    with files.opened(source) as fd:
        copy(fd, target, guard)


def copy(fd: int, target: str, guard: Callable[[], None], length: int | None = None) -> None:
    """Copy all of ``fd``, or its first ``length`` bytes, to the new file ``target``; ``guard`` may raise to end it."""
    with open(target, "xb", buffering=0) as out:
        pour(fd, out.fileno(), guard, length)


def pour(fd: int, out: int, guard: Callable[[], None], length: int | None = None) -> None:
    if length is None:
        try:
            fcntl.ioctl(out, FICLONE, fd)
            return
        except OSError:
            pass
    piece, offset = memoryview(bytearray(PIECE)), 0
    while length is None or offset < length:
        got = os.preadv(fd, [piece[: PIECE if length is None else min(PIECE, length - offset)]], offset)
        if not got:
            return
        done = 0
        while done < got:
            done += os.write(out, piece[done:got])
        offset += got
        guard()
