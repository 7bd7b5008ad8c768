"""The folder that a folder store lives in: is it one, whose is it, may we write to it; and making a new one.

``sidecar-store.json`` is written last, so a folder that has it has everything else too, and one that lost a
part (an unmounted volume, a careless ``rm``) is never taken for a new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Literal

import orjson

from sidecar.masking import shown
from sidecar.stores import disk
from sidecar.stores.base import Denied, NotFound
from sidecar.stores.objects import KINDS

MARKER = "sidecar-store.json"
FORMAT = 1
FOLDERS = (*KINDS, "refs", "tmp", "trash")
_OURS = frozenset({*FOLDERS, "lock", "lost+found"})
"""What may stand in a folder without a marker: a creation that was cut off, and what mkfs leaves."""

Found = Literal["nothing", "empty", "store"]


def look(root: Path) -> Found:
    """What is at ``root``: nothing, an empty folder, or a store that this version can use.

    ``Denied`` where it is something else; ``OSError`` as the file system says.
    """
    try:
        raw = (root / MARKER).read_bytes()
    except NotADirectoryError:
        raise Denied(f"{shown(str(root))} is no folder; name one that is empty or doesn't exist yet.") from None
    except FileNotFoundError:
        return _look_unmarked(root)
    try:
        number = orjson.loads(raw)["format"]
    except (ValueError, TypeError, KeyError):
        raise Denied(
            f"{shown(str(root / MARKER))} can't be read, so nothing in that folder was touched. "
            f'Bring the file back ({{"format": {FORMAT}}}) or name another folder.'
        ) from None
    if number != FORMAT:
        raise Denied(
            f"{shown(str(root))} is a store of format {shown(str(number))}; this version reads {FORMAT}. "
            "Nothing was touched; use a newer sidecar."
        )
    return "store"


def _look_unmarked(root: Path) -> Found:
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return "nothing"
    foreign = sorted(name for name in names if name not in _OURS and not name.startswith(f"{MARKER}."))
    if foreign:
        raise Denied(
            f"{shown(str(root))} holds files that are no snapshot store ({shown(foreign[0])}"
            f"{f' and {len(foreign) - 1} more' if len(foreign) > 1 else ''}). Nothing was touched; name an "
            "empty folder, or one that doesn't exist yet."
        )
    if any(os.listdir(root / kind) for kind in KINDS if kind in names):
        raise Denied(
            f"{shown(str(root))} holds snapshots, but its {MARKER} is gone. Nothing was touched; bring that "
            f'file back ({{"format": {FORMAT}}}) or name another folder.'
        )
    return "empty"


def require(root: Path) -> None:
    """``NotFound`` or ``Denied`` where there is no store at ``root``."""
    found = look(root)
    if found != "store":
        what = "the folder doesn't exist" if found == "nothing" else "the folder is empty"
        raise NotFound(
            f"no store at {shown(str(root))}: {what}. If it is a mounted volume, is it mounted? "
            "A new store is made at the start of `sidecar run`."
        )


def make(root: Path) -> None:
    """A private folder (0700) with everything of an empty store but its marker."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
        disk.sync_folder(path.parent)
    for name in FOLDERS:
        (root / name).mkdir(mode=0o700, exist_ok=True)


def mark(root: Path) -> None:
    """Write the marker: from here on this is a store. The store's lock is held."""
    for name in FOLDERS:
        disk.sync_folder(root / name)
    temporary = root / f"{MARKER}.{secrets.token_hex(4)}"
    try:
        disk.write_file(temporary, orjson.dumps({"format": FORMAT}, option=orjson.OPT_APPEND_NEWLINE))
        temporary.replace(root / MARKER)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    disk.sync_folder(root)


def why_unwritable(root: Path) -> str | None:
    """None where a file can be made in the store at ``root``, else what to do about it; or ``OSError``."""
    probe = root / "tmp" / f"{secrets.token_hex(8)}-probe"
    try:
        disk.create(probe).close()
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = disk.free_space(root)
            return f"the disk is full: {free} free at {shown(str(root))}. Free some space there."
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return disk.permission_fix(error, root)
        raise
    return None


def could_make(root: Path) -> bool:
    """May this process make a folder at ``root``, as far as permissions say?"""
    nearest = next(path for path in (root, *root.parents) if path.exists())
    return os.access(nearest, os.W_OK | os.X_OK)
