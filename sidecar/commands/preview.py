"""``restore --dry-run``: what a restore would change, entry by entry, and what it would leave."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar import log
from sidecar.commands import words
from sidecar.commands.reading import Found, Reader, index_copy, nothing_at
from sidecar.errors import EX_OK, UsageError
from sidecar.recovery import image
from sidecar.recovery.choice import Image, Local
from sidecar.recovery.plan import Step, at_or_under, check
from sidecar.recovery.restore import preview
from sidecar.recovery.survey import survey, whole
from sidecar.recovery.tree import forget_digests
from sidecar.snapshot.exclude import Excluder
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Entry
from sidecar.snapshot.scan import scan_root

MARKS = {"fetch": "+", "replace": "~", "conflict": "~", "meta": "m", "image": "=", "gone": "x", "blocked": "!"}
COUNTED = {
    "new": ("fetch",),
    "changed": ("replace", "conflict"),
    "mode or time": ("meta",),
    "of a newer image": ("image",),
    "to be removed": ("gone",),
    "in the way": ("blocked",),
}
WORDS = {"meta": "chmod", "gone": "remove"}
"""What the JSON calls an action, where it isn't the plan's own word."""

KINDS = {"file": "file", "dir": "folder", "symlink": "link", "other": "something else"}


@dataclass(frozen=True, slots=True)
class Extra:
    """What lies in a root and isn't in the snapshot: a file or link, or a folder with so many ``files`` in it."""

    path: str
    kind: str
    files: int = 0
    bytes: int = 0


async def dry_run(reader: Reader, args: Namespace, found: Found, only: str | None, *, starts: bool) -> int:
    """Say it. ``starts`` where the restore would be what a start makes: whole, and of the newest snapshot."""
    extras: list[Extra] = []
    if args.to is None:
        steps = await asyncio.to_thread(_into_roots, reader, found, only, starts)
        gone = {s.entry.path for s in steps if s.action == "gone"}
        extras = await asyncio.to_thread(_extras, reader, found, only, gone)
    else:
        steps = await asyncio.to_thread(_into_folder, found, Path(args.to), only, args.force)
    changes = [s for s in steps if s.action in MARKS and not _only_time_of_a_folder(s)]
    kept = len(steps) - len(changes)
    size = sum(s.entry.size for s in changes if s.fetches)
    if args.json:
        words.document(
            {
                "snapshot": found.id,
                "revision": found.revision,
                "changes": [_change(s) for s in changes],
                "extra": [{**words.named(e.path), "kind": e.kind, "files": e.files, "bytes": e.bytes} for e in extras],
                "kept": kept,
                "fetch_bytes": size,
            }
        )
        return EX_OK
    lines = [(s.entry.path, f"{MARKS[s.action]} {_name(s.entry)}{how(s)}") for s in changes]
    lines += [(e.path, f"- {_extra(e)}") for e in extras]
    for _, line in sorted(lines, key=lambda item: item[0].split("/")):
        print(line)
    counts = [f"{n:,} {word}" for word, of in COUNTED.items() if (n := sum(s.action in of for s in changes))]
    counts += [f"{len(extras):,} not in the snapshot (kept)"] if extras else []
    log.info(
        f"from {found.id}: {', '.join([*counts, f'{kept:,} as they are'])}; {words.size(size)} to fetch."
        " Nothing was changed"
    )
    return EX_OK


def _into_roots(reader: Reader, found: Found, only: str | None, starts: bool) -> list[Step]:
    settings = reader.settings
    index = index_copy(settings, reader.scratch)
    try:
        brought = _brought(reader) if starts and index is None else None
        seen = None if brought is None else Image(brought, found.manifest.shipped)
        return preview(found.manifest, settings.roots, index, only, image=seen, bury=starts)
    finally:
        if index is not None:
            index.close()


def _brought(reader: Reader) -> dict[str, str] | None:
    """What counts as the image's on this disk: noted by a start, or, on one that has seen none, all that there is."""
    settings = reader.settings
    copy = index_copy(settings, reader.scratch, known=False)
    empty = copy is None
    index = copy or Index(reader.scratch / "none.db")
    try:
        if not empty:
            return index.brought()
        own = reader.own_paths()
        return image.look(index, settings.roots, settings.exclude, own, lambda: None).hashes
    finally:
        index.close()


def _into_folder(found: Found, dest: Path, only: str | None, force: bool) -> list[Step]:
    if not force and dest.is_dir() and any(dest.iterdir()):
        raise UsageError(f"{str(dest)!r} is not empty: name another folder, or use --force to replace what is there")
    check(found.manifest)
    steps = survey(found.manifest, (whole(dest),), lambda _: None, "overwrite", only=only, tick=lambda: None)
    forget_digests()
    if not steps:
        raise nothing_at(only or "", found)
    return [step for step in steps if not step.implied or step.changes]


