"""What an attempt came to that made no snapshot: a result with a code that programs read, and a sentence for people."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from sidecar import log
from sidecar.errors import EX_FAILED, SidecarError
from sidecar.snapshot import machine
from sidecar.stores.base import Denied, Unavailable
from sidecar.sync.bulletin import Result
from sidecar.sync.rights import Fenced


def failed(error: Exception, state_dir: Path) -> Result:
    """Of what an attempt raised. Ends the process where the local index is damaged: a new agent makes it anew."""
    if isinstance(error, Fenced):
        return Result(False, error="another instance holds the lease now", code="fenced")
    if isinstance(error, OSError | sqlite3.OperationalError):  # the last is the index's, on a full disk
        why_not, code = machine.staging_failed(error, state_dir)
        return Result(False, error=why_not, code=code)
    if isinstance(error, sqlite3.DatabaseError):
        log.error(f"the local index is damaged ({error}): the agent ends; a new one makes it anew from the files")
        os._exit(EX_FAILED)
    if isinstance(error, Denied):
        return Result(False, error=error.message, code="denied")
    if isinstance(error, Unavailable):
        return Result(False, error=error.message, code="unavailable", retry_after=error.retry_after)
    if isinstance(error, SidecarError):
        return Result(False, error=error.message, code="failed")
    # A fault of ours must not end all syncing for good.
    log.error(f"a sync failed in a way that it should not: {type(error).__name__}: {error}", exc_info=error)
    return Result(False, error=f"{type(error).__name__} in the sidecar itself", code="failed")


def still_busy(error: str | None) -> Result:
    """Of an attempt that never had its turn; ``error`` is what keeps the one before it, if anything is known."""
    why_not = error or "the store has not answered yet"
    return Result(False, error=f"another sync was still under way: {why_not.rstrip('.')}", code="timeout")


def no_checkpoint(branch: str | None, lease: str, wait_s: float) -> Result | None:
    """Why no checkpoint can be made now, or None where one can.

    ``branch`` is where snapshots go that the main line doesn't get; the commit ceiling is reached for ``wait_s`` more.
    """
    if branch is not None:
        why = "another instance holds the lease" if lease == "fenced" else "recovery failed"
        error = f"{why}: what main writes goes to branch {branch}, not to the main line"
        return Result(False, error=error, code="fenced")
    if wait_s > 0:
        return Result(
            False, error=f"the commit ceiling is reached; the next goes in {wait_s:.0f} s", retry_after=wait_s
        )
    return None
