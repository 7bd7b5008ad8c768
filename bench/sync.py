"""What a sync of 10 changed files costs in trees of 1,000, 10,000 and 100,000 (folder store), beside its peers."""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from bench.figure import Figure, pss_mb
from bench.peers import Spent, best, said
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

    def durable_after(self, before: str, seconds: float = 600) -> float:
        """Wait until there is a newer snapshot than ``before``, and the agent has nothing more to do for it.

        How long it took until it was there.
        """
        began = time.monotonic()
        until = began + seconds
        while self.head() == before:
            if time.monotonic() > until:
                raise AssertionError(f"nothing durable in {seconds} s\n{self.space.said()}")
            time.sleep(0.01)
        took = time.monotonic() - began
        time.sleep(0.4)
        return took

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
    """Of one tree: CPU seconds of the median and the dearest sync, seconds of the median one, bytes of the largest.

    And of the first sync: its CPU seconds, the most memory meanwhile, and the PSS that it leaves (MB).
    """

    median: float
    worst: float
    wall: float
    put: int
    first: float
    peak: float
    left: float
    peers: Mapping[str, Spent | None]


def cost(folder: Path, files: int, layout: str, *, beside: bool) -> Cost:
    """Measure syncs of 10 changes in a tree of ``files``, and those of others ``beside``."""
    rng = random.Random(2)
    paths = tree(folder / "disk" / "data", files, layout)
    with agent(folder) as running:
        first, peak, left = running.cpu(), peak_mb(running.agent), pss_mb(running.agent)
        spent, waited, put = [], [], 0
        for _ in range(ROUNDS):
            head, before, at = running.head(), running.cpu(), time.time()
            change(paths, rng)
            waited.append(running.durable_after(head))
            spent.append(running.cpu() - before)
            put = max(put, stored(running.store, at))
    found: Mapping[str, Spent | None] = {}
    if beside:
        (folder / "peers").mkdir()
        found = peers.syncs(folder / "disk" / "data", folder / "peers", lambda: change(paths, rng))
        shutil.rmtree(folder / "peers")
    median = statistics.median(spent)
    return Cost(median, max(spent), statistics.median(waited), put, first, peak, left, found)


def measure(folder: Path) -> Iterator[Figure]:
    costs: dict[tuple[int, str], Cost] = {}
    sizes = [*((1000, each) for each in LAYOUTS), (10_000, LAYOUTS[0]), *((100_000, each) for each in LAYOUTS)]
    for files, layout in sizes:
        at = folder / f"{files}-{layout}"
        found = costs[files, layout] = cost(at, files, layout, beside=layout == LAYOUTS[0])
        shutil.rmtree(at)
        what = f"sync of {CHANGED} changes in {files:,} files, {layout}"
        how = f"CPU of the agent, median of {ROUNDS}, worst {found.worst * 1000:.0f} ms; wall {found.wall:.2f} s"
        yield Figure(what, found.median * 1000, 150, "ms", how)
        if found.peers:
            # Of fewer files there is less to look at: the claim is made for many.
            goal = 0.1 if files == 100_000 else math.inf
            yield Figure(
                "  against the best of its peers", found.median / best(found.peers).cpu, goal, "x", said(found.peers)
            )
        if files == 100_000:
            ratio = found.median / costs[1000, layout].median
            yield Figure(f"  against 1,000 files, {layout}", ratio, 1.5, "x", "of the same medians")
            yield Figure(f"  put into the store, {layout}", found.put / 1e6, 1, "MB", "the largest of them")
            how = f"as an agent takes it; its CPU {found.first:.1f} s"
            yield Figure(f"  first snapshot, {layout}: most memory", found.peak, 400, "MB", how)
            yield Figure(f"  first snapshot, {layout}: PSS afterwards", found.left, 100, "MB", "3 s after it")
