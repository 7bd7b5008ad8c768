"""One agent for a root: a lock on each, which the supervisor and main keep open too.

flock belongs to the open file description, so a lock is held for as long as any process has a copy of the
descriptor: a main that outlives its supervisor and agent still keeps the next agent, and a restore, out of
its roots. For the same reason nothing here ever unlocks; it only closes its own copy.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat as st
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from sidecar.errors import RestoreFailed, TryLater
from sidecar.roots import Root

SHARED = "/tmp"
"""Where agents with different state dirs still meet."""


class RootLocks:
    """The locks of some roots, held until ``release`` and until every other copy of ``fds`` is closed."""

    def __init__(self, fds: tuple[int, ...]) -> None:
        self.fds = fds
        """To be handed on, inheritable."""

    @classmethod
    def acquire(cls, roots: Sequence[Root], state_dir: Path, fds: Iterable[int] | None = None) -> RootLocks:
        """Lock ``roots``, at once or not at all; ``fds`` are an earlier agent's, taken over where they fit.

        Raises TryLater that names the root, and the holder where it can be told.
        """
        folder = _folder(state_dir)
        handed = {_identity(fd): fd for fd in fds or () if _identity(fd) is not None}
        held: list[int] = []
        opened: list[int] = []
        try:
            for root in roots:
                real = os.path.realpath(root.path)
                path = f"{folder}/{sha256(os.fsencode(real)).hexdigest()}.lock"
                fd = _lock(path, handed, opened)
                if fd is None:
                    raise TryLater(_taken(root, path))
                held.append(fd)
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return cls(tuple(held))

    def release(self) -> None:
        """Close our copies; twice is no error."""
        for fd in self.fds:
            with suppress(OSError):
                os.close(fd)
        self.fds = ()


def _folder(state_dir: Path) -> str:
    """A folder that only we can lay locks in: the one that all our agents share, else the state dir's."""
    for path in (f"{SHARED}/sidecar-{os.geteuid()}", str(state_dir / "locks")):
        try:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            found = os.lstat(path)
            if st.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                if found.st_mode & 0o077:
                    os.chmod(path, 0o700)
                if os.access(path, os.W_OK | os.X_OK):
                    return path
        except OSError:
            continue
    raise RestoreFailed(
        f"no folder for the roots' locks: neither {SHARED!r} nor {str(state_dir)!r} can be written by user "
        f"{os.geteuid()}. Nothing was changed. Set SIDECAR_STATE_DIR to a folder of this user's"
    )


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if st.S_ISREG(found.st_mode) else None


def _lock(path: str, handed: dict[tuple[int, int] | None, int], opened: list[int]) -> int | None:
    """A locked descriptor of ``path``, or None where another process has it; ``opened`` gets a new one."""
    for _ in range(10):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        inherited = handed.get(_identity(fd))
        if inherited is not None:
            os.close(fd)
            fd = inherited
        else:
            opened.append(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if inherited is None:
                opened.remove(fd)
                os.close(fd)  # or we would be found as the holder
            return None
        try:
            current = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            current = None
        if current is not None and (current.st_dev, current.st_ino) == _identity(fd):
            os.set_inheritable(fd, True)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            return fd
        # Something cleans up the folder: the file that we locked is no longer the one that others would find.
        if inherited is not None:
            handed = {}
        else:
            opened.remove(fd)
            os.close(fd)
    return None


def _taken(root: Root, path: str) -> str:
    pid = _holder(path)
    who = f"process {pid} ({_name(pid)})" if pid else "another process"
    return (
        f"the root {root.path!r} is in use by {who}: another sidecar, or an app that outlived one. "
        "Nothing was changed. Let it end or stop it, then try again"
    )


def _holder(path: str) -> int | None:
    """A live process that has the lock's file open: the agent that wrote its pid there, else any other."""
    with suppress(OSError, ValueError):
        with open(path, "rb") as file:
            pid = int(file.read(32))
        if _has_open(pid, path):
            return pid
    with suppress(OSError):
        for name in sorted(os.listdir("/proc"), key=lambda n: (len(n), n)):
            if name.isdigit() and int(name) != os.getpid() and _has_open(int(name), path):
                return int(name)
    return None


def _has_open(pid: int, path: str) -> bool:
    with suppress(OSError):
        wanted = os.stat(path)
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                    found = os.stat(f"/proc/{pid}/fd/{fd}")
                    return (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
    return False


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(200).split(b"\0")
    except OSError:
        return "?"
    # No more than the program: its arguments may hold secrets.
    return os.fsdecode(os.path.basename(words[0])) or "?"
