"""How long a start goes on trying: the restore timeout, which counts from the last real progress."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from sidecar.errors import RestoreFailed, SidecarError
from sidecar.recovery.claim import Moved
from sidecar.stores.base import Store

T = TypeVar("T")

LATE_S = 5.0
"""What is given up gets this long to end, and as long is looked for a way out of damage."""

LEAST_S = 3.0
"""Every attempt gets this long. With ``LATE_S`` an exit follows within 10 s after the restore timeout."""


@dataclass(slots=True)
class Progress:
    """When something last moved, and when this start last came further than ever before.

    The restore timeout counts from the second: an attempt that fails where the one before it failed is no progress,
    however much it does on its way there. Until something has failed any sign of life is progress.
    """

    moved: float = 0.0
    gained: float = 0.0
    failures: int = 0
    best: tuple[int, int, int] = (0, 0, 0)

    def alive(self) -> None:
        """A sign of life."""
        self.moved = time.monotonic()
        if not self.failures:
            self.gained = self.moved

    def reached(self, step: int, files: int = 0, size: int = 0) -> None:
        """This attempt got so far: the number of the step, and what of a restore is done."""
        self.alive()
        if (step, files, size) > self.best:
            self.best, self.gained = (step, files, size), self.moved

    def waited(self) -> None:
        """Somebody is waited for, which has a bound of its own."""
        self.moved = self.gained = time.monotonic()


@dataclass(frozen=True, slots=True)
class Patience:
    """``timeout_s`` without ``progress``; one that ``waits`` goes on after it, and each attempt has all of it."""

    progress: Progress
    timeout_s: float
    waits: bool

    def left(self) -> float:
        """Seconds until the restore timeout is up."""
        return self.progress.gained + self.timeout_s - time.monotonic()

    def over(self) -> bool:
        return self.left() <= 0

    def pause(self, retry_after: float | None) -> float:
        """Seconds until the next attempt, with jitter."""
        wait = min(60.0, 0.5 * 2.0 ** min(self.progress.failures, 8)) * (0.5 + random.random() / 2)
        if retry_after is not None:
            wait = max(wait, min(retry_after, 60.0) * (1 + random.random() / 4))
        return wait if self.waits else max(0.05, min(wait, self.left()))

    def bounded(self, store: Store) -> AbstractContextManager[None]:
        """Where a store can cut its own repetitions short, it says what failed instead of us that nothing moved."""
        limit: Callable[[float], AbstractContextManager[None]] | None = getattr(store, "limit", None)
        left = self.timeout_s if self.waits else self.left()
        return limit(max(left, LEAST_S - 1.0)) if limit is not None else contextlib.nullcontext()

    async def in_time(self, work: Awaitable[T], url: str) -> T:
        """``work``, cut off once nothing has moved for the restore timeout. Raises RestoreFailed then."""
        task, began = asyncio.ensure_future(work), time.monotonic()
        try:
            while True:
                left = self.left()
                if self.waits:
                    left = max(self.progress.moved, began) + self.timeout_s - time.monotonic()
                until = max(left + 1.0, began + LEAST_S - time.monotonic())
                if until <= 0:
                    raise RestoreFailed(f"{url} gave no answer and nothing moved for {self.timeout_s:g} s")
                done, _ = await asyncio.wait({task}, timeout=until)
                if done:
                    return task.result()
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, SidecarError, Moved, TimeoutError):
                    await asyncio.wait_for(task, LATE_S)
