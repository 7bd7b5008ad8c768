"""The Unix socket in the state dir: made so that only we can use it, found again by our own commands."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

SOCKET_NAME = "agent.sock"
_LONGEST = 107
"""Bytes of a path that fit into ``sun_path`` besides its closing NUL: unix(7)."""
_BACKLOG = 64


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """``path`` as AF_UNIX takes it: one that is too long goes by way of its open folder in /proc.

    Raises ``OSError`` where that folder can't be opened.
    """
    if len(os.fsencode(path)) <= _LONGEST:
        yield os.fspath(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen(path: Path) -> socket.socket:
    """A listening socket at ``path``, mode 0600 from the first moment, in place of one that nobody serves.

    Raises ``OSError``: EADDRINUSE where another agent answers there, EEXIST where it is not a socket.
    """
    if _served(path):
        raise OSError(errno.EADDRINUSE, "another agent answers there")
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # On Linux the file gets the socket's own mode, less the umask, so it is never open to others;
        # chmod is for a umask that takes away our own bits.
        os.fchmod(sock.fileno(), 0o600)
        with address(fresh) as name:
            sock.bind(name)
        os.chmod(fresh, 0o600)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        os.rename(fresh, path)
    except BaseException:
        sock.close()
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    return sock


def _served(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "something that is no socket is in its place")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, address(path) as name:
        probe.setblocking(False)
        # EAGAIN is a full queue in front of somebody; only a refusal means that nobody is there.
        return probe.connect_ex(name) not in (errno.ECONNREFUSED, errno.ENOENT)
