"""One measured figure and what it is held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """``value`` is to be at most ``goal`` (inf: said only), both in ``unit``; ``how`` says what was done how often."""

    name: str
    value: float
    goal: float
    unit: str
    how: str

    @property
    def good(self) -> bool:
        return self.value <= self.goal

    def line(self) -> str:
        verdict = "ok  " if self.good else "MISS"
        goal = f"goal {self.goal:g}" if math.isfinite(self.goal) else "no goal"
        return f"{verdict} {self.name:<52} {self.value:8.3f} {self.unit:<4} ({goal}; {self.how})"


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def pss_mb(pid: int) -> float:
    """What a process costs in memory, with shared pages counted by share; in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no Pss in smaps_rollup")


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, children that it waited for included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / 100
