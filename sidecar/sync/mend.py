"""After somebody else edited the store: what our next snapshot names and this disk can't give, taken from before."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sidecar import log
from sidecar.snapshot import bundle
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import BUNDLES, SHARDS, Entry
from sidecar.snapshot.stage import Staged
from sidecar.stores.base import Revision, Source, Store
from sidecar.sync.look import Survey


@dataclass(frozen=True, slots=True)
class Carried:
    """What is put again: files under their own names, for ``pack`` to place, and whole bundles by their store path."""

    staged: list[Staged]
    put: dict[str, Source]


async def carried(store: Store, revision: Revision | None, survey: Survey, index: Index, folder: Path) -> Carried:
    """The bytes, as of ``revision``, of entries that ``survey`` only carries forward.

    Those are of roots that are no longer declared, files that can't be read, deletions that are held back. What isn't
    there either is warned of. Raises StoreError.
    """
    wanted = await asyncio.to_thread(_wanted, survey, index)
    if revision is None or not wanted:
        return Carried([], {})
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
    files = await asyncio.to_thread(index.many, [path for path in good if not path.startswith(BUNDLES)])
    files.update((s.entry.path, s.row) for s in survey.staged if s.entry.path in good)
    bundles = {path: source for path, source in good.items() if path.startswith(BUNDLES)}
    return Carried([Staged(row, good[path]) for path, row in files.items()], bundles)


async def strays(store: Store, head: Revision | None, named: Collection[str]) -> list[str]:
    """Bundles and shards in the store that are none of ``named``: left by somebody's edit, or by another snapshot.

    Raises StoreError.
    """
    there = await store.listing(head) if head is not None else {}
    return [path for path in there if path.startswith((BUNDLES, SHARDS)) and path not in named]


def _wanted(survey: Survey, index: Index) -> dict[str, str]:
    """Store path -> sha256."""
    done = {s.entry.path for s in survey.staged if s.source is not None or s.entry.kind != "file"}
    done.update(row.entry.path for row in survey.gone)
    news = {s.entry.path: s.entry for s in survey.staged}
    rows = (row.entry for row in index.rows() if row.entry.path not in news)
    entries = (e for e in (*news.values(), *rows) if e.kind == "file" and e.path not in done)
    return dict(map(_at, entries))


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
