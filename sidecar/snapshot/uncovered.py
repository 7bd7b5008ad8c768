"""What looks like state and lies outside of every root: SQLite databases and logins, gone with the machine.

A bounded look: so many folders deep, so many names, so many seconds; folders near the top come first. Names and the
first bytes of files are all that is read.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

DEPTH = 6
ENTRIES = 50_000
SECONDS = 3.0
MOST = 100
"""More findings than that say no more."""

Kind = Literal["SQLite database", "login"]

_MAGIC = b"SQLite format 3\0"
_LOGINS = frozenset(
    {
        "Cookies", "Login Data", "cookies.sqlite", "logins.json", "key4.db", "cookies.txt", "cookies.json",
        "storage_state.json", "storageState.json", "storage-state.json", ".netrc", ".git-credentials",
    }
)  # fmt: skip
"""Browser profiles, cookie files and stored credentials are known by their names."""
_JSON_MOST, _JSON_HEAD = 4 << 20, 4096
# Rebuilt by installing or by running again, or the system's own: nothing in there is an app's state.
_PASSED_OVER = frozenset(
    {"node_modules", "__pycache__", "site-packages", ".git", ".cache", ".npm", ".cargo", ".rustup", ".venv", "venv"}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox"}
)
_SYSTEM = frozenset(
    {
        "/proc", "/sys", "/dev", "/run", "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/boot", "/etc", "/tmp",
        "/snap", "/var/lib", "/var/cache", "/var/tmp",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A file that no root covers: its absolute path, and what it looks like."""

    path: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Search:
    """What was found, by path; ``complete`` is false where a bound ended the look."""

    found: tuple[Uncovered, ...]
    complete: bool


def search(
    places: Iterable[str],
    covered: Iterable[str],
    *,
    depth: int = DEPTH,
    entries: int = ENTRIES,
    seconds: float = SECONDS,
) -> Search:
    """Look below ``places`` for what lies in none of ``covered`` (roots and our own paths, absolute). Blocks.

    Follows no symlink, crosses into no other filesystem, and passes over what can't be read.
    """
    skip = {os.path.realpath(path) for path in covered}
    until = time.monotonic() + seconds
    waiting: deque[tuple[str, int, int]] = deque()
    for place in dict.fromkeys(os.path.realpath(p) for p in places):
        try:
            waiting.append((place, 0, os.stat(place).st_dev))
        except OSError:
            continue
    seen: set[str] = set()
    found: list[Uncovered] = []
    left, complete = entries, True
    while waiting:
        folder, level, device = waiting.popleft()
        if folder in seen or folder in skip or any(folder.startswith(f"{path}/") for path in skip):
            continue
        seen.add(folder)
        for entry in _entries(folder):
            left -= 1
            if left < 0 or time.monotonic() > until or len(found) >= MOST:
                return Search(_sorted(found), False)
            if entry.path in skip or entry.path in _SYSTEM:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                if entry.name in _PASSED_OVER or status.st_dev != device:
                    continue
                if level < depth:
                    waiting.append((entry.path, level + 1, device))
                else:
                    complete = False
            elif stat.S_ISREG(status.st_mode):
                kind = _kind(entry.path, entry.name, status.st_size)
                if kind is not None:
                    found.append(Uncovered(entry.path, kind))
    return Search(_sorted(found), complete)


def to_declare(found: Iterable[Uncovered], places: Iterable[str], roots: Iterable[str]) -> tuple[str, ...]:
    """The paths that, as roots, cover ``found``: each file's folder, none of them in another.

    The file itself where its folder is one of ``places``, or has one of ``roots`` in it: roots must not be nested.
    """
    tops = {os.path.realpath(place) for place in places}
    below = [os.path.realpath(root) for root in roots]

    def cover(path: str) -> str:
        folder = os.path.dirname(path)
        return path if folder in tops or any(root.startswith(f"{folder}/") for root in below) else folder

    out: list[str] = []
    for path in sorted({cover(f.path) for f in found}):
        if not any(path.startswith(f"{above}/") for above in out):
            out.append(path)
    return tuple(out)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError:
        return


def _sorted(found: list[Uncovered]) -> tuple[Uncovered, ...]:
    return tuple(sorted(found, key=lambda f: f.path))


def _kind(path: str, name: str, size: int) -> Kind | None:
    if name in _LOGINS and size:
        return "login"
    # A database is whole pages, and a page is a multiple of 512 bytes: most files need not be opened.
    if size and size % 512 == 0 and _head(path, len(_MAGIC)) == _MAGIC:
        return "SQLite database"
    if name.endswith(".json") and size <= _JSON_MOST and _is_storage_state(_head(path, _JSON_HEAD)):
        return "login"
    return None


def _is_storage_state(head: bytes) -> bool:
    """Playwright writes its cookies first, each with its domain."""
    return head.lstrip()[:1] == b"{" and head[1:64].lstrip().startswith(b'"cookies"') and b'"domain"' in head


def _head(path: str, size: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC)
    except PermissionError:  # another user's file: O_NOATIME is its owner's alone
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return b""
    except OSError:
        return b""
    try:
        return os.pread(fd, size, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)
