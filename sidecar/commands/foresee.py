"""``sync --dry-run``: what a sync would change. Takes no lease and no lock, and works beside a running agent."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from sidecar import log
from sidecar.commands import words
from sidecar.commands.reading import Reader, index_copy, reading
from sidecar.errors import EX_OK, SidecarError
from sidecar.recovery.restore import read_manifest
from sidecar.settings import Settings, ensure_state_dir
from sidecar.snapshot.exclude import own_paths
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Entry, Manifest
from sidecar.stores.base import NotFound
from sidecar.sync.look import Look, Survey
from sidecar.sync.survey import Surveyor

MARKS = {"added": "+", "changed": "~", "mode": "m", "deleted": "-"}
TRIES = 3
"""A running agent may commit between our look at the store and at the index."""

Change = tuple[str, str]


def dry_run(args: Namespace) -> int:
    return reading(lambda reader: _dry_run(reader, args), need_paths=True)


async def _dry_run(reader: Reader, args: Namespace) -> int:
    manifest, index = await _base(reader)
    try:
        survey = await asyncio.to_thread(_look, reader.settings, index)
        changes = sorted(_changes(survey, index), key=lambda c: c[1].split("/"))
    finally:
        index.close()
    base = str(manifest.snapshot) if manifest else None
    if args.json:
        items = [{"change": change, **words.named(path)} for change, path in changes]
        words.document({"base": base, "changes": items, "held": dict(survey.held)})
    else:
        for change, path in changes:
            print(f"{MARKS[change]} {words.name(path)}")
    for root, count in survey.held.items():
        log.warning(f"root {root!r}: {count:,} deletions look like a fault and would be held back until confirmed")
    for path, why in survey.unreadable.items():
        log.warning(f"{words.name(path)!r} can't be read ({why}): the snapshot would keep what it has")
    counts = [f"{sum(c == change for c, _ in changes):,} {change}" for change in MARKS]
    log.info(f"since {base or 'nothing (a cold start)'}: {', '.join(counts)}. Nothing was committed")
    return EX_OK


async def _base(reader: Reader) -> tuple[Manifest | None, Index]:
    """The snapshot that a sync would go on from, and a copy of the index that describes it.

    Raises SidecarError where this disk is of another snapshot, as the sync itself would.
    """
    try:
        exists = (await reader.store.check()).exists
    except NotFound as error:
        log.warning(f"{error.message} A sync would try to make it")
        exists = False
    if not exists:
        return None, Index(reader.scratch / "none.db")
    for _ in range(TRIES):
        head = await reader.store.head()
        manifest = await read_manifest(reader.store, head, reader.scratch) if head is not None else None
        if manifest is None:
            return None, Index(reader.scratch / "none.db")
        index = await asyncio.to_thread(index_copy, reader.settings, reader.scratch)
        if index is not None:
            if index.pending() == manifest.snapshot:
                index.promote(reader.settings.store.url, head or "")
            known = index.known()
            if known is not None and known.snapshot == manifest.snapshot:
                return manifest, index
            index.close()
    raise SidecarError(
        f"this disk was not restored from the newest snapshot in {reader.store.url}: a sync would take what is missing "
        "for deleted, and refuses. Run `sidecar restore` first"
    )


def _look(settings: Settings, index: Index) -> Survey:
    store = settings.store.path if settings.store.kind == "folder" else None
    devices: dict[str, int | None] = {root.name: None for root in settings.roots}
    for root in settings.roots:
        with suppress(OSError):
            devices[root.name] = os.stat(root.path).st_dev
    own = own_paths(settings.state_dir, os.environ, store)
    surveyor = Surveyor(settings.roots, index, settings.exclude, own, devices)
    # In the state dir, which lies in no snapshot: the temp dir may well be part of a root.
    with TemporaryDirectory(prefix="dry-run-", dir=ensure_state_dir(settings.state_dir)) as folder:
        return surveyor.look(Look(), Path(folder))


def _changes(survey: Survey, index: Index) -> Iterator[Change]:
    for staged in survey.staged:
        row = index.get(staged.entry.path)
        change = _change(row.entry if row else None, staged.entry)
        if change:
            yield change, staged.entry.path
    for row in survey.gone:
        yield "deleted", row.entry.path


def _change(old: Entry | None, new: Entry) -> str:
    """What is new about an entry; "" where only a folder's time is."""
    if old is None:
        return "added"
    if (old.kind, old.sha256, old.target) != (new.kind, new.sha256, new.target):
        return "changed"
    same = (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid)
    return "" if same and (new.kind == "dir" or old.mtime_ns == new.mtime_ns) else "mode"
