"""The state dir: the agent's own small files. Which folder it is, and making it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from typing import Any

from sidecar.errors import ConfigError, TryLater
from sidecar.roots import home_of

NOTE_MOST = 1 << 20
"""Characters of a note that are read."""


def choose_state_dir(environ: Mapping[str, str]) -> tuple[str, str]:
    """The default state dir and where it comes from; creates nothing.

    It is the first of ``$XDG_STATE_HOME/sidecar``, ``~/.local/state/sidecar`` and ``sidecar-<uid>`` in the
    temp dir that exists and can be written or could be created.
    """
    candidates = []
    xdg = environ.get("XDG_STATE_HOME", "")
    if xdg.startswith("/"):  # "must be absolute … consider it invalid and ignore it": XDG base directory spec
        candidates.append((os.path.join(xdg, "sidecar"), "XDG_STATE_HOME"))
    home = home_of(environ.get("HOME"))
    if home is not None:
        candidates.append((os.path.join(home, ".local/state/sidecar"), "default"))
    temp = environ.get("TMPDIR", "")
    temp = temp if temp.startswith("/") else "/tmp"
    candidates.append((os.path.join(temp, f"sidecar-{os.getuid()}"), "the temp dir"))
    for path, source in candidates:
        if can_hold(path):
            return os.path.normpath(path), source
    path, source = candidates[-1]
    return os.path.normpath(path), source


def can_hold(path: str) -> bool:
    """Could this process write into the folder ``path``, which need not exist yet? Touches nothing."""
    current = path
    while True:
        try:
            mode = os.stat(current).st_mode
        except FileNotFoundError:
            if os.path.islink(current):
                return False  # dangling: mkdir would fail on it
            current = os.path.dirname(current)
            continue
        except OSError:
            return False
        return stat.S_ISDIR(mode) and os.access(current, os.W_OK | os.X_OK)


def ensure_state_dir(path: str) -> str:
    """Make the state dir, 0700, unless it is there, and try that it can be written; returns ``path``.

    Raises ``TryLater`` (75) where there is no room, ``ConfigError`` (78) where it can't be written otherwise, or if it
    stands in a folder that everybody may write to and is not ours alone: somebody else could then have laid it out
    for us.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        if _anybodys(os.path.dirname(path)):
            _claim_private(path)
        probe = os.path.join(path, f".probe-{os.getpid()}")
        os.close(os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TryLater(
                f"the state dir {path!r} has no room left: {reason}; nothing was changed. "
                "Free some space there, or set SIDECAR_STATE_DIR to a folder on a larger disk"
            ) from error
        raise ConfigError(
            f"the state dir {path!r} can't be used: {reason}; nothing was changed. "
            f"Make it writable for user {os.getuid()}, or set SIDECAR_STATE_DIR to a folder that is"
        ) from error
    return path


def _anybodys(folder: str) -> bool:
    return bool(os.stat(folder).st_mode & stat.S_IWOTH)


def _claim_private(path: str) -> None:
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise OSError("it is a symlink in a folder that everybody may write to")
    if found.st_uid != os.geteuid():
        raise OSError(f"it belongs to user {found.st_uid}, in a folder that everybody may write to")
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)


def note_down(folder: str | os.PathLike[str], name: str, document: Mapping[str, Any]) -> None:
    """Write ``document`` as JSON to the state dir's file ``name``, whole or not at all. Raises ``OSError``."""
    import json

    fresh = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        with open(fresh, "w", encoding="ascii", opener=_private) as file:
            json.dump(document, file)
        os.replace(fresh, os.path.join(folder, name))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


def noted(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """What ``note_down`` wrote there; empty where nothing did, or where it can't be read."""
    import json

    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            found = json.loads(file.read(NOTE_MOST))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
