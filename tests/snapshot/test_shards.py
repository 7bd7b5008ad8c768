"""Manifests in parts: read back they are the whole ones, and a part that lies is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import ManifestError
from sidecar.snapshot import codec, draft, shards
from sidecar.snapshot.manifest import Entry, Frame, Manifest, RootRecord, Shard, SnapshotId
from tests.snapshot.shapes import manifests

SHA, BUNDLE, DEAD = "ab" * 32, "cd" * 32, "ef" * 32
Stored = dict[str, bytes]


def parted(pieces: Iterable[list[Entry]]) -> tuple[list[Shard], Stored]:
    parts, stored = [], {}
    for piece in pieces:
        shard, raw = shards.write([codec.document(e) for e in piece], piece[0].path)
        parts.append(shard)
        stored[shard.sha256] = raw
    return parts, stored


def by_bytes(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: shards.raw(e.path))


@given(manifests(), st.data())
def test_read_back_in_parts_it_is_what_it_was(manifest: Manifest, data: st.DataObject) -> None:
    """Some entries only in the delta, some there and otherwise in a shard, some only in a shard."""
    before: list[Entry] = []
    delta: list[Entry] = []
    gone: list[str] = []
    for e in by_bytes(manifest.entries.values()):
        where = data.draw(st.sampled_from(["shard", "shard", "added", "replaced"]))
        if where != "shard":
            delta.append(e)
        if where == "replaced":  # whatever it was: its bundle may be dead by now
            before.append(replace(e, kind="file", sha256=SHA, target="", frame=Frame(DEAD, 0, 9), flag=""))
        elif where == "shard":
            before.append(e)
    for e in by_bytes(manifest.entries.values()):
        path = e.path + "~"
        if data.draw(st.booleans()) and path not in manifest.entries:
            before.append(replace(e, path=path, frame=None))
            gone.append(path)
    before = by_bytes(before)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(before) - 1, 1)), max_size=3)))
    pieces = [piece for a, b in pairwise([0, *cuts, len(before)]) if (piece := before[a:b])]
    parts, stored = parted(pieces)
    if not parts:
        return
    raw = codec.compose(manifest, [codec.document(e) for e in delta], gone, parts)
    again = codec.decode(raw, stored)
    assert again == manifest
    assert again.sharding is not None
    assert again.sharding.shards == tuple(parts)
    assert again.sharding.gone == set(gone)
    was = {e.path for e in before}
    assert again.sharding.replaced == {e.path for e in delta if e.path in was}
    assert again.sharding.added == {e.path for e in delta if e.path not in was}


# Lies


def file(path: str, **more: Any) -> Entry:
    return Entry(path, "file", 0o644, 0, 0, 0, 3, SHA, **more)


HEAD = Manifest(
    SnapshotId(7, 113), "7.112", "me/space", 1.5, "i-1", "0.1", (RootRecord("data", "/data"),), {}, {BUNDLE: 100}
)


def world() -> tuple[dict[str, Any], Stored]:
    parts, stored = parted(
        [[file("data/a"), file("data/b")], [file("data/m"), file("data/n", frame=Frame(DEAD, 0, 9))]]
    )
    raw = codec.compose(HEAD, [codec.document(file("data/n"))], ["data/b"], parts)
    return json.loads(raw), stored


def read(document: dict[str, Any], stored: Stored) -> Manifest:
    return codec.decode(json.dumps(document).encode(), stored)


def test_the_world_of_the_lies_is_good() -> None:
    document, stored = world()
    assert document["requires"] == ["bundles", "shards"]
    assert set(read(document, stored).entries) == {"data/a", "data/m", "data/n"}


def part(number: int, **values: Any) -> Callable[[dict[str, Any], Stored], Any]:
    return lambda d, stored: d["shards"][number].update(values)


def holding(number: int, documents: list[Any], **lie: Any) -> Callable[[dict[str, Any], Stored], Any]:
    """The shard holds other documents, and the manifest is right about it but for ``lie``."""

    def change(d: dict[str, Any], stored: Stored) -> None:
        shard, raw = shards.write(documents, "")
        stored[shard.sha256] = raw
        found = {"sha256": shard.sha256, "size": shard.size, "plain": shard.plain, "entries": shard.entries}
        d["shards"][number].update({**found, **lie})

    return change


def bytes_of(number: int, make: Callable[[bytes], bytes], plain: int | None = None) -> Callable[[Any, Stored], Any]:
    def change(d: dict[str, Any], stored: Stored) -> None:
        item = d["shards"][number]
        raw = make(stored[item["sha256"]])
        item.update(sha256=hashlib.sha256(raw).hexdigest(), size=len(raw))
        item.update({"plain": plain} if plain is not None else {})
        stored[item["sha256"]] = raw

    return change


def packed(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(plain)


ODD = {"format": 2, "entries": [1, 2]}
DOC = [codec.document(file(p)) for p in ("data/a", "data/b")]

LIES: dict[str, tuple[Callable[[dict[str, Any], Stored], Any], str]] = {
    "not in the store": (lambda d, s: s.clear(), "missing"),
    "other bytes": (lambda d, s: s.update({k: v[:-1] + b"x" for k, v in s.items()}), "other bytes"),
    "a byte too many": (lambda d, s: s.update({k: v + b"x" for k, v in s.items()}), "other bytes"),
    "something behind the frame": (bytes_of(0, lambda raw: raw + b"x"), "unpacked"),
    "size": (part(0, size=1), "other bytes"),
    "plain size": (part(0, plain=1), "another size"),
    "plain size beyond measure": (part(0, plain=1 << 40), "unread"),
    "a bomb": (bytes_of(0, lambda raw: packed(bytes(50_000_000))), "another size"),
    "a bomb of a stated size": (bytes_of(0, lambda raw: packed(bytes(65_000_000)), 65_000_000), "no JSON"),
    "count": (part(0, entries=3), "entries"),
    "count beyond measure": (part(0, entries=1_000_000), "1,000,000"),
    "no zstd": (bytes_of(0, lambda raw: b"{}"), "unpacked"),
    "no JSON": (bytes_of(0, lambda raw: packed(b"{"), 1), "no JSON"),
    "no object": (bytes_of(0, lambda raw: packed(b"[]"), 2), "holds no entries"),
    "no list": (bytes_of(0, lambda raw: packed(b'{"format":1,"entries":{}}'), 25), "holds no entries"),
    "another format": (bytes_of(0, lambda raw: packed(b'{"format":2,"entries":[]}'), 25), "format"),
    "out of order": (holding(0, DOC[::-1]), "data/a"),
    "twice in a shard": (holding(0, [DOC[0], DOC[0], DOC[1]]), "data/a"),
    "twice in two shards": (holding(1, [DOC[0]]), "data/a"),
    "beyond its end": (holding(0, [*DOC, codec.document(file("data/mm"))]), "data/mm"),
    "an entry that is a list": (holding(0, [[], DOC[1]]), "no object"),
    "an entry that goes up": (holding(0, [codec.document(file("data/../x")), DOC[1]]), "data/../x"),
    "an entry of a dead bundle": (
        holding(0, [codec.document(file("data/a", frame=Frame(DEAD, 0, 9))), DOC[1]]),
        "data/a",
    ),
    "an entry below a file": (holding(0, [DOC[0], codec.document(file("data/a/c")), DOC[1]]), "data/a/c"),
    "below a link of the delta": (
        lambda d, s: (
            d["entries"].append(codec.document(Entry("data/m", "symlink", 0o777, 0, 0, 0, target="/")))
            or holding(1, [codec.document(file(p)) for p in ("data/m", "data/m/x", "data/n")])(d, s)
        ),
        "data/m/x",
    ),
    "shards out of order": (lambda d, s: d["shards"].reverse(), "out of order"),
    "a shard twice": (lambda d, s: d["shards"][1].update(sha256=d["shards"][0]["sha256"]), "twice"),
    "a shard that is a word": (lambda d, s: d.update(shards=["ab"]), "shard"),
    "a shard with a path as name": (part(0, sha256="../x"), "shard"),
    "a shard of negative size": (part(0, size=-1), "shard"),
    "a shard of so many entries as true": (part(0, entries=True), "shard"),
    "a shard that begins nowhere": (part(1, first=None), "first"),
    "shards that are an object": (lambda d, s: d.update(shards={}), "shards"),
    "gone that never was": (lambda d, s: d["gone"].append({"path": "data/c"}), "data/c"),
    "gone twice": (lambda d, s: d["gone"].append({"path": "data/b"}), "data/b"),
    "gone and there": (lambda d, s: d["gone"].append({"path": "data/n"}), "data/n"),
    "gone without a path": (lambda d, s: d["gone"].append([]), "gone"),
    "gone in words": (lambda d, s: d.update(gone="data/b"), "gone"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_and_named(name: str) -> None:
    document, stored = world()
    change, culprit = LIES[name]
    change(document, stored)
    with pytest.raises(ManifestError) as refused:
        read(document, stored)
    assert culprit in refused.value.message
    assert refused.value.damage


def test_a_whole_manifest_of_too_many_entries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft, "MAX_ENTRIES", 4)
    three = replace(HEAD, entries={p: file(p) for p in ("data/a", "data/b", "data/c")})
    assert len(codec.decode(codec.encode(three)).entries) == 3
    with pytest.raises(ManifestError, match="fewer than 4"):
        codec.decode(codec.encode(replace(HEAD, entries={**three.entries, "data/d": file("data/d")})))


# Cutting and folding


def test_cut_where_a_folder_begins() -> None:
    paths = [b"data/%02d/%04d" % (folder, n) for folder in range(40) for n in range(300)]
    pieces = list(shards.cut(paths, bytes))
    assert [p for piece in pieces for p in piece] == paths
    assert all(len(piece) % 300 == 0 for piece in pieces)
    assert all(abs(len(piece) - shards.TARGET) <= shards.TARGET // 8 for piece in pieces[:-1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 20_000), unique=True, max_size=50), st.integers(0, 8000))
def test_cut_loses_nothing(odd: list[int], count: int) -> None:
    paths = sorted({b"%05d" % n for n in range(count)} | {b"%05d/x" % n for n in odd})
    pieces = list(shards.cut(paths, bytes))
    assert [p for piece in pieces for p in piece] == paths
    assert all(0 < len(piece) <= shards.TARGET * 9 // 8 + 1 for piece in pieces)


def of(*entries: int) -> list[Shard]:
    return [Shard(f"{i:064}", 1, 1, n, f"{i:03}") for i, n in enumerate(entries)]


def paths_in(counts: dict[int, int]) -> list[bytes]:
    return sorted(b"%03d/%05d" % (i, n) for i, count in counts.items() for n in range(count))


PLANS = [
    (of(2000, 2000), {0: 500}, {}, []),  # a quarter is not more than a quarter
    (of(2000, 2000), {0: 501}, {}, [(0, 1)]),
    (of(2000, 2000), {1: 300}, {1: 201}, [(1, 2)]),  # what is gone counts as well
    (of(*[2000] * 50), dict.fromkeys(range(50), 10), {}, []),
    (of(*[2000] * 50), {**dict.fromkeys(range(50), 10), 7: 23}, {}, [(7, 8)]),
    (of(*[2000] * 50), dict.fromkeys(range(50), 20), {}, [(0, 3)]),  # no more than three
    (of(2000, 2000, 2000), {}, {1: 1600}, [(1, 3)]),  # a crumb joins its neighbour
    (of(2000, 2000), {}, {1: 2000}, [(0, 2)]),
    (of(2000), {}, {0: 1600}, [(0, 1)]),
]


@pytest.mark.parametrize(("parts", "changed", "gone", "expected"), PLANS)
def test_what_is_folded(parts: list[Shard], changed: Any, gone: Any, expected: list[tuple[int, int]]) -> None:
    assert shards.plan(parts, paths_in(changed), paths_in(gone)) == expected


@given(st.dictionaries(st.integers(0, 49), st.integers(1, 400)))
def test_what_is_left_of_a_delta_is_never_long(counts: dict[int, int]) -> None:
    runs = shards.plan(of(*[2000] * 50), paths_in(counts), [])
    folded = {i for low, high in runs for i in range(low, high)}
    left = sum(n for i, n in counts.items() if i not in folded)
    assert left <= shards.HARD
    assert left <= shards.SOFT or len(folded) >= shards.FOLDS
