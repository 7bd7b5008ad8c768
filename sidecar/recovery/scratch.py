"""A folder for what is read back from a store and thrown away again; what a killed process left of one goes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

Purpose = Literal["verify", "drill"]

_OURS = re.compile(r"(?:verify|drill)-([0-9]+)-.*")


@contextmanager
def scratch(state_dir: Path, purpose: Purpose) -> Iterator[Path]:
    """An empty folder that goes at the end, and with it whatever killed processes have left. Blocks.

    In the state dir, where a container has room: its temp dir is often memory. Not made for this, if it isn't there.
    """
    there = state_dir.is_dir() and os.access(state_dir, os.W_OK | os.X_OK)
    if there:
        sweep(state_dir)
    folder, lock = _locked(state_dir if there else None, purpose)
    try:
        yield folder
    finally:
        remove(folder)
        os.close(lock)


def sweep(state_dir: Path) -> None:
    """Remove what nobody holds any more. Blocks; raises nothing."""
    try:
        names = os.listdir(state_dir)
    except OSError:
        return
    for name in names:
        if _OURS.fullmatch(name):
            lock = _lock(state_dir / name)
            if lock is not None:
                remove(state_dir / name)
                os.close(lock)


def remove(folder: Path) -> None:
    """Remove ``folder``, also where what was restored into it may not be written by its own user."""
    for at, folders, _ in os.walk(folder):
        for name in folders:
            path = os.path.join(at, name)
            try:
                if not stat.S_ISLNK(os.lstat(path).st_mode):
                    os.chmod(path, 0o700)
            except OSError:
                continue
    shutil.rmtree(folder, ignore_errors=True)


def _locked(parent: Path | None, purpose: Purpose) -> tuple[Path, int]:
    while True:
        folder = Path(mkdtemp(prefix=f"{purpose}-{os.getpid()}-", dir=parent))
        lock = _lock(folder)
        # Somebody's sweep may have come between the two.
        if lock is not None and folder.exists():
            return folder, lock


def _lock(folder: Path) -> int | None:
    """The folder's lock, which goes with its process however that ends (a pid may be somebody else's by then)."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
