"""The watcher is a hint: which paths may have changed. The scan is the truth.

Where inotify has no watches or instances left the folders are polled, and the status says so. Events arrive on the
observer's own thread; what waits for the event loop is bounded, and past the bound all that is kept is "look
everywhere".
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
import threading
import time
import warnings
from collections.abc import Callable, Sequence

from watchdog import events
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirModifiedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from sidecar import log

MOST = 10_000
POLL_S = 5.0
_IN_DELETE_SELF = 0x400  # linux/inotify.h
WAKE_S = 0.05
"""How often a stream of events wakes the event loop, at most."""

KINDS: list[type[FileSystemEvent]] = [
    *(FileCreatedEvent, FileModifiedEvent, FileClosedEvent, FileDeletedEvent, FileMovedEvent),
    *(DirCreatedEvent, DirModifiedEvent, DirDeletedEvent, DirMovedEvent),
    # A new mode or time is an event of its own from watchdog 7 on; before, the file was said to be modified.
    *(getattr(events, name) for name in ("FileAttribEvent", "DirAttribEvent") if hasattr(events, name)),
]


class Hints:
    """The paths that may have changed, filled from any thread, taken by one. ``everything`` means: scan all.

    ``last`` is the monotonic time of the newest; ``wake`` is called for the first and then no more than every 50 ms.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.last = 0.0
        self._lock = threading.Lock()
        self._paths: set[str] = set()
        self._everything = False
        self._wake = wake
        self._woke = float("-inf")

    def add(self, path: str) -> None:
        with self._lock:
            if len(self._paths) < MOST:
                self._paths.add(path)
            else:
                self._everything = True
            due = self._is_due()
        if due:
            self._wake()

    def add_everything(self) -> None:
        with self._lock:
            self._everything = True
            due = self._is_due()
        if due:
            self._wake()

    def _is_due(self) -> bool:
        self.last = time.monotonic()
        if self.last - self._woke < WAKE_S:
            return False
        self._woke = self.last
        return True

    def take(self) -> tuple[set[str], bool]:
        with self._lock:
            taken, everything = self._paths, self._everything
            self._paths, self._everything = set(), False
            self._woke = float("-inf")
        return taken, everything

    def peek(self) -> set[str]:
        """What there is to take by now; it stays."""
        with self._lock:
            return set(self._paths)

    def waiting(self) -> int:
        with self._lock:
            return len(self._paths) + (1 if self._everything else 0)


class _Trouble(logging.Handler):
    """What the watching library warns of (events that the kernel dropped, say) is a reason to look everywhere."""

    def __init__(self, hints: Hints) -> None:
        super().__init__(logging.WARNING)
        self.hints = hints
        self.heard = False

    def emit(self, record: logging.LogRecord) -> None:
        log.debug(f"the watcher says: {record.getMessage()}")
        self.heard = True
        self.hints.add_everything()


class _Handler(FileSystemEventHandler):
    """In a folder root: what is told carries the path that was declared, whatever links lead there."""

    def __init__(self, hints: Hints, root: str, real: str, ignore: Callable[[str], bool]) -> None:
        self.hints, self.root, self.real, self.ignore = hints, root, real, ignore

    def dispatch(self, event: FileSystemEvent) -> None:
        for raw in (event.src_path, event.dest_path):
            path = os.fsdecode(raw)
            if path and (path == self.real or path.startswith(self.real + "/")) and not self.ignore(path):
                self.hints.add(self.root + path[len(self.real) :])


