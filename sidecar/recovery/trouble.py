"""What can end a restore, worded for the person who has to act on it."""

from __future__ import annotations

import errno
import os

from sidecar.errors import EX_CONFIG, EX_TEMPFAIL, RestoreFailed

_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Damaged(RestoreFailed):
    """What stayed wrong after 3 fetches: ``path`` (an entry or a bundle) is lost from this snapshot.

    Whoever knows the history adds which snapshot still verifies.
    """

    def __init__(self, path: str, snapshot: str, why: str) -> None:
        why = why.rstrip(".")
        super().__init__(
            f"{path!r} is damaged in snapshot {snapshot}: {why}. Nothing on this disk was changed for it; "
            "the store keeps what it has"
        )
        self.path, self.snapshot, self.why = path, snapshot, why


def failed(doing: str, path: str, error: OSError) -> RestoreFailed:
    """``error`` while we were ``doing`` something to the local ``path``."""
    why = error.strerror or type(error).__name__
    if error.errno == errno.EROFS:
        return RestoreFailed(
            f"can't {doing} {path!r}: it is mounted read-only. What is there was left as it is. Mount it so that it may"
            " be written, or take it out of SIDECAR_PATHS",
            final=True,
            code=EX_CONFIG,
        )
    if error.errno in _OURS:
        return RestoreFailed(
            f"can't {doing} {path!r} as user {os.geteuid()}: {why}. What is there was left as it is. "
            f"Make it this user's own: {_fix(path)}",
            final=True,
            code=EX_CONFIG,
        )
    if error.errno in _FULL:
        return RestoreFailed(f"can't {doing} {path!r}: {why}. Free some space there; the start goes on from here")
    return RestoreFailed(f"can't {doing} {path!r}: {why}. What is there was left as it is")


def unwritable(path: str, inside: str, snapshot: str, error: str) -> RestoreFailed:
    """The root ``path`` must receive entries of ``snapshot``, and ``inside`` of it can't."""
    where = "it" if inside == path else repr(inside)
    return RestoreFailed(
        f"{path!r} can't be restored from snapshot {snapshot}: user {os.geteuid()} may not write to {where} "
        f"({error}). Nothing was changed. Make it this user's own in the Dockerfile, before USER: "
        f"{_fix(path)}",
        final=True,
        code=EX_CONFIG,
    )


def _fix(path: str) -> str:
    if os.path.isfile(path):
        return f"RUN chown {os.geteuid()}:{os.getegid()} {path}"
    recursive = "-R " if os.path.isdir(path) and os.access(path, os.W_OK) else ""
    return f"RUN mkdir -p {path} && chown {recursive}{os.geteuid()}:{os.getegid()} {path}"


def no_room(path: str, needed: int, free: int) -> RestoreFailed:
    return RestoreFailed(
        f"too little space for the restore: {path!r} needs {needed:,} bytes and has {free:,} free. "
        "Nothing was changed. Make the disk larger, or free some space there",
        code=EX_TEMPFAIL,
    )


def in_the_way(path: str, wanted: str, found: str) -> RestoreFailed:
    """A folder stands where a file should, or the other way, and we may not move it."""
    words = {"dir": "a folder", "file": "a file", "symlink": "a link"}
    return RestoreFailed(
        f"{path!r} is {words.get(found, 'something else')} here and {words[wanted]} in the snapshot. "
        "Nothing was changed. Move it away, or take another path",
        final=True,
        code=EX_CONFIG,
    )
