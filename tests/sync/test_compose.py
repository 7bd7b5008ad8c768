"""Whatever changes and whatever fails: what the store's bytes say is what the index says, and it counts right."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.errors import SidecarError
from sidecar.snapshot import codec, draft, shards
from sidecar.snapshot import index as indexing
from sidecar.snapshot import tally as counting
from sidecar.snapshot.index import Index, Known, Row
from sidecar.snapshot.manifest import PATH, SHARDS, Entry, Frame, Manifest, RootRecord, SnapshotId
from sidecar.snapshot.tally import Bundle, Tally
from sidecar.sync.compose import compose
from tests.snapshot.disk import FAST

ROOTS = (RootRecord("data", "/data"), RootRecord("data2", "/data2"))


@dataclass
class World:
    """An index, and what a store holds of its commits."""

    base: Path
    store: dict[str, bytes] = field(default_factory=dict)
    number: int = 0
    put: int = 0  # bytes that the last commit put for its manifest

    def __post_init__(self) -> None:
        self.index = Index(self.base / "index.db")

    def reopen(self) -> None:
        self.index.close()
        self.index = Index(self.base / "index.db")

    def commit(
        self, rows: list[Row], gone: set[str], bundles: dict[str, Bundle], *, anew: bool = False, fails: bool = False
    ) -> None:
        self.number += 1
        number = SnapshotId(1, self.number)
        coming = self.index.begin(number, rows, gone, bundles, ROOTS)
        sizes = {sha: b.size for sha, b in coming.bundles.items()}
        packed = {sha: b.packed for sha, b in coming.bundles.items()}
        head = Manifest(number, None, "", 0.0, "", "", ROOTS, {}, sizes, packed=packed)
        with TemporaryDirectory(dir=self.base) as folder:
            made = compose(head, self.index, coming.entries, Path(folder), anew=anew)
            put = {path: s if isinstance(s, bytes) else s.read_bytes() for path, s in made.put.items()}
        self.put = sum(map(len, put.values()))
        assert not put.keys() & set(made.delete)
        if fails:
            return
        self.store.update(put)
        for path in made.delete:
            del self.store[path]
        self.index.promote("store", f"r{self.number}")

    def read(self) -> Manifest:
        stored = {path[len(SHARDS) :]: raw for path, raw in self.store.items() if path.startswith(SHARDS)}
        return codec.decode(self.store[PATH], stored)

    def restored(self) -> None:
        """As a fresh machine has it after a restore."""
        manifest = self.read()
        self.index.replace(Known("store", manifest.snapshot, f"r{self.number}"), manifest, {})

    def check(self) -> None:
        manifest = self.read()
        rows = {r.entry.path: r.entry for r in self.index.rows()}
        touched = {p for p, e in rows.items() if e.flag}
        assert {p: replace(e, flag="") for p, e in rows.items()} == {
            p: replace(e, flag="") for p, e in manifest.entries.items()
        }
        assert touched >= {p for p, e in manifest.entries.items() if e.flag}
        assert self.index.shards() == (manifest.sharding.shards if manifest.sharding else ())
        held = {path[len(SHARDS) :] for path in self.store if path.startswith(SHARDS)}
        assert held == {s.sha256 for s in self.index.shards()}, "and no part is left behind"
        if manifest.sharding is not None and self.index.pending() is None:
            differing, gone = self.index.coming_delta()
            paths = {os.fsdecode(row[0]) for row in differing}
            assert paths - touched == (manifest.sharding.replaced | manifest.sharding.added) - touched
            assert {os.fsdecode(path) for path in gone} == manifest.sharding.gone
        tally = self.index.tally()
        assert tally == recount(self.index, tally)
        assert self.index.bundles() == dict(manifest.bundles)


def recount(index: Index, tally: Tally) -> Tally:
    empty = Tally(0, {r.name: (0, 0) for r in ROOTS}, {s: Bundle(b.size, b.packed) for s, b in tally.bundles.items()})
    return empty.moved((), [counting.counted(r.entry) for r in index.rows()])


names = st.one_of(
    st.builds("{}/{}".format, st.sampled_from(["data", "data2", "data/d"]), st.integers(0, 9)),
    st.sampled_from(["data/\udcff", "data/d/\udcfe\n", "data/é"]),
)
kinds = st.sampled_from([None, None, "file", "file", "bundled", "dir", "symlink"])
steps = st.lists(
    st.tuples(
        st.dictionaries(names, kinds, max_size=4),
        st.sampled_from(["commit", "commit", "commit", "commit", "anew", "fail", "restore", "touch", "reopen"]),
    ),
    min_size=1,
    max_size=16,
)
BEFORE = [Row(Entry(f"data{a}/{n}", "file", 0o644, 0, 0, 0, 9, "ab" * 32)) for a in ("", "2") for n in range(10)]


FEW = [row.entry.path for row in BEFORE[2:]]


def entry(path: str, kind: str, number: int, bundle: str) -> Entry:
    if kind == "symlink":
        return Entry(path, "symlink", 0o777, 0, 0, number, target=f"t{number}")
    if kind == "dir":
        return Entry(path, "dir", 0o755, 0, 0, number)
    frame = Frame(bundle, 0, 7) if kind == "bundled" else None
    return Entry(path, "file", 0o644, 0, 0, number, number, f"{number:064x}", frame=frame)


@settings(max_examples=40, deadline=None)
@given(steps)
@example([({"data/0": None}, "commit"), ({"data/0": "file"}, "commit"), ({}, "restore"), ({}, "commit")])
@example([({"data/0": "file"}, "touch"), ({"data/1": None}, "commit"), ({}, "commit")])
@example([(dict.fromkeys(FEW), "commit"), ({"data/0": "file"}, "commit"), (dict.fromkeys(FEW, "file"), "commit")])
def test_any_history_reads_back_as_the_index_has_it(history: list[tuple[dict[str, Any], str]]) -> None:
    with TemporaryDirectory(dir=FAST) as name, pytest.MonkeyPatch.context() as patch:
        for key, value in {"WHOLE": 4, "TARGET": 8, "SOFT": 4, "HARD": 8, "FOLDS": 1}.items():
            patch.setattr(shards, key, value)
        patch.setattr(indexing, "PAGE", 3)
        world = World(Path(name))
        world.commit(BEFORE, set(), {})
        model = {row.entry.path: row.entry for row in BEFORE}
        try:
            for number, (step, how) in enumerate(history, 1):
                bundle = f"{number:064x}"
                puts = {p: entry(p, kind, number, bundle) for p, kind in step.items() if kind is not None}
                inside = [e for e in puts.values() if e.frame is not None]
                new = {bundle: Bundle(100, sum(e.size for e in inside))} if inside else {}
                gone = {p for p, kind in step.items() if kind is None}
                if how == "touch":
                    seen = [r for r in world.index.rows() if r.entry.path in step]
                    world.index.touch(replace(r, entry=replace(r.entry, flag="unreadable")) for r in seen)
                elif how == "restore":
                    world.restored()
                elif how == "reopen":
                    world.reopen()
                else:
                    rows = [Row(e) for e in puts.values()]
                    world.commit(rows, gone, new, anew=how == "anew", fails=how == "fail")
                    if how != "fail":
                        model = {p: e for p, e in model.items() if p not in gone} | puts
                        read = world.read().entries
                        assert {p: replace(e, flag="") for p, e in read.items()} == model
                        assert read == {r.entry.path: r.entry for r in world.index.rows()}
                world.check()
        finally:
            world.index.close()


def bundled(path: str, number: int) -> Row:
    """An entry as long as they get in real life: hashes that don't compress, and a place in a bundle."""
    sha = hashlib.sha256(f"{path}{number}".encode()).hexdigest()
    odd = int(sha[:12], 16)
    shape = (0o644, 1000, 1000, 1_790_000_000_000_000_000 + odd % 10**9, odd % 10**5)
    return Row(Entry(path, "file", *shape, sha, frame=Frame("cd" * 32, odd % (1 << 26), 1 + odd % (1 << 18))))


