"""A folder of this disk, reached by descriptors only: no symlink below it is ever followed.

A link that lies in a root, put there by the app or named by a snapshot, can therefore never lead a write out
of it, also where somebody swaps a folder for a link while we work.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat as st
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256

from sidecar.snapshot.found import SQLITE_MAGIC
from sidecar.snapshot.index import Stat

Tick = Callable[[], None]
"""Called every now and then by long work: says that it moves, and may raise to end it."""

PIECE = 1 << 20

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOBODY = (1 << 32) - 1  # chown(2) reads -1 as "leave it"


class Tree:
    """The folder ``base``, whose own path may lead through symlinks. Relative paths are ``/``-separated.

    Not for two threads at once. Raises OSError as the system does.
    """

    def __init__(self, base: str, *, follow: bool = True) -> None:
        self.base = base
        self._fd = os.open(base, _FOLDER & ~os.O_NOFOLLOW if follow else _FOLDER)
        self._chain: list[tuple[str, int]] = []  # the folders down to where the last call was
        self._at = ""  # their path

    def close(self) -> None:
        self.forget()
        os.close(self._fd)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forget(self) -> None:
        """Look every folder up anew: one of them was moved or replaced."""
        self._at = ""
        while self._chain:
            os.close(self._chain.pop()[1])

    def folder(self, rel: str) -> int:
        """A descriptor of the folder ``rel``, valid until the next call; NotADirectoryError for a link."""
        if rel == self._at:
            return self._last()
        parts = rel.split("/") if rel else []
        same = 0
        while same < min(len(parts), len(self._chain)) and self._chain[same][0] == parts[same]:
            same += 1
        while len(self._chain) > same:
            os.close(self._chain.pop()[1])
        self._at = "/".join(parts[:same])
        for part in parts[same:]:
            self._chain.append((part, os.open(part, _FOLDER, dir_fd=self._last())))
            self._at = f"{self._at}/{part}" if self._at else part
        return self._last()

    def _last(self) -> int:
        return self._chain[-1][1] if self._chain else self._fd

    def at(self, rel: str) -> tuple[int, str]:
        """The folder that ``rel`` (not empty) lies in, and its name there."""
        above, _, name = rel.rpartition("/")
        if above == self._at:  # ten thousand times: without a call
            return self._chain[-1][1] if self._chain else self._fd, name
        return self.folder(above), name

    def lstat(self, rel: str) -> os.stat_result | None:
        """What stands at ``rel`` ("" is the folder itself), or None where nothing does or could."""
        if not rel:
            return os.fstat(self._fd)
        try:
            folder, name = self.at(rel)
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, rel: str, flags: int = _READ) -> int:
        folder, name = self.at(rel)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)

    def readlink(self, rel: str) -> str:
        folder, name = self.at(rel)
        return os.readlink(name, dir_fd=folder)

    def writable(self, rel: str) -> bool:
        """May entries be made in the folder ``rel``, or its mode be set so that they may?"""
        fd = self.folder(rel)
        return os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True) or (
            os.fstat(fd).st_uid == os.geteuid() and not os.fstatvfs(fd).f_flag & os.ST_RDONLY
        )

    def shapes(self, rel: str) -> bool:
        """Whether the folder that ``rel`` lies in gives what is made in it a group, or rights, of its own."""
        fd = self.at(rel)[0]
        if os.fstat(fd).st_mode & st.S_ISGID:
            return True
        try:
            return bool(os.getxattr(f"/proc/self/fd/{fd}", "system.posix_acl_default"))
        except OSError:  # none, or a filesystem that has no such thing
            return False

    def mount_point(self, rel: str) -> bool:
        """Whether the folder ``rel`` is another filesystem's; a bind mount of the same one can't be told."""
        here, above = self.lstat(rel), self.lstat(rel.rpartition("/")[0])
        return here is not None and above is not None and here.st_dev != above.st_dev

    def mkdir(self, rel: str, mode: int) -> None:
        folder, name = self.at(rel)
        os.mkdir(name, mode, dir_fd=folder)

    def ensure(self, rel: str, mode: int = 0o700) -> None:
        """Make the folder ``rel`` and those above it where they are missing."""
        parts = rel.split("/") if rel else []
        for depth in range(1, len(parts) + 1):
            with suppress(FileExistsError):
                self.mkdir("/".join(parts[:depth]), mode)

    def unlink(self, rel: str) -> None:
        folder, name = self.at(rel)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)

    def rmdir(self, rel: str) -> None:
        folder, name = self.at(rel)
        os.rmdir(name, dir_fd=folder)
        self.forget()

    def remove(self, rel: str) -> None:
        """Remove what stands at ``rel``, a folder with all that is in it."""
        folder, name = self.at(rel)
        found = self.lstat(rel)
        if found is not None and st.S_ISDIR(found.st_mode):
            shutil.rmtree(name, dir_fd=folder)
            self.forget()
        else:
            self.unlink(rel)

    def link(self, rel: str, target: str) -> None:
        folder, name = self.at(rel)
        os.symlink(target, name, dir_fd=folder)

    def rename(self, rel: str, to: Tree, new: str) -> None:
        """Move ``rel`` to ``new`` in the tree ``to``, replacing a file there."""
        source, name = self.at(rel)
        kept = os.dup(source)  # `to` may be this very tree
        try:
            folder, new_name = to.at(new)
            os.rename(name, new_name, src_dir_fd=kept, dst_dir_fd=folder)
        finally:
            os.close(kept)
        self.forget()

    def move_file(self, rel: str, to: Tree, new: str) -> os.stat_result:
        """``rename`` for a file into another tree, where no folder that was looked up becomes another; its stat there.

        Ten thousand of them are moved while a Space waits: each folder is looked up once.
        """
        source, name = self.at(rel)
        folder, new_name = to.at(new)
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=folder)
        return os.stat(new_name, dir_fd=folder, follow_symlinks=False)

    def dress(self, rel: str, mode: int | None, uid: int, gid: int, mtime_ns: int | None) -> None:
        """Set owner, mode and mtime of ``rel``, where we may; a link has no mode. None leaves as it is."""
        found = self.lstat(rel)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), rel)
        if st.S_ISLNK(found.st_mode):
            folder, name = self.at(rel)
            with suppress(OSError, OverflowError):
                os.chown(name, *_owner(found, uid, gid), dir_fd=folder, follow_symlinks=False)
            if mtime_ns is not None:
                with _where_permitted():
                    os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=folder, follow_symlinks=False)
            return
        if not st.S_ISREG(found.st_mode) and not st.S_ISDIR(found.st_mode):
            return
        dressed = mode in (None, st.S_IMODE(found.st_mode)) and mtime_ns in (None, found.st_mtime_ns)
        if dressed and (found.st_uid, found.st_gid) == (uid, gid):
            return
        fd, target = self._handle(rel)
        try:
            if (found.st_uid, found.st_gid) != (uid, gid):
                try:
                    os.chown(target, *_owner(found, uid, gid))
                except (OSError, OverflowError):
                    with suppress(OSError, OverflowError):
                        os.chown(target, -1, _owner(found, uid, gid)[1])
            if mode is not None and st.S_IMODE(os.fstat(fd).st_mode) != mode:
                with _where_permitted():
                    os.chmod(target, mode)
            if mtime_ns is not None and os.fstat(fd).st_mtime_ns != mtime_ns:
                with _where_permitted():
                    os.utime(target, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    def _handle(self, rel: str) -> tuple[int, int | str]:
        """A descriptor of ``rel``, and what chmod and the like take for it: links are never followed."""
        if not rel:
            fd = os.dup(self._fd)
            return fd, f"/proc/self/fd/{fd}"
        try:
            fd = self.open(rel)
            return fd, fd
        except PermissionError:  # ours, but its mode doesn't let us read it
            fd = self.open(rel, os.O_PATH)
            return fd, f"/proc/self/fd/{fd}"


@contextmanager
def _where_permitted() -> Iterator[None]:
    """What another user owns, or a filesystem can't keep, is no reason to fail: its bytes are right."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS, errno.EOPNOTSUPP):
            raise


