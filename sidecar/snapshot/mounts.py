"""Which mount a path lies on: st_dev doesn't tell a bind mount of the same filesystem from the folder below it."""

from __future__ import annotations

import re

TABLE = "/proc/self/mountinfo"


def mount_of(path: str, table: str = TABLE) -> str | None:
    """The kernel's number of the mount that ``path`` (real, absolute) lies on; None where it can't be told."""
    best, found = -1, None
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split(" ", 5)
                at = _unescaped(fields[4])
                inside = path == at or path.startswith(at.rstrip("/") + "/")
                # Of two mounts at one place the later one covers the other.
                if inside and len(at) >= best:
                    best, found = len(at), fields[0]
    except (OSError, IndexError):
        return None
    return found


def within(path: str, table: str = TABLE) -> bool:
    """Whether anything is mounted at ``path`` (real, absolute) or below it; False where that can't be told."""
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as file:
            points = [_unescaped(line.split(" ", 5)[4]) for line in file]
    except (OSError, IndexError):
        return False
    return any(at == path or at.startswith(path + "/") for at in points)


def _unescaped(text: str) -> str:
    """As proc_pid_mountinfo(5) has it: space, tab, newline and backslash are octal."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)
