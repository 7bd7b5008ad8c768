"""`restore`: into the roots, into a folder, in part, and what a dry run says of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sidecar.recovery.locks import RootLocks
from sidecar.snapshot.index import Index
from tests.cli.conftest import ODD, Kept
from tests.cli.desk import Desk
from tests.recovery.world import fill, picture


def test_to_lays_the_whole_snapshot_out_and_touches_nothing_else(desk: Desk, world: Kept, tmp_path: Path) -> None:
    before = picture(world.base / "disk"), picture(world.state)
    desk.set(SIDECAR_PATHS=None)
    answer = desk("restore", "--to", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert "restored 7 files" in answer.err
    assert answer.out == ""
    assert picture(tmp_path / "out" / "data") == picture(world.root)
    assert (tmp_path / "out" / "conf").read_text() == "[conf]\n"
    assert (picture(world.base / "disk"), picture(world.state)) == before


def test_to_a_relative_folder_of_an_older_snapshot_and_a_part(
    desk: Desk, shelf: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = desk("restore", "--to", "old", "--revision", "1.1", "--path", shelf.root / "gone", "--json")
    assert answer.code == 0, answer.err
    assert [p.name for p in (tmp_path / "old").rglob("*")] == ["data", "gone"]
    assert (tmp_path / "old/data/gone").read_text() == "soon"
    assert (answer.json["snapshot"], answer.json["files"], answer.json["fetched_bytes"]) == ("1.1", 1, 4)


def test_to_refuses_a_folder_that_is_not_empty_unless_forced(desk: Desk, shelf: Kept, tmp_path: Path) -> None:
    fill(tmp_path / "out", {"mine": "m", "data/a.txt": "other"})
    for more in ([], ["--dry-run"]):
        refused = desk("restore", "--to", tmp_path / "out", *more)
        assert (refused.code, refused.out) == (2, "")
        assert "not empty" in refused.err
    foreseen = desk("restore", "--to", tmp_path / "out", "--force", "--dry-run")
    assert any(line.split()[:2] == ["replace", "data/a.txt"] for line in foreseen.lines)
    assert (tmp_path / "out/data/a.txt").read_text() == "other"
    assert desk("restore", "--to", tmp_path / "out", "--force").code == 0
    assert (tmp_path / "out/data/a.txt").read_text() == "one\ntwo\n"
    assert (tmp_path / "out/mine").read_text() == "m"


def test_force_without_to_is_a_mistake(desk: Desk, shelf: Kept) -> None:
    assert desk("restore", "--force").code == 2


def test_into_the_roots_brings_a_lost_disk_back_and_knows_its_base(desk: Desk, world: Kept) -> None:
    before = picture(world.root)
    world.empty_disk()
    answer = desk("restore")
    assert answer.code == 0, answer.err
    assert picture(world.root) == before
    index = Index(world.state / "index.db")
    known = index.known()
    index.close()
    assert known is not None
    assert (str(known.snapshot), known.revision) == ("1.2", world.revisions[1])
    assert desk("restore", "--dry-run").out == ""
    foreseen = desk("sync", "--dry-run")
    assert (foreseen.code, foreseen.out) == (0, "")
    assert "since 1.2" in foreseen.err


def test_what_differs_here_is_set_aside_and_counted(desk: Desk, world: Kept) -> None:
    (world.root / "a.txt").write_text("mine")
    foreseen = desk("restore", "--dry-run")
    assert [line.split("  ")[0] for line in foreseen.lines if "a.txt" in line] == ["set aside"]
    assert (world.root / "a.txt").read_text() == "mine"
    answer = desk("restore", "--json")
    assert answer.code == 0
    assert answer.json["conflict_count"] == 1
    assert (Path(answer.json["conflicts"]) / "data/a.txt").read_text() == "mine"
    assert answer.json["conflicts"] in answer.err
    assert (world.root / "a.txt").read_text() == "one\ntwo\n"


def test_an_older_snapshot_is_no_base(desk: Desk, world: Kept) -> None:
    """Else the next start would take the newer ones for somebody else's and restore them over this."""
    world.empty_disk()
    desk("restore")
    assert desk("restore", "--revision", "1.1").code == 0
    assert (world.root / "a.txt").read_text() == "one\n"
    changes = {(c["change"], c["path"]) for c in desk("sync", "--dry-run", "--json").json["changes"]}
    assert {("changed", "data/a.txt"), ("added", "data/gone"), ("mode", "data/sub/run.sh")} <= changes
    world.empty_disk()
    answer = desk("restore", "--revision", "1.1")
    assert "SIDECAR_REVISION=1.1" in answer.err
    assert desk("sync", "--dry-run").code == 1


