"""Staging: the bytes of one moment, copied out of the app's reach before anything is sent.

Each file is stat'ed, copied and stat'ed again; what moved meanwhile is copied once more, at most three times, and then
goes in as ``unsettled``. Whether a whole folder held still meanwhile is for the survey to see, which looks again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat as st
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidecar.records import record
from sidecar.snapshot import captures, sqlite, sqlite_files
from sidecar.snapshot.captures import Capture, Captures
from sidecar.snapshot.found import SQLITE_MAGIC, Found, database_stat
from sidecar.snapshot.index import Index, Row, Stat, clamp
from sidecar.snapshot.manifest import Entry, Flag
from sidecar.snapshot.spool import Slice, Spool

TRIES = 3
SETTLE_NS = 2_000_000_000
SMALL = 64 * 1024
"""A file of no more bytes is read at once, and held in memory or among others in one file."""

IN_MEMORY_TOTAL = 16 * 1024 * 1024
PIECE = 1 << 20
ZEROS = bytes(PIECE)
RESERVE = 64 * 1024 * 1024
"""Bytes of the disk (or a tenth of a small one) that staging leaves to the app."""

FICLONE = 0x40049409  # linux/fs.h
CHANGED_KIND = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""How opening a file fails where something else, or nothing, stands there since the scan."""


@record(frozen=True, slots=True)
class Staged:
    """An entry with its bytes: in memory, in a file of the staging folder, or none (folders, links, old bytes)."""

    row: Row
    source: bytes | Path | Slice | None

    @property
    def entry(self) -> Entry:
        return self.row.entry


@dataclass(slots=True)
class Stage:
    """What came of staging: what to put, what is the same as before after all, and what couldn't be had."""

    staged: list[Staged] = field(default_factory=list)
    same: list[Row] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    roomless: set[str] = field(default_factory=set)  # which of those only wait for disk space
    vanished: list[str] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)
    databases: set[str] = field(default_factory=set)
    paced: dict[str, float] = field(default_factory=dict)  # large databases -> seconds until they are copied again


class NoRoom(OSError):
    """The staging folder's filesystem is full: nothing was staged, nothing was lost."""


def stage(found: Iterable[Found], index: Index, folder: Path, *, force: bool = False, paced: bool = False) -> Stage:
    """Copy what a scan found into ``folder`` (private, empty). Raises NoRoom. Blocks.

    With ``force`` what is unchanged is staged too. With ``paced`` large databases, and those that must be locked, are
    copied now and then only: each of these copies weighs on the app.
    """
    out, box = Stage(), _Box(folder, Captures(index), paced)
    try:
        for item in found:
            _one(out, item, index, box, force)
    finally:
        box.spool.close()
        box.captures.save()
    return out


class _TooLarge(Exception):
    """One file that there is no room to copy: it waits, and the rest goes on without it."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"no room to copy its {needed:,} bytes: {free:,} are free where SIDECAR_STATE_DIR is")


class _Box:
    """The staging folder, and what is held in memory instead."""

    def __init__(self, folder: Path, captures: Captures, paced: bool) -> None:
        self.folder, self.count, self.memory = folder, 0, 0
        self.spool = Spool(folder / "small")
        self.captures, self.paced = captures, paced

    def new(self) -> Path:
        self.count += 1
        return self.folder / str(self.count)

    def keep(self, data: bytes) -> bytes | Slice:
        """Hold a small file's bytes. Raises _TooLarge, OSError."""
        if self.memory + len(data) <= IN_MEMORY_TOTAL:
            self.memory += len(data)
            return data
        self.require(len(data))
        return self.spool.add(data)

    def require(self, needed: int) -> None:
        """Raise _TooLarge where a copy of so many bytes would leave the app too little of the disk."""
        disk = os.statvfs(self.folder)
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        if needed > free - min(RESERVE, total // 10):
            raise _TooLarge(needed, free)

    def drop(self, source: bytes | Path | Slice | None) -> None:
        """Let go of a copy that isn't needed after all."""
        if isinstance(source, Path):
            source.unlink(missing_ok=True)
        elif isinstance(source, bytes):
            self.memory -= len(source)


@record(frozen=True, slots=True)
class _Copy:
    """``before`` is the opened file's stat; ``after`` is what its *path* led to when it had been read."""

    source: bytes | Path | Slice
    size: int
    sha256: str
    before: Stat
    after: os.stat_result

    @property
    def steady(self) -> bool:
        return self.before == Stat.of(self.after) and self.size == self.after.st_size


def _one(out: Stage, found: Found, index: Index, box: _Box, force: bool) -> None:
    old = index.get(found.path)
    base = Entry(found.path, found.kind, found.mode, found.uid, found.gid, found.stat.mtime_ns)
    try:
        if found.kind == "dir":
            out.staged.append(Staged(Row(base, found.stat), None))
        elif found.kind == "symlink":
            entry = replace(base, target=os.readlink(found.absolute))
            _settle(out, Staged(Row(entry, found.stat), None), old, box, force)
        elif _starts_as_database(found.absolute):
            _database(out, base, found, old, box, force)
        else:
            _file(out, base, found, old, box, force)
    except _TooLarge as error:
        out.unreadable[found.path] = str(error)
        out.roomless.add(found.path)
    except OSError as error:
        if error.errno in CHANGED_KIND or (error.errno == errno.EINVAL and found.kind == "symlink"):
            out.vanished.append(found.path)
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename != found.absolute:
            raise NoRoom(error.errno, "no space left for staging", str(box.folder)) from error
        out.unreadable[found.path] = error.strerror or type(error).__name__


def _starts_as_database(path: str) -> bool:
    fd = _no_follow(path, os.O_RDONLY)
    try:
        return st.S_ISREG(os.fstat(fd).st_mode) and os.pread(fd, len(SQLITE_MAGIC), 0) == SQLITE_MAGIC
    finally:
        os.close(fd)


def _file(out: Stage, base: Entry, found: Found, old: Row | None, box: _Box, force: bool, *, flag: Flag = "") -> None:
    copy = _copy(found.absolute, box)
    for _ in range(TRIES - 1):
        if copy.steady:
            break
        box.drop(copy.source)
        copy = _copy(found.absolute, box)
    status = copy.after
    entry = replace(
        base,
        mode=status.st_mode & 0o7777,
        uid=status.st_uid,
        gid=status.st_gid,
        size=copy.size,
        sha256=copy.sha256,
        mtime_ns=clamp(status.st_mtime_ns),
        flag=flag if copy.steady else "unsettled",
    )
    row = Row(entry, Stat.of(status), _settled(status.st_ctime_ns) and not entry.flag)
    _settle(out, Staged(row, copy.source), old, box, force)


def _settled(ctime_ns: int, log_mtime_ns: int | None = None) -> bool:
    """Whether a write after our look must show in the stat: one within the same tick of the clock may not.

    A database's log is written without the database's own ctime moving, but anybody may set a time of mtime's kind.
    """
    now = time.time_ns()
    return now - ctime_ns > SETTLE_NS and (log_mtime_ns is None or abs(now - log_mtime_ns) > SETTLE_NS)


def _settle(out: Stage, staged: Staged, old: Row | None, box: _Box, force: bool) -> None:
    """Put it in, or find that nothing but its stat has changed, or nothing but its metadata."""
    e = staged.entry
    if old is not None and not force:
        if replace(old.entry, frame=None) == e:
            box.drop(staged.source)
            out.same.append(replace(staged.row, entry=old.entry))
            return
        if e.kind == "file" == old.entry.kind and (e.sha256, e.size) == (old.entry.sha256, old.entry.size):
            box.drop(staged.source)
            staged = Staged(replace(staged.row, entry=replace(e, frame=old.entry.frame)), None)
    out.staged.append(staged)


def _copy(path: str, box: _Box) -> _Copy:
    with open(path, "rb", buffering=0, opener=_no_follow) as file:
        status = os.fstat(file.fileno())
        if not st.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "it is no file any more", path)
        before = Stat.of(status)
        if before.size <= SMALL:
            data = file.read(SMALL + 1)
            if len(data) <= SMALL:
                after = os.lstat(path)
                return _Copy(box.keep(data), len(data), hashlib.sha256(data).hexdigest(), before, after)
        box.require(min(status.st_size, status.st_blocks * 512))
        target = box.new()
        size, digest = _spool(file.fileno(), target)
    try:
        return _Copy(target, size, digest, before, os.lstat(path))
    except OSError:
        box.drop(target)
        raise


