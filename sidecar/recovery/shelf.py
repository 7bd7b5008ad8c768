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


Wanted = Mapping[str, tuple[str, int]]
"""sha256 and size of what has a name in staging: its sha256, or ``folder/name`` in a folder that is staged whole."""


def reuse(staging: Path, wanted: Wanted, tick: Tick) -> set[str]:
    """Which of ``wanted`` an earlier attempt has left in ``staging``; all else there goes.

    The beginning of one that isn't there stays too. Empty content is made, not looked for, and so are the folders.
    Blocks.
    """
    found: set[str] = set()
    parts: list[str] = []
    folders = {name.partition("/")[0] for name in wanted if "/" in name}
    with os.scandir(staging) as entries:
        for entry in entries:
            name = entry.name
            part = name.removesuffix(PART)
            if name in wanted and is_content(entry.path, *wanted[name], tick):
                found.add(name)
            elif part != name and entry.is_file(follow_symlinks=False) and entry.stat().st_size <= _size(part, wanted):
                parts.append(part)
            elif name in folders and entry.is_dir(follow_symlinks=False):
                found.update(_inside(entry.path, name, wanted, tick))
            else:
                _remove(entry)
    for part in found.intersection(parts):
        os.unlink(staging / f"{part}{PART}")
    for name in folders:
        (staging / name).mkdir(0o700, exist_ok=True)
    for name, (sha, _) in wanted.items():
        if sha == EMPTY and name not in found:
            (staging / name).touch(0o600)
            found.add(name)
    return found


def _size(part: str, wanted: Wanted) -> int:
    return wanted[part][1] if part in wanted else -1


def _inside(path: str, folder: str, wanted: Wanted, tick: Tick) -> set[str]:
    """What of ``wanted`` is in a folder that was staged as a whole: nothing else may come to its place with it."""
    os.chmod(path, 0o700)
    found: set[str] = set()
    with os.scandir(path) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}"
            if name in wanted and is_content(entry.path, *wanted[name], tick):
                found.add(name)
            else:
                _remove(entry)
    return found


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    else:
        os.unlink(entry.path)


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
