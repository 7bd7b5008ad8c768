"""What changed on disk since the last durable snapshot, by stat alone; no file is read here.

The scan never guesses that something was deleted: only ENOENT under a folder that can be read, on the device where it
was, is a deletion. Whatever else can't be seen is *unreadable* and its old entry is carried forward.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sidecar.snapshot.exclude import Excluder
from sidecar.snapshot.index import Index, Row, Stat
from sidecar.snapshot.manifest import Kind

SIDE_FILES = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite keeps beside a database; they are no entries, but changes of it."""

SQLITE_MAGIC = b"SQLite format 3\0"

RootKind = Literal["dir", "file", "absent", "unreadable"]


@dataclass(frozen=True, slots=True)
class Found:
    """Something on disk that is to be staged. ``absolute`` is where, ``path`` its name in the snapshot."""

    path: str
    absolute: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    stat: Stat


@dataclass(slots=True)
class Scan:
    """One root compared with the index. ``full`` where every entry was looked at."""

    root: str
    kind: RootKind = "dir"
    full: bool = False
    changed: list[Found] = field(default_factory=list)
    touched: list[Found] = field(default_factory=list)  # folders with another mtime: no reason for a commit
    missing: list[str] = field(default_factory=list)  # entries that were deleted
    unreadable: dict[str, str] = field(default_factory=dict)  # entry or path -> why it can't be looked at
    excluded: int = 0
    skipped: int = 0  # sockets, devices and pipes
    seen: int = 0


def scan_root(name: str, path: str, index: Index, excluder: Excluder, device: int | None) -> Scan:
    """Compare all of one root with the index. ``device`` is st_dev after restore, None where it was absent. Blocks."""
    out = Scan(name, full=True)
    found = _root(out, name, path, device)
    if found is None:
        if out.kind == "absent":
            out.missing.extend(r.entry.path for r in index.under(name))
        return out
    _compare(out, found, index.get(name))
    if found.kind != "dir":
        out.missing.extend(r.entry.path for r in index.under(name)[1:])
        return out
    _walk(out, name, path, path, index, excluder)
    return out


def scan_paths(
    name: str, path: str, relatives: Iterable[str], index: Index, excluder: Excluder, device: int | None
) -> Scan:
    """Compare only ``relatives`` (paths below the root; "" is the root itself) with the index. Blocks."""
    out = Scan(name)
    found = _root(out, name, path, device)
    if found is None:
        if out.kind == "absent":
            out.missing.extend(r.entry.path for r in index.under(name))
        return out
    _compare(out, found, index.get(name))
    if found.kind != "dir":
        return out
    done: set[str] = set()
    gone: set[str] = set()
    for relative in sorted(set(relatives)):
        if relative:
            _look(out, name, path, _database(path, relative), index, excluder, done, gone)
    return out


def _root(out: Scan, name: str, path: str, device: int | None) -> Found | None:
    try:
        status = os.stat(path)
    except OSError as error:
        parent_ok = error.errno in (errno.ENOENT, errno.ENOTDIR) and os.access(os.path.dirname(path), os.R_OK | os.X_OK)
        if (error.errno in (errno.ENOENT, errno.ENOTDIR)) and (parent_ok or device is None):
            out.kind = "absent"
        else:
            out.kind = "unreadable"
            out.unreadable[name] = _why(error)
        return None
    if device is not None and status.st_dev != device:
        out.kind = "unreadable"
        out.unreadable[name] = "another device is mounted there than after restore (a volume went away?)"
        return None
    if st.S_ISDIR(status.st_mode):
        out.kind = "dir"
        return _found(name, path, "dir", status)
    if st.S_ISREG(status.st_mode):
        out.kind = "file"
        return _file(name, path, status, {})
    out.kind = "unreadable"
    out.unreadable[name] = "neither a file nor a folder"
    return None


def _walk(out: Scan, prefix: str, root: str, top: str, index: Index, excluder: Excluder) -> None:
    stack = [top]
    while stack:
        folder = stack.pop()
        relative = folder[len(root) :].lstrip("/")
        name = f"{prefix}/{relative}" if relative else prefix
        known = index.children(name)
        try:
            with os.scandir(folder) as listing:
                items = {item.name: item for item in listing}
            here = os.stat(folder).st_dev
        except OSError as error:
            if error.errno == errno.ENOENT:
                continue  # deleted since its parent was listed: the next scan sees that
            out.unreadable[name] = _why(error)
            continue
        before = index.get(name)
        moved = before is not None and before.stat is not None and before.stat.dev != here
        for item_name, item in items.items():
            path = f"{name}/{item_name}"
            below = f"{relative}/{item_name}" if relative else item_name
            row = known.pop(path, None)
            try:
                is_dir = item.is_dir(follow_symlinks=False)
                if excluder.excluded(below, item_name, is_dir):
                    out.excluded += 1
                    continue
                if _is_side_file(item_name, folder, items):
                    if row is not None:
                        out.missing.append(path)
                    continue
                status = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError as error:
                out.unreadable[path] = _why(error)
                continue
            found = _from(path, item.path, status, items)
            if found is None:
                out.skipped += 1
                if row is not None:
                    out.missing.append(path)
                continue
            if is_dir:
                stack.append(item.path)
            elif row is not None and row.entry.kind == "dir":
                out.missing.extend(r.entry.path for r in index.under(path)[1:])
            _compare(out, found, row)
        for path, row in known.items():
            below = path[len(prefix) + 1 :]
            if excluder.hides(below):
                out.excluded += 1  # newly excluded: carried forward until `sidecar forget`
            elif moved:
                out.unreadable[path] = "its folder is on another device than before"
            else:
                out.missing.extend([path] if row.entry.kind != "dir" else [r.entry.path for r in index.under(path)])


