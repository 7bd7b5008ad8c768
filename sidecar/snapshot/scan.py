"""What changed on disk since the last durable snapshot, by stat alone; no file is read here.

The scan never guesses that something was deleted: only ENOENT under a folder that can be read, on the device where it
was, is a deletion. Whatever else can't be seen is *unreadable* and its old entry is carried forward.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Literal

from sidecar.snapshot.ahead import Ahead, unchanged
from sidecar.snapshot.exclude import Excluder
from sidecar.snapshot.found import SIDE_FILES, Found, database_of, found, is_database
from sidecar.snapshot.index import Index, Row

RootKind = Literal["dir", "file", "absent", "unreadable"]
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
            return _why(error)
        if st.S_ISDIR(status.st_mode):
            break
    if not os.access(above, os.R_OK | os.X_OK):
        return "it isn't there, but the folder above it can't be read"
    if status.st_dev != device:
        return "it isn't there, nor is the device that it was on after restore (a volume went away?)"
    return None


@dataclass(slots=True)
class _Look:
    """One look at one root. ``closed`` are paths below which nothing is left to look at, ``open`` known folders.

    ``covered`` are folders that miss entries and are on another device than the one that had these.
    """

    out: Scan
    name: str
    top: str
    index: Index
    excluder: Excluder
    closed: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    covered: set[str] = field(default_factory=set)

    def root(self, device: int | None) -> bool:
        """Compare the root itself; whether it is a folder that is to be looked into."""
        out, name = self.out, self.name
        try:
            status = os.stat(self.top)
        except (FileNotFoundError, NotADirectoryError):
            why = _absent(self.top, device)
            if why is None:
                out.kind = "absent"
                out.missing.extend(r.entry.path for r in self.index.under(name) if not self._hidden(r))
                return False
            return self._no_root(why)
        except OSError as error:
            return self._no_root(_why(error))
        if device is not None and status.st_dev != device:
            return self._no_root("another device is mounted there than after restore (a volume went away?)")
        here = found(name, self.top, status)
        if here is None or here.kind == "symlink":
            return self._no_root("neither a file nor a folder")
        out.kind = here.kind
        out.device = status.st_dev
        self._compare(here, self.index.get(name))
        return here.kind == "dir"

    def _no_root(self, why: str) -> bool:
        self.out.kind = "unreadable"
        self.out.unreadable[self.name] = why
        return False

    def keep_covered(self) -> None:
        """Learn no new place of a covered folder: the next look would take what it misses for deleted."""
        if self.covered:
            self.out.touched = [f for f in self.out.touched if f.path not in self.covered]
            self.out.changed = [f for f in self.out.changed if f.path not in self.covered]

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
                    self.out.unreadable[self._path(relative)] = _why(error)
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
            self.out.unreadable[path] = _why(error)
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
                self.out.unreadable[self._path(below)] = _why(error)
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
                self.out.unreadable[path] = _why(error)
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

    def swapped(self, row: Row, relative: str) -> bool:
        """Whether the folder isn't the one that the index knows by this name: then nothing in it is known."""
        if row.stat is None:
            return True
        try:
            status = os.lstat(self._at(relative))
        except OSError:
            return True
        return (row.stat.dev, row.stat.ino) != (status.st_dev, status.st_ino)

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
            self.out.unreadable[path] = _why(error)
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


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