def test_a_part_into_the_roots(desk: Desk, world: Kept) -> None:
    shutil.rmtree(world.root / "sub")
    (world.root / "a.txt").write_text("mine")
    assert desk("restore", "--path", "data/sub").code == 0
    assert (world.root / "sub/b.bin").read_bytes() == bytes(range(256))
    assert (world.root / "a.txt").read_text() == "mine"
    assert desk("restore", "--path", "elsewhere").code == 1
    assert desk("restore", "--path", "elsewhere", "--dry-run").code == 1


def test_a_root_that_is_not_declared_is_named_with_the_line_to_write(desk: Desk, world: Kept) -> None:
    path = world.roots[1].path
    Path(path).unlink()
    desk.set(SIDECAR_PATHS=f"data={world.root}")
    answer = desk("restore", "--json")
    assert (answer.code, answer.json["skipped"]) == (0, ["conf"])
    assert f"conf={path}" in answer.err
    assert not os.path.exists(path)


def test_while_the_roots_are_in_use_it_says_by_whom_and_exits_75(desk: Desk, world: Kept) -> None:
    (world.root / "a.txt").write_text("mine")
    locks = RootLocks.acquire(world.roots, world.state)
    try:
        answer = desk("restore")
        assert (answer.code, answer.out) == (75, "")
        assert str(os.getpid()) in answer.err
        assert (world.root / "a.txt").read_text() == "mine"
        assert desk("restore", "--dry-run").code == 0, "looking takes no lock"
        assert desk("restore", "--to", world.base / "out").code == 0
    finally:
        locks.release()
    assert desk("restore").code == 0


def test_without_paths_it_says_what_is_missing(desk: Desk, shelf: Kept) -> None:
    desk.set(SIDECAR_PATHS=None)
    answer = desk("restore")
    assert answer.code == 78
    assert "SIDECAR_PATHS is not set" in answer.err


def test_damage_is_a_failure_that_names_the_ways_out(desk: Desk, world: Kept, tmp_path: Path) -> None:
    from tests.cli.test_verify import spoil

    spoil(world, b"new\n")
    world.empty_disk()
    answer = desk("restore")
    assert answer.code == 1
    assert "data/new" in answer.err
    assert "--revision" in answer.err
    assert "Traceback" not in answer.err
    assert not world.root.exists() or not list(world.root.glob("[!.]*")), "nothing of a damaged whole is put in place"
    assert desk("restore", "--path", "data/sub").code == 0
    assert desk("restore", "--to", tmp_path / "old", "--revision", "1.1").code == 0


def test_what_stands_in_the_way_is_an_error(desk: Desk, world: Kept) -> None:
    (world.root / "new").unlink()
    os.mkfifo(world.root / "new")
    answer = desk("restore", "--json")
    assert answer.code == 1
    assert answer.json["blocked"] == [{"path": "data/new"}]
    assert "in the way" in desk("restore", "--dry-run").out


def test_a_dry_run_shows_any_name_and_counts(desk: Desk, world: Kept) -> None:
    world.empty_disk()
    answer = desk("restore", "--dry-run")
    assert answer.code == 0
    assert any(line.split() == ["fetch", "data/odd", r"\xff\x0a\x1b[31mname", "(3", "B)"] for line in answer.lines)
    assert "Nothing was changed" in answer.err
    assert ODD.encode("utf-8", "surrogateescape") not in answer.raw
    changes = desk("restore", "--dry-run", "--json").json["changes"]
    assert {"action": "fetch", "path": "data/a.txt"} in changes
    assert list(world.root.parent.iterdir()) == []