def _look(
    out: Scan,
    name: str,
    root: str,
    relative: str,
    index: Index,
    excluder: Excluder,
    done: set[str],
    gone: set[str],
) -> None:
    """One path that the watcher named: it, or the highest folder above it that the index doesn't know or that is gone."""
    parts = relative.split("/")
    for depth in range(1, len(parts) + 1):
        below = "/".join(parts[:depth])
        if below in gone:
            return
        path, absolute = f"{name}/{below}", f"{root}/{below}"
        last = depth == len(parts)
        if below in done and not last:
            continue
        try:
            status = os.lstat(absolute)
        except FileNotFoundError:
            gone.add(below)
            rows = index.under(path)
            if rows and not excluder.hides(below):
                if os.access(os.path.dirname(absolute), os.R_OK | os.X_OK):
                    out.missing.extend(r.entry.path for r in rows)
                else:
                    out.unreadable[path] = "its folder can't be read"
            return
        except NotADirectoryError:
            gone.add(below)
            return
        except OSError as error:
            gone.add(below)
            out.unreadable[path] = _why(error)
            return
        is_dir = st.S_ISDIR(status.st_mode)
        if excluder.excluded(below, parts[depth - 1], is_dir):
            gone.add(below)
            return
        first = below not in done
        done.add(below)
        row = index.get(path)
        if is_dir:
            if first:
                _compare(out, _found(path, absolute, "dir", status), row)
            if row is None or row.entry.kind != "dir":
                gone.add(below)  # all of it is looked at now
                _walk(out, name, root, absolute, index, excluder)
                return
            continue
        if first:
            folder = os.path.dirname(absolute)
            if _is_side_file(parts[depth - 1], folder, None):
                return
            found = _from(path, absolute, status, None)
            if found is None:
                out.skipped += 1
                if row is not None:
                    out.missing.append(path)
                return
            if row is not None and row.entry.kind == "dir":
                out.missing.extend(r.entry.path for r in index.under(path)[1:])
            _compare(out, found, row)
        if not last:
            gone.add(below)  # a file or link stands where a folder was
            return


def _compare(out: Scan, found: Found, row: Row | None) -> None:
    if found.kind != "dir":
        out.seen += 1
    if row is None or row.entry.kind != found.kind:
        out.changed.append(found)
        return
    e = row.entry
    same_owner = (e.mode, e.uid, e.gid) == (found.mode, found.uid, found.gid)
    if found.kind == "dir":
        if not same_owner or e.flag:
            out.changed.append(found)
        elif e.mtime_ns != found.stat.mtime_ns:
            out.touched.append(found)
        return
    if not same_owner or row.stat != found.stat or not row.settled or e.flag:
        out.changed.append(found)


def _found(path: str, absolute: str, kind: Kind, status: os.stat_result) -> Found:
    return Found(path, absolute, kind, status.st_mode & 0o7777, status.st_uid, status.st_gid, Stat.of(status))


def _from(path: str, absolute: str, status: os.stat_result, items: Mapping[str, object] | None) -> Found | None:
    """What to stage at ``absolute``, or None for a socket, a device or a pipe."""
    if st.S_ISREG(status.st_mode):
        return _file(path, absolute, status, items)
    if st.S_ISDIR(status.st_mode):
        return _found(path, absolute, "dir", status)
    if st.S_ISLNK(status.st_mode):
        return _found(path, absolute, "symlink", status)
    return None


def _file(path: str, absolute: str, status: os.stat_result, items: Mapping[str, object] | None) -> Found:
    return Found(
        *(path, absolute, "file", status.st_mode & 0o7777, status.st_uid, status.st_gid),
        database_stat(absolute, Stat.of(status), items),
    )


def database_stat(absolute: str, own: Stat, siblings: Mapping[str, object] | None = None) -> Stat:
    """``own`` of a file, together with the write-ahead log or journal beside it, where there is one.

    A database in WAL mode changes without its own file being touched. ``siblings`` are the names in its folder, where
    they are known, to spare the system calls.
    """
    base = os.path.basename(absolute)
    for ending in ("-wal", "-journal"):
        if siblings and base + ending not in siblings:
            continue
        try:
            side = os.lstat(absolute + ending)
        except OSError:
            continue
        own = Stat(
            *(own.dev, own.ino, own.size + side.st_size),
            max(own.mtime_ns, side.st_mtime_ns),
            own.ctime_ns,  # not the log's: SQLite's own chown of it, when root reads, is no write
        )
    return own


def _database(root: str, relative: str) -> str:
    """The database that a side file belongs to, so that a change of the log looks at the database."""
    for ending in SIDE_FILES:
        if relative.endswith(ending) and is_database(f"{root}/{relative[: -len(ending)]}"):
            return relative[: -len(ending)]
    return relative


def _is_side_file(name: str, folder: str, items: Mapping[str, object] | None) -> bool:
    for ending in SIDE_FILES:
        if name.endswith(ending):
            base = name[: -len(ending)]
            return (items is None or base in items) and is_database(f"{folder}/{base}")
    return False


def is_database(absolute: str) -> bool:
    """Whether the regular file at ``absolute`` starts as SQLite's format does."""
    try:
        fd = os.open(absolute, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return st.S_ISREG(os.fstat(fd).st_mode) and os.read(fd, 16) == SQLITE_MAGIC
    except OSError:
        return False
    finally:
        os.close(fd)


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
