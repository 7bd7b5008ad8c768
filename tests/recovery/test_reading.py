"""A manifest in parts, in a real store: read, missed, damaged, restored and gone on from."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.errors import ManifestError
from sidecar.recovery import journal, origin
from sidecar.recovery.reading import read_manifest
from sidecar.recovery.redo import Journal
from sidecar.recovery.trouble import Damaged
from sidecar.snapshot import shards
from sidecar.snapshot import stage as staging
from sidecar.snapshot.index import Known
from sidecar.snapshot.manifest import PATH, SHARDS, SnapshotId
from sidecar.stores.folder import FolderStore
from sidecar.sync import lists
from tests.recovery.world import picture
from tests.sync.rig import Rig


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Two snapshots, both in several shards, with a delta and what is gone; and a list of what was shipped."""
    monkeypatch.setattr(staging, "SETTLE_NS", 0)
    for key, value in {"WHOLE": 5, "TARGET": 8}.items():
        monkeypatch.setattr(shards, key, value)
    monkeypatch.setattr(lists, "INLINE", 3)
    made = Rig(tmp_path / "rig")
    for n in range(30):
        (made.root / f"{n:02}").write_text(str(n))
    made.index.note_brought({f"data/{n:02}": "ab" * 32 for n in range(9)})
    made.sync()
    (made.root / "07").write_text("changed")
    (made.root / "08").unlink()
    (made.root / "new").write_text("new")
    made.sync()
    yield made
    made.close()


def parts(rig: Rig) -> list[str]:
    return [path for path in rig.listing() if path.startswith(SHARDS)]


def by_hand(rig: Rig, put: dict[str, bytes], delete: list[str]) -> str:
    return rig.with_store(lambda store: store.commit(rig.head, put, delete, "sidecar: snapshot 1.3"))


def test_read_and_restored(rig: Rig) -> None:
    m = rig.manifest()
    assert m.sharding is not None
    assert len(m.sharding.shards) > 2
    assert m.sharding.added == {"data/new"}
    assert m.sharding.gone == {"data/08"}
    assert "data/07" in m.sharding.replaced
    assert len(m.shipped) == 9
    assert set(m.hashed) == {"shipped"}
    assert picture(rig.restored()) == picture(rig.root)


def test_a_part_that_is_missing_or_another_is_damage_and_named(rig: Rig, tmp_path: Path) -> None:
    victim = parts(rig)[0]
    cases: list[tuple[dict[str, bytes], list[str], str]] = [
        ({}, [victim], "not in the store"),
        ({victim: b"x"}, [], "bytes"),
    ]
    for put, delete, why in cases:
        rig.head = by_hand(rig, put, delete)
        with pytest.raises(ManifestError, match=why) as refused:
            rig.manifest()
        assert refused.value.damage
        assert victim[len(SHARDS) :][:12] in refused.value.message
    words = rig.with_store(lambda store: origin.way_out(store, Damaged(PATH, "1.3", ""), tmp_path))
    assert "SIDECAR_REVISION=1.2" in words


def test_a_disk_that_was_restored_goes_on_with_the_parts_that_there_are(rig: Rig) -> None:
    before = set(parts(rig))
    m = rig.manifest()
    stats = {r.entry.path: r.stat for r in rig.index.rows() if r.stat is not None}
    rig.index.replace(Known("test-store", m.snapshot, rig.head or ""), m, stats)
    (rig.root / "new").write_text("newer")
    rig.sync()
    assert set(parts(rig)) == before, "nothing was folded, put again or left behind"
    assert picture(rig.restored()) == picture(rig.root)
    for n in range(30):
        (rig.root / f"{n:02}").write_text("all of them")
    rig.sync()
    m = rig.manifest()
    assert m.sharding is not None
    named = {shards.store_path(s.sha256) for s in (*m.sharding.shards, *m.hashed["shipped"])}
    assert set(parts(rig)) == named


def test_a_restore_that_is_finished_from_its_journal_knows_the_parts(rig: Rig, tmp_path: Path) -> None:
    m = rig.manifest()
    journal.write(tmp_path, Journal("test-store", str(m.snapshot), rig.head or "", "i", True, None, (), ()), m)
    assert journal.finish_journal(tmp_path, rig.index) is not None
    assert m.sharding is not None
    assert rig.index.shards() == m.sharding.shards
    assert rig.index.hashed() == m.hashed
    rig.index.begin(SnapshotId(1, 9), [], [], {}, m.roots)
    rows, gone = rig.index.coming_delta()
    assert {row[0].decode() for row in rows} == m.sharding.added | m.sharding.replaced
    assert {path.decode() for path in gone} == m.sharding.gone


def test_a_revision_that_is_no_more_is_not_called_damaged(rig: Rig, tmp_path: Path) -> None:
    async def read() -> None:
        store = FolderStore(rig.base / "store")
        try:
            await read_manifest(store, "ab" * 32, tmp_path)
        finally:
            await store.close()

    with pytest.raises(Exception, match="no revision"):
        asyncio.run(read())
