"""What stands in a SQLite database's files, and who holds which lock on them; nothing is written, no lock waited for.

Everything here goes by SQLite's documented formats (sqlite.org/fileformat2.html, walformat.html, lockingv3.html) and
opens files for reading only: SQLite itself would create, recover or remove files beside the database, even where it is
opened read-only. The copying child imports this module, so it imports next to nothing itself.

POSIX drops all of a process' locks on a file when any descriptor of it is closed: whoever takes one of these locks
closes no descriptor of that file before it lets go.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat as st
import struct
from collections.abc import Iterator

HEAD = 100
"""Bytes of the database's header: magic, format, change counter, size."""

PENDING, RESERVED, SHARED, SHARED_LENGTH = 0x40000000, 0x40000001, 0x40000002, 510
SLOT_0, ATTACHED = 123, 128
"""Bytes of the -shm file: the lock that keeps the database's own file as it is, and the one that every user holds."""

_FLOCK = "hhqqi4x"
_WAL_INDEX = 3007000


class Index:
    """The head of a write-ahead log's index, as the -shm file has it at one moment.

    ``frames`` are in the log up to the last commit, ``filled`` of them are in the database's own file too.
    """

    __slots__ = ("checksum", "filled", "frames", "page_size", "pages", "salts")

    def __init__(self, head: bytes, filled: int) -> None:
        self.frames: int
        size, self.frames, self.pages = struct.unpack_from("=HII", head, 14)
        self.page_size: int = 65536 if size == 1 else size
        self.checksum, self.salts = head[24:32], head[32:40]
        self.filled = filled

    @property
    def log_bytes(self) -> int:
        return 32 + self.frames * (24 + self.page_size)


class Look:
    """A database as it is at one moment; ``None`` for a side file that isn't there."""

    __slots__ = ("base", "exclusive", "journal", "log", "newest_ns", "reserved")

    def __init__(self, source: str) -> None:
        with opened(source) as fd:
            self.exclusive = write_locked(fd, PENDING) or write_locked(fd, SHARED, SHARED_LENGTH)
            self.reserved = write_locked(fd, RESERVED)
            self.base = _print(fd)
        self.journal, self.log = side(f"{source}-journal"), side(f"{source}-wal")
        self.newest_ns = max(side[4] for side in (self.base, self.journal, self.log) if side is not None)

    @property
    def wal_mode(self) -> bool:
        return in_wal_mode(self.base[5])

    @property
    def hot(self) -> bool:
        """Whether SQLite would roll the journal back: it was begun, and its writer is at it in the file, or dead."""
        return hot(self.journal) and (self.exclusive or not self.reserved)


Print = tuple[int, int, int, int, int, bytes]
"""(dev, ino, size, mtime_ns, ctime_ns, first bytes) of a file."""


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor to read the regular file ``path`` by. Raises FileNotFoundError where there is no such file."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not st.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError(2, "it is no file any more", path)
        yield fd
    finally:
        os.close(fd)


def _print(fd: int) -> Print:
    s = os.fstat(fd)
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, os.pread(fd, HEAD, 0)


def side(path: str) -> Print | None:
    """What stands in a file beside the database, or None."""
    try:
        with opened(path) as fd:
            return _print(fd)
    except FileNotFoundError:
        return None


def in_wal_mode(head: bytes) -> bool:
    return len(head) == HEAD and head[19] == 2


def hot(journal: Print | None) -> bool:
    """Whether a rollback journal holds anything: an ended transaction's is gone, empty, or begins with zeros."""
    return journal is not None and journal[5][:1] not in (b"", b"\0")


def write_locked(fd: int, start: int, length: int = 1) -> bool:
    """Whether another process holds a write lock there. Takes none, and says no where locks are not known."""
    return _locked(fd, fcntl.F_RDLCK, start, length)


def attached(shm: int) -> bool:
    """Whether any process has the database open in WAL mode, by its -shm file."""
    return _locked(shm, fcntl.F_WRLCK, ATTACHED, 1)


def _locked(fd: int, kind: int, start: int, length: int) -> bool:
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))
    except OSError:
        return False
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def share(fd: int, start: int, length: int = 1) -> bool:
    """Take a read lock, if that can be done at once."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, length, start)
    except BlockingIOError:
        return False
    except PermissionError:  # EACCES is POSIX's other word for it
        return False
    return True


def release(fd: int, start: int, length: int = 1) -> None:
    fcntl.lockf(fd, fcntl.LOCK_UN, length, start)


def share_database(fd: int) -> bool:
    """Take SQLite's SHARED lock as SQLite does, letting a writer that waits for readers to go go first."""
    if not share(fd, PENDING):
        return False
    try:
        return share(fd, SHARED, SHARED_LENGTH)
    finally:
        release(fd, PENDING)


def read_index(shm: int) -> Index | None:
    """The index's head, or None where it is being written just now or is none that we know."""
    first, second = os.pread(shm, 48, 0), os.pread(shm, 48, 48)
    filled = os.pread(shm, 4, 96)
    if len(filled) < 4 or first != second or not first[12]:
        return None
    words = struct.unpack("=12I", first)
    if words[0] != _WAL_INDEX or words[10:] != _sum(words[:10]):
        return None
    return Index(first, struct.unpack("=I", filled)[0])


def _sum(words: tuple[int, ...]) -> tuple[int, int]:
    a = b = 0
    for x, y in zip(words[::2], words[1::2], strict=True):
        a = (a + x + b) & 0xFFFFFFFF
        b = (b + y + a) & 0xFFFFFFFF
    return a, b


def state(source: str) -> str:
    """What a database holds, as far as that shows without reading it: equal and not empty means not written between.

    A checkpoint, which only moves frames from the log into the file, leaves it as it is.
    """
    try:
        with opened(source) as fd:
            base = _print(fd)
            if len(base[5]) < HEAD:
                return ""
            if not in_wal_mode(base[5]):
                # In exclusive mode SQLite doesn't count its changes.
                counted = not write_locked(fd, SHARED, SHARED_LENGTH) and not hot(side(f"{source}-journal"))
                return f"file {base[:5]} {base[5].hex()}" if counted else ""
        with opened(f"{source}-shm") as shm:
            index = read_index(shm) if attached(shm) else None
    except OSError:
        return ""
    if index is None:
        return ""
    own = base[:2] if index.frames else (*base[:5], base[5].hex())
    return f"wal {own} {index.frames} {index.pages} {index.salts.hex()} {index.checksum.hex()}"
