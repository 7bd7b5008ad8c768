"""Who held the lease when, as a store's history tells it: whether two instances took it from each other. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sidecar.snapshot.manifest import CLAIM, HANDS
from sidecar.stores.base import Commit

WITHIN_S = 3600.0
HANDED_OVER = 2
"""Living holders gave way so often within the hour. A rebuild does that once."""


@dataclass(frozen=True, slots=True)
class Turns:
    """``instances`` held the lease by turns, newest first, within an hour that ended at ``last``.

    ``last`` is in seconds since the epoch by the store's clock. ``again``: one of them came back, which is certain;
    else living holders had to give way to instances of other names, as when replicas are restarted for each other.
    """

    instances: tuple[str, ...]
    again: bool
    last: float


@dataclass(frozen=True, slots=True)
class _Claim:
    instance: str
    at: float
    asked: bool  # whether the holder before answered that it hands over, so that it lived


def by_turns(history: Sequence[Commit], within_s: float = WITHIN_S) -> Turns | None:
    """The newest time that two instances held the lease alternately within ``within_s``; None where they never did.

    ``history`` is newest first, as a store gives it. An instance has a new name at each start: so either one took the
    lease again from another, or it went `HANDED_OVER` times from a living holder to somebody else. A crash loop is
    neither: nobody answers there.
    """
    claims = list(_claims(history))
    for n, claim in enumerate(claims):
        since = [c for c in claims[n:] if claim.at - c.at <= within_s]
        names = [c.instance for c in since]
        again = next((k for k in range(2, len(names)) if names[k] == names[0] != names[k - 1]), 0)
        if again:
            return Turns(tuple(dict.fromkeys(names[: again + 1])), True, claim.at)
        taken = [k for k, c in enumerate(since) if c.asked]
        if claim.asked and len(taken) >= HANDED_OVER:
            return Turns(tuple(dict.fromkeys(names[: taken[HANDED_OVER - 1] + 2])), False, claim.at)
    return None


def _claims(history: Sequence[Commit]) -> Iterator[_Claim]:
    """Every claim, newest first; a hand-over that takes long says so in several commits."""
    latest: _Claim | None = None
    for commit in history:
        match = CLAIM.match(commit.title)
        if match is not None and commit.at is not None:
            if latest is not None:
                yield latest
            latest = _Claim(match[2], commit.at, False)
        elif latest is not None and commit.title.startswith(HANDS):
            latest = replace(latest, asked=True)
    if latest is not None:
        yield latest
