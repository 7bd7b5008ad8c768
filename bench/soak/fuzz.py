"""Ten minutes of Hypothesis against the readers of what a store gives: manifests, their parts, bundles."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.snapshot.fuzz import PROPERTIES

SECONDS = 600.0
LIMITS = settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.target, Phase.shrink],
)


@dataclass
class Found:
    examples: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return not self.failures

    def line(self) -> str:
        each = ", ".join(f"{n:,} {name}" for name, n in self.examples.items())
        total = sum(self.examples.values())
        return f"fuzz: {total:,} examples ({each}), {len(self.failures)} failures, {self.seconds:.0f} s"


def run(scale: float) -> Found:
    """Each property in turn, again and again until the time is over; one that fails is not run again."""
    found, began = Found(), time.monotonic()
    waiting = {holds.__name__: holds for holds in PROPERTIES}
    while waiting and time.monotonic() - began < SECONDS * scale:
        for name, holds in list(waiting.items()):
            try:
                LIMITS(given(st.data())(_counted(holds, found.examples)))()
            except Exception:
                del waiting[name]
                found.failures.append(f"{name}\n{traceback.format_exc()}")
    found.seconds = time.monotonic() - began
    print(found.line(), flush=True)
    for failure in found.failures:
        print(failure, flush=True)
    return found


def _counted(holds: Callable[[st.DataObject], None], examples: dict[str, int]) -> Callable[[st.DataObject], None]:
    def test(data: st.DataObject) -> None:
        examples[holds.__name__] = examples.get(holds.__name__, 0) + 1
        holds(data)

    return test
