"""When the next snapshot may go: debounce and the commit budget, as values in and values out.

Times are seconds of a monotonic clock, whose zero means nothing.
"""

from __future__ import annotations

import random
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

HOUR = 3600.0
BURST = 10
CEILING = 120
"""All commits together in any sliding hour on the Hub, which refuses at about 128 (seen in public threads)."""
LONGEST_HINT = 300.0
"""Seconds up to which a store's own Retry-After is believed."""
WHOLE_S = 1.0
"""Stores tell whole seconds: an age that is the difference of two such times may be wrong by so much."""


def due(first: float, last: float, quiet_s: float, max_delay_s: float) -> float:
    """When to sync changes of which the oldest was seen at ``first`` and the newest at ``last``."""
    return min(last + quiet_s, first + max_delay_s)


def backoff(failures: int, least: float = 1.0, most: float = 60.0, retry_after: float | None = None) -> float:
    """How long to wait after the n-th failure in a row: doubling, with full jitter above one half, bounded.

    A store's own ``retry_after`` is believed up to five minutes: some are known to lie. It tells the same to all who
    ask at once, so up to a quarter more is added: they don't come back at once.
    """
    wait = min(most, least * 2.0 ** min(failures - 1, 16))
    wait *= 0.5 + random.random() / 2
    return wait if retry_after is None else max(wait, min(retry_after, LONGEST_HINT) * (1 + random.random() / 4))


def spread(seconds: float) -> float:
    """A period of about ``seconds``, never longer: what was started together doesn't ask together for ever."""
    return seconds * (0.75 + random.random() / 4)


@dataclass(slots=True)
class Budget:
    """Which commits went out in the last hour, and when the next may.

    ``per_hour`` bounds automatic snapshots in any sliding hour, a burst of ten included; ``ceiling`` bounds all commits
    together (None: no bound). Automatic snapshots of the last hour that other lives made count too (``seed``).
    """

    per_hour: int
    ceiling: int | None = None
    automatic: list[float] = field(default_factory=list)
    every: list[float] = field(default_factory=list)
    tell: Callable[[bool], None] = lambda automatic: None
    """Is told of each commit that is sent."""

    def seed(self, now: float, ages: Iterable[float], paced: Iterable[float]) -> None:
        """Count commits that are ``ages`` seconds old, by the store's own clock; each is taken for ``WHOLE_S`` younger.

        ``paced`` are the snapshots' among them (which of those were automatic can't be told any more).
        """
        for times, those in ((self.every, ages), (self.automatic, paced)):
            for age in those:
                if -HOUR < age < HOUR + WHOLE_S:
                    insort(times, now - max(age - WHOLE_S, 0.0))

    def seed_from(self, commits: Iterable[tuple[float, bool]], store_now: float | None, now: float) -> None:
        """Count what other lives committed: the store's own times, and whether each was a snapshot.

        ``store_now`` is the store's clock, where it told one (else the newest commit is taken for a new one); ``now``
        is ours.
        """
        known = list(commits)
        at = max((t for t, _ in known), default=0.0) if store_now is None else store_now
        # Claims and releases of earlier lives count for the ceiling, not for the pace of snapshots.
        self.seed(now, [at - t for t, _ in known], [at - t for t, snapshot in known if snapshot])

    def note(self, now: float, *, automatic: bool) -> None:
        """A commit was sent (whatever came of it: the store may have counted it)."""
        self._forget(now)
        if automatic:
            insort(self.automatic, now)
        insort(self.every, now)
        self.tell(automatic)

    def in_hour(self, now: float) -> tuple[int, int]:
        """How many commits the last hour saw, and how many of them were automatic."""
        self._forget(now)
        return len(self.every), len(self.automatic)

    def _forget(self, now: float) -> None:
        for times in (self.automatic, self.every):
            del times[: bisect_right(times, now - HOUR)]

    def automatic_at(self, now: float) -> float:
        """When the next automatic snapshot may go; ``now`` or earlier means at once."""
        self._forget(now)
        at = now
        if len(self.automatic) >= self.per_hour:
            at = max(at, self.automatic[-self.per_hour] + HOUR)
        at = max(at, self._refilled(now))
        if self.ceiling is not None:
            # Near the ceiling automatic snapshots wait first: what is left is for checkpoints, claims and ends.
            spare = max(1, self.ceiling - max(10, self.ceiling // 10))
            if len(self.every) >= spare:
                at = max(at, self.every[-spare] + HOUR)
        return at

    def checkpoint_at(self, now: float) -> float:
        """When the next checkpoint may go; only the ceiling holds one back, two left for claim and final commit."""
        self._forget(now)
        if self.ceiling is None:
            return now
        spare = max(1, self.ceiling - 2)
        return now if len(self.every) < spare else max(now, self.every[-spare] + HOUR)

    def _refilled(self, now: float) -> float:
        """The token bucket that spreads what the burst leaves: ``burst`` at once, then one every so often.

        Where a burst takes most of the hour's share, half of that is spread all the same: the hour's own bound holds
        it back as long as it must.
        """
        burst = min(BURST, self.per_hour)
        every = HOUR / max(self.per_hour - burst, (self.per_hour + 1) // 2)
        free_at = float("-inf")  # when the bucket is full again
        for t in self.automatic:
            free_at = max(free_at, t) + every
        return free_at - burst * every + every if free_at > now else now
