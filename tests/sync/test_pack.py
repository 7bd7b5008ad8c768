"""From what a look found to one commit, and back: whatever was done to a disk, every snapshot restores to it."""

from __future__ import annotations

import os
import sqlite3
import stat as st
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as hs

from sidecar.snapshot import bundle, codec
from sidecar.snapshot import stage as staging
from sidecar.snapshot.manifest import PATH
from sidecar.sync import plan
from sidecar.sync.look import Look
from sidecar.sync.pack import unpack_failed
from tests.recovery.world import picture
from tests.snapshot.disk import FAST, edit
from tests.sync.rig import Rig


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "rig"


@pytest.fixture
def rig(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(staging, "SETTLE_NS", 0)
    made = Rig(base)
    yield made
    made.close()


def fill(root: Path, *names: str) -> None:
    for name in names:
        at = root / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(name)


def test_small_roots_are_mirrored_under_their_own_names(rig: Rig) -> None:
    fill(rig.root, "a", "d/ä b")
    rig.sync()
    assert rig.listing() == {"data/a": 1, "data/d/ä b": 6, PATH: rig.listing()[PATH]}


def test_the_manifest_says_who_and_what_came_before(rig: Rig) -> None:
    fill(rig.root, "a")
    rig.sync()
    assert (rig.manifest().parent, rig.manifest().bundles) == (None, {})
    fill(rig.root, "b")
    rig.sync()
    m = rig.manifest()
    assert (str(m.snapshot), m.parent, m.space, m.instance, m.version) == ("1.2", "1.1", "local", "test", "0")


def test_names_that_no_store_takes_travel_in_a_bundle(rig: Rig) -> None:
    odd = [".gitignore", "repo/.git/config", "d/.gitattributes", "\udcff\udcfe", "new\nline", "x" * 255, "back\\slash"]
    fill(rig.root, "plain")
    for name in odd:
        (rig.root / name).parent.mkdir(parents=True, exist_ok=True)
        (rig.root / name).write_bytes(os.fsencode(name))
    rig.sync()
    assert rig.mirrored() == {"data/plain"}
    assert picture(rig.restored()) == picture(rig.root)


def test_a_path_that_the_store_refused_goes_into_a_bundle(rig: Rig) -> None:
    fill(rig.root, "a", "b")
    rig.sync()
    rig.refused = {"data/a"}
    (rig.root / "a").write_text("changed")
    rig.sync()
    assert rig.mirrored() == {"data/b"}, "and its mirrored copy goes"
    assert (rig.restored() / "a").read_text() == "changed"
    (rig.root / "b").unlink()
    rig.sync()
    assert rig.mirrored() == set()
    assert (rig.restored() / "a").read_text() == "changed"


def test_what_exceeds_a_hundred_plain_files_is_bundled(rig: Rig) -> None:
    fill(rig.root, *(f"d/{n:03}" for n in range(130)))
    (rig.root / "d" / "large").write_text("x" * 1000)
    survey = rig.sync()
    assert len(survey.staged) == 133
    listing = rig.listing()
    assert len([p for p in listing if p.startswith("data/")]) == plan.PLAIN_MOST
    assert "data/d/large" in listing
    assert len([p for p in listing if p.startswith(".sidecar/bundles/")]) == 1
    assert picture(rig.restored()) == picture(rig.root)


def test_many_small_files_make_a_bundled_root(rig: Rig) -> None:
    fill(rig.root, *(f"d/{n:03}" for n in range(510)))
    rig.sync()
    assert rig.mirrored() == set()
    fill(rig.root, "one more")
    (rig.root / "d" / "007").write_text("changed")
    rig.sync()
    m = rig.manifest()
    assert len(m.bundles) == 2, "a sync adds a bundle of what changed"
    assert set(rig.listing()) == {PATH, *(bundle.store_path(sha) for sha in m.bundles)}
    assert picture(rig.restored()) == picture(rig.root)
    for at in (rig.root / "d").iterdir():
        at.unlink()
    rig.sync(Look(confirm_present=True))
    m = rig.manifest()
    assert set(rig.listing()) == {PATH, *(bundle.store_path(sha) for sha in m.bundles)}, "and lets go of dead ones"
    assert len(m.bundles) == 1
    assert picture(rig.restored()) == picture(rig.root)


@pytest.mark.parametrize(("layout", "mirrored"), [("bundle", set()), ("mirror", {"one.json"})])
def test_a_single_file_with_a_layout(base: Path, layout: str, mirrored: set[str]) -> None:
    rig = Rig(base, ("one.json",), layout=layout)
    try:
        rig.root.write_text("{}")
        rig.sync()
        assert rig.mirrored() == mirrored
        assert rig.restored().read_text() == "{}"
    finally:
        rig.close()


def test_a_file_that_becomes_a_folder_and_back(rig: Rig) -> None:
    fill(rig.root, "x", "keep")
    rig.sync()
    (rig.root / "x").unlink()
    fill(rig.root, "x/y")
    rig.sync()
    assert rig.mirrored() == {"data/x/y", "data/keep"}
    (rig.root / "x" / "y").unlink()
    (rig.root / "x").rmdir()
    fill(rig.root, "x")
    rig.sync()
    assert rig.mirrored() == {"data/x", "data/keep"}
    assert picture(rig.restored()) == picture(rig.root)


def test_a_package_that_was_not_committed_leaves_no_trace(rig: Rig) -> None:
    fill(rig.root, "a", "keep")
    rig.sync()
    fill(rig.root, "b")
    (rig.root / "a").unlink()
    with TemporaryDirectory(dir=rig.base) as folder:
        survey = rig.surveyor.look(Look(), Path(folder))
        package = rig.pack(survey, Path(folder))
        assert rig.index.pending() == package.snapshot
        assert (package.changed, package.bytes, package.delete) == (2, 1, ["data/a"])
        unpack_failed(rig.index)
    assert rig.index.pending() is None
    rig.sync()
    assert set(rig.manifest().entries) == {"data", "data/b", "data/keep"}


def test_a_database_with_a_live_log_is_whole_after_a_restore(rig: Rig) -> None:
    with closing(sqlite3.connect(rig.root / "x.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=wal")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE t AS SELECT 1 AS x")
        rig.sync()
        db.execute("INSERT INTO t VALUES (2)")
        rig.sync(Look({"data": {"x.db-wal"}}))
        assert set(rig.manifest().entries) == {"data", "data/x.db"}
        restored = rig.restored()
        assert os.listdir(restored) == ["x.db"]
        with closing(sqlite3.connect(restored / "x.db")) as copy:
            assert copy.execute("SELECT x FROM t").fetchall() == [(1,), (2,)]


# Histories

segments = hs.sampled_from(["a", "b", "c", "é b", "\udcff", "n\nl", ".gitignore", "q\"'\\", "-"])
relatives = hs.lists(segments, min_size=1, max_size=3).map("/".join)
doing = ["write", "write", "write", "folder", "link", "remove", "chmod", "rename", "socket", "touch"]
batches = hs.lists(
    hs.lists(hs.tuples(hs.sampled_from(doing), relatives, relatives), min_size=1, max_size=6), min_size=1, max_size=4
)


def tree(root: Path, times: bool) -> dict[str, tuple[Any, ...]]:
    """What a snapshot keeps: everything but sockets, and folders' times only where all of them were looked at."""
    out = {p: seen for p, seen in picture(root).items() if seen[0] != st.S_IFSOCK}
    return {p: seen if times or seen[0] != st.S_IFDIR else (*seen[:2], 0) for p, seen in out.items()}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches, hs.booleans(), hs.sampled_from(["auto", "bundle"]))
@example([[("write", "a/b", "1")], [("remove", "a", "a"), ("write", "a", "2")], [("remove", "a", "a")]], True, "auto")
@example([[("write", "a/b", "1")], [("rename", "a", "b")], [("write", "b/b/c", "c")]], True, "auto")
def test_every_snapshot_of_a_history_restores_to_what_was_there(
    history: list[list[tuple[str, str, str]]], hinted: bool, layout: str
) -> None:
    """Create, change, rename, delete, kinds, odd names; found by a look at everything or by hints alone."""
    with TemporaryDirectory(dir=FAST) as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "SETTLE_NS", 0)
        rig = Rig(Path(name) / "rig", layout=layout)
        try:
            known: list[tuple[str | None, dict[str, tuple[Any, ...]]]] = []
            for batch in history:
                touched = {p for verb, path, other in batch for p in edit(rig.root, verb, path, other)}
                hints = {"data": touched} if hinted and known else None
                before = rig.head
                rig.sync(Look(hints, confirm_present=True))
                if rig.head != before:
                    known.append((rig.head, tree(rig.root, not hinted)))
                else:
                    assert not known or tree(rig.root, False) == {
                        p: seen if seen[0] != st.S_IFDIR else (*seen[:2], 0) for p, seen in known[-1][1].items()
                    }, "nothing that changed is left out"
            for revision, expected in known:
                assert tree(rig.restored(revision), not hinted) == expected
                codec.decode(codec.encode(rig.manifest(revision)))
        finally:
            rig.close()
