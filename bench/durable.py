"""From a change on disk to a durable snapshot, folder store, SIDECAR_QUIET=0.2s."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figure import Figure
from tests.journeys.space import Space, living

RUNS = 15


def measure(folder: Path) -> Iterator[Figure]:
    with living(Space(folder / "space", f"file://{folder}/store", SIDECAR_COMMITS_PER_HOUR="100000")) as space:
        (space.disk / "data").mkdir()
        space.start()
        space.running()
        space.checkpoint()
        seconds = []
        for run in range(RUNS):
            time.sleep(0.3)
            before = space.get()["sync"]["snapshot"]
            began = time.monotonic()
            (space.disk / "data" / f"file{run}").write_bytes(os.urandom(4096))
            while space.get()["sync"]["snapshot"] == before:
                time.sleep(0.005)
            seconds.append(time.monotonic() - began)
    how = f"median of {RUNS}, worst {max(seconds):.2f} s"
    yield Figure("change to durable, folder store, QUIET=0.2s", statistics.median(seconds), 0.6, "s", how)
