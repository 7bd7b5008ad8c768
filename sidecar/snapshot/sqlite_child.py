"""The child that copies one SQLite database: ``main([SOURCE, TARGET, SECONDS, LOCK, PARENT])``.

Ends with 0 (the copy is whole; stdout says how it was had), or with another number (below, else 1) and the reason as
the last line of stderr. It reads the source's files and takes SQLite's own read locks on them, but never opens the
source by SQLite, which might create, recover or remove files beside it. It imports little, to start in milliseconds.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import time
from collections.abc import Callable

from sidecar.snapshot import sqlite_files as files
from sidecar.snapshot.sqlite_check import Unsound, check
from sidecar.snapshot.sqlite_copy import Busy, Moved, clear, copy, copy_file, pour

GONE, NO_ROOM, DAMAGED = 3, 4, 5

TICK_NS = 12_000_000
"""Two writes within one tick of the kernel's clock may leave the same times; its slowest tick is 10 ms."""

STILL_S = 1.0
"""How long nothing moves before a database is copied that is locked, and has no journal on disk (nor may ever have)."""

LOCK_S = 0.08
"""The longest that a SHARED lock is held: with what it takes to let go, below the 100 ms that are promised."""

LOCK_WAIT_S = 2.0
WARM_MOST = 1 << 29
LIVE_BYTES_PER_S = 20_000_000
LOG_GROWTH = 256 * 1024 * 1024
"""How much (or the database's own size) a log may grow because we keep it from being folded in."""

WRITTEN = "it was written without a pause while it was copied"


def main(argv: list[str]) -> int:
    source, target, seconds, lock, parent = argv[0], argv[1], float(argv[2]), argv[3] == "lock", int(argv[4])

    def alive() -> None:
        if os.getppid() != parent:
            os._exit(1)

    try:
        how = capture(source, target, seconds, lock, alive)
        os.nice(10)  # not sooner: whoever holds a lock shall not wait for others
        check(target)
    except (Busy, Unsound, OSError, sqlite3.Error) as error:
        print(error, file=sys.stderr)
        return verdict(error) if os.path.exists(source) else GONE
    print(how)
    return 0


def verdict(error: Exception) -> int:
    if isinstance(error, OSError):
        return NO_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1
    code = getattr(error, "sqlite_errorcode", None)
    kind = code & 0xFF if isinstance(code, int) else None
    if kind == sqlite3.SQLITE_FULL:
        return NO_ROOM
    return DAMAGED if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(error, Unsound) else 1


def capture(source: str, target: str, seconds: float, lock: bool, alive: Callable[[], None]) -> str:
    """Copy ``source`` as of one moment, by whatever way its state allows: "live", "gap" or "locked". Raises Busy."""
    until, pause, why = time.monotonic() + seconds, 0.002, WRITTEN
    gap = Gap(source, target, alive)
    while True:
        alive()
        try:
            if gap.ready():
                if gap.take():
                    return "gap"
            elif gap.look.wal_mode and not gap.look.exclusive:
                live(source, target, until, alive)
                return "live"
        except Moved as moved:
            why = str(moved) or why
        except FileNotFoundError:
            if not os.path.lexists(source):
                raise
        if time.monotonic() > until:
            break
        time.sleep(pause)
        pause = min(pause * 1.2, 0.01)
    if lock and not (gap.look.wal_mode or gap.kept) and locked(source, target, alive):
        return "locked"
    raise Busy("another process keeps it locked, and writes it" if gap.kept else why)


class Gap:
    """Looks for a moment in which nobody writes, and copies then, without any lock, database and journal as they are.

    SQLite recovers the copy from its journal. Nothing was written meanwhile if the change counter, the files' stats
    and the journal are what they were, and nobody was at it before or after.
    """

    def __init__(self, source: str, target: str, alive: Callable[[], None]) -> None:
        self.source, self.target, self.alive = source, target, alive
        self.look = files.Look(source)
        self.since, self.kept = time.monotonic(), True

    def ready(self) -> bool:
        """Look again; whether now is such a moment."""
        before, self.look = self.look, files.Look(self.source)
        look = self.look
        same = (before.base, before.journal, before.log) == (look.base, look.journal, look.log)
        if not same:
            self.since = time.monotonic()
        self.kept = self.kept and look.exclusive
        settled = abs(time.time_ns() - look.newest_ns) >= TICK_NS
        if look.exclusive:
            # A writer is at it, or keeps it to itself for good: only what stands in its journal can be undone.
            undone = look.journal is not None or look.log is not None
            return same and settled and (undone or time.monotonic() - self.since >= STILL_S)
        if look.wal_mode:
            return settled and not in_use(self.source)
        return same

    def take(self) -> bool:
        """Copy; whether it was a copy of one moment."""
        look = self.look
        clear(self.target)
        copy_file(self.source, self.target, self.still)
        sides = [f"-{name}" for name, there in (("journal", look.hot), ("wal", look.log is not None)) if there]
        for ending in sides:
            copy_file(self.source + ending, self.target + ending, self.alive)
        after = files.Look(self.source)
        same = look.base == after.base and look.exclusive == after.exclusive
        if look.exclusive or "-journal" in sides:
            same = same and look.journal == after.journal
        if look.exclusive or "-wal" in sides:
            same = same and look.log == after.log
        self.look = after
        return same

    def still(self) -> None:
        """Stop at once what can't become a copy any more: a writer at full speed shall not cost us 5 s of copying."""
        self.alive()
        now = files.Look(self.source)
        if now.base != self.look.base or now.exclusive != self.look.exclusive:
            self.look = now
            raise Moved


