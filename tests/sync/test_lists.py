"""What was shipped and what was deleted of it, in parts: read back it is the same, and a small change puts little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import ManifestError
from sidecar.snapshot import codec, shards
from sidecar.snapshot.index import Index, Known
from sidecar.snapshot.manifest import PATH, SHARDS, Manifest, RootRecord, SnapshotId
from sidecar.sync import lists
from sidecar.sync.compose import compose
from sidecar.sync.lists import Hashes
from tests.sync.test_compose import ROOTS

SHA = "ab" * 32
SHIPPED = {f"data/{n:05}": f"{n:064x}" for n in range(20_000)}


class World:
    def __init__(self, base: Path) -> None:
        self.base, self.number = base, 0
        self.store: dict[str, bytes] = {}
        self.put: dict[str, bytes] = {}
        self.index = Index(base / "index.db")

    def commit(self, buried: dict[str, str], risen: set[str], *, anew: bool = False) -> None:
        self.number += 1
        number = SnapshotId(1, self.number)
        self.index.begin(number, [], [], {}, ROOTS, buried=buried, risen=risen)
        head = Manifest(number, None, "", 0.0, "", "", ROOTS, {})
        made = compose(head, self.index, 0, self.base, Hashes(buried, risen), anew=anew)
        self.put = {p: s for p, s in made.put.items() if isinstance(s, bytes)}
        self.store.update(self.put)
        for path in made.delete:
            del self.store[path]
        self.index.promote("store", f"r{self.number}")
        assert set(self.store) == {PATH, *made.parts}

    def read(self) -> Manifest:
        return codec.decode(self.store[PATH], {p[len(SHARDS) :]: raw for p, raw in self.store.items() if p != PATH})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.index.close()


def test_a_long_list_is_put_once(world: World) -> None:
    world.index.note_brought(SHIPPED)
    world.commit({}, set())
    assert sum(map(len, world.put.values())) > 50_000
    assert world.read().shipped == SHIPPED
    world.commit({"data/00001": SHIPPED["data/00001"]}, set())
    assert set(world.put) == {PATH}
    assert len(world.put[PATH]) < 10_000
    assert (world.read().shipped, world.read().tombstones) == (SHIPPED, {"data/00001": SHIPPED["data/00001"]})
    world.commit({}, {"data/00001"})
    assert world.read().tombstones == {}


def test_a_change_of_a_long_list_puts_a_part_of_it(world: World) -> None:
    world.commit(SHIPPED, set())
    assert len(world.put) > 10
    world.commit({"data/new": SHA}, {"data/01234"})
    assert len(world.put) <= 3
    expected = {p: s for p, s in SHIPPED.items() if p != "data/01234"} | {"data/new": SHA}
    assert world.read().tombstones == expected
    world.commit({}, set())
    assert set(world.put) == {PATH}
    world.commit({}, set(), anew=True)
    assert set(world.put) == set(world.store), "an edited store gets all of it"
    assert world.read().tombstones == expected
    world.commit({}, set(expected) - {"data/new"})
    assert set(world.store) == {PATH}
    assert world.read().tombstones == {"data/new": SHA}


def test_after_a_restore_the_list_is_compared_with_what_the_store_has(world: World) -> None:
    world.index.note_brought(SHIPPED)
    world.commit({}, set())
    manifest = world.read()
    world.index.replace(Known("store", manifest.snapshot, "r1"), manifest, {})
    world.commit({}, set())
    assert set(world.put) == {PATH}
    newer = {**SHIPPED, "data/00007": SHA}  # another image has another default
    world.index.replace(Known("store", manifest.snapshot, "r2"), replace(world.read(), shipped=newer), {})
    world.commit({}, set())
    assert len(world.put) == 2
    assert world.read().shipped == newer


paths = st.sampled_from([f"data/{n}" for n in range(40)] + ["data/\udcff"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.dictionaries(paths, st.just(SHA), max_size=8), st.sets(paths, max_size=5)), max_size=8))
def test_any_history_reads_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[dict[str, str], set[str]]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "INLINE", 4)
        patch.setattr(lists, "_ENDS", 3)
        world = World(tmp_path_factory.mktemp("lists"))
        expected: dict[str, str] = {}
        for buried, risen in steps:
            world.commit(buried, risen - buried.keys())
            expected = {p: s for p, s in {**expected, **buried}.items() if p not in risen - buried.keys()}
            assert world.read().tombstones == expected == world.index.tombstones()
        world.index.close()


def test_a_part_that_lies_is_refused() -> None:
    head = Manifest(SnapshotId(1, 1), None, "", 0.0, "", "", (RootRecord("data", "/data"),), {})
    shard, raw = shards.write(codec.hash_documents({"data/a": SHA}), "data/a")
    good = codec.compose(replace(head, hashed={"shipped": (shard,)}), [])
    assert codec.decode(good, {shard.sha256: raw}).shipped == {"data/a": SHA}
    twice = codec.compose(replace(head, shipped={"data/a": SHA}, hashed={"shipped": (shard,)}), [])
    for document, stored in ((good, {}), (good, {shard.sha256: raw[:-1]}), (twice, {shard.sha256: raw})):
        with pytest.raises(ManifestError):
            codec.decode(document, stored)
