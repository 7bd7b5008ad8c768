"""Staging: the bytes of one moment, copied out of the app's reach before anything is sent.

Each file is stat'ed, copied and stat'ed again; what moved meanwhile is copied once more, at most three times, and then
goes in as ``unsettled``. Whether a whole folder held still meanwhile is for the survey to see, which looks again.
"""

from __future__ import annotations

import errno
import os
import stat as st
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidecar.records import record
from sidecar.snapshot import captures, sqlite, sqlite_files
from sidecar.snapshot.captures import Capture, Captures
from sidecar.snapshot.copies import Box, TooLarge, copied, hashed, no_follow
from sidecar.snapshot.found import SQLITE_MAGIC, Found, database_stat
from sidecar.snapshot.index import Index, Row, Stat, clamp
from sidecar.snapshot.manifest import Entry, Flag
from sidecar.snapshot.spool import Slice

TRIES = 3
SETTLE_NS = 2_000_000_000
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
    out, box = Stage(), _Desk(folder, Captures(index), paced)
    try:
        for item in found:
            _one(out, item, index, box, force)
    finally:
        box.spool.close()
        box.captures.save()
    return out


class _Desk(Box):
    """With what earlier copies of databases came to; ``paced`` as in ``stage``."""

    def __init__(self, folder: Path, captures: Captures, paced: bool) -> None:
        super().__init__(folder)
        self.captures, self.paced = captures, paced


def _one(out: Stage, found: Found, index: Index, box: _Desk, force: bool) -> None:
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
    except TooLarge as error:
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
    fd = no_follow(path, os.O_RDONLY)
    try:
        return st.S_ISREG(os.fstat(fd).st_mode) and os.pread(fd, len(SQLITE_MAGIC), 0) == SQLITE_MAGIC
    finally:
        os.close(fd)


def _file(out: Stage, base: Entry, found: Found, old: Row | None, box: _Desk, force: bool, *, flag: Flag = "") -> None:
    copy = copied(found.absolute, box)
    for _ in range(TRIES - 1):
        if copy.steady:
            break
        box.drop(copy.source)
        copy = copied(found.absolute, box)
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


def _settle(out: Stage, staged: Staged, old: Row | None, box: _Desk, force: bool) -> None:
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


def _database(out: Stage, base: Entry, found: Found, old: Row | None, box: _Desk, force: bool) -> None:
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
        size, digest = hashed(target)
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
