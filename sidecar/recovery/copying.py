"""Bytes from one file to another, and on to the disk."""

from __future__ import annotations

import os
import stat as st
from contextlib import suppress

from sidecar.recovery.tree import PIECE, Tick, Tree


def pour(source: int, target: int, tick: Tick, *, durable: bool = True) -> None:
    """Make the file ``target`` hold exactly what ``source`` holds; on disk, if ``durable``."""
    offset = 0
    while piece := os.pread(source, PIECE, offset):
        view = memoryview(piece)
        while view:
            done = os.pwrite(target, view, offset)
            view, offset = view[done:], offset + done
        tick()
    os.ftruncate(target, offset)
    if durable:
        os.fsync(target)


def copy_out(source: Tree, rel: str, target: Tree, new: str, tick: Tick) -> None:
    """Copy a file, link or folder across filesystems, with mode and mtime; sockets and pipes hold nothing."""
    found = source.lstat(rel)
    if found is None:
        return
    if st.S_ISLNK(found.st_mode):
        target.link(new, source.readlink(rel))
    elif st.S_ISREG(found.st_mode):
        fd = source.open(rel)
        try:
            out = target.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                pour(fd, out, tick)
            finally:
                os.close(out)
        finally:
            os.close(fd)
    elif st.S_ISDIR(found.st_mode):
        target.mkdir(new, 0o700)
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source.folder(rel))
        try:
            names = os.listdir(fd)
        finally:
            os.close(fd)
        for name in names:
            copy_out(source, f"{rel}/{name}", target, f"{new}/{name}", tick)
    else:
        return
    target.dress(new, st.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns)


def begin_writing(fd: int, offset: int, size: int) -> None:
    """Let the disk begin with these bytes of a file, so that less is left to wait for; a hint only. Doesn't block."""
    import ctypes

    with suppress(AttributeError):  # another libc
        # sync_file_range(2), SYNC_FILE_RANGE_WRITE
        ctypes.CDLL(None).sync_file_range(ctypes.c_int(fd), ctypes.c_int64(offset), ctypes.c_int64(size), 2)


def settle(folder: str) -> None:
    """Return when all that was written to the filesystem of ``folder`` is on disk."""
    import ctypes

    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a folder that its owner may enter but not list
        os.sync()
        return
    try:
        # One call for ten thousand files, where an fsync each would take a minute on a slow disk.
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), folder)
    except AttributeError:
        os.sync()
    finally:
        os.close(fd)
