"""Whether we may still write: what the lease at the head, and the commits up to it, say to its holder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, Protocol

from sidecar.snapshot.manifest import ASKS, HANDS

Verdict = Literal["mine", "requested", "withdrawn", "fenced", "lost"]

Footing = Literal["ours", "edited", "fenced"]
"""Of a head that isn't what we committed last: ours to go on from, somebody's edit, or somebody else's."""

CLAIMS = re.compile(r"sidecar: lease \d+ claimed by ")


class Tenure(Protocol):
    """The lease as the sync side needs it; ``recovery.lease`` has it."""

    @property
    def epoch(self) -> int: ...

    @property
    def handing(self) -> bool: ...

    def released(self, clean: bool) -> bytes: ...

    def held(self) -> bytes: ...

    def handing_over(self) -> bytes: ...

    def judge(self, raw: bytes | None) -> Verdict: ...


class Fenced(Exception):
    """Somebody else holds the lease now: this instance writes no more to the main line."""


class Edited(Exception):
    """The head is not ours, yet the lease is: somebody edited the store by hand. Plan again on the new head."""


class Withdrawn(Exception):
    """Who asked for the lease asks no more, while we hand it over: it stays ours."""


def about_the_lease(title: str) -> bool:
    """Whether a commit so titled changes nothing but the lease, and not whose it is."""
    return title.startswith(ASKS) or title == HANDS


def weigh(verdict: Verdict, since: Sequence[str], *, same: bool) -> Footing:
    """What a head is to us whose lease says ``verdict``, after commits with the titles ``since`` our last one.

    ``same``: our own is gone from the history, and what a squash left there is our snapshot.
    """
    if verdict == "fenced":
        return "fenced"
    if verdict == "lost":
        # Was it lost after somebody had taken it?
        return "fenced" if any(CLAIMS.match(title) for title in since) else "edited"
    if same or (since and all(map(about_the_lease, since))):
        return "ours"
    return "edited"
