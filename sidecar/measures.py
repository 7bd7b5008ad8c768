"""What an agent counts and samples in its life: for `/metrics`, and for the plot and the list on the status page.

All of it is bounded, and none of it decides anything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeVar

EVERY_S = 60.0
"""How often a sample is taken."""

SAMPLES = 360
"""So many are kept: six hours."""

SNAPSHOTS = 20
"""The newest snapshots that a page lists; `sidecar snapshots` asks the store for all."""

_KINDS = 64
_OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"})

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Sample:
    """One minute: the worst lag in it, and the commits of the hour before ``at`` (seconds since the epoch).

    ``paced`` are the automatic ones among them, which `SIDECAR_COMMITS_PER_HOUR` bounds.
    """

    at: float
    lag_s: float
    commits: int
    paced: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A durable snapshot that this agent made, or saw in the store's history when it started; None is not known.

    ``files`` and ``bytes`` are what it holds, ``changed`` the entries that it changed; ``at`` is in seconds since the
    epoch.
    """

    snapshot: str
    at: float | None
    files: int | None
    bytes: int | None
    changed: int | None
    branch: str | None = None


@dataclass(slots=True)
class Measures:
    """Counters grow only; the rest is of some moment."""

    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    snapshots: deque[Seen] = field(default_factory=lambda: deque(maxlen=SNAPSHOTS))  # oldest first
    worst_lag_s: float = 0.0  # of the syncs since the last sample
    commits: dict[str, int] = field(default_factory=dict)  # sent to the store: automatic, other
    snapshots_made: int = 0
    changed_entries: int = 0
    sent_bytes: int = 0  # of snapshots that became durable
    failures: dict[str, int] = field(default_factory=dict)  # failed syncs by the engine's own codes
    requests: dict[tuple[str, str], int] = field(default_factory=dict)  # answers of the front door: method, 2xx
    wrong_tokens: int = 0
    turned_away: int = 0  # connections closed for a newer one

    def seen(self, one: Seen) -> None:
        """Add a snapshot; one that is known already is not another."""
        if all(one.snapshot != old.snapshot for old in self.snapshots):
            self.snapshots.append(one)

    def durable(self, one: Seen, size: int, lag_s: float) -> None:
        """A snapshot of ours became durable: it sent ``size`` bytes, ``lag_s`` after the first change."""
        self.seen(one)
        self.snapshots_made += 1
        self.changed_entries += one.changed or 0
        self.sent_bytes += size
        self.worst_lag_s = max(self.worst_lag_s, lag_s)

    def committed(self, automatic: bool) -> None:
        """A commit was sent, whatever came of it."""
        count(self.commits, "automatic" if automatic else _OTHER, _OTHER)

    def failed(self, code: str) -> None:
        """A sync failed, by the code of why."""
        count(self.failures, code or "unavailable", _OTHER)

    def proxied(self, method: str, status: int) -> None:
        """The front door answered ``status``; a method that nobody has heard of is only one more."""
        known = method if method in _METHODS else _OTHER
        count(self.requests, (known, f"{status // 100}xx"), (_OTHER, _OTHER))

    def turned(self) -> None:
        """An idle connection was closed for a newer one."""
        self.turned_away += 1

    def sample(self, at: float, lag_s: float, commits: int, paced: int) -> None:
        """Close a minute. ``lag_s`` is how long the oldest change waits now."""
        self.samples.append(Sample(at, round(max(lag_s, self.worst_lag_s), 3), commits, paced))
        self.worst_lag_s = 0.0


def count(counts: dict[Key, int], key: Key, other: Key) -> None:
    """One more of ``key``; past a bound of keys, one more of ``other``: a label that grows costs memory for good."""
    if key not in counts and len(counts) >= _KINDS:
        key = other
    counts[key] = counts.get(key, 0) + 1
