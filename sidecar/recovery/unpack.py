"""Taking members out of a bundle's frames into staging, hashed on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

from sidecar.errors import ManifestError
from sidecar.records import record
from sidecar.recovery.tree import Tick
from sidecar.snapshot import bundle
from sidecar.snapshot.found import SQLITE_MAGIC
from sidecar.snapshot.manifest import Entry, Frame

GAP = 256 * 1024
"""Bytes between two wanted parts that are cheaper to fetch than to ask twice."""

MOST_PARTS = 8
LEAST = 1024 * 1024
"""A bundle below this size is fetched whole."""

_HEAD = len(SQLITE_MAGIC)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@record(frozen=True, slots=True)
class Member:
    """A bundled entry whose bytes are to become ``<staging>/<name>`` (their sha256 where it is ""), for so many."""

    entry: Entry
    staging: Path
    uses: int
    name: str = ""

    @property
    def frame(self) -> Frame:
        assert self.entry.frame is not None
        return self.entry.frame


def groups(members: Iterable[Member]) -> list[tuple[Frame, list[Member]]]:
    """``members`` by frame, in the bundle's order."""
    out: dict[Frame, list[Member]] = {}
    for member in members:
        out.setdefault(member.frame, []).append(member)
    return sorted(out.items(), key=lambda item: item[0].offset)


def spans(members: Iterable[Member], size: int) -> list[range]:
    """The few parts of a bundle of ``size`` bytes that hold all of ``members``; none where the whole is no dearer."""
    out: list[range] = []
    for start, stop in sorted({(m.frame.offset, m.frame.offset + m.frame.length) for m in members}):
        if out and start <= out[-1].stop + GAP:
            out[-1] = range(out[-1].start, max(out[-1].stop, stop))
        else:
            out.append(range(start, stop))
    worth = size >= LEAST and len(out) <= MOST_PARTS and 2 * sum(map(len, out)) <= size
    return out if worth and out[-1].stop <= size else []


class Unpacker:
    """Reads frames of the file ``packed``.

    ``bad``: what is wrong with members that aren't as they should be, by path. ``databases``: of the others, by
    sha256, whether they start as SQLite's files do. ``done`` is called with files and bytes of what was verified.
    Raises OSError. For one thread.
    """

    def __init__(self, packed: Path, done: Callable[[int, int], None], tick: Tick) -> None:
        self._fd = os.open(packed, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._done, self._tick = done, tick
        self._folders: dict[Path, int] = {}
        self.bad: dict[str, str] = {}
        self.databases: dict[str, bool] = {}

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (self._fd, *self._folders.values()):
            os.close(fd)

    def frame(self, frame: Frame, members: list[Member]) -> None:
        """Take ``members`` out of one frame; no other member is looked at."""
        left = {m.entry.path: m for m in members}
        why = "it isn't where its bundle should hold it"
        files = size = 0  # told once: ten thousand times would show
        self._tick()
        try:
            for entry, pieces in bundle.read(self._fd, frame, {p: m.entry for p, m in left.items()}):
                member = left.pop(entry.path, None)
                if member is not None and self._member(member, pieces):
                    files += member.uses
                    size += member.uses * entry.size
        except ManifestError as error:
            why = error.message
        self.count(files, size)
        self.bad.update(dict.fromkeys(left, why))

    def count(self, files: int, size: int) -> None:
        """So much more was verified."""
        self._done(files, size)

    def _member(self, member: Member, pieces: bundle.Pieces) -> bool:
        """Stage one; whether it is what was committed."""
        entry = member.entry
        total, head = sha256(), b""
        folder = self._folder(member.staging)
        name = member.name or entry.sha256
        fd = _new(name, folder)
        try:
            for piece in pieces:
                total.update(piece)
                if len(head) < _HEAD:
                    head += piece[:_HEAD]
                written = os.write(fd, piece)
                while written < len(piece):
                    written += os.write(fd, piece[written:])
                if entry.size > LEAST:
                    self._tick()
            good = total.hexdigest() == entry.sha256
            if good and member.uses == 1:
                _dress(fd, entry)
        finally:
            os.close(fd)
        if good:
            self.databases[entry.sha256] = head == SQLITE_MAGIC
        else:
            os.unlink(name, dir_fd=folder)
            self.bad[entry.path] = "its bundle holds other bytes than were committed"
        return good

    def _folder(self, staging: Path) -> int:
        """Names are looked up from here: ten thousand times the whole way down would show."""
        if (fd := self._folders.get(staging)) is None:
            fd = self._folders[staging] = os.open(staging, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return fd


def _new(name: str, folder: int) -> int:
    try:
        return os.open(name, _NEW, 0o600, dir_fd=folder)
    except FileExistsError:  # half of it, of whoever was at it before; its mode may be one that nobody writes to
        os.unlink(name, dir_fd=folder)
        return os.open(name, _NEW, 0o600, dir_fd=folder)


def _dress(fd: int, entry: Entry) -> None:
    """Mode and time while the file is open anyway: what it can't have, or we couldn't read then, comes later."""
    try:
        if entry.mode != 0o600 and entry.mode & 0o400:
            os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
    except (OSError, OverflowError):
        pass
