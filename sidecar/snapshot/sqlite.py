"""A consistent copy of a SQLite database that another process may be writing.

The copy is made by a child process (``sqlite_child.py``): POSIX drops *all* of a process' locks on a file when any
descriptor of it is closed, so a process that has the database open in one place must not open it in another.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sidecar.snapshot.sqlite_child import DAMAGED, GONE, NO_ROOM

CHILD = Path(__file__).with_name("sqlite_child.py")
GAP_S = 5.0
"""How long a gap between two writes is waited for where the database has no live write-ahead log."""

BYTES_PER_S = 20_000_000
"""The slowest disk that a deadline allows for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``ok`` where the copy is whole and passed ``quick_check``; else ``reason`` says why not, in a few words.

    ``damaged`` is said of the database itself, ``no_room`` of where its copy goes.
    """

    ok: bool
    vanished: bool = False
    damaged: bool = False
    no_room: bool = False
    reason: str = ""


def copy(source: str, target: Path) -> Outcome:
    """Copy the database ``source`` to the new file ``target``. Blocks, up to a deadline that grows with its size."""
    try:
        size = os.stat(source).st_size
    except FileNotFoundError:
        return Outcome(False, vanished=True)
    deadline = GAP_S + 10 + size / BYTES_PER_S
    argv = [sys.executable, "-I", "-S", str(CHILD), os.fspath(source), os.fspath(target), str(GAP_S)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline, check=False)
    except subprocess.TimeoutExpired:
        _discard(target)
        return Outcome(False, reason=f"no copy within {deadline:.0f} s")
    if done.returncode == 0:
        return Outcome(True)
    _discard(target)
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    reason = words[-1] if words else f"the copying process ended with {done.returncode}"
    return Outcome(
        False,
        vanished=done.returncode == GONE,
        damaged=done.returncode == DAMAGED,
        no_room=done.returncode == NO_ROOM,
        reason=reason[:200],
    )


def _discard(target: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        Path(f"{target}{ending}").unlink(missing_ok=True)
