"""What a sync of 10 changed files costs in trees of 1,000, 10,000 and 100,000 (folder store): CPU, and bytes."""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figure import Figure
from tests.journeys.space import Space, agent_of, living

SIZE = 1024
CHANGED = 10
ROUNDS = 9
LAYOUTS = ("folders", "deep", "flat")


def tree(folder: Path, files: int, layout: str = "folders", size: int = SIZE) -> list[Path]:
    """``files`` files of ``size`` bytes that can't be compressed, the same on every machine; their paths.

    ``folders``: a thousand to a folder; ``deep``: ten to a folder, six folders deep; ``flat``: all in one folder.
    """
    rng = random.Random(1)
    paths = []
    for number in range(files):
        if layout == "folders":
            at = folder / f"{number // 1000:03}"
        elif layout == "deep":
            at = folder.joinpath(*f"{number // 10:06}")
        else:
            at = folder
        if not at.is_dir():
            at.mkdir(parents=True)
        paths.append(at / f"{number:06}.bin")
        paths[-1].write_bytes(rng.randbytes(size))
    return paths


def change(paths: Sequence[Path], rng: random.Random, count: int = CHANGED, size: int = SIZE) -> None:
    """Write ``count`` of the files anew, all over the tree."""
    for path in rng.sample(paths, count):
        path.write_bytes(rng.randbytes(size))


@dataclass(frozen=True, slots=True)
class Running:
    """An agent that keeps a tree, started as users start it."""

    space: Space
    store: Path

    @property
    def agent(self) -> int:
        return agent_of(self.space)

    def head(self) -> str:
        """What is durable. Asked of the store's folder: a request would cost the agent CPU."""
        return (self.store / "refs" / "main").read_text()

    def durable_after(self, before: str, seconds: float = 600) -> None:
        """Wait until there is a newer snapshot than ``before``, and the agent has nothing more to do for it."""
        until = time.monotonic() + seconds
        while self.head() == before:
            if time.monotonic() > until:
                raise AssertionError(f"nothing durable in {seconds} s\n{self.space.said()}")
            time.sleep(0.01)
        time.sleep(0.4)

    def cpu(self) -> float:
        """CPU seconds of the agent and of the children that it waited for."""
        return process_cpu_s(self.agent)


def process_cpu_s(pid: int) -> float:
    """CPU seconds of a process, threads that have ended included, in ns; of its children in ticks of the clock."""
    own = time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3), CPUCLOCK_SCHED
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own + sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """The most memory that a process ever held, in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no VmHWM in status")


@contextlib.contextmanager
def agent(folder: Path, **settings: str) -> Iterator[Running]:
    """An agent in ``folder``, whose root is ``folder/disk/data``, when its first snapshot is durable."""
    store = folder / "store"
    usual = {"SIDECAR_PATHS": f"data={folder}/disk/data", "SIDECAR_COMMITS_PER_HOUR": "100000", "SIDECAR_RESCAN": "1h"}
    with living(Space(folder, f"file://{store}", **{**usual, **settings})) as space:
        space.start()
        space.running(120)
        running = Running(space, store)
        until = time.monotonic() + 600
        while running.head() == "unborn\n" or not space.get()["sync"]["snapshot"]:
            if time.monotonic() > until:
                raise AssertionError(f"no first snapshot\n{space.said()}")
            time.sleep(0.25)
        time.sleep(3)  # what was written just before it was staged is looked at once more
        yield running


def stored(store: Path, since: float) -> int:
    """Bytes of the objects that the store got since the time ``since``."""
    return sum(
        at.stat().st_size for at in (store / "contents").rglob("*") if at.is_file() and at.stat().st_mtime > since
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one tree: CPU seconds of the median and the dearest sync, bytes of the largest, first sync, peak memory."""

    median: float
    worst: float
    put: int
    first: float
    peak: float


def cost(folder: Path, files: int, layout: str) -> Cost:
    """Measure syncs of 10 changes in a tree of ``files``."""
    rng = random.Random(2)
    paths = tree(folder / "disk" / "data", files, layout)
    with agent(folder) as running:
        first, peak = running.cpu(), peak_mb(running.agent)
        spent, put = [], 0
        for _ in range(ROUNDS):
            head, before, at = running.head(), running.cpu(), time.time()
            change(paths, rng)
            running.durable_after(head)
            spent.append(running.cpu() - before)
            put = max(put, stored(running.store, at))
    return Cost(statistics.median(spent), max(spent), put, first, peak)


def measure(folder: Path) -> Iterator[Figure]:
    costs: dict[tuple[int, str], Cost] = {}
    sizes = [*((1000, each) for each in LAYOUTS), (10_000, LAYOUTS[0]), *((100_000, each) for each in LAYOUTS)]
    for files, layout in sizes:
        found = costs[files, layout] = cost(folder / f"{files}-{layout}", files, layout)
        what = f"sync of {CHANGED} changes in {files:,} files, {layout}"
        how = f"CPU of the agent, median of {ROUNDS}, worst {found.worst * 1000:.0f} ms"
        yield Figure(what, found.median * 1000, 150, "ms", how)
        if files == 100_000:
            ratio = found.median / costs[1000, layout].median
            yield Figure(f"  against 1,000 files, {layout}", ratio, 1.5, "x", "of the same medians")
            yield Figure(f"  put into the store, {layout}", found.put / 1e6, 1, "MB", "the largest of them")
            how = f"as an agent takes it; its CPU {found.first:.1f} s"
            yield Figure(f"  first snapshot, {layout}: most memory", found.peak, 400, "MB", how)
