"""What an agent costs in memory while it brings 2 GB back from the local Hub: itself and its children, at the worst."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench import trees
from bench.figure import Figure, pss_mb
from bench.hubs import stored
from tests.journeys.space import Space, agent_of, descendants, living

SIZE = 2 << 30
FILES = 20_000


def measure(folder: Path) -> Iterator[Figure]:
    many = partial(trees.small, files=FILES, size=SIZE // FILES)
    for name, tree, layout in (
        ("one file of 2 GB", partial(trees.large, size=SIZE), ""),
        (f"2 GB in {FILES:,} files", many, "?layout=bundle"),
    ):
        with stored(folder / "one", tree, layout) as at, living(at.fresh()) as space:
            space.start()
            worst, looks = _watch(space)
            found = sum(p.stat().st_size for p in (space.disk / "data").rglob("*") if p.is_file())
            assert found == SIZE // FILES * FILES or found == SIZE, found
        shutil.rmtree(folder / "one")
        yield Figure(f"restore of {name}: PSS of agent and children", worst, 150, "MB", f"worst of {looks} looks")


def _watch(space: Space) -> tuple[float, int]:
    """The most memory until main runs."""
    worst, looks, agent = 0.0, 0, 0
    until = time.monotonic() + 600
    while time.monotonic() < until:
        assert space.process is not None
        assert space.process.poll() is None, space.said()
        with contextlib.suppress(OSError, RuntimeError, AssertionError):
            agent = agent or agent_of(space)
            worst = max(worst, sum(_pss(pid) for pid in (agent, *descendants(agent))))
            looks += 1
        if looks % 10 == 0:
            with contextlib.suppress(OSError):
                if space.get()["main"]["state"] == "running":
                    return worst, looks
        time.sleep(0.03)
    raise AssertionError(f"not restored in time: {space.said()}")


def _pss(pid: int) -> float:
    with contextlib.suppress(OSError, RuntimeError):
        return pss_mb(pid)
    return 0.0
