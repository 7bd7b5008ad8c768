"""A walk's fast lane: what the index says, read for many folders at once, and compared with one stat a file.

Nothing is decided here but that an entry is unchanged. Whatever may be anything else is left to the scan.
"""

from __future__ import annotations

import os
import stat as st
from collections.abc import Callable, Collection, Iterable, Iterator

from sidecar.snapshot.index import Index, Mark

MOST = 2000
"""How many entries are read at a time, and held."""


class Ahead:
    """The entries of one folder after another, for a walk that goes down before it goes on."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._top: str | None = None  # all that the index has below it was read; what the walk came by is gone again
        self._read: dict[str, dict[str, Mark]] = {}

    def pieces(self, folder: str, names: list[str]) -> Iterator[tuple[list[str], dict[str, Mark]]]:
        """``names`` (all that lie in ``folder``), and what the index has there by name; in pieces where it is much.

        Blocks.
        """
        if self._top is None or not (folder == self._top or folder.startswith(self._top + "/")):
            below = self._index.marks_under(folder, MOST)
            if below is None:
                yield from self._slices(folder, names)
                return
            self._top, self._read = folder, {}
            for path, mark in below:
                parent, _, name = path.rpartition("/")
                self._read.setdefault(parent, {})[name] = mark
        yield names, self._read.pop(folder, {})

    def _slices(self, folder: str, names: list[str]) -> Iterator[tuple[list[str], dict[str, Mark]]]:
        ordered, after = sorted(names, key=os.fsencode), None
        for at in range(0, max(len(ordered), 1), MOST):
            piece = ordered[at : at + MOST]
            until = f"{folder}/{piece[-1]}" if at + MOST < len(ordered) else None
            known = self._index.marks_in(folder, after, until)
            yield piece, {path[len(folder) + 1 :]: mark for path, mark in known}
            after = until


def unchanged(
    fd: int, names: Iterable[str], marks: dict[str, Mark], suspects: Callable[[str], object], doubtful: Collection[str]
) -> tuple[list[str], list[str]]:
    """Take out of ``marks`` what is as the index says; the folders among it, and the names that may be anything else.

    ``fd`` is the folder that has ``names``. What ``suspects`` or is ``doubtful`` is not looked at. Blocks.
    """
    folders: list[str] = []
    others: list[str] = []
    for name in names:
        mark = marks.get(name)
        if mark is None or suspects(name) or name in doubtful:
            others.append(name)
            continue
        try:
            s = os.lstat(name, dir_fd=fd)
        except OSError:
            others.append(name)
            continue
        now = (s.st_mode, s.st_uid, s.st_gid, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        if mark != now:
            others.append(name)
            continue
        del marks[name]
        if st.S_ISDIR(s.st_mode):
            folders.append(name)
    return folders, others
