"""What somebody edited in the store by hand: our snapshot goes on top of it, and their version is kept on this disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Entry
from sidecar.stores.base import Identified, NotFound, Revision, Store

MOST_FILES = 100
MOST_BYTES = 64 * 1024 * 1024
"""So much of one edit is copied. The store's own history has all of it."""

MOST_EDITS = 10
"""The newest so many edits are kept."""

ENDING = "-store"
"""How the folder of an edit ends, beside those of restores: of these only the newest stay."""


@dataclass(frozen=True, slots=True)
class Edits:
    """``kept`` files that were changed lie in ``folder``; ``more`` do not, being too many or too large.

    ``deleted`` files of ours were not there any more.
    """

    folder: Path | None = None
    kept: tuple[str, ...] = ()
    more: int = 0
    deleted: int = 0

    def __str__(self) -> str:
        """In words; nothing where no file of ours was touched."""
        said = []
        if self.kept:
            what = f"{len(self.kept):,} files" if len(self.kept) > 1 else f"{self.kept[0]!r}"
            said.append(f"their version of {what} is in {self.folder}")
        if self.more:
            said.append(f"{self.more:,} more that were changed are only in the store's history")
        if self.deleted:
            said.append(f"{self.deleted:,} that were deleted are put there again")
        return "; ".join(said)


async def keep_edits(
    store: Store, ours: Revision | None, head: Revision | None, index: Index, state_dir: Path
) -> Edits:
    """Copy what differs between ``ours``, which ``index`` describes, and ``head`` to ``<state_dir>/conflicts/``.

    Only files that lie in the store under their own names: nobody edits what is in a bundle. Raises StoreError, and
    OSError where this disk has no room.
    """
    if head is None or ours == head:
        return Edits()
    sizes = await store.listing(head)
    changed, deleted = await asyncio.to_thread(_differing, index, sizes, await _touched(store, ours, head))
    chosen = list(_bounded(changed))
    if not chosen:
        return Edits(deleted=deleted)
    box = state_dir / "staging" / f"edits-{os.getpid()}-{time.monotonic_ns()}"
    await asyncio.to_thread(box.mkdir, mode=0o700, parents=True)
    try:
        await store.fetch(head, [entry.path for entry in chosen], box)
        folder, kept = await asyncio.to_thread(_place, box, chosen, state_dir / "conflicts")
    finally:
        await asyncio.to_thread(shutil.rmtree, box, True)
    return Edits(folder, tuple(kept), len(changed) - len(chosen), deleted)


async def _touched(store: Store, ours: Revision | None, head: Revision) -> frozenset[str] | None:
    """The paths at ``head`` that are other bytes than at ``ours``; None where the store can't tell."""
    if ours is None or not isinstance(store, Identified):
        return None
    try:
        before = await store.identities(ours)
    except NotFound:  # squashed away
        return None
    there = await store.identities(head)
    return frozenset(path for path, id_ in there.items() if before.get(path) != id_)


def _differing(
    index: Index, sizes: Mapping[str, int], touched: frozenset[str] | None
) -> tuple[list[tuple[Entry, int]], int]:
    """The entries of which the store has another version, with its size, and how many it hasn't any more. Blocks."""
    changed: list[tuple[Entry, int]] = []
    deleted = 0
    for row in index.rows():
        entry = row.entry
        if entry.kind != "file" or entry.frame is not None:
            continue
        size = sizes.get(entry.path)
        if size is None:
            deleted += 1
        elif size != entry.size or (touched is not None and entry.path in touched):
            changed.append((entry, size))
    return changed, deleted


def _bounded(changed: Sequence[tuple[Entry, int]]) -> Iterator[Entry]:
    left = MOST_BYTES
    for entry, size in changed[:MOST_FILES]:
        if size <= left:
            left -= size
            yield entry


def _place(box: Path, chosen: list[Entry], conflicts: Path) -> tuple[Path | None, list[str]]:
    """Move what came to a folder of its own, but for what is ours after all; the oldest edits go. Blocks."""
    kept = []
    for entry in chosen:
        with open(box / entry.path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256:
                os.unlink(box / entry.path)
            else:
                kept.append(entry.path)
    if not kept:
        return None, kept
    conflicts.mkdir(mode=0o700, parents=True, exist_ok=True)
    base, number = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime()), 1
    folder = conflicts / f"{base}{ENDING}"
    while os.path.lexists(folder):
        number += 1
        folder = conflicts / f"{base}-{number}{ENDING}"
    os.rename(box, folder)
    edits = sorted((p for p in conflicts.iterdir() if p.name.endswith(ENDING)), key=lambda p: p.stat().st_mtime_ns)
    for old in edits[:-MOST_EDITS]:
        shutil.rmtree(old, ignore_errors=True)
    return folder, kept
