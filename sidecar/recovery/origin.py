"""What there is to start from: a snapshot, or nothing that was ever kept. The two are never mistaken."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from sidecar.errors import EX_CONFIG, EX_TEMPFAIL, ManifestError, RestoreFailed, SidecarError
from sidecar.recovery.restore import read_manifest
from sidecar.recovery.trouble import Damaged
from sidecar.roots import Root
from sidecar.snapshot import bundle, shards
from sidecar.snapshot import manifest as manifests
from sidecar.snapshot.index import Index
from sidecar.snapshot.keeping import ids, kept_as, near
from sidecar.snapshot.manifest import TITLE, Manifest, root_of, snapshot_in
from sidecar.stores.base import Commit, Corrupt, NotFound, Revision, Store

ALL = 100_000

SHORT = 7
"""Letters of a revision that stand for it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """``manifest`` at ``head`` is what to restore; None is a confirmed cold start.

    ``source`` is the revision that the contents come from (the head, but for SIDECAR_REVISION); ``chosen`` is then
    the snapshot that was asked for, and ``spent`` what was asked for where an earlier start has gone on from it.
    ``readme`` says whether a dataset card of ours may be written.
    """

    head: Revision | None
    manifest: Manifest | None
    source: Revision | None
    chosen: str | None = None
    readme: bool = False
    spent: str | None = None


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
    spent: str | None = None
    if revision is not None and head is not None:
        chosen = await _chosen(store, head, scratch, revision)
        if chosen is not None:
            return chosen
        spent = revision
    manifest: Manifest | None = None
    if head is not None:
        try:
            manifest = await read_manifest(store, head, scratch)
        except (ManifestError, Corrupt) as error:
            raise _unreadable(error, f"{head[:12]} (the newest)") from error
    if manifest is not None:
        return Origin(head, manifest, head, spent=spent)
    return Origin(head, None, None, readme=await _confirm_cold(store, head, roots, index, store_id, cold_start))


async def _chosen(store: Store, head: Revision, scratch: Path, wanted: str) -> Origin | None:
    """The snapshot that SIDECAR_REVISION names, unless an earlier start has already gone on from it."""
    history = await store.history(ALL)
    for commit in history:
        if commit.title.startswith(TITLE) and f"(from {wanted})" in commit.title:
            return None
    found = [c.revision for c in history if snapshot_in(c.title) == wanted or c.revision == wanted]
    if not found and len(wanted) >= SHORT:
        found = [c.revision for c in history if c.revision.startswith(wanted)]
    branches = {} if found else await store.branches()
    kept = kept_as(branches, wanted)
    if kept is not None:
        found = [kept]
    for revision in found:
        try:
            manifest = await read_manifest(store, revision, scratch)
        except (ManifestError, Corrupt) as error:
            raise _unreadable(error, f"{wanted} (SIDECAR_REVISION)") from error
        if manifest is not None:
            return Origin(head, manifest, revision, chosen=wanted)
    raise RestoreFailed(
        f"SIDECAR_REVISION={wanted}: {store.url} has no such snapshot{near(wanted, ids(history, branches))}."
        " `sidecar snapshots` lists them",
        final=True,
        code=EX_CONFIG,
    )


def _unreadable(error: ManifestError | Corrupt, snapshot: str) -> RestoreFailed:
    if isinstance(error, ManifestError) and not error.damage:
        return RestoreFailed(f"{error.message}. Nothing was changed", final=True, code=EX_TEMPFAIL)
    return Damaged(manifests.PATH, snapshot, error.message)


async def way_out(store: Store, damage: Damaged, scratch: Path) -> str:
    """Which setting starts from the newest snapshot that is whole, where there is one, in words. Never raises."""
    try:
        newest = await _newest_good(store, await store.history(20), damage.path, scratch)
    except SidecarError:
        return "Older snapshots can't be checked just now"
    if newest is None:
        return "None of the last 20 commits holds a whole snapshot either: look at the store by hand"
    if newest == damage.snapshot:
        return (
            f"The store was changed since {newest} was committed, which is whole in its history:"
            f" set SIDECAR_REVISION={newest} to start from it"
        )
    return f"The newest snapshot that verifies is {newest}: set SIDECAR_REVISION={newest} to start from it"


async def _newest_good(store: Store, history: list[Commit], suspect: str, scratch: Path) -> str | None:
    for commit in history:
        snapshot = snapshot_in(commit.title)
        if snapshot is None:
            continue
        try:
            manifest = await read_manifest(store, commit.revision, scratch)
            if manifest is not None and await _whole(store, commit.revision, manifest, suspect, scratch):
                return snapshot
        except (ManifestError, Corrupt, NotFound):
            continue
    return None


async def _whole(store: Store, revision: Revision, manifest: Manifest, suspect: str, scratch: Path) -> bool:
    """Is everything there in its size, and ``suspect``, of which another snapshot's copy is bad, in its bytes?"""
    wanted = {e.path: (e.size, e.sha256) for e in manifest.entries.values() if e.kind == "file" and e.frame is None}
    wanted.update({bundle.store_path(sha): (size, sha) for sha, size in manifest.bundles.items()})
    parts = chain(manifest.sharding.shards if manifest.sharding else (), *manifest.hashed.values())
    wanted.update({shards.store_path(s.sha256): (s.size, s.sha256) for s in parts})
    there = await store.listing(revision)
    if any(there.get(path) != size for path, (size, _) in wanted.items()):
        return False
    if suspect not in wanted:
        entry = manifest.entries.get(suspect)
        return entry is None or entry.frame is None  # of what a bundle holds only a restore can tell
    with TemporaryDirectory(prefix="sidecar-", dir=scratch) as folder:
        await store.fetch(revision, [suspect], Path(folder))
        return await asyncio.to_thread(_digest, Path(folder) / suspect) == wanted[suspect][1]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
