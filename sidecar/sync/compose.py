"""The manifest of the pending snapshot as the bytes of one commit: whole, or the parts of it that changed. Blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sidecar.errors import SidecarError
from sidecar.snapshot import codec, draft, shards
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import PATH, Manifest, Shard
from sidecar.stores.base import Source
from sidecar.sync.lists import Composed, Hashes, listed

Range = tuple[bytes, bytes | None]
"""From a path up to another one, or to the end."""

EVERYTHING: Range = (b"", None)


def compose(
    head: Manifest, index: Index, entries: int, folder: Path, hashes: Hashes | None = None, *, anew: bool = False
) -> Composed:
    """The manifest ``head`` with the ``entries`` that are pending in ``index``, which is told of its parts.

    Costs what changed, unless all is to be written ``anew``. Raises SidecarError where there are too many entries.
    """
    if entries >= draft.MAX_ENTRIES:
        raise SidecarError(
            f"the roots hold {entries:,} files and folders, and a snapshot holds fewer than {draft.MAX_ENTRIES:,}:"
            " nothing more is durable until SIDECAR_EXCLUDE leaves some out or SIDECAR_PATHS names less"
        )
    before = index.shards()
    head, lists = listed(head, index, hashes, anew=anew)
    if entries <= shards.WHOLE:
        raw = codec.compose(head, [codec.document_of(*row) for row in index.coming()])
        index.reshard((), (), head.hashed)
        return lists.joined({PATH: raw}, before, ())
    rows: list[tuple[Any, ...]] = []
    gone: list[bytes] = []
    runs = [(0, len(before))]
    if before and not anew:
        rows, gone = index.coming_delta()
        runs = shards.plan(before, [row[0] for row in rows], gone)
        if sum(s.entries for s in before) >= draft.MAX_ENTRIES:
            runs = [(0, len(before))]
    ranges = [_range(before, *run) for run in runs] if before else [EVERYTHING]
    parts, put = _fold(before, runs, ranges, index, folder, anew)
    rows = [row for row in rows if not _within(row[0], ranges)]
    left = [path.decode("utf-8", "surrogateescape") for path in gone if not _within(path, ranges)]
    put[PATH] = codec.compose(head, [codec.document_of(*row) for row in rows], left, parts)
    index.reshard(parts, ranges, head.hashed)
    return lists.joined(put, before, parts)


def _range(parts: Sequence[Shard], low: int, high: int) -> Range:
    # The first shard covers from the start, whatever its first path.
    return shards.raw(parts[low].first) if low else b"", shards.raw(parts[high].first) if high < len(parts) else None


def _within(path: bytes, ranges: Sequence[Range]) -> bool:
    return any(low <= path and (high is None or path < high) for low, high in ranges)


def _fold(
    before: Sequence[Shard],
    runs: Sequence[tuple[int, int]],
    ranges: Sequence[Range],
    index: Index,
    folder: Path,
    anew: bool,
) -> tuple[list[Shard], dict[str, Source]]:
    """All parts as they are once the ``runs`` of them are written anew, and the bytes of those."""
    known = {s.sha256 for s in before} if not anew else set()
    parts: list[Shard] = []
    put: dict[str, Source] = {}
    done = 0
    for (low, high), within in zip(runs, ranges, strict=True):
        parts.extend(before[done:low])
        for shard, stored in _written(index, within):
            parts.append(shard)
            if shard.sha256 not in known:
                at = folder / f"shard-{len(parts)}"
                at.write_bytes(stored)
                put[shards.store_path(shard.sha256)] = at
        done = high
    parts.extend(before[done:])
    return parts, put


def _written(index: Index, within: Range) -> Iterator[tuple[Shard, bytes]]:
    for rows in shards.cut(index.coming(*within), lambda row: bytes(row[0])):
        first = rows[0][0].decode("utf-8", "surrogateescape")
        yield shards.write([codec.document_of(*row) for row in rows], first)
