"""Staging: the bytes of one moment, copied out of the app's reach before anything is sent.

Each file is stat'ed, copied and stat'ed again; what moved meanwhile is copied once more, at most three times, and then
goes in as ``unsettled``. After all of a sync is staged the files are looked at once more, so that a folder that is
written as a unit is captured as one or flagged.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidecar.snapshot import sqlite
from sidecar.snapshot.index import Index, Row, Stat
from sidecar.snapshot.manifest import Entry, Flag
from sidecar.snapshot.scan import SQLITE_MAGIC, Found, database_stat

TRIES = 3
SETTLE_NS = 2_000_000_000
IN_MEMORY = 64 * 1024
IN_MEMORY_TOTAL = 16 * 1024 * 1024
PIECE = 1 << 20
FICLONE = 0x40049409  # linux/fs.h


@dataclass(frozen=True, slots=True)
class Staged:
    """An entry with its bytes: in memory, in a file of the staging folder, or none (folders, links, old bytes)."""

    row: Row
    source: bytes | Path | None

    @property
    def entry(self) -> Entry:
        return self.row.entry


@dataclass(slots=True)
class Stage:
    """What came of staging: what to put, what is the same as before after all, and what couldn't be had."""

    staged: list[Staged] = field(default_factory=list)
    same: list[Row] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)
    databases: set[str] = field(default_factory=set)


class NoRoom(OSError):
    """The staging folder's filesystem is full: nothing was staged, nothing was lost."""


def stage(found: Iterable[Found], index: Index, folder: Path, *, force: bool = False) -> Stage:
    """Copy what a scan found into ``folder`` (private, empty). Raises NoRoom. Blocks.

    With ``force`` what is unchanged is staged too.
    """
    out, box = Stage(), _Box(folder)
    waiting = list(found)
    for _ in range(TRIES):
        for item in waiting:
            _one(out, item, index, box, force)
        waiting = _moved(out, {item.path: item for item in waiting})
    for item in waiting:
        _one(out, item, index, box, force)
    restless = {item.path for item in _moved(out, {item.path: item for item in waiting}, drop=False)}
    out.staged = [_unsettled(s) if s.entry.path in restless else s for s in out.staged]
    return out


def _unsettled(staged: Staged) -> Staged:
    entry = replace(staged.entry, flag="unsettled")
    return replace(staged, row=replace(staged.row, entry=entry, settled=False))


def _moved(out: Stage, looked_at: dict[str, Found], drop: bool = True) -> list[Found]:
    """Those of ``looked_at`` that changed since they were staged; with ``drop``, taken out to be staged again.

    A database is consistent in itself and may be written without a pause: it isn't waited for.
    """
    again: dict[str, Found] = {}
    for staged in out.staged:
        e, found = staged.entry, looked_at.get(staged.entry.path)
        if found is None or e.kind != "file" or e.path in out.databases:
            continue
        try:
            status = os.lstat(found.absolute)
        except OSError:
            again[e.path] = found
            continue
        if Stat.of(status) != staged.row.stat:
            again[e.path] = replace(
                found,
                mode=status.st_mode & 0o7777,
                uid=status.st_uid,
                gid=status.st_gid,
                stat=Stat.of(status),
            )
    if drop and again:
        out.staged = [s for s in out.staged if s.entry.path not in again]
    return list(again.values())


class _Box:
    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.memory = folder, 0, 0

    def new(self) -> Path:
        self.count += 1
        return self.folder / str(self.count)