def _owner(found: os.stat_result, uid: int, gid: int) -> tuple[int, int]:
    return (
        -1 if uid in (found.st_uid, _NOBODY) else uid,
        -1 if gid in (found.st_gid, _NOBODY) else gid,
    )


_digests: dict[Stat, str] = {}
_MOST = 100_000
_SETTLED_NS = 2_000_000_000


def digest(fd: int, tick: Tick) -> str:
    """The sha256 (hex) of the file behind ``fd``, from its start.

    Remembered for a file that nothing has changed since, so that an attempt after a failed one doesn't read a
    disk again, nor count that as progress.
    """
    before = Stat.of(os.fstat(fd))
    if (known := _digests.get(before)) is not None:
        return known
    settled = time.time_ns() - before.ctime_ns > _SETTLED_NS  # else a change might not show in the times
    total, offset = sha256(), 0
    while piece := os.pread(fd, PIECE, offset):
        total.update(piece)
        offset += len(piece)
        tick()
    if settled and len(_digests) < _MOST and Stat.of(os.fstat(fd)) == before:
        _digests[before] = total.hexdigest()
    return total.hexdigest()


def forget_digests() -> None:
    """The restore is over: what it remembered of files is only memory."""
    _digests.clear()


def steady_digest(tree: Tree, rel: str, tick: Tick) -> str:
    """The sha256 of a file that nobody changed meanwhile; "" where somebody did, or it can't be read."""
    try:
        fd = tree.open(rel)
    except OSError:
        return ""
    try:
        before = Stat.of(os.fstat(fd))
        found = digest(fd, tick)
        after = tree.lstat(rel)
        return found if after is not None and Stat.of(after) == before == Stat.of(os.fstat(fd)) else ""
    except OSError:
        return ""
    finally:
        os.close(fd)


def is_database(tree: Tree, rel: str) -> bool:
    """Whether the file at ``rel`` starts as SQLite's format does."""
    try:
        fd = tree.open(rel)
    except OSError:
        return False
    try:
        return st.S_ISREG(os.fstat(fd).st_mode) and os.pread(fd, 16, 0) == SQLITE_MAGIC
    except OSError:
        return False
    finally:
        os.close(fd)
