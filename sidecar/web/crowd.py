"""The connections of one listener, bounded: a newcomer takes the place of who has said nothing for longest.

Without it a thousand connections that send nothing, or a byte a minute, would use up all places (slowloris), and a
health check would be turned away: some platforms restart a container for that. And each costs a file descriptor, which
the sync needs too.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidecar.web.access import crowded

_SPARE = 256
"""File descriptors that stay for files, the store and the main app's pipes, however large the crowd."""
_LEAST = 16
_MOST = 65536


class Guest(Protocol):
    """A connection. ``stuck``: it doesn't read its answer, or has long sent nothing of a body that it owes."""

    @property
    def stuck(self) -> bool: ...
    def turn_away(self) -> None: ...


class Crowd:
    """At most ``most`` connections at a time, as long as one is idle or stuck. ``count`` is told of who has to go."""

    def __init__(self, most: int, count: Callable[[], None] = lambda: None) -> None:
        self._most, self._count = most, count
        self._all: dict[Guest, None] = {}  # in the order in which they came
        self._idle: dict[Guest, None] = {}  # in the order in which they fell silent

    def __len__(self) -> int:
        return len(self._all)

    @property
    def full(self) -> bool:
        """Is somebody here for whom nobody could make room?"""
        return len(self._all) > self._most

    def comes(self, guest: Guest) -> None:
        """``guest`` has connected, and has said nothing yet."""
        self._all[guest] = self._idle[guest] = None
        while len(self._all) > self._most and (victim := self._whom()) is not None:
            self.leaves(victim)
            self._count()
            victim.turn_away()

    def _whom(self) -> Guest | None:
        if len(self._idle) > 1:  # the newest of them is who has just come
            return next(iter(self._idle))
        return next((guest for guest in self._all if guest.stuck), None)

    def works(self, guest: Guest) -> None:
        """A request of ``guest`` is under way."""
        self._idle.pop(guest, None)

    def rests(self, guest: Guest) -> None:
        """None is, any more."""
        if guest in self._all and guest not in self._idle:
            self._idle[guest] = None

    def leaves(self, guest: Guest) -> None:
        self._all.pop(guest, None)
        self._idle.pop(guest, None)


def brief(app: ASGIApp) -> ASGIApp:
    """``app``, where a connection that is one too many ends with its answer."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, _last(send) if crowded(scope) else send)

    return answer


def _last(send: Send) -> Send:
    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    return closing


def places(wanted: int, descriptors_each: int) -> int:
    """How many connections there may be: ``wanted``, or what this process's limit of open files leaves.

    The soft limit is raised first, as far as the hard one goes: containers often start with 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted * descriptors_each + _SPARE
    top = _MOST if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < min(need, top):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(need, top), hard))
        soft = min(need, top)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return wanted
    return max(_LEAST, (soft - _SPARE) // descriptors_each)
