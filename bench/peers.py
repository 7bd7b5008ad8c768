"""What others take for the same sync of the same tree: rclone, restic, and the Hub client's CommitScheduler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub

ROUNDS = 3

Edit = Callable[[], None]
"""Changes the tree that is measured."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds: of CPU, of all processes that took part on this side, and by the clock."""

    cpu: float
    wall: float


def syncs(tree: Path, work: Path, edit: Edit) -> dict[str, Spent | None]:
    """Each peer's cheapest sync of ``edit`` in ``tree``, which it has synced before; None where it isn't installed.

    ``work`` is an empty folder for their copies.
    """
    found: dict[str, Spent | None] = {"rclone": None, "restic": None}
    if shutil.which("rclone"):
        quiet = {"RCLONE_CONFIG": ""}
        found["rclone"] = _program(["rclone", "sync", str(tree), str(work / "rclone")], quiet, edit)
    if shutil.which("restic"):
        where = {
            "RESTIC_REPOSITORY": str(work / "restic"),
            "RESTIC_PASSWORD": "x",
            "XDG_CACHE_HOME": str(work / "cache"),
        }
        _run(["restic", "init"], where)
        found["restic"] = _program(["restic", "backup", "--quiet", str(tree)], where, edit)
    found["CommitScheduler"] = _scheduler(tree, work, edit)
    return found


def said(found: Mapping[str, Spent | None]) -> str:
    return ", ".join(
        f"{name} {spent.cpu:.2f} s (wall {spent.wall:.2f})" if spent else f"{name} not installed: scripts/bench-peers"
        for name, spent in found.items()
    )


def best(found: Mapping[str, Spent | None]) -> Spent:
    return min((s for s in found.values() if s is not None), key=lambda s: s.cpu)


def _program(argv: Sequence[str], env: Mapping[str, str], edit: Edit) -> Spent:
    _run(argv, env)
    spent = []
    for _ in range(ROUNDS):
        time.sleep(1.1)  # what was written in the second of a backup may be looked at twice
        edit()
        spent.append(_run(argv, env))
    return min(spent, key=lambda s: s.cpu)


def _run(argv: Sequence[str], env: Mapping[str, str]) -> Spent:
    before, began = os.times(), time.monotonic()
    subprocess.run(argv, env={**os.environ, **env}, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - began, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Spent(cpu, wall)


# Its first push of many files takes hours of requests: it is told what it would know after it.
SCHEDULER = """
import json, os, sys, time
from pathlib import Path
from huggingface_hub import CommitScheduler
tree, nothing = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
scheduler = CommitScheduler(repo_id="alice/scheduler", repo_type="dataset", folder_path=nothing, every=1e6)
time.sleep(1)
scheduler.folder_path = tree
scheduler.last_uploaded = {p: p.stat().st_mtime for p in tree.glob("**/*") if p.is_file()}
print("ready", flush=True)
for _ in sys.stdin:
    cpu, wall = time.process_time(), time.perf_counter()
    assert scheduler.push_to_hub() is not None
    print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]), flush=True)
os._exit(0)
"""


def _scheduler(tree: Path, work: Path, edit: Edit) -> Spent:
    (work / "nothing").mkdir()
    with LocalHub(work / "hub", process=True) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": DEFAULT_TOKEN, "HF_HOME": str(work / "hf")}
        argv = [sys.executable, "-c", SCHEDULER, str(tree), str(work / "nothing")]
        with subprocess.Popen(
            argv,
            env={**os.environ, **env, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            spent = []
            for _ in range(ROUNDS):
                edit()
                child.stdin.write("\n")
                child.stdin.flush()
                spent.append(Spent(*json.loads(child.stdout.readline())))
            child.stdin.close()
    return min(spent, key=lambda s: s.cpu)
