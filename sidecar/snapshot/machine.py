"""What this machine's own disk does to a sync or a start, and what its owner can do about it."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Literal

from sidecar.errors import ConfigError, SidecarError, TryLater

Mishap = OSError | sqlite3.DatabaseError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHUT = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_LOCKED_SQLITE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SHUT_SQLITE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


def full(error: Mishap) -> bool:
    """Is there no room? SQLite says so too where it could not make its files any larger."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return _code(error) == sqlite3.SQLITE_FULL


def shut(error: Mishap) -> bool:
    """May nothing be written there: read-only, or another user's?"""
    return error.errno in _SHUT if isinstance(error, OSError) else _code(error) in _SHUT_SQLITE


def staging_failed(error: Mishap, state_dir: Path) -> tuple[str, Literal["no-room", "failed"]]:
    """What ended a sync on this side of the store, in words, and its code."""
    if full(error):
        return f"staging failed: {why(error)}. Free some disk space", "no-room"
    if shut(error):
        fix = f"Make SIDECAR_STATE_DIR ({state_dir}) writable for user {os.geteuid()}; it is tried again"
        return f"staging failed: {why(error)}. {fix}", "failed"
    return f"staging failed: {why(error)}. It is tried again", "failed"


def start_failed(error: Mishap, state_dir: Path) -> SidecarError:
    """What ends a start, or a command, that can't open its own small files."""
    what = f"the state dir {os.fspath(state_dir)!r}"
    if full(error):
        return TryLater(
            f"{what} has no room left: {why(error)}. Nothing was changed. Free some space there, or set"
            " SIDECAR_STATE_DIR to a folder on a larger disk"
        )
    if isinstance(error, sqlite3.Error) and _code(error) in _LOCKED_SQLITE:
        return TryLater(
            f"{what} is in use ({why(error)}). Nothing was changed. Is another sidecar using this SIDECAR_STATE_DIR?"
        )
    return ConfigError(
        f"{what} can't be used: {why(error)}. Nothing was changed. Make it writable for user {os.geteuid()}, or set"
        " SIDECAR_STATE_DIR to a folder that is"
    )


def why(error: Mishap) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({os.fsdecode(error.filename or '?')})"
    return str(error)


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code: the extended ones tell more than is asked here."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
