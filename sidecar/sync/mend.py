"""After somebody else edited the store: what our next snapshot names and this disk can't give, taken from before."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from sidecar import log
from sidecar.snapshot import bundle
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Entry
from sidecar.stores.base import Revision, Source, Store
from sidecar.sync.survey import Survey


async def carried(
    store: Store, revision: Revision | None, survey: Survey, index: Index, folder: Path
) -> dict[str, Source]:
    """The store's paths of entries that ``survey`` only carries forward, with their bytes as of ``revision``.

    Those are of roots that are no longer declared, files that can't be read, deletions that are held back. What isn't
    there either is warned of. Raises StoreError.
    """
    wanted = await asyncio.to_thread(_wanted, survey, index)
    if revision is None or not wanted:
        return {}
    there = await store.listing(revision)
    into = folder / "carried"
    into.mkdir()
    await store.fetch(revision, [path for path in wanted if path in there], into)
    good = await asyncio.to_thread(_good, wanted, into)
    lost = sorted(set(wanted) - good.keys())
    if lost:
        log.warning(
            f"{len(lost):,} files that this disk hasn't are not in {store.url} any more either, {lost[0]!r} first"
        )
    return good


def _wanted(survey: Survey, index: Index) -> dict[str, str]:
    """Store path -> sha256."""
    put = {s.entry.path for s in survey.staged if s.source is not None or s.entry.kind != "file"}
    gone = {row.entry.path for row in survey.gone}
    entries = {row.entry.path: row.entry for row in index.rows()}
    entries.update({s.entry.path: s.entry for s in survey.staged})
    return dict(map(_at, (e for p, e in entries.items() if e.kind == "file" and p not in put and p not in gone)))


def _at(entry: Entry) -> tuple[str, str]:
    if entry.frame is None:
        return entry.path, entry.sha256
    return bundle.store_path(entry.frame.bundle), entry.frame.bundle


def _good(wanted: dict[str, str], into: Path) -> dict[str, Source]:
    out: dict[str, Source] = {}
    for path, sha256 in wanted.items():
        at = into / path
        if at.is_file():
            with open(at, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                    out[path] = at
    return out
