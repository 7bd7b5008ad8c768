"""Shipped paths that main deletes, and creates again: what of it the next snapshots say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.snapshot import stage as staging
from sidecar.snapshot.index import Index, Known
from sidecar.snapshot.manifest import FOLDER, PATH, Manifest, SnapshotId, fingerprint
from sidecar.sync.look import Look
from sidecar.sync.pack import unpack_failed
from tests.sync.rig import Rig

A, B = "a" * 64, "b" * 64


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(staging, "SETTLE_NS", 0)
    made = Rig(tmp_path / "rig")
    yield made
    made.close()


def brought(rig: Rig, **files: str) -> dict[str, str]:
    """Lay ``files`` into the root as an image would, and note them."""
    for name, content in files.items():
        (rig.root / name).parent.mkdir(parents=True, exist_ok=True)
        (rig.root / name).write_text(content)
    import hashlib

    hashes = {f"data/{n}": hashlib.sha256(c.encode()).hexdigest() for n, c in files.items()}
    rig.index.note_brought(hashes)
    return hashes


def test_a_shipped_path_that_main_deletes_gets_a_tombstone_until_it_is_back(rig: Rig) -> None:
    hashes = brought(rig, conf="A", other="O")
    rig.sync()
    assert (rig.manifest().shipped, rig.manifest().tombstones) == (hashes, {})
    (rig.root / "conf").unlink()
    (rig.root / "mine").write_text("m")
    rig.sync()
    assert rig.manifest().tombstones == {"data/conf": hashes["data/conf"]}
    assert rig.index.tombstones() == rig.manifest().tombstones
    (rig.root / "mine").unlink()
    rig.sync()
    assert rig.manifest().tombstones == {"data/conf": hashes["data/conf"]}, "only shipped paths have one"
    (rig.root / "conf").write_text("again")
    rig.sync()
    assert (rig.manifest().tombstones, rig.index.tombstones()) == ({}, {})
    assert rig.manifest().shipped == hashes


def test_deleted_before_any_snapshot_had_it(rig: Rig) -> None:
    """No row tells of it: an entrypoint removes a default in main's first second."""
    hashes = brought(rig, conf="A", other="O")
    (rig.root / "conf").unlink()
    (rig.root / "mine").write_text("m")
    rig.sync()
    assert rig.manifest().tombstones == {"data/conf": hashes["data/conf"]}
    assert rig.index.unlooked() is False
    (rig.root / "other").unlink()
    rig.sync()
    assert rig.manifest().tombstones == hashes


def test_what_only_is_not_seen_is_not_deleted(rig: Rig) -> None:
    brought(rig, conf="A", other="O")
    (rig.root / ".sidecarignore").write_text("conf\n")
    rig.sync()
    assert rig.manifest().entries.keys() >= {"data/other"}
    assert "data/conf" not in rig.manifest().entries
    assert rig.manifest().tombstones == {}


def test_a_root_that_is_gone_is_held_and_buries_nothing(rig: Rig) -> None:
    brought(rig, **{f"f{n}": str(n) for n in range(12)})
    rig.sync()
    shutil.rmtree(rig.root)
    rig.sync()
    assert rig.manifest().tombstones == {}
    assert len(rig.manifest().entries) >= 12


def test_a_commit_that_failed_buries_nothing(rig: Rig, tmp_path: Path) -> None:
    brought(rig, conf="A", other="O")
    rig.sync()
    (rig.root / "conf").unlink()
    survey = rig.look()
    package = rig.pack(survey, tmp_path)
    assert b'"tombstones":[{"path":"data/conf"' in package.put[PATH]  # type: ignore[operator]
    unpack_failed(rig.index)
    assert rig.index.tombstones() == {}


def test_what_was_brought_counts_until_a_snapshot_is_restored(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    odd = os.fsdecode(b"data/\xff")
    assert (index.brought(), index.unlooked()) == (None, False)
    index.note_brought({"data/a": A, odd: B})
    index.close()
    index = Index(tmp_path / "index.db")
    assert (index.brought(), index.unlooked()) == ({"data/a": A, odd: B}, True)
    assert index.shipped_among(["data/a", "data/b", odd]) == {"data/a": A, odd: B}
    made = Manifest(SnapshotId(1, 1), None, "me", 0.0, "i", "0", (), {}, {}, {"data/a": B}, {"data/t": A})
    index.replace(Known("store", made.snapshot, "r1"), made, {})
    assert (index.brought(), index.shipped(), index.tombstones()) == (None, {"data/a": B}, {"data/t": A})
    assert index.buried_among(["data/t", "data/a"]) == {"data/t": A}
    assert index.unlooked(), "main hasn't run yet"
    index.forget(index.shipped())
    assert (index.brought(), index.tombstones()) == ({"data/a": B}, {})
    index.forget()
    assert (index.brought(), index.shipped()) == (None, {})
    index.close()


def test_a_fingerprint_is_the_files_own_hash_and_no_kind_has_anothers() -> None:
    assert fingerprint("file", A, "") == A
    assert fingerprint("dir", "", "") == FOLDER
    links = {fingerprint("symlink", "", target) for target in ("a", "b", "\udcff")}
    assert len(links) == 3
    assert FOLDER not in links


def test_what_is_let_go_of_is_not_deleted(rig: Rig) -> None:
    brought(rig, conf="A", other="O")
    rig.sync()
    rig.surveyor.patterns = ("conf",)
    rig.sync(Look(forget="data/conf"))
    assert "data/conf" not in rig.manifest().entries
    assert rig.manifest().tombstones == {}
