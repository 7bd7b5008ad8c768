"""`make soak`: lives that end by SIGKILL at random moments; what was acknowledged must be there at the next start."""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys.space import Space, descendants, living

WRITER = Path(__file__).with_name("writer.py")
KILLS = {"folder": 1000, "hub": 300}


def main() -> int:
    """Print what was done and lost; 1 where anything was lost."""
    parser = argparse.ArgumentParser("soak", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    given = parser.parse_args()
    print(f"seed {given.seed}")
    lost = 0
    for store, kills in KILLS.items():
        with TemporaryDirectory(prefix="sidecar-soak-") as folder, contextlib.ExitStack() as stack:
            settings = {"SIDECAR_COMMITS_PER_HOUR": "100000", "SIDECAR_ON_RESTORE_FAILURE": "exit"}
            url = f"file://{folder}/store"
            if store == "hub":
                hub = stack.enter_context(LocalHub(Path(folder) / "hub", process=True))
                settings |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": DEFAULT_TOKEN, "SPACE_ID": "alice/app"}
                url = ""
            space = stack.enter_context(living(Space(Path(folder) / "space", url, **settings)))
            lost += campaign(space, store, max(1, round(kills * given.scale)), random.Random(given.seed))
    return 1 if lost else 0


def campaign(space: Space, store: str, kills: int, rng: random.Random) -> int:
    """Kill ``kills`` times; the number of acknowledged files that were not there afterwards."""
    began, victims = time.monotonic(), {"all": 0, "agent": 0, "supervisor": 0, "main": 0}
    ledger = space.home / "ledger"
    for _ in range(kills):
        process = space.start(sys.executable, str(WRITER), str(space.disk), str(space.home), str(space.state))
        time.sleep(rng.uniform(0.2, 3.0) if rng.random() < 0.3 else rng.uniform(1.0, 4.0))
        victim = rng.choice(list(victims))
        victims[victim] += 1
        _kill(space, victim)
        if victim in ("agent", "main"):
            time.sleep(rng.uniform(0.1, 2.0))
        if process.poll() is None:
            if rng.random() < 0.3:
                process.send_signal(signal.SIGTERM)
                process.wait(40)
            else:
                space.kill()
        _reap(space)
        if rng.random() < 0.6:
            space.lose_disk()
    space.start(sys.executable, str(WRITER), str(space.disk), str(space.home), str(space.state), "check")
    try:
        code = space.process.wait(60) if space.process else 1
    except subprocess.TimeoutExpired:
        code = -1
    acked = len(ledger.read_text().splitlines()) if ledger.exists() else 0
    wrong = (space.home / "wrong").read_text().splitlines() if (space.home / "wrong").exists() else []
    seconds = time.monotonic() - began
    counts = ", ".join(f"{n} {name}" for name, n in victims.items())
    print(f"{store}: {kills} kills ({counts}), {acked} acknowledged, {len(wrong)} lost, {seconds:.0f} s", flush=True)
    for line in wrong[:5]:
        print("  ", line)
    if code != 0 or "Traceback" in space.said() or acked == 0:
        print(f"  the last check ended with {code}; log:\n{space.said()[-3000:]}")
        return len(wrong) or 1
    left = sorted(p.name for p in (space.state / "staging").glob("*")) if space.state.exists() else []
    print(f"  left in staging: {len(left)}")
    return len(wrong)


def _kill(space: Space, victim: str) -> None:
    if space.process is None or space.process.poll() is not None:
        return
    if victim == "all":
        space.kill()
        return
    pids = descendants(space.process.pid)
    wanted = {"supervisor": [space.process.pid], "agent": [], "main": []}
    for pid in pids:
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"writer.py" in line:
                wanted["main"].append(pid)
            elif b"\0agent\0" in line:
                wanted["agent"].append(pid)
    for pid in wanted[victim]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _reap(space: Space) -> None:
    """Whatever outlived its supervisor: in a container it would be gone with it."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if (
                    str(space.home).encode() in Path(f"/proc/{entry}/environ").read_bytes()
                    and int(entry) != os.getpid()
                ):
                    os.kill(int(entry), signal.SIGKILL)
    if space.process is not None:
        space.process.wait(10)


if __name__ == "__main__":
    sys.exit(main())
