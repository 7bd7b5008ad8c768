"""A restore drill: a whole snapshot is restored into a folder of its own, compared, checked, and thrown away.

What it came to is a note in the state dir, for the status and the checklist.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sidecar.errors import ManifestError, SidecarError
from sidecar.readers import parse_check
from sidecar.recovery.meter import Meter
from sidecar.recovery.restore import Damaged, entry_path, restore_to
from sidecar.roots import Root
from sidecar.snapshot.manifest import Entry, Manifest
from sidecar.snapshot.sqlite_check import Unsound, damage
from sidecar.state import RestoreProgress
from sidecar.statedir import note_down, noted
from sidecar.stores.base import Corrupt, Store

FILE = "drill.json"
MARGIN = 32 * 1024 * 1024
"""Bytes that stay free for everybody else."""
MOST = 20
"""Failures that are named."""
JSON_MOST = 256 * 1024 * 1024
LINKS = 8
"""So many links in a row are followed."""
PIECE = 1 << 20

Result = Literal["pass", "fail", "no-room", "error"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a drill came to.

    ``fail``: the snapshot is not what was committed, or a check failed; ``no-room``: it was not tried; ``error``: it
    came to no end, which says nothing of the snapshot. ``at`` is in seconds since the epoch, ``store`` the store's URL,
    ``by`` the command. ``checks`` are those of SIDECAR_VERIFY that were made on the copy: line, result and reason.
    """

    result: Result
    store: str
    at: float
    why: str = ""
    snapshot: str = ""
    revision: str = ""
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    by: str = "drill"
    checks: tuple[dict[str, str], ...] = field(default=())


def note(state_dir: str | Path, outcome: Outcome) -> None:
    """Write ``outcome`` down as the newest. Raises OSError."""
    note_down(state_dir, FILE, asdict(outcome))


def last(state_dir: str | Path, store: str) -> dict[str, Any] | None:
    """The newest drill on ``store`` that this disk knows of. Blocks."""
    found = noted(state_dir, FILE)
    fits = found.get("store") == store and isinstance(found.get("at"), int | float)
    return found if fits and isinstance(found.get("result"), str) else None


async def rehearse(
    store: Store, revision: str, manifest: Manifest, roots: Sequence[Root], verify: Sequence[str], box: Path
) -> Outcome:
    """Restore ``manifest`` into the empty folder ``box``, and look at all of it. Raises nothing that a store may."""
    began, at = time.monotonic(), time.time()
    files = [entry for entry in manifest.entries.values() if entry.kind == "file"]
    size = sum(entry.size for entry in files)

    def came_to(result: Result, why: str = "", checks: tuple[dict[str, str], ...] = ()) -> Outcome:
        seconds = round(time.monotonic() - began, 1)
        return Outcome(
            result, store.url, at, why, str(manifest.snapshot), revision, len(files), size, seconds, checks=checks
        )

    short = _short_of_room(box, size + sum(manifest.bundles.values()))
    if short:
        return came_to("no-room", short)
    try:
        meter = Meter(RestoreProgress(), None)
        await restore_to(store, revision, manifest, box / "copy", progress=RestoreProgress())
        wrong = await meter.work(_differences, box / "copy", manifest, meter)
        checks = await meter.work(_checks, box / "copy", manifest, roots, verify)
    except (Damaged, Corrupt) as error:
        return came_to("fail", error.message)
    except ManifestError as error:
        return came_to("fail" if error.damage else "error", error.message)
    except SidecarError as error:
        return came_to("error", error.message)
    except OSError as error:
        return came_to("error", f"{error.strerror or error}: {error.filename!r}")
    failed = [f"{check['check']}: {check['why']}" for check in checks if check["result"] == "fail"]
    if wrong or failed:
        return came_to("fail", "; ".join([*wrong, *failed][:MOST]), checks)
    return came_to("pass", checks=checks)


def _short_of_room(box: Path, need: int) -> str:
    """Why ``need`` bytes don't fit there; empty where they do. The bundles lie there beside what is in them."""
    room = os.statvfs(box)
    free = room.f_bavail * room.f_frsize
    if not room.f_blocks or need + MARGIN <= free:
        return ""
    return f"{str(box.parent)!r} has {free:,} bytes free, and a copy takes up to {need:,} and {MARGIN:,} to spare"


def _differences(copy: Path, manifest: Manifest, meter: Meter) -> list[str]:
    """What is not in ``copy`` as the manifest has it, at most `MOST` of it. Blocks."""
    return [f"{entry.path!r} {why}" for entry, why in _compared(copy, manifest, meter)]


