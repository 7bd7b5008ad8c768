"""The objects of a folder store: named by the sha256 of their bytes, written once, never changed.

``contents/ab/cdef…`` holds the bytes of files, ``trees`` and ``revisions`` what is known about them. An
object gets its name only when its bytes are on the disk, so whatever has a name is whole; every reader checks
that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from sidecar.masking import shown
from sidecar.stores import disk
from sidecar.stores.base import Corrupt, StoreError
from sidecar.stores.disk import Alive

Kind = Literal["contents", "trees", "revisions"]
KINDS: tuple[Kind, ...] = ("contents", "trees", "revisions")
Key = tuple[Kind, str]
"""One object: its kind and the sha256 of its bytes, in hex."""

_SHA = re.compile(r"[0-9a-f]{64}")
_OPEN_AT_ONCE = 64
_DELETIONS_AT_ONCE = 5000


def is_id(text: str) -> bool:
    """Can ``text`` be the id of an object?"""
    return _SHA.fullmatch(text) is not None


class Vanished(Exception):
    """An object that was there when we looked has been pruned since: begin again."""


class Objects:
    """All objects below one folder. Reading takes no lock; whatever renames or deletes wants the store's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tmp = root / "tmp"
        self.trash = root / "trash"

    def path(self, key: Key) -> Path:
        kind, oid = key
        return self.root / kind / oid[:2] / oid[2:]

    def has(self, key: Key) -> bool:
        return self.path(key).exists()

    def open(self, key: Key) -> FileIO | None:
        """The object for reading, also from the trash: who began to read before a ``compact`` can finish."""
        for _ in range(2):  # it may have moved between our two looks
            for path in (self.path(key), *self._trashed(key)):
                with contextlib.suppress(FileNotFoundError):
                    return FileIO(path)
        return None

    def _trashed(self, key: Key) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            yield from (self.trash / heap / "-".join(key) for heap in os.listdir(self.trash))

    def read(self, key: Key) -> bytes | None:
        """A small object, checked; None where there is none."""
        file = self.open(key)
        if file is None:
            return None
        with file:
            data = file.readall()
        if hashlib.sha256(data).hexdigest() != key[1]:
            raise damaged(key, f"its bytes have changed on the disk ({self.path(key)})")
        return data

    def is_good(self, key: Key, alive: Alive) -> bool:
        """Is the object in its place, with the bytes that its name says?"""
        try:
            file = FileIO(self.path(key))
        except FileNotFoundError:
            return False
        digest = hashlib.sha256()
        with file:
            for chunk in disk.chunks(file, alive, lambda e: disk.trouble(e, "reading the store", self.root)):
                digest.update(chunk)
        return digest.hexdigest() == key[1]

    def ids(self, kind: Kind) -> Iterator[str]:
        """Every object of a kind."""
        for shard in os.listdir(self.root / kind):
            for rest in os.listdir(self.root / kind / shard):
                if is_id(shard + rest):
                    yield shard + rest

    def size(self, alive: Alive) -> int:
        """What all objects take on the disk, in bytes, with those that are on their way out."""
        total = 0
        folders = [self.root / kind for kind in KINDS] + [self.trash]
        while folders:
            alive()
            with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as listing:
                for item in listing:
                    if item.is_dir(follow_symlinks=False):
                        folders.append(Path(item.path))
                    else:
                        total += item.stat(follow_symlinks=False).st_blocks * 512
        return total

    def weigh(self, keys: Iterable[Key]) -> int:
        """What these objects take on the disk, in bytes."""
        return sum(os.stat(self.path(key)).st_blocks * 512 for key in keys)

    def discard(self, keys: Iterable[Key]) -> None:
        """Delete objects that nothing names."""
        for key in keys:
            self.path(key).unlink(missing_ok=True)

    def to_trash(self, keys: Iterable[Key], now: float) -> None:
        """Put objects out of the way that nothing names any more; ``tidy`` deletes them after a grace."""
        heap = self.trash / f"{int(now)}"
        heap.mkdir(mode=0o700, exist_ok=True)
        for key in keys:
            self.path(key).rename(heap / "-".join(key))

    def tidy(self, now: float, grace: float) -> None:
        """Delete what killed writers left, and trash older than ``grace`` seconds, a part at a time."""
        self._clean_tmp()
        left = _DELETIONS_AT_ONCE
        for heap in os.listdir(self.trash):
            if not heap.isdecimal() or now - int(heap) < grace:
                continue
            names = os.listdir(self.trash / heap)
            for name in names[:left]:
                (self.trash / heap / name).unlink(missing_ok=True)
            if len(names) <= left:
                (self.trash / heap).rmdir()
            left -= min(left, len(names))

    def _clean_tmp(self) -> None:
        names = os.listdir(self.tmp)
        for writer in {re.split(r"[-.]", name)[0] for name in names}:
            lock = self.tmp / f"{writer}.lock"
            try:
                fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                fd = -1  # no writer alive is without its lock file; it comes first and goes last
            try:
                if fd >= 0 and not disk.try_lock(fd):
                    continue
                for name in names:
                    if name.startswith(f"{writer}-"):
                        (self.tmp / name).unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
            finally:
                if fd >= 0:
                    os.close(fd)


