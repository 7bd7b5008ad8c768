"""What makes way for a restore: moved to the conflicts folder, and never lost, also where no rename leads there."""

from __future__ import annotations

import errno
import os
import stat as st

from sidecar.errors import RestoreFailed
from sidecar.recovery.copying import copy_out, settle
from sidecar.recovery.tree import Tick, Tree, steady_digest
from sidecar.snapshot import mounts
from sidecar.snapshot.exclude import STAGING_PREFIX

NO_RENAME = (errno.EXDEV, errno.EBUSY, errno.ETXTBSY, errno.EACCES, errno.EPERM, errno.EROFS)
"""How a mount point, an overlay or somebody else's folder refuses a rename: then the bytes are copied."""


class Aside:
    """The folder ``folder`` (absolute), which is made when the first thing comes; None where nothing will."""

    def __init__(self, folder: str | None, tick: Tick) -> None:
        self.folder, self.tick = folder, tick
        self._tree: Tree | None = None

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tree is not None:
            self._tree.close()

    def move(self, tree: Tree, rel: str, new: str, *, in_place: bool) -> bool:
        """Have what stands at ``rel`` of ``tree`` as ``new`` here; false where it can't be moved.

        With ``in_place`` a file that has to stay where it is (a mount point) is written over afterwards: there a copy
        will do. Done again after it was cut, it goes on. Raises OSError, and RestoreFailed where no name is free.
        """
        found = tree.lstat(rel)
        folder = found is not None and st.S_ISDIR(found.st_mode)
        if folder and mounts.within(f"{tree.base}/{rel}"):
            return False  # it isn't ours to take apart, wherever it would go
        to = self._open()
        to.ensure(new.rpartition("/")[0])
        if to.lstat(new) is not None:
            if self._same(tree, rel, to, new):
                # Copied before a crash: only the original is left to go.
                return _drop(tree, rel, in_place)
            new = self._free(to, new)
        try:
            tree.rename(rel, to, new)
            return True
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
            if error.errno == errno.EBUSY and (folder or not in_place):
                return False
        if not folder and not in_place and mounts.within(f"{tree.base}/{rel}"):
            return False
        part = f"{new.rpartition('/')[0]}/{STAGING_PREFIX}part".lstrip("/")  # no entry has such a name
        if to.lstat(part) is not None:
            to.remove(part)
        copy_out(tree, rel, to, part, self.tick)
        to.rename(part, to, new)
        settle(to.base)
        return _drop(tree, rel, in_place)

    def has(self, path: str) -> bool:
        """Whether ``path`` was moved here, also before a crash."""
        if self._tree is None and (self.folder is None or not os.path.isdir(self.folder)):
            return False
        return self._open().lstat(path) is not None

    def settle(self) -> None:
        """Bring to the disk what was moved here."""
        if self._tree is not None:
            settle(self._tree.base)

    def _open(self) -> Tree:
        if self._tree is None:
            assert self.folder is not None
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            self._tree = Tree(self.folder, follow=False)
        return self._tree

    def _same(self, tree: Tree, rel: str, to: Tree, new: str) -> bool:
        a, b = tree.lstat(rel), to.lstat(new)
        if a is None or b is None or not (st.S_ISREG(a.st_mode) and st.S_ISREG(b.st_mode)) or a.st_size != b.st_size:
            return False
        found = steady_digest(tree, rel, self.tick)
        return bool(found) and found == steady_digest(to, new, self.tick)

    def _free(self, to: Tree, new: str) -> str:
        for number in range(2, 1000):
            if to.lstat(f"{new}~{number}") is None:
                return f"{new}~{number}"
        raise RestoreFailed(f"{self.folder!r} has a thousand copies of {new!r}: look at them, remove some")


def count(folder: str | None) -> int:
    """How many files and links lie in such a folder: it may have been filled by several starts."""
    if folder is None or not os.path.isdir(folder):
        return 0
    found = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found += count(entry.path)
            else:
                found += not entry.name.startswith(STAGING_PREFIX)
    return found


def _drop(tree: Tree, rel: str, in_place: bool) -> bool:
    """Remove the original of a copy, or leave a file that will be written in place."""
    found = tree.lstat(rel)
    try:
        tree.remove(rel)
    except OSError:
        return in_place and found is not None and st.S_ISREG(found.st_mode)
    return True
