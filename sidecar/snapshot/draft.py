"""What of a foreign manifest may be believed: read and checked in two steps, its own bytes and then its shards'.

Restore trusts nothing that comes from a store: whatever could write outside of a root is refused before anything is
touched, and the entry is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from sidecar.errors import ManifestError
from sidecar.snapshot import shards
from sidecar.snapshot.manifest import (
    FORMAT,
    Entry,
    Manifest,
    Shard,
    Sharding,
    SnapshotId,
    root_of,
)
from sidecar.snapshot.parse import (
    Frames,
    entry_of,
    hashes,
    is_sha,
    is_whole,
    items,
    name_of,
    parsed,
    path_of,
    root,
    sizes,
    text,
)

KNOWN_REQUIREMENTS: frozenset[str] = frozenset({"bundles", "shards"})
"""Parts of the format that this version reads. A manifest may require more; then it is refused, never half read."""

MAX_BYTES = 32 * 1024 * 1024
"""Of a manifest's own: 2,000 entries of the longest names take less, and what is more stands in shards."""

MAX_PLAIN = 512 * 1024 * 1024
"""Of all shards, unpacked."""

HASHED = ("shipped", "tombstones")
MAX_ENTRIES = 1_000_000
"""A snapshot holds fewer."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A manifest as far as its own bytes tell; those of its ``shards`` are still to be had.

    ``hashed`` are the parts in which it has what was shipped, and tombstones.
    """

    whole: dict[str, Any]
    shards: tuple[Shard, ...]
    hashed: Mapping[str, tuple[Shard, ...]]

    @property
    def parts(self) -> tuple[Shard, ...]:
        """All that is stored apart from it."""
        return tuple(chain(self.shards, *self.hashed.values()))


def begin(raw: bytes) -> Draft:
    """Read a manifest's own bytes, to learn which shards it needs. Raises ManifestError."""
    if len(raw) > MAX_BYTES:
        raise ManifestError(f"the manifest has {len(raw):,} bytes, more than {MAX_BYTES:,}: refused unread")
    whole = parsed(raw, "the manifest")
    if not isinstance(whole, dict):
        raise ManifestError("the manifest is no JSON object")
    form = whole.get("format")
    if form is None:
        raise ManifestError("the manifest says no format: it is none of ours, or somebody's edit of one")
    if form != FORMAT or isinstance(form, bool):
        raise ManifestError(
            f"the manifest has format {form!r}; this version reads {FORMAT}. Update space-sidecar",
            damage=False,
        )
    unknown = [r for r in items(whole, "requires") if not isinstance(r, str) or r not in KNOWN_REQUIREMENTS]
    if unknown:
        raise ManifestError(
            f"the snapshot needs {', '.join(map(repr, unknown))}, which this version can't read. Update space-sidecar",
            damage=False,
        )
    hashed = {key: found for key in HASHED if (found := _shards(whole, f"{key}_in"))}
    draft = Draft(whole, _shards(whole, "shards"), hashed)
    if max(sum(s.plain for s in draft.parts), sum(s.size for s in draft.parts)) > MAX_PLAIN:
        raise ManifestError(f"the manifest's shards have more than {MAX_PLAIN:,} bytes: refused unread")
    return draft


def _shards(whole: dict[str, Any], key: str) -> tuple[Shard, ...]:
    out: list[Shard] = []
    for item in items(whole, key):
        if not isinstance(item, dict):
            raise ManifestError("a shard in the manifest is no object")
        sha256: Any = item.get("sha256")
        size: Any = item.get("size")
        plain: Any = item.get("plain")
        entries: Any = item.get("entries")
        if not is_sha(sha256) or not is_whole(size) or not is_whole(plain) or not is_whole(entries):
            raise ManifestError(f"a shard in the manifest is malformed: {str(item)[:120]}")
        first = name_of(item, "first")
        if out and shards.raw(out[-1].first) >= shards.raw(first):
            raise ManifestError(f"the shard from {first[:200]!r} on is out of order")
        out.append(Shard(sha256, size, plain, entries, first))
    if len({s.sha256 for s in out}) < len(out):
        raise ManifestError("a shard stands twice in the manifest")
    if any(s.plain > shards.MAX_PLAIN for s in out):
        raise ManifestError(f"a shard of the manifest has more than {shards.MAX_PLAIN:,} bytes: refused unread")
    _few(sum(s.entries for s in out))
    return tuple(out)


