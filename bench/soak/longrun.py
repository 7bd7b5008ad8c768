"""Half an hour of one Space with a busy app, faults every few seconds, a restart now and then: does anything grow?"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.figure import pss_mb
from bench.soak.matrix import FAULTS
from tests.faults import mixed
from tests.faults.patient import Patient
from tests.hub.server import LocalHub
from tests.journeys.space import agent_of, living, tree

SECONDS = 1800.0
LIVES = 6
MATURE_S = 0.25
"""Share of a life after which its agent has what it needs in memory."""

LEAST = 9
"""Samples that say something."""

GROWTH_MB, GROWTH_FDS = 8.0, 8
STATE_GROWTH, STATE_SLACK_MB = 1.3, 6.0
"""The index's write-ahead log alone takes up to 4 MB before SQLite folds it."""


@dataclass(frozen=True)
class Sample:
    life: int
    at: float
    pss_mb: float
    fds: int
    state_mb: float
    state_files: int


@dataclass
class Found:
    faults: int = 0
    restarts: int = 0
    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    snapshots: int = 0
    compared: int = 0
    largest: str = ""

    @property
    def good(self) -> bool:
        return not self.failures

    def line(self) -> str:
        first, last = thirds(self.samples)
        ends = [
            f"{name} {_median(first, of):.{digits}f} -> {_median(last, of):.{digits}f}"
            for name, of, digits in (
                ("PSS MB", lambda s: s.pss_mb, 1),
                ("descriptors", lambda s: s.fds, 0),
                ("state dir MB", lambda s: s.state_mb, 1),
            )
        ]
        return (
            f"long run: {self.faults} faults, {self.restarts} restarts, {self.snapshots} snapshots, {', '.join(ends)}, "
            f"{self.compared} entries compared, {len(self.failures)} failures, {self.seconds:.0f} s"
        )


def run(scale: float, seed: int) -> Found:
    """Live, sample, compare."""
    found, began = Found(), time.monotonic()
    with TemporaryDirectory(prefix="sidecar-soak-") as name:
        tmp = Path(name)
        with LocalHub(tmp / "hub", process=True, settings={"lfs_above": 10_000}) as hub:
            patient = Patient(hub, tmp / "space", "alice/long", SIDECAR_RESCAN="20s", SIDECAR_MAX_DELAY="2s")
            with living(patient.space):
                try:
                    _live(patient, found, SECONDS * scale, random.Random(seed))
                    _compare(patient, found)
                    found.failures += grown(found.samples)
                    found.largest = _largest(patient.space.state)
                except Exception as error:
                    found.failures.append(f"{type(error).__name__}: {error}\n{patient.space.said()[-3000:]}")
            found.snapshots = len(patient.snapshots())
    found.seconds = time.monotonic() - began
    print(found.line(), flush=True)
    print(f"   in the state dir at the end: {found.largest}")
    for failure in found.failures:
        print("  ", failure, flush=True)
    return found


def _largest(state: Path) -> str:
    """What takes most of the state dir."""
    sizes = {path.name: sum(os.lstat(p).st_size for p in (path, *path.rglob("*"))) for path in state.iterdir()}
    most = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    return ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in most)