class Staging:
    """What one commit is about to add, on the disk but without a name yet; nobody's lock is held meanwhile.

    ``settle`` makes it durable, ``install`` gives it its names. Whatever is left goes at the end of the
    ``with``, or, after a crash, with the next commit's ``tidy``: a lock on ``<writer>.lock`` says that this
    writer lives.
    """

    def __init__(self, objects: Objects, alive: Alive) -> None:
        self.objects = objects
        self._alive = alive
        self._staged: dict[Key, Path] = {}
        self._reused: set[Key] = set()
        self._unsynced: list[FileIO] = []
        self._count = 0

    def __enter__(self) -> Self:
        while True:
            self._writer = secrets.token_hex(8)
            self._lock = os.open(self._own(".lock"), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                if disk.try_lock(self._lock) and os.fstat(self._lock).st_nlink:
                    return self
            except OSError:
                os.close(self._lock)
                raise
            os.close(self._lock)  # a tidying process came between

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._unsynced:
            file.close()
        with contextlib.suppress(OSError):  # the commit has its result by now; `tidy` finds what stays
            for number in range(self._count):
                self._own(f"-{number}").unlink(missing_ok=True)
            self._own(".lock").unlink(missing_ok=True)
        os.close(self._lock)

    def _own(self, suffix: str) -> Path:
        return self.objects.tmp / f"{self._writer}{suffix}"

    def _new(self) -> FileIO:
        path = self._own(f"-{self._count}")
        self._count += 1
        return disk.create(path)

    def add(self, kind: Kind, data: bytes) -> str:
        """Stage bytes; their id."""
        key: Key = (kind, hashlib.sha256(data).hexdigest())
        if not self._known(key):
            file = self._new()
            self._unsynced.append(file)
            disk.write_all(file, data)
            self._stage(key, file)
        return key[1]

    def add_file(self, source: Path) -> tuple[str, int]:
        """Stage a file's bytes, never more than a piece of them in memory; their id and number."""

        def failed(error: OSError) -> StoreError:
            why = error.strerror or type(error).__name__
            return StoreError(f"{shown(str(source))} can't be read for a commit: {why}. Nothing was committed.")

        try:
            original = FileIO(source)
        except OSError as error:
            raise failed(error) from error
        with original:
            file = self._new()
            self._unsynced.append(file)
            sha256, size = disk.copy(original, file, self._alive, failed)
        key: Key = ("contents", sha256)
        if self._known(key):
            self._unsynced.remove(file)
            file.close()
            Path(os.fsdecode(file.name)).unlink()
        else:
            self._stage(key, file)
        return key[1], size

    def _known(self, key: Key) -> bool:
        if key in self._staged or key in self._reused:
            return True
        # Read it again before relying on it: one that went bad is replaced by the good bytes at hand.
        if self.objects.is_good(key, self._alive):
            self._reused.add(key)
            return True
        return False

    def _stage(self, key: Key, file: FileIO) -> None:
        self._staged[key] = Path(os.fsdecode(file.name))
        if len(self._unsynced) >= _OPEN_AT_ONCE:
            self.settle()

    def get(self, key: Key) -> bytes | None:
        """A small object that was staged here."""
        path = self._staged.get(key)
        return None if path is None else path.read_bytes()

    def settle(self) -> None:
        """Make what was staged durable. Written first, then synced, the files share the disk's flushes."""
        self._alive()
        disk.at_once(os.fsync, [file.fileno() for file in self._unsynced])
        for file in self._unsynced:
            file.close()
        self._unsynced.clear()

    def fresh(self) -> list[Key]:
        """The objects that only this commit has; ``Vanished`` where one that it shares has gone meanwhile."""
        if not all(self.objects.has(key) for key in self._reused):
            raise Vanished
        return [key for key in self._staged if not self.objects.has(key)]

    def install(self) -> None:
        """Give every staged object its name, durably. The store's lock is held."""
        folders = set()
        for key, staged in self._staged.items():
            path = self.objects.path(key)
            try:
                staged.rename(path)
            except FileNotFoundError:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                folders.add(path.parent.parent)
                staged.rename(path)
            folders.add(path.parent)
        disk.at_once(disk.sync_folder, folders)


def damaged(key: Key, why: str) -> Corrupt:
    """The error for an object that can't be relied on."""
    words = {"contents": "content", "trees": "tree node", "revisions": "revision"}
    return Corrupt(
        f"{words[key[0]]} {key[1][:12]} of the store is damaged: {why}. Other contents and revisions are not "
        "affected; restore from another snapshot, or bring the store's folder back from a copy."
    )
