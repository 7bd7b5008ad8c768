"""``restore``: bring a snapshot back, into the roots or into a folder of its own."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidecar import log
from sidecar.commands import words
from sidecar.commands.bar import Bar
from sidecar.commands.reading import Found, Reader, index_copy, nothing_at, reading
from sidecar.errors import EX_FAILED, EX_OK, SidecarError, UsageError
from sidecar.recovery import image
from sidecar.recovery.locks import RootLocks
from sidecar.recovery.plan import check, summary
from sidecar.recovery.restore import Damaged, Restored, preview, restore_paths, restore_to
from sidecar.recovery.survey import survey, whole
from sidecar.roots import Root, spell
from sidecar.settings import Settings, ensure_state_dir
from sidecar.snapshot.exclude import own_paths
from sidecar.snapshot.index import Index

CHANGES = {
    "fetch": "fetch",
    "replace": "replace",
    "conflict": "set aside",
    "chmod": "mode/time",
    "blocked": "in the way",
}
"""What a dry run calls each action; ``keep`` is only counted."""


def restore(args: Namespace) -> int:
    if args.force and args.to is None:
        raise UsageError("--force goes with --to DIR: a restore into the roots sets aside what differs, by itself")
    if args.to is not None:
        args.to = os.path.abspath(args.to)
    return reading(lambda reader: _restore(reader, args), need_paths=args.to is None)


async def _restore(reader: Reader, args: Namespace) -> int:
    if args.dry_run:
        return await _dry_run(reader, args)
    try:
        if args.to is None:
            return await _into_roots(reader, args)
        found, only = await _wanted(reader, args)
        with Bar("restoring") as bar:
            done = await restore_to(
                reader.store,
                found.revision,
                found.manifest,
                Path(args.to),
                only=only,
                force=args.force,
                progress=bar.progress,
                alive=bar.alive,
            )
        return _say(found, done, f" to {args.to}", args.json)
    except Damaged as error:
        raise SidecarError(
            f"{error.message.rstrip('.')}. `sidecar verify` shows what else is, --revision ID takes an earlier "
            "snapshot, --path P only what is good"
        ) from error


async def _wanted(reader: Reader, args: Namespace) -> tuple[Found, str | None]:
    found = await reader.find(args.revision)
    return found, None if args.path is None else reader.path(args.path, found.manifest) or None


async def _into_roots(reader: Reader, args: Namespace) -> int:
    settings = reader.settings
    state_dir = Path(ensure_state_dir(settings.state_dir))
    locks = await asyncio.to_thread(RootLocks.acquire, settings.roots, state_dir)
    try:
        found, only = await _wanted(reader, args)
        newest = args.revision in (None, "head") or found.id == (await reader.find()).id
        index = await asyncio.to_thread(Index, state_dir / "index.db")
        try:
            # Also where only a part comes back: whatever the next start finds would count as the image's else.
            await asyncio.to_thread(
                image.note, index, state_dir, settings.roots, settings.exclude, _own(settings), lambda: None
            )
            with Bar("restoring") as bar:
                done = await restore_paths(
                    reader.store,
                    found.revision,
                    found.manifest,
                    settings.roots,
                    only,
                    index=index,
                    store_id=settings.store.url,
                    state_dir=state_dir,
                    progress=bar.progress,
                    instance=f"restore-{os.getpid()}",
                    # An older snapshot is no base: it would make the newer ones look like somebody else's work.
                    record=only is None and newest,
                    alive=bar.alive,
                )
            known = await asyncio.to_thread(index.known)
        finally:
            index.close()
    finally:
        locks.release()
    if not newest and (known is None or known.store != settings.store.url):
        log.info(f"the next start goes on from the newest snapshot; SIDECAR_REVISION={found.id} makes it this one")
    _say_undeclared(found, done, settings.roots)
    return _say(found, done, "", args.json)


def _own(settings: Settings) -> tuple[str, ...]:
    return own_paths(settings.state_dir, os.environ, settings.store.path if settings.store.kind == "folder" else None)


def _say(found: Found, done: Restored, where: str, as_json: bool) -> int:
    log.info(
        f"restored {words.files(done.files)}, {words.size(done.bytes)} from {found.id}{where}; "
        f"{done.fetched:,} of them fetched"
    )
    if done.conflict_count:
        log.warning(
            f"{words.files(done.conflict_count)} that differed from the snapshot: moved to {str(done.conflicts)!r}"
        )
    if done.blocked:
        log.error(
            f"{len(done.blocked):,} entries were left out, {words.name(done.blocked[0])!r} first: a socket, pipe, "
            "device, mount point or our own state dir stands there. Move it away and restore again"
        )
    if as_json:
        words.document(_document(found, done))
    return EX_FAILED if done.blocked else EX_OK


def _document(found: Found, done: Restored) -> dict[str, Any]:
    return {
        "snapshot": found.id,
        "revision": found.revision,
        "files": done.files,
        "bytes": done.bytes,
        "fetched": done.fetched,
        "fetched_bytes": done.fetched_bytes,
        "conflicts": None if done.conflicts is None else words.name(str(done.conflicts)),
        "conflict_count": done.conflict_count,
        "skipped": list(done.skipped),
        "blocked": [words.named(path) for path in done.blocked],
    }


def _say_undeclared(found: Found, done: Restored, roots: Sequence[Root]) -> None:
    records = {r.name: r for r in found.manifest.roots}
    for name in done.skipped:
        if records[name].kind == "absent":
            continue
        line = spell(Root(name, records[name].path or f"/{name}"))
        log.warning(
            f"root {words.name(name)!r} is in the snapshot and was not restored: SIDECAR_PATHS doesn't name it. "
            f"Add {words.name(line)}, or use --to DIR"
        )


# --- dry run -----------------------------------------------------------------------------------------------------


async def _dry_run(reader: Reader, args: Namespace) -> int:
    found, only = await _wanted(reader, args)
    if args.to is None:
        steps = await asyncio.to_thread(_preview, reader, found, only)
    else:
        steps = await asyncio.to_thread(_preview_to, found, Path(args.to), only, args.force)
    changes = [(action, path) for action, path in steps if action != "keep"]
    kept = len(steps) - len(changes)
    if args.json:
        items = [{"action": action, **words.named(path)} for action, path in changes]
        words.document({"snapshot": found.id, "revision": found.revision, "changes": items, "kept": kept})
    else:
        words.table([(CHANGES[action], _described(found, path)) for action, path in changes])
        counts = [f"{n:,} {CHANGES[action]}" for action in CHANGES if (n := sum(a == action for a, _ in changes))]
        log.info(f"from {found.id}: {', '.join([*counts, f'{kept:,} as they are'])}. Nothing was changed")
    return EX_OK


def _described(found: Found, path: str) -> str:
    entry = found.manifest.entries.get(path)
    if entry is None or entry.kind == "dir":
        return f"{words.name(path)}/"
    return words.name(path) + (f"  ({words.size(entry.size)})" if entry.kind == "file" else "")


def _preview(reader: Reader, found: Found, only: str | None) -> list[tuple[str, str]]:
    index = index_copy(reader.settings, reader.scratch)
    try:
        return preview(found.manifest, reader.settings.roots, index, only)
    finally:
        if index is not None:
            index.close()


def _preview_to(found: Found, dest: Path, only: str | None, force: bool) -> list[tuple[str, str]]:
    if not force and dest.is_dir() and any(dest.iterdir()):
        raise UsageError(f"{str(dest)!r} is not empty: name another folder, or use --force to replace what is there")
    check(found.manifest)
    steps = survey(found.manifest, (whole(dest),), lambda _: None, "overwrite", only=only, tick=lambda: None)
    if not steps:
        raise nothing_at(only or "", found)
    return summary(steps)