def _one(out: Stage, found: Found, index: Index, box: _Box, force: bool) -> None:
    old = index.get(found.path)
    base = Entry(found.path, found.kind, found.mode, found.uid, found.gid, found.stat.mtime_ns)
    try:
        if found.kind == "dir":
            out.staged.append(Staged(Row(base, found.stat), None))
            return
        if found.kind == "symlink":
            entry = replace(base, target=os.readlink(found.absolute))
            _settle(out, Staged(Row(entry, found.stat), None), old, force)
            return
        _file(out, base, found, old, box, force)
    except FileNotFoundError:
        out.vanished.append(found.path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename != found.absolute:
            raise NoRoom(error.errno, "no space left for staging", str(box.folder)) from error
        out.unreadable[found.path] = error.strerror or type(error).__name__


def _file(out: Stage, base: Entry, found: Found, old: Row | None, box: _Box, force: bool) -> None:
    fd = os.open(found.absolute, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        head = os.pread(fd, 16, 0)
    finally:
        os.close(fd)
    if head == SQLITE_MAGIC:
        _database(out, base, found, old, box, force)
        return
    for _ in range(TRIES):
        source, size, digest, before, after = _copy(found.absolute, box)
        if before == after and size == after.size:
            break
    flag: Flag = "" if before == after else "unsettled"
    entry = replace(base, size=size, sha256=digest, mtime_ns=after.mtime_ns, flag=flag)
    _settle(out, Staged(_row(entry, after), source), old, force)


def _row(entry: Entry, stat: Stat) -> Row:
    return Row(entry, stat, settled=time.time_ns() - stat.ctime_ns > SETTLE_NS and not entry.flag)


def _settle(out: Stage, staged: Staged, old: Row | None, force: bool) -> None:
    """Put it in, or find that nothing but its stat has changed, or nothing but its metadata."""
    e = staged.entry
    if old is not None and not force:
        if replace(old.entry, frame=None) == e:
            out.same.append(replace(staged.row, entry=old.entry))
            return
        if e.kind == "file" == old.entry.kind and (e.sha256, e.size) == (old.entry.sha256, old.entry.size):
            staged = Staged(replace(staged.row, entry=replace(e, frame=old.entry.frame)), None)
    out.staged.append(staged)


def _copy(path: str, box: _Box) -> tuple[bytes | Path, int, str, Stat, Stat]:
    """One copy: its bytes, size and sha256, and the file's stat before and after (of the *path*, after)."""
    with open(path, "rb", buffering=0, opener=_no_follow) as file:
        before = Stat.of(os.fstat(file.fileno()))
        if before.size <= IN_MEMORY and box.memory + before.size <= IN_MEMORY_TOTAL:
            data = file.read(IN_MEMORY + 1) or b""
            if len(data) <= IN_MEMORY:
                box.memory += len(data)
                return data, len(data), hashlib.sha256(data).hexdigest(), before, Stat.of(os.lstat(path))
            file.seek(0)
        target = box.new()
        size, digest = _spool(file.fileno(), target)
    return target, size, digest, before, Stat.of(os.lstat(path))


def _no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _spool(source: int, target: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with open(target, "xb", buffering=0) as out:
        try:
            fcntl.ioctl(out.fileno(), FICLONE, source)
            source = os.dup(out.fileno())
            cloned = True
        except OSError:
            cloned = False
        try:
            offset = 0
            while piece := os.pread(source, PIECE, offset):
                digest.update(piece)
                offset += len(piece)
                if not cloned:
                    view = memoryview(piece)
                    while view:
                        view = view[out.write(view) :]
            size = offset
        finally:
            if cloned:
                os.close(source)
    return size, digest.hexdigest()


def _database(out: Stage, base: Entry, found: Found, old: Row | None, box: _Box, force: bool) -> None:
    target = box.new()
    out.databases.add(found.path)
    before = database_stat(found.absolute, Stat.of(os.lstat(found.absolute)))
    outcome = sqlite.copy(found.absolute, target)
    if outcome.ok:
        size, digest = _hash(target)
        entry = replace(base, size=size, sha256=digest, mtime_ns=before.mtime_ns)
        _settle(out, Staged(_row(entry, before), target), old, force)
    elif outcome.vanished:
        out.vanished.append(found.path)
    elif old is not None and old.entry.kind == "file":
        out.stale[found.path] = outcome.reason
        if old.entry.flag != "stale":
            out.same.append(Row(replace(old.entry, flag="stale"), old.stat, settled=False))
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
