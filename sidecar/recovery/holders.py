"""Who held the lease when, as a store's history tells it: whether two instances took it from each other. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sidecar.stores.base import Commit

WITHIN_S = 3600.0
HANDED_OVER = 3
"""Living holders gave way so often within the hour: more than a rebuild, or the one after it, explains."""

_CLAIM = re.compile(r"sidecar: lease \d+ claimed by (\S+)")
_HANDING_OVER = "sidecar: lease handing over"


@dataclass(frozen=True, slots=True)
class Turns:
    """``instances`` held the lease by turns, newest first, ``changes`` times within an hour that ended at ``last``.

    ``last`` is in seconds since the epoch by the store's clock.
    """

    instances: tuple[str, ...]
    changes: int
    last: float


def by_turns(history: Sequence[Commit], within_s: float = WITHIN_S) -> Turns | None:
    """The newest time that two instances held the lease alternately within ``within_s``; None where they never did.

    ``history`` is newest first, as a store gives it. That is: an instance that lost the lease to another took it
    again; or living holders, who each answered, were asked to give way `HANDED_OVER` times, as when two containers
    are restarted for each other. A crash loop is neither: nobody answers there.
    """
    claims = [(m[1], c.at) for c in history if c.at is not None and (m := _CLAIM.match(c.title)) is not None]
    for newest, (holder, at) in enumerate(claims):
        since = [claim for claim in claims[newest:] if at - claim[1] <= within_s]
        between = {name for name, _ in since if name != holder}
        again = next((n for n, (name, _) in enumerate(since) if n and name == holder and since[n - 1][0] != holder), 0)
        if between and again:
            names = tuple(dict.fromkeys(name for name, _ in since[: again + 1]))
            return Turns(names, _changes([name for name, _ in since]), at)
    given = [c.at for c in history if c.at is not None and c.title.startswith(_HANDING_OVER)]
    for newest, at in enumerate(given):
        if len(given) - newest >= HANDED_OVER and at - given[newest + HANDED_OVER - 1] <= within_s:
            names = tuple(dict.fromkeys(name for name, t in claims if abs(at - t) <= within_s))
            return Turns(names, HANDED_OVER, at)
    return None


def _changes(holders: Sequence[str]) -> int:
    return sum(a != b for a, b in pairwise(holders))
