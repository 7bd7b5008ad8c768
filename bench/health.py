"""How quickly /health answers while 1 GB is being synced (folder store)."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figure import Figure, percentile
from tests.journeys.space import Space, living

SIZE = 1 << 30


def measure(folder: Path) -> Iterator[Figure]:
    with living(Space(folder / "space", f"file://{folder}/store")) as space:
        (space.disk / "data").mkdir()
        space.start()
        space.running()
        before = space.checkpoint()["snapshot"]
        with open(space.disk / "data/part", "wb") as out:
            for _ in range(SIZE >> 20):
                out.write(os.urandom(1 << 20))
        os.rename(space.disk / "data/part", space.disk / "data/whole")
        http_ = http.client.HTTPConnection("127.0.0.1", space.port, timeout=10)
        times, until, snapshot = [], time.monotonic() + 120, before
        while time.monotonic() < until:
            began = time.monotonic()
            http_.request("GET", "/health")
            http_.getresponse().read()
            times.append((time.monotonic() - began) * 1000)
            time.sleep(0.005)
            if len(times) % 20 == 0:
                status = space.get()
                snapshot = status["sync"]["snapshot"]
                if status["roots"][0]["bytes"] >= SIZE:
                    break
        http_.close()
        assert snapshot != before, "the gigabyte was not synced in time"
    how = f"{len(times)} requests, p50 {percentile(times, 0.5):.1f} ms, worst {max(times):.0f} ms"
    yield Figure("/health p99 while 1 GB is synced, folder store", percentile(times, 0.99), 10, "ms", how)
