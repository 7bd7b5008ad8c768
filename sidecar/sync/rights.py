"""Whether we may still write: what the lease at the head, and the commits up to it, say to its holder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from sidecar.snapshot.manifest import ASKS, CLAIM, HANDS, SnapshotId, snapshot_in

Verdict = Literal["mine", "requested", "withdrawn", "fenced", "older", "lost"]

Footing = Literal["ours", "edited", "fenced"]
"""Of a head that isn't what we committed last: ours to go on from, somebody's edit, or somebody else's."""


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


def _others(title: str, epoch: int, squashed: bool) -> bool:
    """Whether a snapshot so titled is another holder's. What is ``squashed`` away is: only a holder squashes."""
    number = snapshot_in(title)
    return number is not None and (squashed or SnapshotId.parse(number).epoch > epoch)


class Fenced(Exception):
    """Somebody else holds the lease now: this instance writes no more to the main line."""


class Edited(Exception):
    """The head is not ours, yet the lease is: somebody edited the store by hand. Plan again on the new head."""


class Withdrawn(Exception):
    """Who asked for the lease asks no more, while we hand it over: it stays ours."""


def about_the_lease(title: str) -> bool:
    """Whether a commit so titled changes nothing but the lease, and not whose it is."""
    return title.startswith(ASKS) or title == HANDS


def weigh(verdict: Verdict, epoch: int, since: Sequence[str], *, gone: bool, same: bool) -> Footing:
    """What a head is whose lease says ``verdict`` to us of ``epoch``, after commits ``since`` (titles) our last one.

    ``gone``: our own is not in the history any more; ``same``: what a squash left there is our snapshot.
    """
    if verdict == "fenced":
        return "fenced"
    if verdict == "older" and gone:
        return "fenced"  # not put back by hand: somebody has claimed it since it was deleted, and squashed
    if verdict in ("lost", "older"):
        if any(CLAIM.match(title) or _others(title, epoch, gone and not same) for title in since):
            return "fenced"  # it was lost after somebody had taken it
        return "edited"
    if same or (since and all(map(about_the_lease, since))):
        return "ours"
    return "edited"
