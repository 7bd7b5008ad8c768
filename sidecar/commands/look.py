"""``snapshots``, ``ls``, ``cat`` and ``diff``: look into the store."""

from __future__ import annotations

import shutil
import stat as st
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidecar import log
from sidecar.commands import words
from sidecar.commands.bar import Bar
from sidecar.commands.reading import ALL, Found, NoSuch, Reader, is_id, nothing_at, reading
from sidecar.errors import EX_OK, SidecarError
from sidecar.recovery.meter import Meter
from sidecar.recovery.plan import at_or_under
from sidecar.recovery.staging import Want, fetch
from sidecar.recovery.trouble import Damaged
from sidecar.snapshot import codec
from sidecar.snapshot.manifest import Entry, Manifest, snapshot_in
from sidecar.sync.history import Past, past

_TYPES = {"file": st.S_IFREG, "dir": st.S_IFDIR, "symlink": st.S_IFLNK}


def snapshots(args: Namespace) -> int:
    return reading(lambda reader: _snapshots(reader, args))


def ls(args: Namespace) -> int:
    return reading(lambda reader: _ls(reader, args))


def cat(args: Namespace) -> int:
    return reading(lambda reader: _cat(reader, args))


def diff(args: Namespace) -> int:
    return reading(lambda reader: _diff(reader, args))


# --- snapshots ---------------------------------------------------------------------------------------------------


async def _snapshots(reader: Reader, args: Namespace) -> int:
    asked = args.limit * 2 + 10  # lease commits stand between the snapshots
    while True:
        history = await reader.store.history(asked)
        found = [c for c in history if snapshot_in(c.title) is not None]
        if len(found) > args.limit or len(history) < asked or asked >= ALL:
            break
        asked = min(asked * 4, ALL)
    every = past(history, await reader.store.branches())
    listed = every[: args.limit]
    if args.json:
        words.document([_snapshot(p) for p in listed])
    elif listed:
        head = ("SNAPSHOT", "WHEN", "AGE", "FILES", "SIZE", "CHANGED", "REVISION")
        rows = [head, *map(_row, listed)]
        if any(p.branch for p in listed):
            rows = [
                (*row, branch) for row, branch in zip(rows, ["BRANCH", *(p.branch or "" for p in listed)], strict=True)
            ]
        words.table(rows)
        if len(every) > len(listed):
            log.info(f"older ones are not shown; --limit {args.limit * 5} shows more")
    else:
        log.info(f"no snapshot in {reader.store.url} yet{reader.hint}")
    return EX_OK


def _snapshot(p: Past) -> dict[str, Any]:
    at = None if p.at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(p.at))
    counts = {name: p.counts.get(name) for name in ("files", "bytes", "changed")}
    return {"snapshot": p.snapshot, "revision": p.revision, "at": at, **counts, "title": p.title, "branch": p.branch}


def _row(p: Past) -> tuple[str, ...]:
    at, age = ("-", "-") if p.at is None else (words.when(p.at), words.age(time.time() - p.at))
    files, size, changed = (p.counts.get(name) for name in ("files", "bytes", "changed"))
    return (
        p.snapshot,
        at,
        age,
        "-" if files is None else f"{files:,}",
        "-" if size is None else words.size(size),
        "-" if changed is None else f"{changed:,}",
        p.revision[:12],
    )


# --- ls ----------------------------------------------------------------------------------------------------------


async def _ls(reader: Reader, args: Namespace) -> int:
    found, top = await _which(reader, args.names)
    paths = sorted((p for p in found.manifest.entries if at_or_under(p, top)), key=lambda p: p.split("/"))
    if top is not None and not paths:
        raise nothing_at(top, found)
    if args.json:
        items = [codec.document(found.manifest.entries[p]) for p in paths]
        words.document({"snapshot": found.id, "revision": found.revision, "entries": items})
    else:
        _long(found.manifest.entries[p] for p in paths)
        log.info(f"{found.id}: {words.files(_files(found, paths))}, {words.size(_bytes(found, paths))}")
    return EX_OK


async def _which(reader: Reader, names: Sequence[str]) -> tuple[Found, str | None]:
    """The snapshot and the path in it that ``[REV] [PATH]`` mean; a lone name may be either."""
    if len(names) == 2:
        found = await reader.find(names[0])
        return found, reader.path(names[1], found.manifest) or None
    if not names or names[0] == "head" or is_id(names[0]):
        return await reader.find(*names), None
    head = await reader.find()
    path = reader.path(names[0], head.manifest)
    if not path or names[0].startswith("/") or any(at_or_under(p, path) for p in head.manifest.entries):
        return head, path or None
    try:
        return await reader.find(names[0]), None
    except NoSuch:
        raise SidecarError(
            f"{words.name(names[0])!r} is no path in snapshot {head.id} and no snapshot; "
            "`sidecar ls` shows all paths, `sidecar snapshots` all snapshots"
        ) from None


