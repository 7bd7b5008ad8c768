"""Lives that end by SIGKILL at random moments, one after the other: what was acknowledged is there at each start.

Now and then a container is frozen instead, another one takes over beside it, and then it wakes up: it is fenced.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.writer import FROZEN
from tests.journeys.space import Space, descendants, living

WRITER = Path(__file__).with_name("writer.py")
VICTIMS = ("agent", "supervisor", "main", "all")

OVERLAPS = 0.12
"""Share of the lives that end frozen, with another container in their place."""

PATIENCE_S = 30.0
"""How long a start may take until it has begun main, where many run at once."""

SETTINGS = {
    "SIDECAR_COMMITS_PER_HOUR": "100000",
    "SIDECAR_ON_RESTORE_FAILURE": "exit",
    "SIDECAR_HANDOFF_WAIT": "0.3s",
}


@dataclass
class Found:
    """What a campaign came to; ``wrong`` are acknowledged files that were not there, and whatever else must not be."""

    kills: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    acknowledged: int = 0
    fenced: int = 0
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Found) -> None:
        self.kills += other.kills
        self.lives += other.lives
        self.acknowledged += other.acknowledged
        self.fenced += other.fenced
        self.wrong += other.wrong
        self.left += other.left
        self.seconds = max(self.seconds, other.seconds)

    @property
    def good(self) -> bool:
        return not self.wrong and not self.left and self.acknowledged > 0

    def line(self, name: str) -> str:
        kills = ", ".join(f"{self.kills[victim]} {victim}" for victim in VICTIMS)
        return (
            f"{name}: {self.kills.total()} kills ({kills}) in {self.lives} lives, {self.acknowledged} acknowledged, "
            f"{len(self.wrong)} lost, {self.fenced} fenced, {len(self.left)} leftovers, {self.seconds:.0f} s"
        )


def campaign(home: Path, store: str, kills: int, rng: random.Random, *, keeps_disk: bool, **settings: str) -> Found:
    """Kill ``kills`` times in one Space. With ``keeps_disk`` nothing is ever cleared up: what grows is seen."""
    found, began = Found(), time.monotonic()
    space = Space(home, store, _paths(home), **{**SETTINGS, "TMPDIR": str(home / "tmp"), **settings})
    (home / "tmp").mkdir()
    with living(space):
        while found.kills.total() < kills:
            found.lives += 1
            _life(space, found, kills, rng)
            _reap(space)
            if not keeps_disk and rng.random() < 0.6:
                space.lose_disk()
        _check(space, found)
        _reap(space)
    found.fenced = space.said().count("FENCED")
    found.seconds = time.monotonic() - began
    return found


def _life(space: Space, found: Found, kills: int, rng: random.Random) -> None:
    """Start, kill once or several times, and let go of what is left as a platform does."""
    begun, process = _begun(space), _start(space)
    if rng.random() < 0.25:
        time.sleep(rng.uniform(0.05, 2.0))  # while it starts, claims or restores
    else:
        until = time.monotonic() + PATIENCE_S
        while _begun(space) == begun and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 2.0))
    if process.poll() is None and rng.random() < OVERLAPS:
        _overlap(space, found, rng)
        return
    while found.kills.total() < kills and process.poll() is None:
        victim = rng.choice(VICTIMS)
        if not _kill(space, victim):
            time.sleep(0.1)  # there is no such process yet, or no more
            continue
        found.kills[victim] += 1
        if victim in ("supervisor", "all"):
            time.sleep(rng.uniform(0.0, 0.5))
            return
        time.sleep(rng.uniform(0.05, 2.0))
        if rng.random() < 0.5:
            break
    if process.poll() is None and rng.random() < 0.4:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(40)


def _overlap(space: Space, found: Found, rng: random.Random) -> None:
    """Freeze the container, let another one take over and write, wake the first, and kill both."""
    home = space.home
    other_home = home / f"other{found.lives}"
    other = Space(other_home, space.env["SIDECAR_STORE"], _paths(other_home))
    kept = {k: v for k, v in space.env.items() if k not in ("SIDECAR_PATHS", "SIDECAR_STATE_DIR", "SIDECAR_PORT")}
    other.env |= kept
    found.kills["all"] += 1
    _signal(space, signal.SIGSTOP)
    (home / FROZEN).write_text(f"{space.state}\n{len(_ledger(space))}")
    try:
        with living(other):
            begun = _begun(space)
            arguments = [str(other.disk), str(home), str(other.state)]
            process = other.start(sys.executable, str(WRITER), *arguments)
            until = time.monotonic() + PATIENCE_S
            while _begun(space) == begun and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(rng.uniform(0.3, 1.5))
            _signal(space, signal.SIGCONT)
            time.sleep(rng.uniform(0.5, 3.0))  # it finds out, and must not have anything acknowledged
        _reap(other)
    finally:
        _signal(space, signal.SIGCONT)
        space.kill()
        (home / FROZEN).unlink()
    with open(space.log, "a") as log:
        log.write(other.said())
    shutil.rmtree(other_home)


def _signal(space: Space, number: int) -> None:
    assert space.process is not None
    for pid in [space.process.pid, *descendants(space.process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _paths(home: Path) -> str:
    return f"data={home}/disk/data\nconf={home}/disk/conf?layout=bundle"


def _start(space: Space, *more: str) -> subprocess.Popen[bytes]:
    return space.start(sys.executable, str(WRITER), str(space.disk), str(space.home), str(space.state), *more)


def _check(space: Space, found: Found) -> None:
    """One undisturbed life at the end, on an empty disk, and what is left of all the others."""
    found.left += leftovers(space, "before the last life", running=True)
    space.lose_disk()
    begun = _begun(space)
    try:
        code = _start(space, "check").wait(90)
    except subprocess.TimeoutExpired:
        code = -1
    wrong = space.home / "wrong"
    found.wrong += wrong.read_text().splitlines() if wrong.exists() else []
    if code != 0 or _begun(space) == begun:
        found.wrong.append(f"the last start ended with {code}: {space.said()[-1500:]}")
    if "Traceback" in space.said():
        at = space.said().index("Traceback")
        found.wrong.append(f"a traceback: {space.said()[max(0, at - 500) : at + 2000]}")
    found.acknowledged += len(_ledger(space))
    found.left += leftovers(space, "at the end", running=False)


def _ledger(space: Space) -> list[str]:
    ledger = space.home / "ledger"
    return ledger.read_text().splitlines() if ledger.exists() else []


def _begun(space: Space) -> int:
    begun = space.home / "begun"
    return len(begun.read_text()) if begun.exists() else 0


def leftovers(space: Space, when: str, *, running: bool) -> list[str]:
    """What killed lives left: with ``running`` as much as one of them may leave, else nothing.

    An agent that ends doesn't wait for a thread that reads something small: the next one clears that up.
    """
    most = {"our own temp dir": 3}
    store = Path(space.env["SIDECAR_STORE"].removeprefix("file://"))
    places = {
        "staging": list((space.state / "staging").glob("*")),
        "the temp dir": list((space.home / "tmp").iterdir()),
        "our own temp dir": list((space.state / "tmp").glob("*")),
        "the roots": list(space.disk.rglob(".sidecar-tmp-*")),
        "the state dir": [p for p in space.state.iterdir() if p.name.startswith(("verify-", "drill-"))]
        if space.state.is_dir()
        else [],
        "the store": list((store / "tmp").iterdir()) if (store / "tmp").is_dir() else [],
    }
    return [
        f"{when}: {len(found)} in {place}, such as {found[0]}"
        for place, found in places.items()
        if len(found) > (12 if running else most.get(place, 0))
    ]


def _kill(space: Space, victim: str) -> bool:
    """SIGKILL for one of the Space's processes, or all at once; False where there is none of it."""
    process = space.process
    if process is None or process.poll() is not None:
        return False
    if victim == "all":
        space.kill()
        return True
    if victim == "supervisor":
        wanted = [process.pid]
    else:
        mark = b"writer.py" if victim == "main" else b"\0agent\0"
        wanted = [pid for pid in descendants(process.pid) if mark in _command(pid)]
    for pid in wanted:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(wanted)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _reap(space: Space) -> None:
    """Whatever outlived its supervisor: in a container it would be gone with it."""
    for pid in _ours(space):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    if space.process is not None:
        space.process.wait(10)
    until = time.monotonic() + 10
    while list(_ours(space)) and time.monotonic() < until:
        time.sleep(0.01)


def _ours(space: Space) -> Iterator[int]:
    """Processes that live in the Space: their environment names its state dir."""
    mark = f"SIDECAR_STATE_DIR={space.state}\0".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{entry}/environ").read_bytes():
                    yield int(entry)