class Watcher:
    """Watches the roots; a root that doesn't exist yet is waited for at its nearest existing parent.

    ``ignore`` is asked with real paths.
    """

    def __init__(self, roots: Sequence[str], hints: Hints, ignore: Callable[[str], bool]) -> None:
        self.roots, self.hints, self.ignore = roots, hints, ignore
        self.kind = "off"
        self._observer: BaseObserver | None = None
        self._trouble = _Trouble(hints)
        self._watched: dict[str, tuple[str, int, int]] = {}  # root -> the folder that stands in for it, by identity

    def start(self) -> None:
        """Start watching; blocks while the kernel is told of every folder. Falls back to polling."""
        # It warns on stderr of a folder that it came by twice, which is nobody's concern.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning, "watchdog")
        library = logging.getLogger("watchdog")
        self._trouble.heard = False
        library.addHandler(self._trouble)
        if not any(isinstance(handler, logging.NullHandler) for handler in library.handlers):
            library.addHandler(logging.NullHandler())  # what it says later is no line of ours either
        library.propagate = False
        try:
            self._observer = self._begin(Observer())
            self.kind = "inotify"
            if not _watches_left():
                self._stop_observer()
                raise OSError(errno.ENOSPC, "no watches are left")
        except OSError as error:
            log.warning(
                f"inotify can't watch all folders ({error.strerror or error}): polling every {POLL_S:.0f} s instead,"
                " which costs more CPU. fs.inotify.max_user_watches is the limit."
            )
            self._observer = self._begin(PollingObserver(timeout=POLL_S))
            self.kind = "polling"

    def _begin(self, observer: BaseObserver) -> BaseObserver:
        self._watched = {}
        observer.start()
        try:
            for root in self.roots:
                self._schedule(observer, root)
        except OSError:
            observer.stop()
            observer.join(5)
            raise
        return observer

    def _schedule(self, observer: BaseObserver, root: str) -> None:
        real = os.path.realpath(root)  # inotify would watch a link itself
        here, recursive = _place(real), os.path.isdir(real)
        at = here[0]
        handler = _Handler(self.hints, root, real, self.ignore) if recursive else _Nearby(self.hints, root, real)
        observer.schedule(handler, at, recursive=recursive, event_filter=KINDS)
        self._watched[root] = here

    def stale(self) -> bool:
        """Whether a root has come, has gone, or is another folder than the one that is watched, or not all of one is.

        Blocks, briefly.

        inotify follows the folder itself, wherever it is moved, and says nothing of the one that takes its place.
        Folders that came while the kernel dropped events may be watched by nobody. The library (7.1) drops all watches
        and asks for them again, on the same queue, which is told of each one that went: with more folders than the
        queue takes that never ends. A new queue is told of nothing.
        """
        if self._observer is None:
            return False
        if self._trouble.heard:
            return True
        # The library passes over folders that it gets no watch for; whoever took the last one may have needed more.
        blind = self.kind == "inotify" and not _watches_left()
        return blind or any(self._watched.get(root) != _place(os.path.realpath(root)) for root in self.roots)

    def refresh(self) -> None:
        """Watch what stands there now. Blocks."""
        self.stop()
        self.start()

    def stop(self) -> None:
        self._stop_observer()
        logging.getLogger("watchdog").removeHandler(self._trouble)

    def _stop_observer(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(5)
            self._observer = None


def _watches_left() -> bool:
    """Whether the kernel would give us one more inotify watch."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    if fd < 0:
        return True  # no instance is left for a question, which says nothing of the one that watches
    try:
        return libc.inotify_add_watch(fd, b"/", _IN_DELETE_SELF) >= 0 or ctypes.get_errno() != errno.ENOSPC
    finally:
        os.close(fd)


def _place(root: str) -> tuple[str, int, int]:
    """The folder to watch for ``root``: itself, or the nearest one above it; with its device and inode."""
    at = root
    while True:
        try:
            found = os.stat(at)
        except OSError:
            found = None
        if at == "/" or (found is not None and stat.S_ISDIR(found.st_mode)):
            return (at, found.st_dev, found.st_ino) if found else (at, 0, 0)
        at = os.path.dirname(at)


class _Nearby(FileSystemEventHandler):
    """Beside a single-file root, or above one that doesn't exist yet: only what concerns the root counts."""

    def __init__(self, hints: Hints, root: str, real: str) -> None:
        self.hints, self.root, self.real = hints, root, real

    def dispatch(self, event: FileSystemEvent) -> None:
        for raw in (event.src_path, event.dest_path):
            path = os.fsdecode(raw)
            near = self.real == path or self.real.startswith(path + "/") or path.startswith(self.real + "-")
            if path and near and not (event.is_directory and isinstance(event, DirModifiedEvent)):
                self.hints.add(self.root)
