"""Containers that meet: deep searches through lives in a model, then real ones that overlap as a Space's do."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.journeys import test_overlap, test_two
from tests.recovery.test_lives import Lives

SECONDS = 600.0
"""Of search, at a scale of 1."""

ROUNDS = 10
"""Of real overlaps, and of frozen containers, at a scale of 1."""

LATER_S = 20.0
"""How long the old container goes on after the new one is ready."""

DEEP = settings(
    max_examples=100,
    stateful_step_count=150,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Found:
    searched: int = 0  # lives of two or three containers
    overlaps: int = 0
    frozen: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return not self.failures

    def line(self) -> str:
        return (
            f"overlap: {self.searched:,} searched lives, {self.overlaps} real overlaps, {self.frozen} frozen,"
            f" {len(self.failures)} failures, {self.seconds:.0f} s"
        )


class Counted(Lives):
    """The suite's machine, counting how often it was begun."""

    begun_so_far = 0

    def __init__(self) -> None:
        super().__init__()
        Counted.begun_so_far += 1


def run(scale: float) -> Found:
    """What fails is said with its traceback, and ends its part."""
    found, began = Found(), time.monotonic()
    try:
        while time.monotonic() - began < SECONDS * scale:
            run_state_machine_as_test(Counted, settings=DEEP)
    except Exception:
        found.failures.append(traceback.format_exc())
    found.searched = Counted.begun_so_far
    try:
        for _ in range(max(1, round(ROUNDS * scale))):
            with TemporaryDirectory(prefix="sidecar-soak-") as folder:
                test_overlap.overlap(Path(folder), LATER_S)
            found.overlaps += 1
            with TemporaryDirectory(prefix="sidecar-soak-") as folder:
                test_two.silent(Path(folder))
            found.frozen += 1
    except Exception:
        found.failures.append(traceback.format_exc())
    found.seconds = time.monotonic() - began
    print(found.line(), flush=True)
    for failure in found.failures:
        print(failure, flush=True)
    return found
