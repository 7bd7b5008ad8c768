"""A consistent copy of a SQLite database that another process may be writing.

The copy is made by a child process (``sqlite_child.py``): POSIX drops *all* of a process' locks on a file when any
descriptor of it is closed, so a process that has locked the database in one place must not open it in another.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.snapshot.found import SIDE_FILES
from sidecar.snapshot.sqlite_child import DAMAGED, GONE, NO_ROOM

ROOM = Path(__file__).resolve().parents[2]
BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from sidecar.snapshot import sqlite_child as c; "
BOOT += "sys.exit(c.main(sys.argv[2:]))"

GAP_S = 5.0
"""How long a gap between two writes is waited for where the database has no live write-ahead log."""

SLACK_S = 15.0
BYTES_PER_S = 10_000_000
"""The slowest disk that a deadline allows for, copying and reading it through."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``ok`` where the copy is whole and passed ``quick_check``; else ``reason`` says why not, in a few words.

    ``damaged`` is said of the database itself, ``no_room`` of where its copy goes. ``how`` an ok copy was had: "live"
    beside a write-ahead log in use, in a "gap" between two writes, or with the database "locked" for a moment.
    """

    ok: bool
    vanished: bool = False
    damaged: bool = False
    no_room: bool = False
    reason: str = ""
    how: str = field(default="", compare=False)


def copy(source: str, target: Path, *, lock: bool = True) -> Outcome:
    """Copy the database ``source`` to the new file ``target``. Blocks, up to a deadline that grows with its size.

    Without ``lock`` no lock is taken that a writer in rollback mode would notice, whatever comes of it.
    """
    try:
        size = os.stat(source).st_size
    except FileNotFoundError:
        return Outcome(False, vanished=True)
    for ending in SIDE_FILES:
        try:
            size += os.stat(source + ending).st_size
        except OSError:
            pass
    deadline = GAP_S + SLACK_S + size / BYTES_PER_S
    argv = [sys.executable, "-I", "-S", "-c", BOOT, os.fspath(ROOM), source, os.fspath(target)]
    argv += [str(GAP_S), "lock" if lock else "", str(os.getpid())]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline, check=False)
    except subprocess.TimeoutExpired:
        _discard(target)
        return Outcome(False, reason=f"no copy within {deadline:.0f} s")
    if done.returncode == 0:
        return Outcome(True, how=done.stdout.decode().strip())
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
    for ending in ("", *SIDE_FILES):
        Path(f"{target}{ending}").unlink(missing_ok=True)
