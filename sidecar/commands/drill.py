"""Reading snapshots back from a store and comparing checksums: each byte once, a bounded part on disk at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from sidecar.errors import SidecarError
from sidecar.recovery.meter import Meter
from sidecar.recovery.plan import check
from sidecar.recovery.staging import Want, fetch
from sidecar.recovery.trouble import Damaged
from sidecar.snapshot import bundle, shards
from sidecar.snapshot.manifest import BUNDLES, LEASE, PATH, RECOVERY, Entry, Frame, Manifest
from sidecar.stores.base import Revision, Store

GROUP_FILES, GROUP_BYTES = 200, 256 * 1024 * 1024
"""So much is on the disk at a time (a single file or bundle may be larger)."""

OURS = frozenset({PATH, LEASE, RECOVERY, "README.md", ".gitattributes"})
"""Files of a store that belong to no snapshot, or to all of them."""

Key = tuple[str, Frame | str]


@dataclass(frozen=True, slots=True)
class Report:
    """What reading one snapshot back came to: ``damaged`` says why, by path; ``unnamed`` no snapshot knows (bytes)."""

    snapshot: str
    revision: Revision
    files: int
    bytes: int
    damaged: Mapping[str, str]
    unnamed: Mapping[str, int] = field(default_factory=dict)


class Drill:
    """Reads snapshot after snapshot; what one of them was found good in is not read again for the next.

    With ``whole`` each bundle is read in full, not only the parts of it that a snapshot needs, and the store's whole
    tree is compared with what the manifest names. ``scratch`` is an empty folder of the caller's.
    """

    def __init__(self, store: Store, scratch: Path, meter: Meter, *, whole: bool) -> None:
        self.store, self.scratch, self.meter, self.whole = store, scratch, meter, whole
        self._seen: set[Key] = set()
        self._bundles: set[str] = set()

    async def read(self, revision: Revision, manifest: Manifest) -> Report:
        """Read all of one snapshot that was not read before, and look that the rest is there. Raises StoreError,
        RestoreFailed where this disk refuses, ManifestError.
        """
        check(manifest)
        files = [e for e in manifest.entries.values() if e.kind == "file"]
        new = [e for e in files if _key(e) not in self._seen]
        damaged: dict[str, str] = {}
        unnamed: dict[str, int] = {}
        if self.whole or len(new) < len(files):
            there = await self.store.listing(revision)
            damaged.update(_missing([e for e in files if _key(e) in self._seen], manifest, there))
            unnamed = _unnamed(manifest, there) if self.whole else {}
        self.meter.expect(len(new), sum(e.size for e in new))
        unread = set(manifest.bundles) - self._bundles if self.whole else set()
        for group in groups(new):
            frame = group[0].frame
            whole = frame.bundle if frame is not None and frame.bundle in unread else ""
            unread.discard(whole)
            damaged.update(await self._read(revision, manifest, group, whole))
        for sha in sorted(unread):
            damaged.update(await self._read(revision, manifest, [], sha))
        self._seen.update(_key(e) for e in new if e.path not in damaged)
        size = sum(e.size for e in files)
        return Report(str(manifest.snapshot), revision, len(files), size, damaged, unnamed)

    async def _read(self, revision: Revision, manifest: Manifest, group: list[Entry], whole: str) -> dict[str, str]:
        """Fetch ``group``, and all of the bundle ``whole``, and throw it away again: what is damaged, and why."""
        damaged: dict[str, str] = {}
        while group or whole:
            try:
                await self._fetch(revision, manifest, group, whole)
                self._bundles.add(whole)
                break
            except Damaged as error:
                if error.path.startswith(BUNDLES):
                    return damaged | {e.path: error.why for e in group} | {error.path: error.why}
                damaged[error.path] = error.why
                group = [e for e in group if e.path != error.path]
                if group and group[0].frame is None and len(group) > 1:
                    # One damaged file ends a fetch; most of the others are good, and are not read for each anew.
                    half = len(group) // 2
                    for part in (group[:half], group[half:]):
                        damaged.update(await self._read(revision, manifest, part, ""))
                    break
        return damaged

    async def _fetch(self, revision: Revision, manifest: Manifest, group: list[Entry], whole: str) -> None:
        box = self.scratch / "verify"
        box.mkdir(mode=0o700)
        try:
            sha = whole or (group[0].frame.bundle if group and group[0].frame else "")
            self._require_room(sum(e.size for e in group) + (manifest.bundles[sha] if sha else 0))
            if whole:
                entry = Entry(bundle.store_path(whole), "file", 0o600, 0, 0, 0, manifest.bundles[whole], whole)
                await fetch(self.store, revision, manifest, [Want(box, entry, 0)], self.meter)
            await fetch(self.store, revision, manifest, [Want(box, e) for e in group], self.meter)
        finally:
            await self.meter.work(shutil.rmtree, box, True)

    def _require_room(self, size: int) -> None:
        room = os.statvfs(self.scratch)
        free = room.f_bavail * room.f_frsize
        if room.f_blocks and size > free:
            raise SidecarError(
                f"too little space to verify in: {str(self.scratch.parent)!r} has {free:,} bytes free, and {size:,} are"
                " to be read at a time. Free some, or name another place by TMPDIR"
            )


def _key(entry: Entry) -> Key:
    """Equal for what a store reads from the same place."""
    return entry.sha256, entry.frame or entry.path


def _missing(known: Iterable[Entry], manifest: Manifest, there: Mapping[str, int]) -> dict[str, str]:
    """Which of ``known``, read already from another snapshot, this one can't reach."""
    out = {}
    for entry in known:
        frame = entry.frame
        path = bundle.store_path(frame.bundle) if frame else entry.path
        if there.get(path) != (manifest.bundles[frame.bundle] if frame else entry.size):
            out[entry.path] = f"{path!r} is not there in its size"
    return out


def _unnamed(manifest: Manifest, there: Mapping[str, int]) -> dict[str, int]:
    """What the store holds beside the snapshot: no restore will ever read it."""
    named = {e.path for e in manifest.entries.values() if e.kind == "file" and e.frame is None}
    named.update(bundle.store_path(sha) for sha in manifest.bundles)
    parts = chain(manifest.sharding.shards if manifest.sharding else (), *manifest.hashed.values())
    named.update(shards.store_path(s.sha256) for s in parts)
    return {path: size for path, size in there.items() if path not in named and path not in OURS}


def groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """``entries`` in portions; what lies in one bundle stays together, or it would be fetched several times."""
    by_bundle: dict[str, list[Entry]] = {}
    group: list[Entry] = []
    weight = 0
    for entry in entries:
        if entry.frame is not None:
            by_bundle.setdefault(entry.frame.bundle, []).append(entry)
            continue
        if group and (len(group) >= GROUP_FILES or weight + entry.size > GROUP_BYTES):
            yield group
            group, weight = [], 0
        group.append(entry)
        weight += entry.size
    if group:
        yield group
    yield from by_bundle.values()
