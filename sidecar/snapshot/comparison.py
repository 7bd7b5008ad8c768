"""One root on disk against the index, entry by entry: changed, touched, deleted, or not to be told.

Nothing is guessed to be deleted: only ENOENT under a folder that can be read, on the device where it was, is a
deletion. Whatever else can't be seen is *unreadable* and its old entry is carried forward.
"""

from __future__ import annotations

import os
import stat as st
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Literal

from sidecar.snapshot.exclude import Excluder
from sidecar.snapshot.found import SIDE_FILES, Found, database_of, found
from sidecar.snapshot.index import Index, Row

RootKind = Literal["dir", "file", "absent", "unreadable"]


@dataclass(slots=True)
class Scan:
    """One root compared with the index. ``full`` where every entry was looked at."""

    root: str
    kind: RootKind = "dir"
    full: bool = False
    device: int | None = None  # st_dev of the root, where it is there
    changed: list[Found] = field(default_factory=list)
    touched: list[Found] = field(default_factory=list)  # folders with another mtime or place: no reason for a commit
    missing: list[str] = field(default_factory=list)  # entries that were deleted
    unreadable: dict[str, str] = field(default_factory=dict)  # entry or path -> why it can't be looked at
    excluded: int = 0
    skipped: int = 0  # sockets, devices and pipes


@dataclass(slots=True)
class Comparison:
    """Of the root ``name``, which lies at ``top``; what comes of it is in ``out``.

    ``covered`` are folders that miss entries and are on another device than the one that had these.
    """

    out: Scan
    name: str
    top: str
    index: Index
    excluder: Excluder
    covered: set[str] = field(default_factory=set)

    def keep_covered(self) -> None:
        """Learn no new place of a covered folder: the next look would take what it misses for deleted."""
        if self.covered:
            self.out.touched = [f for f in self.out.touched if f.path not in self.covered]
            self.out.changed = [f for f in self.out.changed if f.path not in self.covered]

    def swapped(self, row: Row, relative: str) -> bool:
        """Whether the folder isn't the one that the index knows by this name: then nothing in it is known."""
        if row.stat is None:
            return True
        try:
            status = os.lstat(self._at(relative))
        except OSError:
            return True
        return (row.stat.dev, row.stat.ino) != (status.st_dev, status.st_ino)

    def _item(self, below: str, status: os.stat_result, row: Row | None, items: Container[str] | None) -> None:
        path, absolute = self._path(below), self._at(below)
        is_side = not st.S_ISDIR(status.st_mode) and absolute.endswith(SIDE_FILES) and database_of(absolute) is not None
        here = None if is_side else found(path, absolute, status, items)
        if here is not None:
            self._compare(here, row)
            return
        self.out.skipped += not is_side
        if row is not None and is_side:
            self.out.missing.extend(r.entry.path for r in self.index.under(path))
        elif row is not None:  # not ENOENT, so no deletion
            self.out.unreadable[path] = "a socket, a pipe or a device stands in its place"

    def _lost(self, below: str, rows: list[Row], covered: bool) -> bool:
        """An entry was not in its folder; ``rows`` start with its own, if it has one. Whether it is a folder after all.

        A listing may miss a name that another file is just being renamed to.
        """
        path = self._path(below)
        is_dir = rows[0].entry.path != path or rows[0].entry.kind == "dir"
        if self.excluder.hides(below, is_dir):
            self.out.excluded += 1  # newly excluded: carried forward until `sidecar forget`
            return False
        if covered:
            self.covered.add(path.rpartition("/")[0])
            self.out.unreadable[path] = "its folder is on another device than before (a volume went away?)"
            return False
        try:
            status = os.lstat(self._at(below))
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            return False
        except OSError as error:
            self.out.unreadable[path] = why(error)
            return False
        else:
            self._item(below, status, rows[0] if rows[0].entry.path == path else None, None)
            return st.S_ISDIR(status.st_mode)
        for row in self.index.under(path) if is_dir else rows:
            if not is_dir or not self._hidden(row):
                self.out.missing.append(row.entry.path)
        return False

    def _hidden(self, row: Row) -> bool:
        """Whether an entry is excluded now: it is carried forward until `sidecar forget`."""
        relative = row.entry.path[len(self.name) + 1 :]
        return bool(relative) and self.excluder.hides(relative, row.entry.kind == "dir")

    def _covered(self, path: str, device: int) -> bool:
        """Whether the folder at ``path`` was on another device: something was mounted over it, or went away."""
        row = self.index.get(path)
        return row is not None and row.stat is not None and row.stat.dev != device

    def _compare(self, here: Found, row: Row | None) -> None:
        if row is not None and row.entry.kind != "dir" == here.kind and here.stat.dev != self.out.device is not None:
            self.out.unreadable[here.path] = "a folder of another device is mounted in its place"
            return
        if row is None or row.entry.kind != here.kind:
            if here.kind != "dir":  # nothing can lie below a file: no manifest may say so
                below = self.index.under(here.path)
                self.out.missing.extend(r.entry.path for r in below if r.entry.path != here.path)
            self.out.changed.append(here)
            return
        e = row.entry
        same_owner = (e.mode, e.uid, e.gid) == (here.mode, here.uid, here.gid)
        if here.kind != "dir":
            if not same_owner or row.stat != here.stat or not row.settled or e.flag:
                self.out.changed.append(here)
        elif not same_owner or e.flag:
            self.out.changed.append(here)
        elif e.mtime_ns != here.stat.mtime_ns or row.stat is None or moved(row, here):
            self.out.touched.append(here)

    def _path(self, relative: str) -> str:
        return f"{self.name}/{relative}" if relative else self.name

    def _at(self, relative: str) -> str:
        return f"{self.top}/{relative}" if relative else self.top


def moved(row: Row, here: Found) -> bool:
    """Whether the index knows another folder by this name, or none."""
    return row.stat is None or (row.stat.dev, row.stat.ino) != (here.stat.dev, here.stat.ino)


def why(error: OSError) -> str:
    return error.strerror or type(error).__name__
