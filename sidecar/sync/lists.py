"""What the image brought and what main deleted of it, as the manifest has it: in itself, or in parts where it is much.

These lists may be as long as the roots have files, and hardly ever change. Where a part ends is told by the paths
themselves, so that a change of the list changes one part of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sidecar.snapshot import codec, draft, shards
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Manifest, Shard
from sidecar.stores.base import Source

INLINE = 500
"""So many stand in the manifest itself."""

PART_MOST = 8192
_ENDS = 1 << 10  # one path in so many ends a part


@dataclass(frozen=True, slots=True)
class Hashes:
    """What the pending snapshot changes: shipped paths that main deleted, and those that are back."""

    buried: Mapping[str, str] = field(default_factory=dict)
    risen: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Composed:
    """What the commit puts and deletes for the manifest, and the paths of all its parts."""

    put: dict[str, Source]
    delete: list[str]
    parts: tuple[str, ...] = ()

    def joined(self, put: Mapping[str, Source], before: Sequence[Shard], after: Sequence[Shard]) -> Composed:
        """This and ``put``, with the parts that there were before and are after it."""
        named = (*self.parts, *(shards.store_path(s.sha256) for s in after))
        old = (*self.delete, *(shards.store_path(s.sha256) for s in before))
        return Composed({**self.put, **put}, [path for path in old if path not in named], named)


def listed(head: Manifest, index: Index, changes: Hashes | None, *, anew: bool) -> tuple[Manifest, Composed]:
    """``head`` with both lists as they are once the pending snapshot is committed, and what that puts and deletes."""
    changes = changes or Hashes()
    known = index.hashed()
    hashed: dict[str, tuple[Shard, ...]] = {}
    whole: dict[str, dict[str, str]] = {"shipped": {}, "tombstones": {}}
    put: dict[str, Source] = {}
    for key in draft.HASHED:
        now = index.shipped if key == "shipped" else index.tombstones
        moved = key == "tombstones" and (changes.buried or changes.risen)
        if known.get(key) and not (anew or moved or index.stale(key)):
            hashed[key] = known[key]
            continue
        found = now()
        if moved:
            found = {path: sha for path, sha in {**found, **changes.buried}.items() if path not in changes.risen}
        if len(found) <= INLINE:
            whole[key] = found
            continue
        have = {s.sha256 for s in known.get(key, ())} if not anew else set()
        parts = list(_parts(found))
        hashed[key] = tuple(shard for shard, _ in parts)
        put.update((shards.store_path(shard.sha256), raw) for shard, raw in parts if shard.sha256 not in have)
    named = tuple(shards.store_path(s.sha256) for found in hashed.values() for s in found)
    old = (shards.store_path(s.sha256) for found in known.values() for s in found)
    head = replace(head, shipped=whole["shipped"], tombstones=whole["tombstones"], hashed=hashed)
    return head, Composed(put, [path for path in old if path not in named], named)


def _parts(hashes: Mapping[str, str]) -> Iterator[tuple[Shard, bytes]]:
    held: dict[str, str] = {}
    for path in sorted(hashes, key=shards.raw):
        held[path] = hashes[path]
        if zlib.crc32(shards.raw(path)) % _ENDS == 0 or len(held) >= PART_MOST:
            yield _written(held)
            held = {}
    if held:
        yield _written(held)


def _written(held: dict[str, str]) -> tuple[Shard, bytes]:
    return shards.write(codec.hash_documents(held), next(iter(held)))