def _compared(copy: Path, manifest: Manifest, meter: Meter) -> Iterator[tuple[Entry, str]]:
    found = 0
    for entry in manifest.entries.values():
        meter.tick()
        why = _difference(os.path.join(copy, entry.path), entry, meter)
        if why:
            yield entry, why
            found += 1
            if found == MOST:
                return


def _difference(path: str, entry: Entry, meter: Meter) -> str:
    try:
        status = os.lstat(path)
    except OSError as error:
        return f"is not there ({error.strerror})"
    kinds = {"file": stat.S_ISREG, "dir": stat.S_ISDIR, "symlink": stat.S_ISLNK}
    if not kinds[entry.kind](status.st_mode):
        return f"came back as something else than a {entry.kind}"
    if entry.kind == "symlink":
        return "" if os.readlink(path) == entry.target else "leads elsewhere"
    if entry.kind == "file" and (status.st_size != entry.size or _sha256(path, meter) != entry.sha256):
        return "does not have the bytes that were committed"
    return ""


def _sha256(path: str, meter: Meter) -> str:
    digest = hashlib.sha256()
    with open(_opened(path), "rb", buffering=0) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            meter.tick()
    return digest.hexdigest()


def _opened(path: str) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except PermissionError:  # as it was restored, its owner may not read it: the copy is ours
        os.chmod(path, 0o600)
        return os.open(path, flags)


def _checks(copy: Path, manifest: Manifest, roots: Sequence[Root], verify: Sequence[str]) -> tuple[dict[str, str], ...]:
    """The sqlite and json checks of ``verify``, on what was restored instead of what is in use. Blocks."""
    where = [*roots, *(Root(r.name, r.path) for r in manifest.roots if r.path)]
    out = []
    for line in verify:
        _, kind, argument = parse_check(line)
        if kind not in ("sqlite", "json"):
            continue
        path = _file(entry_path(os.path.normpath(os.path.expanduser(argument)), where), manifest, where)
        if path is None:
            out.append({"check": line, "result": "unknown", "why": "no file of the snapshot"})
        elif kind == "json" and manifest.entries[path].size > JSON_MOST:
            out.append({"check": line, "result": "unknown", "why": f"larger than {JSON_MOST >> 20} MB"})
        else:
            why = (_sqlite if kind == "sqlite" else _json)(os.path.join(copy, path))
            out.append({"check": line, "result": "fail" if why else "pass", "why": why})
    return tuple(out)


def _file(path: str, manifest: Manifest, where: Sequence[Root]) -> str | None:
    """The file of the snapshot that ``path`` is or leads to, None where there is none.

    In the copy, too, a link may lead out of it, to what is in use: none is followed there.
    """
    for _ in range(LINKS):
        entry = manifest.entries.get(path)
        if entry is None or entry.kind == "dir":
            return None
        if entry.kind == "file":
            return path
        target = entry.target or ""
        beside = target if os.path.isabs(target) else os.path.join(os.path.dirname(path), target)
        path = entry_path(os.path.normpath(beside), where)
    return None


def _sqlite(path: str) -> str:
    if not os.path.getsize(path):
        return "is empty (0 bytes)"
    try:
        db = sqlite3.connect(path, isolation_level=None)
        try:
            found = damage(db)
        finally:
            db.close()
    except (sqlite3.Error, Unsound) as error:
        return f"SQLite can't read it: {error}"
    return f"quick_check says: {found[0]}" if found else ""


def _json(path: str) -> str:
    try:
        with open(path, "rb") as file:
            json.load(file)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    return ""


def text(record: Mapping[str, Any]) -> str:
    """One line on a drill, as ``last`` gives it, without what may be long."""
    what = record.get("snapshot") or "the head"
    files, size, seconds = (record.get(key) or 0 for key in ("files", "bytes", "seconds"))
    match record.get("result"):
        case "pass":
            checks = sum(check.get("result") == "pass" for check in record.get("checks") or ())
            also = f", {checks} checks passed on the copy" if checks else ""
            return f"restore drill: {what} came back whole ({files:,} files, {size:,} bytes) in {seconds} s{also}"
        case "fail":
            return f"restore drill FAILED: {what} does not come back as it was committed: {record.get('why')}"
        case "no-room":
            return f"no restore drill: {record.get('why')}"
        case _:
            return f"the restore drill came to no end: {record.get('why') or 'it was cut off'}"
