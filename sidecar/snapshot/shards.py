"""Shards: a large manifest in parts that are named by their content, so that a small change writes little.

Each shard holds the entries of one range of paths, in the order of the paths' bytes. What has changed since stands in
the manifest itself (its *delta*) until so much has come together that a shard is *folded*: written anew.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import orjson
import zstandard

from sidecar.errors import ManifestError
from sidecar.snapshot.manifest import FORMAT, SHARDS, Shard
from sidecar.snapshot.parse import parsed

WHOLE = 2000
"""A manifest of no more entries is stored whole."""

TARGET = 2000
"""About so many entries make a shard; at most an eighth more, or less, so that it begins with a folder."""

SOFT, HARD = 512, 1500
"""Of a delta of more than ``SOFT`` entries a few shards are folded, of more than ``HARD`` as many as needed."""

FOLDS = 3
"""Shards folded in one commit for the delta's length alone. A shard takes about 100 KB, an entry of the delta 350 B."""

MAX_PLAIN = 64 * 1024 * 1024
LEVEL = 3

_T = TypeVar("_T")


def store_path(sha256: str) -> str:
    return f"{SHARDS}{sha256}"


def raw(path: str) -> bytes:
    """The bytes of ``path``, whose order is the order of the shards."""
    return path.encode("utf-8", "surrogateescape")


def write(documents: Sequence[dict[str, Any]], first: str) -> tuple[Shard, bytes]:
    """The shard of ``documents`` (entries as a manifest's JSON has them, in order), and its bytes."""
    plain = orjson.dumps({"format": FORMAT, "entries": documents})
    stored = zstandard.ZstdCompressor(level=LEVEL).compress(plain)
    return Shard(hashlib.sha256(stored).hexdigest(), len(stored), len(plain), len(documents), first), stored


def read(shard: Shard, stored: bytes) -> list[Any]:
    """The documents of a shard's bytes. ManifestError where they aren't what ``shard`` says of them."""
    name = f"shard {shard.sha256[:12]}… of the manifest"
    if len(stored) != shard.size or hashlib.sha256(stored).hexdigest() != shard.sha256:
        raise ManifestError(f"{name} has other bytes than the manifest says")
    try:
        # Its header is asked first: without this a few bytes could make us reserve gigabytes.
        size = zstandard.get_frame_parameters(stored).content_size
        if size != shard.plain or size > MAX_PLAIN:
            raise ManifestError(f"{name} unpacks to another size than the manifest says")
        plain = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ManifestError(f"{name} can't be unpacked: {error}") from None
    document = parsed(plain, name)
    entries = document.get("entries") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ManifestError(f"{name} holds no entries")
    if document.get("format") != FORMAT or isinstance(document["format"], bool):
        raise ManifestError(f"{name} has another format than the manifest")
    if len(entries) != shard.entries:
        raise ManifestError(f"{name} has {len(entries):,} entries where the manifest says {shard.entries:,}")
    return entries


def cut(items: Iterable[_T], path_of: Callable[[_T], bytes]) -> Iterator[list[_T]]:
    """``items``, in path order, as the pieces that become shards; not more than two pieces in memory."""
    held: list[_T] = []
    slack = TARGET // 8
    for item in items:
        held.append(item)
        if len(held) > TARGET + slack:
            paths = [path_of(held[i]) for i in range(TARGET - slack - 1, TARGET + slack + 1)]
            at = TARGET - slack + _border(paths)
            yield held[:at]
            del held[:at]
    if held:
        yield held


def _border(paths: Sequence[bytes]) -> int:
    """After how many of ``paths`` the next one begins the highest folder; best in the middle."""
    middle = len(paths) // 2

    def rank(i: int) -> tuple[int, int]:
        a, b = paths[i].split(b"/"), paths[i + 1].split(b"/")
        same = 0
        while same < min(len(a), len(b)) and a[same] == b[same]:
            same += 1
        return same, abs(i - middle)

    return min(range(len(paths) - 1), key=rank)


def plan(shards: Sequence[Shard], changed: Sequence[bytes], gone: Sequence[bytes]) -> list[tuple[int, int]]:
    """Which shards are folded, as ranges [low, high) of their places.

    ``changed`` are the paths of the delta's entries, ``gone`` those that only a shard has.
    """
    firsts = [raw(s.first) for s in shards]
    moved, lost = [0] * len(shards), [0] * len(shards)
    for path in changed:
        moved[max(bisect_right(firsts, path) - 1, 0)] += 1
    for path in gone:
        lost[max(bisect_right(firsts, path) - 1, 0)] += 1
    weight = [m + n for m, n in zip(moved, lost, strict=True)]
    chosen = {i for i, s in enumerate(shards) if weight[i] * 4 > s.entries}
    left = sum(weight) - sum(weight[i] for i in chosen)
    for i in sorted(range(len(shards)), key=lambda i: -weight[i]):
        if i in chosen:
            continue
        if left <= SOFT or (len(chosen) >= FOLDS and left <= HARD):
            break
        chosen.add(i)
        left -= weight[i]
    for i in sorted(chosen):
        if shards[i].entries - lost[i] + moved[i] < TARGET // 4:
            # What has shrunk joins a neighbour, or a history of deletions would leave nothing but crumbs.
            beside = [j for j in (i + 1, i - 1) if 0 <= j < len(shards) and shards[j].entries <= TARGET]
            chosen.update(beside[:1])
    return _runs(sorted(chosen))


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for n in numbers:
        if out and out[-1][1] == n:
            out[-1] = (out[-1][0], n + 1)
        else:
            out.append((n, n + 1))
    return out
