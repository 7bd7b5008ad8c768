"""Copies out of the app's reach: small ones in memory or many in one file, each large one a file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat as st
from pathlib import Path

from sidecar.records import record
from sidecar.snapshot.rows import Stat
from sidecar.snapshot.spool import Slice, Spool

SMALL = 64 * 1024
"""A file of no more bytes is read at once, and held in memory or among others in one file."""

IN_MEMORY_TOTAL = 16 * 1024 * 1024
PIECE = 1 << 20
ZEROS = bytes(PIECE)
RESERVE = 64 * 1024 * 1024
"""Bytes of the disk (or a tenth of a small one) that staging leaves to the app."""

FICLONE = 0x40049409  # linux/fs.h


class TooLarge(Exception):
    """One file that there is no room to copy: it waits, and the rest goes on without it."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"no room to copy its {needed:,} bytes: {free:,} are free where SIDECAR_STATE_DIR is")


class Box:
    """The staging folder, and what is held in memory instead."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.memory = folder, 0, 0
        self.spool = Spool(folder / "small")

    def new(self) -> Path:
        self.count += 1
        return self.folder / str(self.count)

    def keep(self, data: bytes) -> bytes | Slice:
        """Hold a small file's bytes. Raises TooLarge, OSError."""
        if self.memory + len(data) <= IN_MEMORY_TOTAL:
            self.memory += len(data)
            return data
        self.require(len(data))
        return self.spool.add(data)

    def require(self, needed: int) -> None:
        """Raise TooLarge where a copy of so many bytes would leave the app too little of the disk."""
        disk = os.statvfs(self.folder)
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        if needed > free - min(RESERVE, total // 10):
            raise TooLarge(needed, free)

    def drop(self, source: bytes | Path | Slice | None) -> None:
        """Let go of a copy that isn't needed after all."""
        if isinstance(source, Path):
            source.unlink(missing_ok=True)
        elif isinstance(source, bytes):
            self.memory -= len(source)


@record(frozen=True, slots=True)
class Copy:
    """``before`` is the opened file's stat; ``after`` is what its *path* led to when it had been read."""

    source: bytes | Path | Slice
    size: int
    sha256: str
    before: Stat
    after: os.stat_result

    @property
    def steady(self) -> bool:
        return self.before == Stat.of(self.after) and self.size == self.after.st_size


def copied(path: str, box: Box) -> Copy:
    """Copy the file at ``path``, or as much of it as there is while somebody writes. Raises TooLarge, OSError."""
    with open(path, "rb", buffering=0, opener=no_follow) as file:
        status = os.fstat(file.fileno())
        if not st.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "it is no file any more", path)
        before = Stat.of(status)
        if before.size <= SMALL:
            data = file.read(SMALL + 1)
            if len(data) <= SMALL:
                after = os.lstat(path)
                return Copy(box.keep(data), len(data), hashlib.sha256(data).hexdigest(), before, after)
        box.require(min(status.st_size, status.st_blocks * 512))
        target = box.new()
        size, digest = _spool(file.fileno(), target)
    try:
        return Copy(target, size, digest, before, os.lstat(path))
    except OSError:
        box.drop(target)
        raise


def no_follow(path: str, flags: int) -> int:
    """Open ``path``, through no link at all. Raises FileNotFoundError where a folder above it has become one."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        reached = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return fd  # no /proc here: nothing tells
    # What was renamed since is another hint's; what was deleted since is told by its stat.
    if reached not in (path, f"{path} (deleted)"):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "a link leads there", path)
    return fd


def _spool(source: int, target: Path) -> tuple[int, str]:
    digest, offset = hashlib.sha256(), 0
    with open(target, "x+b", buffering=0) as out:
        try:
            fcntl.ioctl(out.fileno(), FICLONE, source)
            source, cloned = out.fileno(), True
        except OSError:
            cloned = False
        while piece := os.pread(source, PIECE, offset):
            digest.update(piece)
            offset += len(piece)
            if not cloned and piece == ZEROS:
                out.seek(offset)  # a hole stays one, as far as whole pieces go
                continue
            view = memoryview(piece)
            while view and not cloned:
                view = view[out.write(view) :]
        if not cloned:
            out.truncate(offset)
    return offset, digest.hexdigest()


def hashed(path: Path) -> tuple[int, str]:
    """Size and sha256 of a copy."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()
