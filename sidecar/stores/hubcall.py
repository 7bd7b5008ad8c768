"""One call of the Hub store: its time limit, its thread, its repetitions, and the three ways to fail.

Nothing here knows huggingface_hub; ``hubclient`` puts these limits beneath it.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

T = TypeVar("T")

REPEATABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that time may mend."""

_GRACE = 0.3
"""The loop gives the thread this many seconds past the deadline: its own error says more than ours."""

# draft-ietf-httpapi-ratelimit-headers-09, as the Hub sends it: "api";r=0;t=55
_RATELIMIT = re.compile(r'"\w+"\s*;\s*r\s*=\s*(\d+)\s*;\s*t\s*=\s*(\d+)')


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a store waits for the Hub, and how often it asks. All times in seconds.

    connect, read    one connection; one silence in an answer
    commit           one silence while the Hub makes a commit (its own limit for that is 60 s)
    request          a whole call that moves no file, with all its repetitions
    stall            a download without a single new byte
    rate             bytes/s: an upload gets its size by this, besides ``request`` and ``commit``
    tries            how often a request that may be repeated is sent
    pause, longest   the wait before the second try, doubled for each more, and its ceiling; with jitter
    hint             the longest Retry-After that is passed on (the Hub's can't be trusted for commits)
    """

    connect: float = 10.0
    read: float = 30.0
    commit: float = 75.0
    request: float = 60.0
    stall: float = 60.0
    rate: int = 256 * 1024
    tries: int = 4
    pause: float = 0.5
    longest: float = 8.0
    hint: float = 3600.0


class Late(Exception):
    """The call's time is over, or nobody waits for it any more."""


class Lost(Exception):
    """No answer: refused, timed out, cut. ``sent`` is false where the request can't have arrived."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Answered(Exception):
    """The Hub, or a storage host behind it, answered with a failure. ``headers`` have lower-case names."""

    def __init__(self, status: int, headers: Mapping[str, str], text: str, host: str, path: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.headers = headers
        self.text = text
        self.host = host
        self.path = path

    @property
    def code(self) -> str:
        """RepoNotFound, RevisionNotFound, EntryNotFound, GatedRepo, or nothing."""
        return self.headers.get("x-error-code", "")

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks for, true or not."""
        limit = _RATELIMIT.search(self.headers.get("ratelimit", ""))
        if self.status == 429 and limit and limit[1] == "0":
            return float(limit[2])
        value = self.headers.get("retry-after", "").strip()
        if value.isdecimal():
            return float(value)
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError):
            return None


Failure = Late | Lost | Answered


def root(error: BaseException | None) -> Failure | None:
    """Which of our three failures is behind ``error``: the client wraps what its upload threads raise."""
    for _ in range(10):
        if error is None or isinstance(error, Late | Lost | Answered):
            return error
        error = error.__cause__ or error.__context__
    return None


class Call:
    """One call of a store's method: its time, and what it did. Shared by its thread and the event loop.

    ``seconds`` from now, and no longer than ``hard`` (monotonic clock); with ``stall`` each sign of life
    gives ``seconds`` anew, up to ``hard``.
    """

    def __init__(self, patience: Patience, seconds: float, hard: float, *, stall: bool = False) -> None:
        self.patience = patience
        self.hard = hard
        self.seconds = seconds
        self.stall = stall
        self.deadline = min(time.monotonic() + seconds, hard)
        self.over = threading.Event()
        self.wake: Callable[[], object] = lambda: None
        self.on_post: Callable[[], object] = lambda: None
        self.posted = False
        """Whether a commit was sent: from here on a failure leaves open what the Hub did."""
        self.date: str | None = None
        """The newest reply's own time (``Date``)."""

    def left(self) -> float:
        """Seconds that are left; raises ``Late`` where there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0 or self.over.is_set():
            raise Late
        return left

    def give_up(self) -> None:
        """End it now, for whoever waits for it; its thread follows."""
        self.over.set()
        self.wake()

    def moved(self) -> None:
        """A sign of life."""
        if self.stall:
            self.deadline = min(time.monotonic() + self.seconds, self.hard)

    def sleep(self, seconds: float) -> None:
        """Wait; raises ``Late`` at once where the time doesn't suffice, and when the call is given up."""
        if seconds >= self.left() or self.over.wait(seconds):
            raise Late


_current: ContextVar[Call | None] = ContextVar("sidecar_hub_call", default=None)
_active: set[Call] = set()


@contextmanager
def during(call: Call) -> Iterator[Call]:
    """Requests made in this thread belong to ``call``."""
    token, outermost = _current.set(call), call not in _active
    _active.add(call)
    try:
        yield call
    finally:
        if outermost:
            _active.discard(call)
        _current.reset(token)


def current() -> Call | None:
    """The call that this thread works for; in a thread of the client's own, the one with the most time left.

    None where no store is at work: then somebody else uses the client in this process.
    """
    at_work = [call for call in list(_active) if not call.over.is_set()]
    return _current.get() or max(at_work, key=lambda call: call.deadline, default=None)


async def in_thread(work: Callable[[], T], call: Call) -> T:
    """Run ``work`` for ``call`` in a thread of its own, return its result; raises ``Late`` at the deadline.

    A thread that is given up ends at its next request, chunk or timeout. It is a daemon: unlike a pool's
    threads it can't hold up the end of the process, and it takes no place from the next call.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def deliver(put: Callable[[Any], None], value: Any) -> None:
        try:
            loop.call_soon_threadsafe(lambda: None if done.done() else put(value))
        except RuntimeError:  # the loop is closed: nobody waits
            return

    def run() -> None:
        try:
            with during(call):
                value = work()
        except BaseException as error:
            deliver(done.set_exception, error)
        else:
            deliver(done.set_result, value)

    call.wake = lambda: deliver(done.set_exception, Late())
    threading.Thread(target=run, name="sidecar-hub", daemon=True).start()
    try:
        while not done.done():
            left = call.deadline + _GRACE - time.monotonic()
            if left <= 0:
                raise Late
            await asyncio.wait({done}, timeout=left)
        return done.result()
    finally:
        call.over.set()
        done.cancel()


def again(work: Callable[[], T], call: Call, unless: Callable[[], bool] = lambda: False) -> T:
    """``work``, repeated (while not ``unless``) until it succeeds or fails in a way that time can't mend."""
    pause = call.patience.pause
    for _ in range(call.patience.tries - 1):
        try:
            return work()
        except Exception as error:
            wait = _wait(root(error), pause, call.patience.longest)
            if wait is None or unless() or wait >= call.left():
                raise
        call.sleep(wait)
        pause = min(pause * 2, call.patience.longest)
    return work()


def _wait(error: Failure | None, pause: float, longest: float) -> float | None:
    """Seconds until another try makes sense, or None where it doesn't."""
    jittered = pause * random.uniform(0.5, 1.0)
    if isinstance(error, Lost):
        return jittered
    if isinstance(error, Answered) and error.status in REPEATABLE:
        hint = error.retry_after or 0.0
        # All whom it told the same at once must not come back at once.
        return max(jittered, hint * random.uniform(1.0, 1.25)) if hint <= longest else None
    return None
