"""The redo journal: all that a verified restore will do to this disk, on disk itself before the first of it.

A start that finds a journal finishes it without the store, before anything else; main never starts while one is
open.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from sidecar.errors import ManifestError
from sidecar.recovery import aside
from sidecar.recovery.plan import Op, Place
from sidecar.recovery.redo import Applied, Journal, apply
from sidecar.recovery.tidy import clear, seal_tops
from sidecar.recovery.tree import Tick
from sidecar.snapshot import codec
from sidecar.snapshot.index import Index, Known
from sidecar.snapshot.manifest import Manifest, Shard, Sharding, SnapshotId

FORMAT = 1
NAME = "restore-journal.jsonl"
MANIFEST = "restore-manifest.json"
NOTE = "restoring"
"""The index's note from the journal's first operation to its last: its stats are from before."""


@dataclass(frozen=True, slots=True)
class JournalOutcome:
    """What a start found of a journal, and did about it.

    Not ``complete``: the roots are neither the old state nor the new one, the journal stays open, and main
    must not start before they were restored from the store again; ``why`` says what was missing.
    """

    complete: bool
    store: str = ""
    snapshot: str = ""
    revision: str = ""
    operations: int = 0
    conflicts: Path | None = None
    conflict_count: int = 0
    lost: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    why: str = ""


def is_open(state_dir: Path) -> bool:
    return os.path.lexists(state_dir / NAME)


def write(state_dir: Path, journal: Journal, manifest: Manifest, ready: Callable[[], None] = lambda: None) -> None:
    """From here on the restore will be finished, by this process or a later one.

    ``ready`` returns when what the journal speaks of is on disk: the journal isn't there before.
    """
    _write(state_dir / MANIFEST, [codec.encode(manifest), _line(_parts(manifest))])
    head = {
        "format": FORMAT,
        **{f.name: getattr(journal, f.name) for f in fields(journal) if f.name not in ("places", "ops")},
        "places": [asdict(p) for p in journal.places],
    }
    ops = (_line(_small(op)) for op in journal.ops)
    _write(state_dir / NAME, chain([_line(head)], ops, [_line({"end": len(journal.ops)})]))
    ready()
    for name in (MANIFEST, NAME):
        os.replace(_new(state_dir / name), state_dir / name)
        _sync_folder(state_dir)


def remove(state_dir: Path) -> None:
    for name in (NAME, MANIFEST):
        (state_dir / name).unlink(missing_ok=True)
        _sync_folder(state_dir)


def _line(value: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # ASCII escapes carry lone surrogates, which stand for the bytes of a name that isn't UTF-8.
        return _encode(value).encode() + b"\n"


_encode = json.JSONEncoder(separators=(",", ":")).encode
_FIELDS = tuple((f.name, f.default) for f in fields(Op))


def _small(op: Op) -> dict[str, Any]:
    return {name: value for name, default in _FIELDS if (value := getattr(op, name)) != default}


def _new(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with open(_new(path), "wb") as out:
        out.writelines(pieces)
        out.flush()
        os.fsync(out.fileno())


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read(state_dir: Path) -> Journal | None:
    """The open journal, or None. ValueError, KeyError, TypeError or AttributeError where it can't be read."""
    try:
        raw = (state_dir / NAME).read_bytes()
    except FileNotFoundError:
        return None
    lines = [json.loads(line) for line in raw.splitlines()]
    if len(lines) < 2 or lines[0].pop("format") != FORMAT or lines[-1] != {"end": len(lines) - 2}:
        raise ValueError("it is cut off, or of another version")
    where = tuple(Place(**p) for p in lines[0].pop("places"))
    return Journal(**lines[0], places=where, ops=tuple(_op(line) for line in lines[1:-1]))


def _op(line: dict[str, Any]) -> Op:
    expect = line.pop("expect", None)
    sides = tuple(line.pop("sides", ()))
    return Op(**line, sides=sides, expect=tuple(expect) if expect else None)


def finish_journal(state_dir: Path, index: Index | None = None, *, tick: Tick = lambda: None) -> JournalOutcome | None:
    """Finish, without the store, the restore that an earlier start had verified. None where none was open.

    With ``index`` it describes the restored snapshot afterwards. Raises RestoreFailed where the disk refuses;
    the journal stays open then. Blocks.
    """
    try:
        journal = read(state_dir)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return JournalOutcome(False, why=f"the journal of an interrupted restore can't be read: {error}")
    if journal is None:
        return None
    applied = apply(journal, tick)
    moved = aside.count(journal.conflicts)
    conflicts = Path(journal.conflicts) if journal.conflicts and moved else None
    known = (journal.store, journal.snapshot, journal.revision, len(journal.ops), conflicts, moved)
    if applied.lost:
        why = f"{len(applied.lost)} verified files are gone from staging, {applied.lost[0]!r} first"
        return JournalOutcome(False, *known, applied.lost, applied.blocked, why)
    if index is not None and journal.record:
        _record(state_dir, journal, index, applied)
    remove(state_dir)
    for place in journal.places:
        clear(place)
    seal_tops(journal)
    return JournalOutcome(True, *known, (), applied.blocked)


def _parts(manifest: Manifest) -> dict[str, Any]:
    """How the store has the manifest, which stands whole on this disk: the next commit changes only parts of it."""
    out: dict[str, Any] = {"hashed": {key: [asdict(s) for s in found] for key, found in manifest.hashed.items()}}
    if manifest.sharding is not None:
        out["shards"] = [asdict(s) for s in manifest.sharding.shards]
        out |= {key: sorted(getattr(manifest.sharding, key)) for key in ("replaced", "added", "gone")}
    return out


def _manifest(raw: bytes) -> Manifest:
    whole, _, parts = raw.partition(b"\n")
    manifest, found = codec.decode(whole), json.loads(parts or b"{}")
    hashed = {key: tuple(Shard(**s) for s in parts) for key, parts in found.pop("hashed", {}).items()}
    sharding = None
    if found:
        shards = tuple(Shard(**s) for s in found.pop("shards"))
        sharding = Sharding(shards, **{key: frozenset(paths) for key, paths in found.items()})
    return replace(manifest, sharding=sharding, hashed=hashed)


def _record(state_dir: Path, journal: Journal, index: Index, applied: Applied) -> None:
    try:
        manifest = _manifest((state_dir / MANIFEST).read_bytes())
    except (OSError, ManifestError, ValueError, KeyError, TypeError):
        return  # the note stays in the index: the next restore looks at every file
    index.replace(Known(journal.store, SnapshotId.parse(journal.snapshot), journal.revision), manifest, applied.stats)
    index.set_note(NOTE, None)
