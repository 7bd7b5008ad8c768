"""What several passes over the roots staged: the newest copy of each file, and which of them never held still."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidecar.snapshot.found import Found
from sidecar.snapshot.index import Index, Row
from sidecar.snapshot.stage import Staged, stage

AGAIN_MOST = 64 * 1024 * 1024
"""A file of more bytes is copied once: it may be a log that is never still."""

TICK_NS = 20_000_000
"""Two writes that are no further apart may leave the same time: kernels count in ticks of up to 10 ms."""

STEPPED_NS = 1_000_000_000
"""A time that lies further ahead is of a clock that was set back since: waiting for it is no use."""

UNPROVEN = ()
"""The sight of what must be staged again: no later stat can tell that it stayed as it was copied."""


@dataclass(slots=True)
class Staging:
    """By path, what is staged, what is as it was after all, and what couldn't be had. ``folder`` is private, empty.

    ``torn`` are the folders in which something came or went that isn't staged.
    """

    index: Index
    folder: Path
    paced: bool = False
    staged: dict[str, Staged] = field(default_factory=dict)
    same: dict[str, Row] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)
    deferred: dict[str, float] = field(default_factory=dict)  # large databases -> seconds until they are due
    roomless: set[str] = field(default_factory=set)
    torn: set[str] = field(default_factory=set)
    _sights: dict[str, tuple[object, ...] | None] = field(default_factory=dict)
    _passes: int = 0

    def add(self, changed: list[Found]) -> bool:
        """Stage what of ``changed`` isn't staged as it is now, let go of what isn't in it; whether there was any."""
        fresh = [here for here in changed if not self._done(here)]
        left = {here.path for here in changed} - {here.path for here in fresh}
        for path in self.staged.keys() - left:
            source = self.staged[path].source
            if isinstance(source, Path):
                source.unlink(missing_ok=True)
        for kept in (self.staged, self.same, self.unreadable, self.stale, self.deferred, self._sights):
            for path in kept.keys() - left:
                del kept[path]
        self.roomless &= left
        self._passes += 1
        folder = self.folder / str(self._passes)
        folder.mkdir(parents=True)
        _rest(fresh)
        began = time.time_ns()
        result = stage(fresh, self.index, folder, paced=self.paced)
        self.staged.update((s.entry.path, s) for s in result.staged)
        self.same.update((row.entry.path, row) for row in result.same)
        self.unreadable.update(result.unreadable)
        self.stale.update(result.stale)
        self.deferred.update(result.paced)
        self.roomless |= result.roomless
        self._sights.update((here.path, _sight(here)) for here in fresh if here.path in result.unreadable)
        self._sights.update((row.entry.path, _sight_of(row, began)) for row in result.same)
        self._sights.update((s.entry.path, _sight_of(s.row, began)) for s in result.staged)
        # A database is consistent in itself and may be written without a pause; so may what can't be copied in one go.
        self._sights.update(dict.fromkeys(result.databases))
        self._sights.update((s.entry.path, None) for s in result.staged if s.entry.flag and s.entry.size > AGAIN_MOST)
        return bool(fresh)

    def flag(self, changed: Iterable[Found], other: Iterable[str], folders: Iterable[str]) -> None:
        """What moved once more goes in as it was staged last, as ``unsettled``.

        ``other`` came or went since it was looked for; in ``folders`` something may have come and gone.
        """
        for here in changed:
            if self._done(here, much=True):
                continue
            staged = self.staged.get(here.path)
            if staged is not None and staged.entry.kind == "file":
                self.staged[here.path] = _unsettled(staged)
            else:
                self.torn.add(here.path if here.kind == "dir" else _above(here.path))
        self.torn.update(map(_above, other))
        self.torn.update(folders)

    def _done(self, here: Found, much: bool = False) -> bool:
        if here.path not in self._sights:
            return False
        sight = self._sights[here.path]
        if sight is None or sight == _sight(here):
            return True
        staged = self.staged.get(here.path)
        if much or staged is None or staged.entry.size <= AGAIN_MOST or here.kind != "file":
            return False
        self.staged[here.path] = _unsettled(staged)
        return True


def _sight(here: Found) -> tuple[object, ...]:
    return here.kind, here.mode, here.uid, here.gid, None if here.kind == "dir" else here.stat


def _sight_of(row: Row, began: int) -> tuple[object, ...]:
    e = row.entry
    if e.flag == "unsettled" or (e.kind == "file" and row.stat is not None and recent(row.stat.ctime_ns, began)):
        return UNPROVEN
    return e.kind, e.mode, e.uid, e.gid, None if e.kind == "dir" else row.stat


def recent(ctime_ns: int, now: int) -> bool:
    """Whether what changes after ``now`` (ns) may have this very ctime."""
    return now - TICK_NS < ctime_ns <= now + STEPPED_NS


def _rest(fresh: Iterable[Found]) -> None:
    """Let what was written just now grow old enough for its stat to tell of the next write."""
    now = time.time_ns()
    newest = max((here.stat.ctime_ns for here in fresh if here.kind == "file"), default=0)
    if recent(newest, now):
        time.sleep(TICK_NS / 1e9)


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _unsettled(staged: Staged) -> Staged:
    entry = replace(staged.entry, flag="unsettled")
    return replace(staged, row=replace(staged.row, entry=entry, settled=False))


def marked(staged: Staged) -> Staged:
    """As it was staged, of what can't be read any more."""
    entry = replace(staged.entry, flag="unreadable")
    return replace(staged, row=replace(staged.row, entry=entry, settled=False))


def is_news(index: Index, staged: Staged) -> bool:
    """A folder whose time alone differs, or a row that is what it was, is no news."""
    old = index.get(staged.entry.path)
    if old is None:
        return True
    a, b = old.entry, staged.entry
    return replace(a, mtime_ns=0, frame=None) != replace(b, mtime_ns=0, frame=None) or (
        a.kind != "dir" and a.mtime_ns != b.mtime_ns
    )
