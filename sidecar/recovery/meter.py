"""A restore's progress, counted in threads, shown on the event loop; threads that end when nobody waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from sidecar.state import RestoreProgress

_P = ParamSpec("_P")
_T = TypeVar("_T")

TICK_S = 0.2


class Stopped(Exception):
    """Nobody waits for this thread's result any more."""


class Meter:
    """Counts for one restore. ``progress`` is written, and ``alive`` called, on the loop's thread only.

    ``alive`` is called for what moves, not for what an attempt merely repeats: a store that refuses must run into
    the restore timeout, however often it is tried.
    """

    def __init__(self, progress: RestoreProgress, alive: Callable[[], None] | None) -> None:
        self._progress, self._alive = progress, alive
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._stopped = False
        self._due = False  # a refresh is on its way to the loop
        self._moved = False  # since the last one
        self._last = 0.0
        self._total = (0, 0)
        self._done = [0, 0]
        self._flying = 0

    def expect(self, files: int, size: int) -> None:
        with self._lock:
            self._total, self._done = (files, size), [0, 0]
        self._refresh()

    def done(self, files: int, size: int) -> None:
        with self._lock:
            self._done[0] += files
            self._done[1] += size

    @contextmanager
    def flight(self, already: int = 0) -> Iterator[Callable[[int], None]]:
        """Bytes that arrive in this block show at once, but are done only when they were verified.

        ``already``: those that an earlier attempt has brought, which are no progress now.
        """
        mine = already
        with self._lock:
            self._flying += already

        def arrived(size: int) -> None:
            nonlocal mine
            with self._lock:
                mine += size
                self._flying += size
            self.tick()

        try:
            yield arrived
        finally:
            with self._lock:
                self._flying -= mine

    def tick(self) -> None:
        """Say that something moved: bytes came, were hashed or put in place. Raises Stopped where it needn't."""
        if self._stopped:
            raise Stopped
        self._moved = True
        now = time.monotonic()
        if now - self._last >= TICK_S:  # waking the loop for each of ten thousand files would cost more than they do
            self._last = now
            self._refresh()

    def check(self) -> None:
        """Raises Stopped where nobody waits any more."""
        if self._stopped:
            raise Stopped

    def _refresh(self) -> None:
        with self._lock:
            if self._due:
                return
            self._due = True
        try:
            self._loop.call_soon_threadsafe(self._show)
        except RuntimeError:  # the loop is closed: nobody looks any more
            pass

    def _show(self) -> None:
        with self._lock:
            self._due = False
            moved, self._moved = self._moved, False
            files, size = self._done
            total_files, total = self._total
            size = min(size + self._flying, total)
        shown = self._progress
        shown.files_done, shown.files_total = files, total_files
        shown.bytes_done, shown.bytes_total = size, total
        if moved and self._alive is not None:
            self._alive()

    def stop(self) -> None:
        """End every thread at its next tick."""
        self._stopped = True

    async def work(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``call`` in a thread; cancelled, it is told to stop at its next tick, and waited for."""
        return await self._thread(True, lambda: call(*args, **kwargs))

    async def to_the_end(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run ``call`` in a thread; cancelled, it is finished first: half of it would be worse."""
        return await self._thread(False, lambda: call(*args, **kwargs))

    async def _thread(self, stop: bool, call: Callable[[], _T]) -> _T:
        task = asyncio.ensure_future(asyncio.to_thread(call))
        cancelled = False
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                cancelled = True
                if stop:
                    self._stopped = True
            except Exception:
                break
        self._show()
        if cancelled:
            task.exception()
            raise asyncio.CancelledError
        return task.result()