def _no_follow(path: str, flags: int) -> int:
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


def _database(out: Stage, base: Entry, found: Found, old: Row | None, box: _Box, force: bool) -> None:
    before = database_stat(found.absolute, Stat.of(os.lstat(found.absolute)))
    out.databases.add(found.path)
    now, holds = time.monotonic(), sqlite_files.state(found.absolute)
    known = box.captures.get(found.path)
    durable = old if old is not None and old.entry.kind == "file" and old.entry.flag != "unsettled" else None
    settled = _settled(before.ctime_ns, before.mtime_ns)
    if durable is not None and not force and known.sha256 == durable.entry.sha256:
        # A checkpoint moves its times without changing what it holds: no reason for a commit.
        as_it_was = replace(base, size=durable.entry.size, sha256=known.sha256, mtime_ns=durable.entry.mtime_ns)
        if holds and holds == known.state:
            _settle(out, Staged(Row(as_it_was, before, settled), None), old, box, force)
            return
        wait = captures.wait_s(known, durable.entry.sha256, before.size, now) if box.paced else 0.0
        if wait:
            out.paced[found.path] = wait
            return
    box.require(before.size)
    target = box.new()
    lock = not box.paced or durable is None or captures.may_lock(known, now, sqlite.GAP_S)
    outcome = sqlite.copy(found.absolute, target, lock=lock)
    box.captures.put(found.path, replace(known, tried=now))
    if outcome.ok:
        size, digest = _hash(target)
        if not _starts_as_database(found.absolute):
            raise FileNotFoundError(errno.ENOENT, "it is no database any more", found.absolute)
        mtime_ns = before.mtime_ns
        if durable is not None and durable.entry.sha256 == digest:
            mtime_ns = durable.entry.mtime_ns
        entry = replace(base, size=size, sha256=digest, mtime_ns=mtime_ns)
        still = holds if holds == sqlite_files.state(found.absolute) else ""
        box.captures.put(found.path, Capture(digest, still, time.monotonic(), now))
        _settle(out, Staged(Row(entry, before, settled), target), old, box, force)
    elif outcome.vanished:
        out.vanished.append(found.path)
    elif outcome.no_room:
        raise OSError(errno.ENOSPC, "no space left for staging", str(target))
    elif durable is not None:
        out.stale[found.path] = outcome.reason
        if durable.entry.flag != "stale":
            out.same.append(replace(durable, entry=replace(durable.entry, flag="stale"), settled=False))
    elif outcome.damaged:
        # No good copy was ever had: its bytes as they are may be all that its owner can mend it from.
        out.stale[found.path] = outcome.reason
        _file(out, base, found, old, box, force, flag="unsettled")
    else:
        out.stale[found.path] = outcome.reason
        out.unreadable[found.path] = f"the database can't be copied whole yet: {outcome.reason}"


def _hash(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()
