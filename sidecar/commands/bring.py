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
from sidecar.commands.preview import dry_run
from sidecar.commands.reading import Found, Reader, Unreadable, reading
from sidecar.errors import EX_FAILED, EX_OK, SidecarError, UsageError
from sidecar.recovery import image
from sidecar.recovery.locks import RootLocks
from sidecar.recovery.plan import at_or_under
from sidecar.recovery.restore import Damaged, Restored, restore_paths, restore_to
from sidecar.roots import Root, spell
from sidecar.settings import ensure_state_dir
from sidecar.snapshot.index import Index


def restore(args: Namespace) -> int:
    if args.force and args.to is None:
        raise UsageError("--force goes with --to DIR: a restore into the roots sets aside what differs, by itself")
    if args.to is not None:
        args.to = os.path.abspath(args.to)
    return reading(lambda reader: _restore(reader, args), need_paths=args.to is None)


async def _restore(reader: Reader, args: Namespace) -> int:
    if args.dry_run:
        found, only = await _wanted(reader, args)
        if args.to is None:
            _say_undeclared(found, reader.settings.roots)
        return await dry_run(reader, args, found, only, starts=only is None and await _is_newest(reader, args, found))
    try:
        if args.to is None:
            return await _into_roots(reader, args)
        _say_inside(args.to, reader.settings.roots)
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


async def _is_newest(reader: Reader, args: Namespace, found: Found) -> bool:
    try:
        return args.revision in (None, "head") or found.id == (await reader.find()).id
    except Unreadable:
        return False  # a damaged head is what --revision is for


async def _into_roots(reader: Reader, args: Namespace) -> int:
    settings = reader.settings
    state_dir = Path(ensure_state_dir(settings.state_dir))
    locks = await asyncio.to_thread(RootLocks.acquire, settings.roots, state_dir)
    try:
        found, only = await _wanted(reader, args)
        newest = await _is_newest(reader, args, found)
        index = await asyncio.to_thread(Index, state_dir / "index.db")
        try:
            # Also where only a part comes back: whatever the next start finds would count as the image's else.
            await asyncio.to_thread(
                image.note, index, state_dir, settings.roots, settings.exclude, reader.own_paths(), lambda: None
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
    _say_undeclared(found, settings.roots)
    return _say(found, done, "", args.json)


def _say_inside(dest: str, roots: Sequence[Root]) -> None:
    real = os.path.realpath(dest)
    for root in roots:
        if at_or_under(real, os.path.realpath(root.path)):
            log.warning(f"{dest!r} lies in root {root.name!r}: the next snapshot takes the copy too")


def _say(found: Found, done: Restored, where: str, as_json: bool) -> int:
    log.info(
        f"restored {words.files(done.files)}, {words.size(done.bytes)} from {found.id}{where}; "
        f"{done.fetched:,} of them fetched"
    )
    if done.image_newer:
        log.info(
            f"{words.files(done.image_newer)} of the image stay: newer than the snapshot's, which main never changed"
        )
    if done.buried:
        log.info(f"{words.files(done.buried)} of the image removed again: main had deleted what it ships there")
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
        "image_newer": done.image_newer,
        "buried": done.buried,
        "skipped": list(done.skipped),
        "blocked": [words.named(path) for path in done.blocked],
    }


def _say_undeclared(found: Found, roots: Sequence[Root]) -> None:
    declared = {root.name for root in roots}
    for record in found.manifest.roots:
        if record.kind == "absent" or record.name in declared:
            continue
        line = spell(Root(record.name, record.path or f"/{record.name}"))
        log.warning(
            f"root {words.name(record.name)!r} is in the snapshot and was not restored: SIDECAR_PATHS doesn't name it. "
            f"Add {words.name(line)}, or use --to DIR"
        )