def test_ten_changes_in_a_hundred_thousand_entries_never_put_a_megabyte(tmp_path: Path) -> None:
    """All over the tree, so that no shard is spared, also after a commit of many changes."""
    pick = random.Random(3)
    world = World(tmp_path)
    # The most that one commit puts of a tree is asked for here, not the time that a disk takes.
    world.index._db.execute("PRAGMA synchronous=OFF")
    paths = [f"data/some folder {n // 1000:03}/a file of a usual name {n:06}.json" for n in range(100_000)]
    world.commit([bundled(p, 0) for p in paths], set(), {"cd" * 32: Bundle(1 << 30, 1 << 30)})
    most = 0
    # After a commit of many changes the delta is as long as it may be, and is folded in with the next ones.
    for number, many in enumerate([5000, *[10] * 30], 1):
        chosen = pick.sample(paths, many)
        gone = set(chosen[:2]) if number % 7 == 0 else set()
        added = [f"{p}.new" for p in chosen[2:4]]
        world.commit([bundled(p, number) for p in {*chosen, *added} - gone], gone, {})
        most = max(most, world.put if many == 10 else 0)
    assert 500_000 < most < 1_000_000, most
    world.index.close()


def test_too_many_entries_are_said_plainly_and_nothing_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft, "MAX_ENTRIES", 21)
    world = World(tmp_path)
    world.commit(BEFORE, set(), {})
    with pytest.raises(SidecarError, match="fewer than 21: nothing more is durable until SIDECAR_EXCLUDE"):
        world.commit([Row(entry("data/x", "dir", 1, ""))], set(), {})
    world.index.discard()
    assert len(world.read().entries) == 20
    world.index.close()