def _live(patient: Patient, found: Found, seconds: float, rng: random.Random) -> None:
    space = patient.space
    (space.disk / "data").mkdir()
    end, lives = time.monotonic() + seconds, max(2, min(LIVES, int(seconds // 20)))
    for life in range(lives):
        until = end - seconds * (lives - 1 - life) / lives
        space.start(sys.executable, mixed.__file__, str(space.disk), str(space.home), str(rng.randrange(1 << 30)))
        space.running(60)
        _one(patient, found, life, until, rng)
        if life < lives - 1:
            found.restarts += 1
            how = rng.choice(["end", "kill", "lose"])
            if how == "kill":
                space.kill()
                continue
            assert space.end(signal.SIGTERM, 60) == 143, space.said()[-2000:]
            if how == "lose":
                space.lose_disk()
                (space.disk / "data").mkdir()


def _one(patient: Patient, found: Found, life: int, until: float, rng: random.Random) -> None:
    """One life: a fault now and then, and a look at the agent every second."""
    began = time.monotonic()
    mature = began + (until - began) * MATURE_S
    rule: int | None = None
    turn = time.monotonic() + rng.uniform(1, 5)
    while (now := time.monotonic()) < until:
        assert patient.space.process is not None
        assert patient.space.process.poll() is None, patient.space.said()[-3000:]
        if now >= turn:
            turn = now + rng.uniform(2, 8)
            if rule is None:
                given = FAULTS[rng.choice(list(FAULTS))]
                rule = patient.hub.fault(**{"action": "status", "path": patient.repo, "times": None, **given})
                found.faults += 1
            else:
                patient.hub.clear_faults(rule)
                rule = None
        if now >= mature:
            with contextlib.suppress(OSError, AssertionError, RuntimeError):
                found.samples.append(_sample(patient, life, now))
        time.sleep(1)
    if rule is not None:
        patient.hub.clear_faults(rule)


def _sample(patient: Patient, life: int, now: float) -> Sample:
    pid = agent_of(patient.space)
    sizes = [os.lstat(Path(at) / name).st_size for at, _, names in os.walk(patient.space.state) for name in names]
    fds = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(life, now, pss_mb(pid), fds, sum(sizes) / 1e6, len(sizes))


def thirds(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The first and the last third."""
    third = max(1, len(samples) // 3)
    return samples[:third], samples[-third:]


def _median(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    return statistics.median(of(s) for s in samples) if samples else 0.0


def grown(samples: Sequence[Sample]) -> list[str]:
    """What grew: from the first lives to the last, and within each life."""
    wrong = []
    lives: Mapping[str, Sequence[Sample]] = {
        "over all lives": samples,
        **{f"in life {n}": [s for s in samples if s.life == n] for n in {s.life for s in samples}},
    }
    for where, those in lives.items():
        if len(those) < LEAST:
            continue
        first, last = thirds(those)
        memory = _median(last, lambda s: s.pss_mb) - _median(first, lambda s: s.pss_mb)
        fds = _median(last, lambda s: s.fds) - _median(first, lambda s: s.fds)
        if memory > GROWTH_MB:
            wrong.append(f"memory grew by {memory:.1f} MB {where}")
        if fds > GROWTH_FDS:
            wrong.append(f"{fds:.0f} more descriptors {where}")
    if len(samples) < LEAST:
        return wrong
    first, last = thirds(samples)
    before, after = max(s.state_mb for s in first), max(s.state_mb for s in last)
    if after > before * STATE_GROWTH + STATE_SLACK_MB:
        wrong.append(f"the state dir grew from {before:.1f} to {after:.1f} MB")
    if max(s.state_files for s in last) > 1.5 * max(s.state_files for s in first) + 50:
        wrong.append("the state dir holds ever more files")
    return wrong


def _compare(patient: Patient, found: Found) -> None:
    """Disk and store after the app has come to rest: the same, byte for byte; the database by its rows."""
    space = patient.space
    (space.home / "pause").touch()
    patient.until((space.home / "paused").exists, 30, lambda: "the app does not come to rest")
    until = time.monotonic() + 90
    while (answer := patient.checkpoint())[0] != 200 and time.monotonic() < until:
        time.sleep(0.5)
    assert answer[0] == 200, answer
    out = space.home / "out"
    done = space.sidecar("restore", "--to", str(out))
    assert done.returncode == 0, done.stderr
    here, there = _files(space.disk / "data"), _files(out / "data")
    found.compared = len(here)
    different = sorted(path for path in here.keys() | there.keys() if here.get(path) != there.get(path))
    if different:
        found.failures.append(f"{len(different)} of {len(here)} entries differ, such as {different[:5]}")
    db = sqlite3.connect(out / "data/bank.db")
    rows = db.execute("SELECT id, has FROM accounts ORDER BY id").fetchall()
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    own = sqlite3.connect(space.disk / "data/bank.db")
    assert rows == own.execute("SELECT id, has FROM accounts ORDER BY id").fetchall(), "the database is another one"
    own.close()
    assert sum(has for _, has in rows) == mixed.ACCOUNTS * mixed.EACH, rows
    assert "Traceback" not in space.said(), space.said()[space.said().index("Traceback") - 500 :][:3000]


def _files(folder: Path) -> Mapping[str, tuple[object, ...]]:
    """Everything but folders' own entries and the database: the app goes on touching neither of them alike."""
    return {path: facts for path, facts in tree(folder).items() if not path.startswith("bank.db")}
