"""`restore`: into the roots, into a folder, in part, and what a dry run says of it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.recovery.locks import RootLocks
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Manifest
from tests.cli.conftest import ODD, Kept
from tests.cli.desk import Answer, Desk
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
    assert any(line.startswith("~ data/a.txt  (5 B, ") for line in foreseen.lines)
    assert (tmp_path / "out/data/a.txt").read_text() == "other"
    assert desk("restore", "--to", tmp_path / "out", "--force").code == 0
    assert (tmp_path / "out/data/a.txt").read_text() == "one\ntwo\n"
    assert (tmp_path / "out/mine").read_text() == "m"


def test_to_inside_of_a_root_says_that_the_copy_is_kept_too(desk: Desk, shelf: Kept) -> None:
    answer = desk("restore", "--to", shelf.root / "old", "--revision", "1.1")
    assert answer.code == 0
    assert "lies in root 'data': the next snapshot takes the copy too" in answer.err


@pytest.mark.parametrize("option", ["--revision", "--path", "--to"])
def test_an_option_that_is_empty_is_a_mistake(desk: Desk, shelf: Kept, option: str) -> None:
    """`--revision "$OLD"` with OLD unset must not bring the newest."""
    before = picture(shelf.root)
    answer = desk("restore", option, "")
    assert answer.code == 2
    assert "is a variable of your script unset?" in answer.err
    assert picture(shelf.root) == before


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
    (line,) = foreseen.lines
    assert re.fullmatch(r"~ data/a\.txt  \(4 B, \S+ \S+ -> 8 B, \S+ \S+; the local one is set aside\)", line)
    assert "1 changed, " in foreseen.err
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
    assert "! data/new  (something else stands in the way: left as it is)" in desk("restore", "--dry-run").lines


def test_a_dry_run_shows_any_name_and_counts(desk: Desk, world: Kept) -> None:
    world.empty_disk()
    answer = desk("restore", "--dry-run")
    assert answer.code == 0
    assert r"+ data/odd \xff\x0a\x1b[31mname  (3 B)" in answer.lines
    assert "Nothing was changed" in answer.err
    assert ODD.encode("utf-8", "surrogateescape") not in answer.raw
    changes = desk("restore", "--dry-run", "--json").json["changes"]
    (change,) = (c for c in changes if c.get("path") == "data/a.txt")
    assert (change["action"], change["local"], change["snapshot"]["size"]) == ("fetch", None, 8)
    assert list(world.root.parent.iterdir()) == []


def lines(answer: Answer) -> list[str]:
    return [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "T", line) for line in answer.lines]


def test_a_dry_run_reads_as_a_diff_of_what_would_change(desk: Desk, world: Kept) -> None:
    desk("restore")
    data = world.root
    (data / "a.txt").write_text("mine, and longer\n")
    (data / "sub/b.bin").unlink()
    (data / "sub/run.sh").chmod(0o700)
    os.utime(data / "app.db", ns=(5, 5))
    shutil.rmtree(data / "empty")
    (data / "link").unlink()
    (data / "link").symlink_to("elsewhere")
    fill(data, {"extra": "x" * 12, "own/one": "1", "own/two/deep": "22", "node_modules/.cache/y": "excluded"})
    answer = desk("restore", "--dry-run")
    assert answer.code == 0
    assert lines(answer) == [
        "~ data/a.txt  (17 B, T -> 8 B, T; the local one is set aside)",
        "m data/app.db  (T -> T)",
        "+ data/empty/",
        "- data/extra  (12 B; not in the snapshot, kept)",
        "~ data/link  (-> elsewhere -> -> a.txt; the local one is set aside)",
        "- data/node_modules/  (0 files, 0 B; not in the snapshot, kept)",
        "- data/own/  (2 files, 3 B; not in the snapshot, kept)",
        "+ data/sub/b.bin  (256 B)",
        "m data/sub/run.sh  (0700 -> 0750)",
    ]
    assert (
        "from 1.2: 2 new, 2 changed, 2 mode or time, 3 not in the snapshot (kept), 5 as they are; 264 B to fetch."
        " Nothing was changed" in answer.err
    )
    found = desk("restore", "--dry-run", "--json").json
    assert (found["fetch_bytes"], found["kept"]) == (264, 5)
    assert {"path": "data/own", "kind": "dir", "files": 2, "bytes": 3} in found["extra"]
    done = desk("restore", "--json").json
    assert (done["fetched"], done["conflict_count"]) == (2, 2), "what it said it would"
    assert (data / "own/two/deep").read_text() == "22"


@pytest.mark.parametrize("to", [False, True])
@pytest.mark.parametrize("revision", [None, "1.1"])
@pytest.mark.parametrize("path", [None, "data/a.txt", "{root}/sub/", "conf"])
def test_every_combination_says_first_what_it_then_does(
    desk: Desk, world: Kept, to: bool, revision: str | None, path: str | None
) -> None:
    world.empty_disk()
    out = world.base / "out"
    argv = ["restore", *(["--to", str(out)] if to else []), *(["--revision", revision] if revision else [])]
    argv += ["--path", path.format(root=world.root)] if path else []
    foreseen = desk(*argv, "--dry-run", "--json")
    assert foreseen.code == 0, foreseen.err
    assert not out.exists()
    assert list((world.base / "disk").iterdir()) == []
    done = desk(*argv, "--json")
    assert done.code == 0, done.err
    told = {c.get("path", "odd") for c in foreseen.json["changes"] if c["snapshot"]["kind"] == "file"}
    assert (len(told), foreseen.json["fetch_bytes"]) == (done.json["fetched"], done.json["fetched_bytes"])
    assert done.json["snapshot"] == foreseen.json["snapshot"] == ("1.1" if revision == "1.1" else "1.2")
    base = out if to else world.base / "disk"
    there = {str(p.relative_to(base)) for p in base.rglob("*") if p.is_file() and not p.is_symlink()}
    assert {"odd" if "odd" in p else p for p in there} == told
    wanted = {None: 7, "data/a.txt": 1, "conf": 1}.get(path, 2)
    assert len(there) == wanted
    again = desk(*argv, *(["--force"] if to else []), "--dry-run", "--json")
    assert (again.json["changes"], again.json["fetch_bytes"]) == ([], 0)


def test_on_a_fresh_disk_it_goes_by_what_the_image_ships(desk: Desk, world: Kept) -> None:
    def image(manifest: Manifest) -> Manifest:
        old = manifest.entries["data/a.txt"].sha256
        gone = hashlib.sha256(b"sample").hexdigest()
        return replace(manifest, shipped={"data/a.txt": old, "data/sample": gone}, tombstones={"data/sample": gone})

    world.revisions.append(world.snapshot(change=image)[0])
    world.empty_disk()
    fill(world.root, {"a.txt": "a newer default", "sample": "sample", "new": "of the image too"})
    answer = desk("restore", "--dry-run")
    assert "= data/a.txt  (a newer image's, over what main never changed: stays)" in answer.lines
    assert "x data/sample  (of the image, and deleted by main: removed)" in answer.lines
    assert any(line.startswith("~ data/new  (16 B, ") for line in answer.lines)
    assert "1 of a newer image, 1 to be removed" in answer.err
    assert (world.root / "sample").exists()
    part = desk("restore", "--dry-run", "--path", "data/a.txt")
    assert part.lines[0].startswith("~ data/a.txt  ("), "whoever names a path wants the snapshot's"
    done = desk("restore", "--json")
    assert (done.json["image_newer"], done.json["buried"]) == (1, 1)
    assert (world.root / "a.txt").read_text() == "a newer default"
    assert not (world.root / "sample").exists()


def test_a_part_into_a_fresh_disk_is_never_called_the_images(desk: Desk, world: Kept) -> None:
    world.empty_disk()
    fill(world.root, {"default": "d"})
    assert desk("restore", "--path", "data/a.txt").code == 0
    index = Index(world.state / "index.db")
    brought = index.brought()
    index.close()
    assert brought is not None
    assert brought.keys() == {"data", "data/default"}
