"""What a check came to, and how a time is said in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Result = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reason`` is for people and holds no secret; ``absent`` says that what was to be checked isn't there.

    ``warn`` is what passes and won't for long, and what can't be judged. Where the next look finds the same ``mark`` it
    need not read all of it again.
    """

    result: Result
    reason: str
    absent: bool = False
    mark: str = ""


def span(seconds: float) -> str:
    """A length of time in its largest unit, rounded down: ``2 days``, ``1 hour``, ``40 s``."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count:,} {unit}{'' if count == 1 else 's'}"
    return f"{max(0, int(seconds))} s"


def when(at: float, now: float) -> str:
    """``at`` as seen from ``now``, both in seconds since the epoch: ``in 2 days``, ``40 s ago``."""
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"
