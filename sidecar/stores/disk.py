"""What a store does to a disk: durable writes, verified copies, a lock with a time limit, errors in words."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import TypeVar

from sidecar.masking import shown
from sidecar.stores.base import Denied, NotFound, StoreError, Unavailable

_T = TypeVar("_T")

CHUNK = 1 << 20
_FLUSHES = 8
_PIECES = 512
"""Of one write; the system takes 1,024."""

_FICLONE = 0x40049409  # linux/fs.h: share the source's extents; btrfs, XFS, bcachefs

Alive = Callable[[], None]
"""Raises where nobody waits for the result any more; called between the pieces of long work."""


def trouble(error: OSError, doing: str, where: Path) -> StoreError:
    """An error of the file system under ``where``, as the store error that tells a caller what to do."""
    store, name = shown(str(where)), error.filename
    what = doing + (f" ({shown(os.fsdecode(name))})" if isinstance(name, str | bytes) else "")
    why = error.strerror or type(error).__name__
    match error.errno:
        case errno.ENOSPC | errno.EFBIG:
            return Unavailable(
                f"disk full while {what}: it needs more than the {free_space(where)} free at {store}. "
                "Nothing was committed; what was committed before is safe. Free some space there."
            )
        case errno.EDQUOT:
            return Denied(
                f"disk quota exceeded while {what} at {store}. Nothing was committed; what was committed before "
                "is safe. Free some space there or raise the quota."
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Denied(f"no permission: {why} while {what}. Nothing was changed. {permission_fix(error, where)}")
        case errno.ENOENT | errno.ENOTDIR:
            return NotFound(
                f"missing while {what}: {why}. Nothing was changed."
                f" If {store} is a mounted volume, look whether it is mounted"
            )
    return Unavailable(f"failed while {what} at {store}: {why}. What was committed before is safe.")


def permission_fix(error: OSError, where: Path) -> str:
    """What the owner of this machine does about it."""
    if error.errno == errno.EROFS:
        return f"{shown(str(where))} is on a read-only file system: mount it read-write or name another folder."
    # Never a parent of it: chown of "/" or of a shared folder would wreck the image.
    folder, uid = shown(str(where)), os.geteuid()
    return (
        f"This process is user {uid}: name a folder that it may write to, or make this one its own, in a Dockerfile"
        f" before USER: RUN mkdir -p {folder} && chown -R {uid} {folder}"
    )


def free_space(where: Path) -> str:
    """The room that is left for us around ``where``, in words."""
    try:
        return f"{shutil.disk_usage(where).free / 1e6:,.1f} MB"
    except OSError:
        return "an unknown amount"


def create(path: Path) -> FileIO:
    """A new private file that can be read back."""
    return FileIO(path, "x+", opener=lambda p, flags: os.open(p, flags | os.O_CLOEXEC, 0o600))


class Sink:
    """The bytes ``span`` of the file ``path``, filled in order by a thread that may be told to let go at any time.

    Once ``close`` has returned nothing more is written, whatever that thread still does: the file may be somebody's
    by then.
    """

    def __init__(self, path: Path, span: range) -> None:
        self.path, self.at, self.stop = path, span.start, span.stop
        self._fd = -1
        self._closed = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the file where it is missing. OSError once the sink is closed; so for all that follows."""
        with self._lock:
            self._open()

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """The next bytes; what goes beyond the span is left out."""
        with self._lock:
            self._open()
            for start in range(0, len(pieces), _PIECES):
                self._write(pieces[start : start + _PIECES])

    def _write(self, pieces: Sequence[bytes | memoryview]) -> None:
        size = min(sum(map(len, pieces)), self.stop - self.at)
        done = os.pwritev(self._fd, pieces, self.at) if size == sum(map(len, pieces)) else 0
        self.at += done
        if done < size:  # a full disk, or more than was asked for
            view = memoryview(b"".join(pieces))[done:size]
            while view:
                done = os.pwrite(self._fd, view, self.at)
                view = view[done:]
                self.at += done

    def again(self) -> None:
        """Begin anew, with an empty file."""
        with self._lock:
            self._open()
            os.ftruncate(self._fd, 0)
            self.at = 0

    def clone(self, source: FileIO) -> bool:
        """Share all of ``source``'s bytes, where the file system can."""
        with self._lock:
            self._open()
            return _clone(source.fileno(), self._fd)

    def _open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "nobody waits for it any more", str(self.path))
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def make_folders(path: Path) -> None:
    """The folder and those above it, where they are missing; pathlib and os recurse, and give up at 1,000."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def write_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """A new file with ``data``, all of it or none; a leftover of that name goes first."""
    path.unlink(missing_ok=True)
    try:
        with create(path) as file:
            write_all(file, data)
            if durable:
                os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def at_once(sync: Callable[[_T], None], things: Collection[_T]) -> None:
    """Run a sync for each of ``things``, several at a time; the first error is raised.

    A disk answers one flush for all that wait for it: 50 syncs in a row took 190 ms here, 8 at a time 11 ms.
    """
    if len(things) < 2:
        for thing in things:
            sync(thing)
        return
    with ThreadPoolExecutor(min(_FLUSHES, len(things)), thread_name_prefix="folder-store-sync") as pool:
        for _ in pool.map(sync, things):
            pass


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that have nothing to sync there
            raise
    finally:
        os.close(fd)


def clone(source: FileIO, target: FileIO) -> bool:
    """Let ``target`` share ``source``'s bytes where the file system can; it costs no space and no time."""
    return _clone(source.fileno(), target.fileno())


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def chunks(file: FileIO, alive: Alive, failed: Callable[[OSError], StoreError]) -> Iterator[memoryview]:
    """The bytes from here to the end; each piece is valid until the next one is asked for."""
    buffer = memoryview(bytearray(CHUNK))
    while True:
        alive()
        try:
            count = file.readinto(buffer)
        except OSError as error:
            raise failed(error) from error
        if not count:
            return
        yield buffer[:count]


def copy(
    source: FileIO,
    target: FileIO,
    alive: Alive,
    failed: Callable[[OSError], StoreError],
    progress: Callable[[int], None] | None = None,
) -> tuple[str, int]:
    """Copy to the end, a piece at a time; the sha256 (hex) and number of the bytes that ``target`` has now.

    ``failed`` makes an error of reading ``source``; an error of writing is an ``OSError``.
    """
    digest, size = hashlib.sha256(), 0
    cloned = clone(source, target)
    for chunk in chunks(target if cloned else source, alive, failed):
        digest.update(chunk)
        size += len(chunk)
        if not cloned:
            write_all(target, chunk)
        if progress is not None:
            progress(len(chunk))
    return digest.hexdigest(), size


@contextlib.contextmanager
def locked(path: Path, timeout: float, alive: Alive) -> Iterator[int]:
    """Hold the lock file ``path`` (its descriptor); ``Unavailable`` if others do for ``timeout`` seconds."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while not try_lock(fd):
            alive()
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"another process has held the lock {shown(str(path))} for over {timeout:g} s. Nothing "
                    "was changed; try again when it is done.",
                    retry_after=timeout,
                )
            time.sleep(min(random.uniform(0.002, 0.02), max(0.0, deadline - time.monotonic())))
        yield fd
    finally:
        # The lock ends with the last descriptor of this open file; a forked child may still have one.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Take the flock on ``fd`` if it is free."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EINTR):
            return False
        raise
    return True
