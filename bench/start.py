"""How much later main starts for being started by `sidecar run`: a cold start on a folder store."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figure import Figure
from tests.journeys.space import Space

RUNS = 7


def measure(folder: Path) -> Iterator[Figure]:
    stamp = folder / "stamp"
    main = ("sh", "-c", f"date +%s.%N > {stamp}")
    bare, added = [], []
    for run in range(RUNS + 1):
        began = time.time()
        subprocess.run(main, check=True)
        bare.append(float(stamp.read_text()) - began)
        space = Space(folder / str(run), f"file://{folder}/store{run}")
        began = time.time()
        assert space.start(*main).wait(30) == 0, space.said()
        added.append(float(stamp.read_text()) - began)
    # The first pays for a cold disk cache, which is not what is measured.
    value = statistics.median(added[1:]) - statistics.median(bare[1:])
    yield Figure("added start time of main, cold start, folder store", value, 0.7, "s", f"median of {RUNS}")