def _few(entries: int) -> None:
    if entries >= MAX_ENTRIES:
        raise ManifestError(f"the snapshot has {entries:,} entries; fewer than {MAX_ENTRIES:,} can be read")


def finish(draft: Draft, fetch: Callable[[Shard], bytes]) -> Manifest:
    """The manifest of ``draft``, whose shards' bytes ``fetch`` gives: they are verified. Raises ManifestError."""
    whole = draft.whole
    roots = tuple(root(r) for r in items(whole, "roots"))
    names = [r.name for r in roots]
    for name in names:
        if sum(1 for other in names if other == name or other.startswith(name + "/")) > 1:
            raise ManifestError(f"root {name!r} stands twice or inside of another root")
    bundles, packed = sizes(whole, "bundles"), sizes(whole, "packed")
    own = items(whole, "entries")
    _few(len(own))
    delta: dict[str, Entry] = {}
    frames: Frames = {}
    for item in own:
        path = path_of(item)
        if path in delta:
            raise ManifestError(f"{path!r} stands twice in the manifest")
        delta[path] = entry_of(item, path, names, bundles, frames)
    entries, sharding = delta, None
    if draft.shards:
        entries, sharding = _merged(draft, fetch, delta, names, bundles, frames)
        _few(len(entries))
    _check_tree(entries, names)
    parent = whole.get("parent")
    if parent is not None:
        SnapshotId.parse(parent)
    at = whole.get("at")
    return Manifest(
        snapshot=SnapshotId.parse(whole.get("snapshot", "")),
        parent=parent,
        space=text(whole, "space"),
        at=round(float(at), 3) if isinstance(at, (int, float)) and not isinstance(at, bool) else 0.0,  # as written
        instance=text(whole, "instance"),
        version=text(whole, "version"),
        roots=roots,
        entries=entries,
        bundles=bundles,
        shipped=_hashes(draft, fetch, "shipped"),
        tombstones=_hashes(draft, fetch, "tombstones"),
        packed=packed,
        sharding=sharding,
        hashed=draft.hashed,
    )


def _hashes(draft: Draft, fetch: Callable[[Shard], bytes], key: str) -> dict[str, str]:
    apart = (item for shard in draft.hashed.get(key, ()) for item in shards.read(shard, fetch(shard)))
    return hashes(chain(items(draft.whole, key), apart), key)


def _merged(
    draft: Draft,
    fetch: Callable[[Shard], bytes],
    delta: Mapping[str, Entry],
    names: list[str],
    bundles: Mapping[str, int],
    frames: Frames,
) -> tuple[dict[str, Entry], Sharding]:
    """The entries of all shards with the delta worked in. What the delta overrules is used for nothing."""
    gone: set[str] = set()
    for item in items(draft.whole, "gone"):
        path = name_of(item, "path") if isinstance(item, dict) else ""
        if not path or path in gone or path in delta:
            raise ManifestError(f"{path[:200]!r} can't be gone from the manifest's shards")
        gone.add(path)
    entries: dict[str, Entry] = {}
    replaced: set[str] = set()
    missed = set(gone)
    low = b""  # the first shard covers from the start, whatever its first path
    for shard, following in pairwise((*draft.shards, None)):
        assert shard is not None
        end = shards.raw(following.first) if following is not None else None
        last: bytes | None = None
        for item in shards.read(shard, fetch(shard)):
            path = path_of(item)
            here = shards.raw(path)
            if here < low or (end is not None and here >= end) or (last is not None and here <= last):
                raise ManifestError(f"{path[:200]!r} is not where the manifest's shards could have it")
            last = here
            if path in gone:
                missed.discard(path)
            elif path in delta:
                replaced.add(path)
            else:
                entries[path] = entry_of(item, path, names, bundles, frames)
        low = end or b""
    if missed:
        raise ManifestError(f"{min(missed)[:200]!r} is said to be gone, but no shard has it")
    entries.update(delta)
    added = frozenset(delta.keys() - replaced)
    return entries, Sharding(draft.shards, frozenset(replaced), added, frozenset(gone))


def _check_tree(entries: Mapping[str, Entry], names: list[str]) -> None:
    """What stands above an entry must be a folder: a link there could lead its children out of the root."""
    for path in entries:
        parent = path.rpartition("/")[0]
        while parent and root_of(parent, names) is not None:
            above = entries.get(parent)
            if above is not None:
                if above.kind != "dir":
                    raise ManifestError(f"{path!r} lies under {parent!r}, which is a {above.kind}")
                break
            parent = parent.rpartition("/")[0]
