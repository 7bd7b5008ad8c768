"""What staging folders hold from one attempt to the next: verified bytes by the name of their content."""

from __future__ import annotations

import os
import shutil
import stat as st
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from sidecar.recovery.tree import Tick, digest

PART = ".part"
"""The ending of a large file of which only the beginning has come."""

EMPTY = sha256(b"").hexdigest()


def reuse(staging: Path, wanted: Mapping[str, int], tick: Tick) -> set[str]:
    """Which of ``wanted`` (sha256 -> size) an earlier attempt has left in ``staging``; all else there goes.

    The beginning of one that isn't there stays too. Empty content is made, not looked for. Blocks.
    """
    found: set[str] = set()
    parts: list[str] = []
    with os.scandir(staging) as entries:
        for entry in entries:
            name = entry.name
            part = name.removesuffix(PART)
            if name in wanted and is_content(entry.path, name, wanted[name], tick):
                found.add(name)
            elif part != name and entry.is_file(follow_symlinks=False) and entry.stat().st_size <= wanted.get(part, -1):
                parts.append(part)
            elif entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    for part in found.intersection(parts):
        os.unlink(staging / f"{part}{PART}")
    if wanted.get(EMPTY) == 0 and EMPTY not in found:
        (staging / EMPTY).touch(0o600)
        found.add(EMPTY)
    return found


def begun(staging: Path, sha: str) -> int:
    """How many bytes of ``sha`` have come already."""
    try:
        return os.lstat(staging / f"{sha}{PART}").st_size
    except FileNotFoundError:
        return 0


def is_content(path: str | Path, sha: str, size: int, tick: Tick) -> bool:
    """Whether a regular file stands there that has these bytes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        return st.S_ISREG(found.st_mode) and found.st_size == size and digest(fd, tick) == sha
    finally:
        os.close(fd)