def _extras(reader: Reader, found: Found, only: str | None, gone: set[str]) -> list[Extra]:
    """What the roots hold beside the snapshot; a folder that is in none of it counts once."""
    settings = reader.settings
    names = {r.name for r in found.manifest.roots}
    index = Index(reader.scratch / "nothing.db")
    out: dict[str, Extra] = {}
    try:
        for root in settings.roots:
            if root.name not in names:
                continue
            at = os.path.realpath(root.path)
            excluder = Excluder(at, settings.exclude, reader.own_paths())
            here = scan_root(root.name, at, index, excluder, None).changed
            for item in sorted(here, key=lambda f: f.path.split("/")):
                if item.path in found.manifest.entries or item.path in gone or not at_or_under(item.path, only):
                    continue
                weight = item.stat.size if item.kind == "file" else 0
                top = _top(item.path, out)
                if top is None:
                    out[item.path] = Extra(item.path, item.kind, int(item.kind != "dir"), weight)
                elif item.kind != "dir":
                    known = out[top]
                    out[top] = Extra(top, "dir", known.files + 1, known.bytes + weight)
    finally:
        index.close()
    return [e for e in out.values() if e.path not in names]


def _top(path: str, extras: dict[str, Extra]) -> str | None:
    above = path.rpartition("/")[0]
    while above:
        if above in extras:
            return above
        above = above.rpartition("/")[0]
    return None


def _only_time_of_a_folder(step: Step) -> bool:
    """It changes with whatever is put into it: nobody wants to read of that."""
    entry, local = step.entry, step.local
    if step.action != "meta" or entry.kind != "dir" or local is None:
        return False
    return local.mode == entry.mode and not _owner(entry, local)


def _owner(entry: Entry, local: Local) -> str:
    """``0:0 -> 1000:1000``; "" where the owner is as it should be, or is nothing that this user could change."""
    if os.geteuid() != 0 or (local.uid, local.gid) == (entry.uid, entry.gid):
        return ""
    return f"{local.uid}:{local.gid} -> {entry.uid}:{entry.gid}"


def _change(step: Step) -> dict[str, Any]:
    entry, local = step.entry, step.local
    out: dict[str, Any] = {"action": WORDS.get(step.action, step.action), **words.named(entry.path)}
    if step.action != "gone":
        out["snapshot"] = _facts(entry)
    return {**out, "local": None if local is None else _facts(local)}


def _facts(what: Entry | Local) -> dict[str, Any]:
    return {"kind": what.kind, "size": what.size, "mode": what.mode, "mtime_ns": what.mtime_ns}


def _name(entry: Entry) -> str:
    return words.name(entry.path) + ("/" if entry.kind == "dir" else "")


def _extra(extra: Extra) -> str:
    if extra.kind == "dir":
        inside = f"{words.files(extra.files)}, {words.size(extra.bytes)}"
        return f"{words.name(extra.path)}/  ({inside}; not in the snapshot, kept)"
    size = f"{words.size(extra.bytes)}; " if extra.kind == "file" else ""
    return f"{words.name(extra.path)}  ({size}not in the snapshot, kept)"


def how(step: Step) -> str:
    """What of a change a person wants to see behind the path."""
    entry, local = step.entry, step.local
    fixed = {
        "image": "a newer image's, over what main never changed: stays",
        "gone": "of the image, and deleted by main: removed",
        "blocked": "something else stands in the way: left as it is",
    }
    if step.action in fixed:
        return f"  ({fixed[step.action]})"
    if local is None:
        return f"  ({_what(entry)})" if entry.kind != "dir" else ""
    aside = "; the local one is set aside" if step.action == "conflict" else ""
    if step.changes:
        if local.kind == entry.kind == "file":
            return f"  ({_dated(local)} -> {_dated(entry)}{aside})"
        return f"  ({_what(local)} -> {_what(entry)}{aside})"
    if local.mode != entry.mode:
        return f"  ({local.mode:04o} -> {entry.mode:04o})"
    if owner := _owner(entry, local):
        return f"  ({owner})"
    was, is_then = _second(local.mtime_ns), _second(entry.mtime_ns)
    return f"  ({was} -> {is_then})" if was != is_then else "  (its time, by less than a second)"


def _what(what: Entry | Local) -> str:
    if what.kind == "symlink":
        return f"-> {words.name(what.target)}"
    return words.size(what.size) if what.kind == "file" else KINDS[what.kind]


def _dated(what: Entry | Local) -> str:
    return f"{words.size(what.size)}, {_second(what.mtime_ns)}"


def _second(mtime_ns: int) -> str:
    return words.when(mtime_ns / 1e9, seconds=True)
