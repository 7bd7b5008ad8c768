"""What there is to start from: a snapshot, or nothing that was ever kept. The two are never mistaken."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.errors import EX_CONFIG, EX_TEMPFAIL, ManifestError, RestoreFailed
from sidecar.recovery.restore import read_manifest
from sidecar.roots import Root
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import TITLE, Manifest, root_of, snapshot_in
from sidecar.stores.base import Commit, Corrupt, NotFound, Revision, Store, StoreError

ALL = 100_000


@dataclass(frozen=True, slots=True)
class Origin:
    """``manifest`` at ``head`` is what to restore; None is a confirmed cold start.

    ``source`` is the revision that the contents come from (the head, but for SIDECAR_REVISION); ``chosen`` is then
    the snapshot that was asked for. ``readme`` says whether a dataset card of ours may be written.
    """

    head: Revision | None
    manifest: Manifest | None
    source: Revision | None
    chosen: str | None = None
    readme: bool = False


async def find(
    store: Store,
    head: Revision | None,
    roots: Sequence[Root],
    index: Index,
    scratch: Path,
    *,
    store_id: str,
    cold_start: str,
    revision: str | None,
) -> Origin:
    """Read the manifest at ``head``, or make sure that there never was one. Raises RestoreFailed, StoreError."""
    if revision is not None and head is not None:
        chosen = await _chosen(store, head, scratch, revision)
        if chosen is not None:
            return chosen
    manifest: Manifest | None = None
    if head is not None:
        try:
            manifest = await read_manifest(store, head, scratch)
        except (ManifestError, Corrupt) as error:
            raise await _damaged(store, error, scratch) from error
    if manifest is not None:
        return Origin(head, manifest, head)
    return Origin(head, None, None, readme=await _confirm_cold(store, head, roots, index, store_id, cold_start))


async def _chosen(store: Store, head: Revision, scratch: Path, wanted: str) -> Origin | None:
    """The snapshot that SIDECAR_REVISION names, unless an earlier start has already gone on from it."""
    history = await store.history(ALL)
    for commit in history:
        if commit.title.startswith(TITLE) and f"(from {wanted})" in commit.title:
            return None
    for commit in history:
        if snapshot_in(commit.title) == wanted or commit.revision == wanted:
            manifest = await read_manifest(store, commit.revision, scratch)
            if manifest is not None:
                return Origin(head, manifest, commit.revision, chosen=wanted)
    raise RestoreFailed(
        f"SIDECAR_REVISION={wanted}: {store.url} has no such snapshot. `sidecar snapshots` lists them",
        final=True,
        code=EX_CONFIG,
    )


async def _damaged(store: Store, error: ManifestError | Corrupt, scratch: Path) -> RestoreFailed:
    if isinstance(error, ManifestError) and not error.damage:
        return RestoreFailed(f"{error.message}. Nothing was changed", final=True, code=EX_TEMPFAIL)
    way_out = "no older snapshot could be read either"
    try:
        newest = await _newest_good(store, await store.history(20), scratch)
        if newest is not None:
            way_out = f"the newest one that verifies is {newest}: set SIDECAR_REVISION={newest} to start from it"
    except (StoreError, ManifestError):
        way_out = "older ones can't be read just now"
    return RestoreFailed(f"the newest snapshot in {store.url} is damaged ({error.message}); {way_out}")


async def _newest_good(store: Store, history: list[Commit], scratch: Path) -> str | None:
    for commit in history[1:]:
        snapshot = snapshot_in(commit.title)
        if snapshot is None:
            continue
        try:
            manifest = await read_manifest(store, commit.revision, scratch)
            there = await store.listing(commit.revision)
        except (ManifestError, Corrupt, NotFound):
            continue
        if manifest is not None and all(
            there.get(e.path) == e.size for e in manifest.entries.values() if e.kind == "file" and e.frame is None
        ):
            return snapshot
    return None


async def _confirm_cold(
    store: Store, head: Revision | None, roots: Sequence[Root], index: Index, store_id: str, cold_start: str
) -> bool:
    """Raise RestoreFailed unless nothing was ever kept here. True where a README may be written."""
    known = await asyncio.to_thread(index.known)
    if known is not None and known.store == store_id:
        raise RestoreFailed(
            f"{store.url} is empty, but this disk was at its snapshot {known.snapshot}: it was deleted or replaced"
            f" since. Nothing was changed. Bring it back, or remove {index.path} to begin anew with what is here"
        )
    there = await store.listing(head) if head is not None else {}
    if head is not None:
        for commit in await store.history(ALL):
            if commit.title.startswith(TITLE):
                raise RestoreFailed(
                    f"{store.url} has snapshots in its history ({commit.title[len('sidecar: ') :]!r}) but no manifest"
                    " at its head: somebody deleted it. Nothing was changed. Restore the file, or set"
                    f" SIDECAR_REVISION={snapshot_in(commit.title)}"
                )
        names = [root.name for root in roots]
        foreign = sorted(p for p in there if root_of(p, names) is not None)
        if foreign:
            raise RestoreFailed(
                f"{store.url} holds {len(foreign):,} files under a root's name that the sidecar didn't write"
                f" ({foreign[0]!r}…). Nothing was changed. Use another dataset, or a prefix:"
                " SIDECAR_STORE=hf://datasets/OWNER/NAME/some-prefix"
            )
    if cold_start == "refuse":
        raise RestoreFailed(
            f"{store.url} is empty and SIDECAR_COLD_START=refuse: main is not started on an empty state."
            " Look whether the store's name and token are right; unset it for a first start",
            final=True,
        )
    return "README.md" not in there