def in_use(source: str) -> bool:
    try:
        with files.opened(f"{source}-shm") as shm:
            return files.attached(shm)
    except FileNotFoundError:
        return False


def live(source: str, target: str, until: float, alive: Callable[[], None]) -> None:
    """Copy a database that is in use in WAL mode. Raises Moved where it isn't any more, and Busy.

    SHARED on the database keeps its log from being removed, the lock on the log's slot 0 keeps every checkpoint from
    touching the database's own file: both are what any reader holds, and no writer waits for either. What was
    committed by then is the file and, unless all of it was folded in, the log up to its last commit.
    """
    with files.opened(f"{source}-shm") as shm:
        if not files.attached(shm):
            raise Moved
        # Opened after that: a file of an image's layer is another one once it was opened for writing.
        with files.opened(source) as fd:
            if not files.share_database(fd):
                raise Moved
            if not files.in_wal_mode(os.pread(fd, files.HEAD, 0)) or not _leads_to(f"{source}-shm", shm):
                raise Moved
            while not files.share(shm, files.SLOT_0):
                if time.monotonic() > until:
                    raise Moved("its log was being folded in all the time")
                time.sleep(0.001)
            index = files.read_index(shm)
            if index is None:
                raise Moved("its log's index can't be read")
            clear(target)
            guard = Guard(source, os.fstat(fd).st_size, alive)
            if index.filled < index.frames:
                copy_log(source, target, index, guard)
            copy(fd, target, guard)
            if index.filled < index.frames:
                now = files.read_index(shm)
                if now is not None and now.salts != index.salts:
                    raise Moved  # begun anew while it was copied


def _leads_to(path: str, fd: int) -> bool:
    return os.path.samestat(os.lstat(path), os.fstat(fd))


def copy_log(source: str, target: str, index: files.Index, guard: Callable[[], None]) -> None:
    try:
        with files.opened(f"{source}-wal") as log:
            if os.pread(log, 8, 16) != index.salts:
                raise Moved("its log is another one than the app has open")
            copy(log, f"{target}-wal", guard, index.log_bytes)
    except FileNotFoundError:
        raise Moved("its log was removed while the app has it open") from None


class Guard:
    """Ends a copy that keeps the log from being folded in for too long, or lets it grow too far. Raises Busy."""

    def __init__(self, source: str, size: int, alive: Callable[[], None]) -> None:
        self.log, self.alive = f"{source}-wal", alive
        self.until = time.monotonic() + 5 + size / LIVE_BYTES_PER_S
        self.most = self.size() + max(LOG_GROWTH, size)

    def size(self) -> int:
        try:
            return os.stat(self.log).st_size
        except OSError:
            return 0

    def __call__(self) -> None:
        self.alive()
        if time.monotonic() > self.until:
            raise Busy("its copy took so long that its log was kept waiting for it")
        if self.size() > self.most:
            raise Busy("its log grew too far while it was copied")


class Leash:
    """SQLite's SHARED lock on ``fd``, which is let go of after ``LOCK_S`` come what may. A call raises Moved then.

    By a thread: a disk that is slow to answer holds up the one that copies, and must not hold up the app.
    """

    def __init__(self, fd: int) -> None:
        import threading

        self.fd, self.over, self._done = fd, False, threading.Event()
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def take(self) -> bool:
        if not files.share_database(self.fd):
            return False
        self._thread.start()
        return True

    def _wait(self) -> None:
        self.over = not self._done.wait(LOCK_S)
        files.release(self.fd, 0, 0)

    def __call__(self) -> None:
        if self.over:
            raise Busy("it is too large to be copied within the 100 ms for which it may be locked")

    def drop(self) -> None:
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()


def locked(source: str, target: str, alive: Callable[[], None]) -> bool:
    """Copy under SQLite's SHARED lock, held for ``LOCK_S`` at most. False where it can't be had. Raises Busy."""
    clear(target)
    with files.opened(source) as fd, open(target, "xb", buffering=0) as out:
        warm(fd, alive)
        leash, until = Leash(fd), time.monotonic() + LOCK_WAIT_S
        try:
            while not leash.take():
                if time.monotonic() > until:
                    return False
                time.sleep(0.001)
            if files.in_wal_mode(os.pread(fd, files.HEAD, 0)):
                return False
            # With no writer alive a journal is hot, and nobody can undo anything while we hold the lock.
            hot = not files.write_locked(fd, files.RESERVED) and files.hot(files.side(f"{source}-journal"))
            pour(fd, out.fileno(), leash)
            if hot:
                copy_file(f"{source}-journal", f"{target}-journal", leash)
        finally:
            leash.drop()
        leash()
    return True


def warm(fd: int, alive: Callable[[], None]) -> None:
    """Have the disk read it, and write what waits, before the lock is taken instead of under it."""
    size = os.fstat(fd).st_size
    os.fdatasync(fd)
    for offset in range(0, size if size <= WARM_MOST else 0, 1 << 20):
        alive()
        os.pread(fd, 1 << 20, offset)
