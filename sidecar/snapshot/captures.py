"""What is remembered of each database's last copy: what it held then, and when that was.

It lies in the local index, so that a new agent goes on where the last one was. Times are monotonic ones of this boot.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

OVERDUE_S = 60.0
"""A database that may be locked for its copy is copied at least this often while it is written and synced."""

LARGE = 256_000_000
LARGE_EVERY_S = 600.0
"""A database of more than ``LARGE`` bytes is copied at most this often, but for a checkpoint and the end."""

KEPT = 300
NOTE = "databases"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Notes(Protocol):
    """Small values that outlive the process."""

    def note(self, key: str) -> str | None: ...
    def set_note(self, key: str, value: str | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Capture:
    """``state`` is ``sqlite_files.state`` of what the copy of hash ``sha256``, made at ``at``, holds ("": not known).

    ``tried`` is when a copy was last tried. None is never, or before this boot.
    """

    sha256: str = ""
    state: str = ""
    at: float | None = None
    tried: float | None = None


def may_lock(capture: Capture, now: float, gap_s: float) -> bool:
    """Whether a copy tried from ``now`` on may lock, if no gap is found for ``gap_s``: where the next is too late."""
    if capture.at is None:
        return True
    age = now + gap_s - capture.at
    every = now - max(capture.at, capture.tried if capture.tried is not None else capture.at)
    return age + every >= OVERDUE_S


def wait_s(capture: Capture, durable: str, size: int, now: float) -> float:
    """How long a database of ``size`` bytes waits, the store's copy of which has the hash ``durable``."""
    if size <= LARGE or capture.at is None or not durable or capture.sha256 != durable:
        return 0.0
    return max(0.0, capture.at + LARGE_EVERY_S - now)


class Captures:
    """The captures of one index by path; what is put is kept by ``save``."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._known: dict[str, Capture] | None = None
        self._news = False

    def get(self, path: str) -> Capture:
        return self._all().get(path, Capture())

    def put(self, path: str, capture: Capture) -> None:
        known = self._all()
        known.pop(path, None)
        known[path] = capture  # the newest last
        self._news = True

    def save(self) -> None:
        if self._known is None or not self._news:
            return
        newest = list(self._known.items())[-KEPT:]
        value = {"boot": _boot(), "of": {path: list(asdict(c).values()) for path, c in newest}}
        self._notes.set_note(NOTE, json.dumps(value, separators=(",", ":")))
        self._news = False

    def _all(self) -> dict[str, Capture]:
        if self._known is None:
            self._known = {}
            value = json.loads(self._notes.note(NOTE) or "{}")
            same_boot = value.get("boot") == _boot()
            for path, (sha256, state, at, tried) in value.get("of", {}).items():
                self._known[path] = Capture(sha256, state, *((at, tried) if same_boot else (None, None)))
        return self._known


def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
