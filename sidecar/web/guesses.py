"""Wrong API tokens, counted by who sent them: who guesses is made to wait, and nobody else is.

A right token from elsewhere always counts, so that a stranger can't lock the owner out; and the Unix socket needs none.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from sidecar.web.access import Caller

PER_MINUTE = 10
CALLERS = 1024
"""Callers that are remembered; the one that began longest ago makes room for a new one."""
WINDOW_S = 60.0


class _Count(NamedTuple):
    since: float
    wrong: int


class Guesses:
    """A table of bounded size. Times are monotonic."""

    def __init__(self, per_minute: int = PER_MINUTE, callers: int = CALLERS) -> None:
        self._per_minute, self._callers = per_minute, callers
        self._counts: dict[str, _Count] = {}  # in the order in which they began

    def __len__(self) -> int:
        return len(self._counts)

    def wait_s(self, who: str, now: float) -> float:
        """Seconds until ``who`` may try a token again; 0 where it may now."""
        count = self._counts.get(who)
        if count is None or count.wrong < self._per_minute:
            return 0.0
        return max(0.0, count.since + WINDOW_S - now)

    def wrong(self, who: str, now: float) -> None:
        """``who`` has sent a wrong token."""
        count = self._counts.get(who)
        if count is not None and now - count.since < WINDOW_S:
            self._counts[who] = _Count(count.since, count.wrong + 1)
            return
        self._counts.pop(who, None)
        if len(self._counts) >= self._callers:
            del self._counts[next(iter(self._counts))]
        self._counts[who] = _Count(now, 1)


def guesser(who: Caller) -> str:
    """Whom a wrong token is put down to: the peer, and whom the nearest proxy names, which a visitor can't make up.

    A network of IPv6 addresses (/64) is one: whoever has an address there has all of them.
    """
    hops = b",".join(who.values(b"x-forwarded-for")).rpartition(b",")[2].strip()[:64].decode("latin-1")
    return f"{_network(who.peer or '')} {_network(hops)}"


def _network(address: str) -> str:
    try:
        found = ip_address(address.strip("[]"))
    except ValueError:
        return address
    return str(int(found) >> 64) if found.version == 6 and found.ipv4_mapped is None else str(found)
