"""What changed on disk since the last durable snapshot, by stat alone; no file is read here.

All of a root is walked, or only what the watcher named is looked at.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from sidecar.snapshot.ahead import Ahead, unchanged
from sidecar.snapshot.comparison import Comparison, RootKind, Scan, moved, why
from sidecar.snapshot.exclude import Excluder
from sidecar.snapshot.found import SIDE_FILES, database_of, found, is_database
from sidecar.snapshot.index import Index, Row

__all__ = ["RootKind", "Scan", "moved", "scan_paths", "scan_root"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def scan_root(name: str, path: str, index: Index, excluder: Excluder, device: int | None) -> Scan:
    """Compare all of one root with the index. ``device`` is st_dev after restore, None where it was absent.

    ``path`` is where the root is, no symlink. Blocks.
    """
    look = _Look(Scan(name, full=True), name, path, index, excluder)
    if look.root(device):
        look.walk("")
        look.orphans()
    look.keep_covered()
    return look.out


def scan_paths(
    name: str, path: str, relatives: Iterable[str], index: Index, excluder: Excluder, device: int | None
) -> Scan:
    """Compare only ``relatives`` (paths below the root; "" is the root itself) with the index. Blocks."""
    before = index.get(name)
    look = _Look(Scan(name), name, path, index, excluder)
    if look.root(device):
        if before is None or before.entry.kind != "dir" or look.swapped(before, ""):
            look.walk("")  # another folder than the one that the index describes
        else:
            for relative in sorted(set(relatives)):
                look.hint(relative)
    look.keep_covered()
    return look.out


def _absent(path: str, device: int | None) -> str | None:
    """Why a root that isn't there can't be called deleted; None where it can."""
    if device is None:
        return None
    above = path
    while True:
        above = os.path.dirname(above)
        try:
            status = os.stat(above)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return why(error)
        if st.S_ISDIR(status.st_mode):
            break
    if not os.access(above, os.R_OK | os.X_OK):
        return "it isn't there, but the folder above it can't be read"
    if status.st_dev != device:
        return "it isn't there, nor is the device that it was on after restore (a volume went away?)"
    return None


@dataclass(slots=True)
class _Look(Comparison):
    """One look at one root. ``closed`` are paths below which nothing is left to look at, ``open`` known folders."""

    closed: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)

    def root(self, device: int | None) -> bool:
        """Compare the root itself; whether it is a folder that is to be looked into."""
        out, name = self.out, self.name
        try:
            status = os.stat(self.top)
        except (FileNotFoundError, NotADirectoryError):
            reason = _absent(self.top, device)
            if reason is None:
                out.kind = "absent"
                out.missing.extend(r.entry.path for r in self.index.under(name) if not self._hidden(r))
                return False
            return self._no_root(reason)
        except OSError as error:
            return self._no_root(why(error))
        if device is not None and status.st_dev != device:
            return self._no_root("another device is mounted there than after restore (a volume went away?)")
        here = found(name, self.top, status)
        if here is None or here.kind == "symlink":
            return self._no_root("neither a file nor a folder")
        out.kind = here.kind
        out.device = status.st_dev
        self._compare(here, self.index.get(name))
        return here.kind == "dir"

    def _no_root(self, reason: str) -> bool:
        self.out.kind = "unreadable"
        self.out.unreadable[self.name] = reason
        return False

    def walk(self, top: str) -> None:
        """Compare all that lies in the folder ``top``; the folder itself was compared before."""
        stack, ahead = [top], Ahead(self.index)
        while stack:
            relative = stack.pop()
            try:
                fd = os.open(self._at(relative), _FOLDER)
            except OSError as error:
                # It went since its parent was listed, which the next scan sees; or a link, which may lead anywhere,
                # came in its place.
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    self.out.unreadable[self._path(relative)] = why(error)
                continue
            try:
                stack.extend(self._folder(relative, fd, ahead))
            finally:
                os.close(fd)

    def _folder(self, relative: str, fd: int, ahead: Ahead) -> list[str]:
        """Compare what lies in one folder; the folders in it that are to be looked into."""
        path, below = self._path(relative), f"{relative}/" if relative else ""
        try:
            names, device = os.listdir(fd), os.fstat(fd).st_dev
        except OSError as error:
            self.out.unreadable[path] = why(error)
            return []
        sides = {name for name in names if name.endswith(SIDE_FILES)}
        doubtful = sides | {name.rpartition("-")[0] for name in sides}
        inner: list[str] = []
        for piece, marks in ahead.pieces(path, names):
            folders, others = unchanged(fd, piece, marks, self.excluder.suspects, doubtful)
            for name in others:
                row = self.index.get(f"{path}/{name}") if name in marks else None
                try:
                    is_dir = self._named(below + name, name, fd, row, sides)
                except FileNotFoundError:
                    continue
                marks.pop(name, None)
                if is_dir:
                    folders.append(name)
            inner.extend(below + name for name in folders)
            covered = bool(marks) and self._covered(path, device)
            for name in marks:
                row = self.index.get(f"{path}/{name}")
                if row is not None and self._lost(below + name, [row], covered):
                    inner.append(below + name)
        return inner

    def _named(self, below: str, name: str, fd: int, row: Row | None, sides: Container[str]) -> bool:
        """Compare one entry of a folder; whether it is a folder to look into. Raises FileNotFoundError."""
        try:
            status = os.lstat(name, dir_fd=fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            # Of what kind it is can't be told either.
            if any(self.excluder.excluded(below, name, is_dir) for is_dir in (False, True)):
                self.out.excluded += 1
            else:
                self.out.unreadable[self._path(below)] = why(error)
            return False
        is_dir = st.S_ISDIR(status.st_mode)
        if self.excluder.excluded(below, name, is_dir):
            self.out.excluded += 1
            return False
        self._item(below, status, row, sides)
        return is_dir

    def orphans(self) -> None:
        """Entries whose folder is no entry: no walk of the folders that there are comes by them."""
        said = set(self.out.missing)
        for row in self.index.orphans(self.name):
            below = row.entry.path[len(self.name) + 1 :]
            # Where its folder is there after all, the walk has been in it.
            if row.entry.path not in said and not os.path.lexists(self._at(below.rpartition("/")[0])):
                self._lost(below, [row], covered=False)

    def hint(self, relative: str) -> None:
        """Compare one path that the watcher named, or the highest folder above it that is new or gone."""
        parts = relative.split("/") if relative else []
        for depth in range(1, len(parts) + 1):
            below, last = "/".join(parts[:depth]), depth == len(parts)
            if below in self.closed:
                return
            if below in self.open and not last:
                continue
            path = self._path(below)
            try:
                status = os.lstat(self._at(below))
            except (FileNotFoundError, NotADirectoryError):
                self.closed.add(below)
                self._gone(below)
                return
            except OSError as error:
                self.closed.add(below)
                self.out.unreadable[path] = why(error)
                return
            is_dir = st.S_ISDIR(status.st_mode)
            if self.excluder.excluded(below, parts[depth - 1], is_dir):
                self.closed.add(below)
                return
            row = self.index.get(path)
            if not is_dir:
                self.closed.add(below)
                self._leaf(below, status, row)
                return
            if below not in self.open:
                self.open.add(below)
                self._item(below, status, row, None)
            if row is None or row.entry.kind != "dir" or self.swapped(row, below):
                self.closed.add(below)
                self.walk(below)
                return

    def _leaf(self, below: str, status: os.stat_result, row: Row | None) -> None:
        before = len(self.out.changed)
        self._item(below, status, row, None)
        base = database_of(self._at(below))
        if base is not None:  # its log: the database has changed
            self.hint(base[len(self.top) + 1 :])
        elif len(self.out.changed) > before and (row is not None or is_database(self._at(below))):
            self._sides(below)  # it has become a database, or was one

    def _gone(self, below: str) -> None:
        rows = self.index.under(self._path(below))
        parent = below.rpartition("/")[0]
        try:
            here = os.lstat(self._at(parent)).st_dev
        except OSError:
            return  # the whole folder went meanwhile, which is another hint
        if rows:
            if not os.access(self._at(parent), os.R_OK | os.X_OK):
                self.out.unreadable[self._path(below)] = "its folder can't be read"
                return
            self._lost(below, rows, self._covered(self._path(parent), here))
            self._sides(below)
        base = database_of(self._at(below))
        if base is not None:
            self.hint(base[len(self.top) + 1 :])

    def _sides(self, below: str) -> None:
        for ending in SIDE_FILES:
            self.hint(below + ending)