def _long(entries: Any) -> None:
    rows = []
    for e in entries:
        shown = words.name(e.path) + ("/" if e.kind == "dir" else "")
        shown += f" -> {words.name(e.target)}" if e.kind == "symlink" else ""
        shown += f"  [{e.flag}]" if e.flag else ""
        mode = st.filemode(_TYPES[e.kind] | e.mode)
        rows.append((mode, f"{e.size:>12,}" if e.kind == "file" else "", words.when(e.mtime_ns / 1e9), shown))
    words.table(rows)


def _document(entry: Entry | None) -> dict[str, Any] | None:
    """An entry as the manifest's JSON has it."""
    return None if entry is None else codec.document(entry)


def _files(found: Found, paths: Sequence[str]) -> int:
    return sum(found.manifest.entries[p].kind != "dir" for p in paths)  # a link is one, as in the list of snapshots


def _bytes(found: Found, paths: Sequence[str]) -> int:
    return sum(found.manifest.entries[p].size for p in paths)


# --- cat ---------------------------------------------------------------------------------------------------------


async def _cat(reader: Reader, args: Namespace) -> int:
    found = await reader.find(args.revision)
    path = reader.path(args.path, found.manifest)
    entry = found.manifest.entries.get(path)
    if entry is None:
        if any(at_or_under(p, path) for p in found.manifest.entries):
            raise _no_file(path, "a folder", found)
        raise nothing_at(path, found)
    if entry.kind != "file":
        what = "a folder" if entry.kind == "dir" else f"a link to {words.name(entry.target)!r}"
        raise _no_file(path, what, found)
    if entry.flag:
        log.warning(f"{words.name(path)!r} is marked {entry.flag}: what the snapshot has may not be its last state")
    if not entry.size:
        return EX_OK
    with Bar("fetching") as bar:
        meter = Meter(bar.progress, bar.alive)
        meter.expect(1, entry.size)
        try:
            await fetch(reader.store, found.revision, found.manifest, [Want(reader.scratch, entry)], meter)
        except Damaged as error:
            raise SidecarError(f"{error.message.rstrip('.')}. `sidecar verify` shows what else is") from error
    sys.stdout.flush()
    _pour(reader.scratch / entry.sha256)
    return EX_OK


def _pour(path: Path) -> None:
    with open(path, "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)


def _no_file(path: str, what: str, found: Found) -> SidecarError:
    return SidecarError(f"{words.name(path)!r} is {what} in snapshot {found.id}, no file")


# --- diff --------------------------------------------------------------------------------------------------------


async def _diff(reader: Reader, args: Namespace) -> int:
    old, new = await reader.find(args.old), await reader.find(args.new)
    changes = compare(old.manifest, new.manifest)
    if args.json:
        before, after = old.manifest.entries, new.manifest.entries
        items = [
            {
                "change": change,
                **words.named(path),
                "before": _document(before.get(path)),
                "after": _document(after.get(path)),
            }
            for path, change in changes
        ]
        ends = {end: {"snapshot": f.id, "revision": f.revision} for end, f in (("from", old), ("to", new))}
        words.document({**ends, "changes": items})
        return EX_OK
    marks = {"added": "+", "deleted": "-", "changed": "~", "mode": "m"}
    for path, change in changes:
        how = _how(old.manifest.entries.get(path), new.manifest.entries.get(path))
        print(f"{marks[change]} {words.name(path)}{how}")
    counts = [f"{sum(c == change for _, c in changes):,} {change}" for change in marks]
    log.info(f"{old.id} -> {new.id}: {', '.join(counts)}")
    return EX_OK


def compare(old: Manifest, new: Manifest) -> list[tuple[str, str]]:
    """(path, change) for whatever differs: added, deleted, changed (content, kind or target), mode (mode or owner).

    Times alone make no difference.
    """
    out = []
    for path in sorted(old.entries.keys() | new.entries.keys(), key=lambda p: p.split("/")):
        a, b = old.entries.get(path), new.entries.get(path)
        if a is None or b is None:
            out.append((path, "added" if a is None else "deleted"))
        elif (a.kind, a.sha256, a.target) != (b.kind, b.sha256, b.target):
            out.append((path, "changed"))
        elif (a.mode, a.uid, a.gid) != (b.mode, b.uid, b.gid):
            out.append((path, "mode"))
    return out


def _how(old: Entry | None, new: Entry | None) -> str:
    """What of it a person wants to see behind the path."""
    if old is None or new is None:
        entry = old or new
        assert entry is not None
        return f"  ({words.size(entry.size)})" if entry.kind == "file" else "/" if entry.kind == "dir" else ""
    if old.kind != new.kind:
        return f"  ({old.kind} -> {new.kind})"
    if old.sha256 != new.sha256:
        return f"  ({words.size(old.size)} -> {words.size(new.size)})"
    if old.target != new.target:
        return f"  ({words.name(old.target)} -> {words.name(new.target)})"
    if old.mode != new.mode:
        return f"  ({old.mode:04o} -> {new.mode:04o})"
    return f"  ({old.uid}:{old.gid} -> {new.uid}:{new.gid})"
