"""One look at all roots on a real disk: what goes into the next snapshot, what is held back, and what is no news."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sidecar.snapshot import stage as staging
from sidecar.snapshot.manifest import Manifest
from sidecar.sync import staging as copies
from sidecar.sync.look import Look, Survey
from tests.snapshot.alone import run_alone
from tests.sync.rig import Rig


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "rig"


@pytest.fixture
def rig(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(staging, "SETTLE_NS", 0)  # nothing here is written twice within a tick
    made = Rig(base)
    yield made
    made.close()


def fill(root: Path, *names: str) -> None:
    for name in names:
        at = root / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(name)


def paths(manifest: Manifest) -> set[str]:
    return set(manifest.entries)


def idle(survey: Survey) -> bool:
    return not survey.reason and not survey.gone and not survey.held


CONFIRM = Look(confirm_held={"data": 30})
PRESENT = Look(confirm_present=True)


# News


def test_a_root_is_snapshotted_and_then_there_is_nothing_to_do(rig: Rig) -> None:
    fill(rig.root, "a", "d/b")
    (rig.root / "empty").mkdir()
    assert rig.sync().reason
    assert paths(rig.manifest()) == {"data", "data/a", "data/d", "data/d/b", "data/empty"}
    for _ in range(3):
        assert idle(rig.sync())
    assert rig.last is not None
    assert rig.last.sequence == 1


def test_a_folders_time_alone_is_no_news_but_goes_along(rig: Rig) -> None:
    fill(rig.root, "a", "d/b")
    rig.sync()
    os.utime(rig.root / "d", ns=(5, 5))
    assert idle(rig.sync())
    fill(rig.root, "new")
    rig.sync()
    assert rig.manifest().entries["data/d"].mtime_ns == 5


def test_a_bare_touch_keeps_the_bytes_where_they_are(rig: Rig) -> None:
    fill(rig.root, "a")
    rig.sync()
    os.utime(rig.root / "a", ns=(7, 7))
    survey = rig.sync()
    assert [s.source for s in survey.staged if s.entry.path == "data/a"] == [None]
    assert rig.manifest().entries["data/a"].mtime_ns == 7
    assert (rig.restored() / "a").read_text() == "a"


def test_hints_are_all_that_is_looked_at(base: Path) -> None:
    rig = Rig(base, ("data", "more", "one.json"))
    try:
        for root in rig.roots[:2]:
            fill(Path(root.path), "a", "b")
        Path(rig.roots[2].path).write_text("{}")
        rig.sync()
        for root in rig.roots[:2]:
            (Path(root.path) / "a").write_text("changed")
            (Path(root.path) / "b").write_text("changed")
        Path(rig.roots[2].path).write_text("[]")
        survey = rig.look(Look({"more": {"a"}}))
        assert [s.entry.path for s in survey.staged if s.entry.kind == "file"] == ["more/a"]
        survey = rig.look(Look({"more": None, "one.json": {""}}))
        assert sorted(s.entry.path for s in survey.staged if s.entry.kind == "file") == ["more/a", "more/b", "one.json"]
        assert [r.name for r in survey.roots] == ["data", "more", "one.json"], "the others stay in the manifest"
        rig.sync(Look({"more": {"a"}}))
        assert paths(rig.manifest()) == {f"{r}/{n}" for r in ("data", "more") for n in "ab"} | {
            "data",
            "more",
            "one.json",
        }
    finally:
        rig.close()


def test_the_roots_own_ignore_file_among_the_hints_is_a_reason_to_look_everywhere(rig: Rig) -> None:
    fill(rig.root, "a.log", "b")
    rig.sync()
    (rig.root / ".sidecarignore").write_text("*.log")
    (rig.root / "a.log").write_text("changed")
    survey = rig.sync(Look({"data": {".sidecarignore"}}))
    assert {s.entry.path for s in survey.staged if s.entry.kind == "file"} == {"data/.sidecarignore"}
    assert survey.excluded == {"data": 1}
    assert "data/a.log" in paths(rig.manifest()), "carried forward"


# Roots that come and go


def test_an_ignore_file_that_cannot_be_read_lets_nothing_more_out(rig: Rig) -> None:
    ignore = rig.root / ".sidecarignore"
    ignore.write_text("secret*")
    (rig.root / "secret").write_text("1")
    (rig.root / "kept").write_text("1")
    rig.sync()
    ignore.unlink()
    ignore.symlink_to(ignore)  # as root too: ELOOP
    (rig.root / "secret2").write_text("2")
    (rig.root / "more").write_text("2")
    rig.sync()
    assert {path for path in rig.manifest().entries if "secret" in path} == set()
    assert "data/more" in rig.manifest().entries, "what it said last is known"
    rig.surveyor = rig.new_surveyor()
    (rig.root / "later").write_text("3")
    found = rig.sync()
    assert "nothing of data is synced" in found.unreadable["data/.sidecarignore"]
    assert found.gone == []
    assert "data/later" not in rig.manifest().entries
    ignore.unlink()
    ignore.write_text("secret*")
    rig.sync()
    assert "data/later" in rig.manifest().entries
    assert {path for path in rig.manifest().entries if "secret" in path} == set()


def test_a_root_that_is_not_there_yet_is_no_reason_and_no_error(base: Path) -> None:
    rig = Rig(base, ("data", "later.json"))
    try:
        fill(rig.root, "a")
        rig.sync()
        assert [r.name for r in rig.manifest().roots] == ["data"]
        assert idle(rig.sync())
        Path(rig.roots[1].path).write_text("{}")
        assert rig.sync(Look({"later.json": {""}})).reason
        assert {r.name: r.kind for r in rig.manifest().roots} == {"data": "dir", "later.json": "file"}
        assert rig.surveyor.devices["later.json"] == os.stat(rig.roots[1].path).st_dev
    finally:
        rig.close()


def test_a_root_that_is_a_link_is_what_it_leads_to(rig: Rig) -> None:
    fill(rig.root, "a")
    moved = rig.base / "moved"
    os.rename(rig.root, moved)
    rig.root.symlink_to(moved)
    rig.surveyor = rig.new_surveyor()
    rig.sync()
    assert paths(rig.manifest()) == {"data", "data/a"}
    (moved / "a").write_text("changed")
    assert rig.sync(Look({"data": {"a"}})).reason


def test_a_single_file_that_is_a_link_is_what_it_leads_to(base: Path) -> None:
    rig = Rig(base, ("one.json",))
    try:
        (rig.base / "real.json").write_text("{}")
        rig.root.symlink_to(rig.base / "real.json")
        rig.surveyor = rig.new_surveyor()
        assert rig.sync().unreadable == {}
        assert rig.manifest().entries["one.json"].size == 2
        assert rig.restored().read_text() == "{}"
        assert idle(rig.sync())
    finally:
        rig.close()


def test_what_is_no_longer_declared_is_carried_forward(base: Path) -> None:
    rig = Rig(base, ("data", "more"))
    try:
        for root in rig.roots:
            fill(Path(root.path), "a")
        rig.sync()
        rig.roots = rig.roots[:1]
        rig.surveyor = rig.new_surveyor()
        fill(rig.root, "b")
        rig.sync()
        assert {"more", "more/a"} <= paths(rig.manifest())
        assert [r.name for r in rig.manifest().roots] == ["data", "more"]
    finally:
        rig.close()


# What is let go of


def test_what_is_newly_excluded_is_carried_forward_until_it_is_forgotten(rig: Rig) -> None:
    fill(rig.root, "a", "cache/1", "cache/sub/2", "x.log", "more/y.log")
    rig.sync()
    rig.patterns = ["cache/", "*.log"]
    rig.surveyor = rig.new_surveyor()
    (rig.root / "cache/1").write_text("changed")
    shutil.rmtree(rig.root / "cache/sub")
    survey = rig.sync()
    assert (survey.reason, survey.gone, survey.unreadable) == (False, [], {})
    hidden = {"data/cache", "data/cache/1", "data/cache/sub", "data/cache/sub/2", "data/x.log", "data/more/y.log"}
    assert {r.entry.path for r in rig.surveyor.at("data")[1]} == hidden
    assert {r.entry.path for r in rig.surveyor.at("data/more")[1]} == {"data/more/y.log"}
    assert rig.surveyor.at("data/a")[1] == []
    assert rig.surveyor.at("dat") == ([], [])
    before = rig.head
    survey = rig.sync(Look(forget="data/cache"))
    assert survey.forgotten == {p for p in hidden if p.startswith("data/cache")}
    assert paths(rig.manifest()) == {"data", "data/a", "data/more", "data/x.log", "data/more/y.log"}
    assert rig.mirrored() == {"data/a", "data/x.log", "data/more/y.log"}
    assert (rig.restored(before) / "cache/1").read_text() == "cache/1", "history still has it"
    assert idle(rig.sync())
    assert idle(rig.sync(Look(forget="data/cache"))), "nothing of it is left"
    rig.sync(Look(forget="data", reassert=True))
    assert paths(rig.manifest()) == {"data", "data/a", "data/more"}


def test_a_root_that_is_not_declared_any_more_goes_when_it_is_forgotten(base: Path) -> None:
    rig = Rig(base, ("data", "more", "a/b", "a/c"))
    try:
        for root in rig.roots:
            fill(Path(root.path), "x", "d/y")
        rig.sync()
        rig.roots = [r for r in rig.roots if r.name in ("data", "a/b")]
        rig.surveyor = rig.new_surveyor()
        assert rig.surveyor.at("data")[1] == []
        rig.sync(Look({}, forget="more/d"))
        assert {"more", "more/x"} == {p for p in paths(rig.manifest()) if p.startswith("more")}
        rig.sync(Look({}, forget="more"))
        assert [r.name for r in rig.manifest().roots] == ["data", "a/b", "a/c"]
        rig.sync(Look(forget="a"))
        assert [r.name for r in rig.manifest().roots] == ["data", "a/b"], "what is declared stays"
        assert {"a/b/x", "a/b/d/y"} <= paths(rig.manifest())
        assert not {p for p in paths(rig.manifest()) if p.startswith(("more", "a/c"))}
        assert {p.partition("/")[0] for p in rig.mirrored()} == {"data", "a"}
    finally:
        rig.close()


def test_what_is_excluded_outlives_its_root_and_its_folder(rig: Rig) -> None:
    fill(rig.root, "keep/deep/x.log", "keep/other", *FEW)
    rig.sync()
    rig.patterns = ["*.log"]
    rig.surveyor = rig.new_surveyor()
    shutil.rmtree(rig.root / "keep")
    rig.sync()
    kept = {"data/keep/deep/x.log"}
    assert paths(rig.manifest()) == {"data", *kept, *(f"data/{n}" for n in FEW)}
    shutil.rmtree(rig.root)
    assert rig.sync().held == {"data": 3}
    rig.sync(CONFIRM)
    assert paths(rig.manifest()) == kept
    assert (rig.restored() / "keep/deep/x.log").read_text() == "keep/deep/x.log"
    rig.sync(Look(forget="data/keep"))
    assert paths(rig.manifest()) == set()


# Mass deletions

FEW = [str(n) for n in range(3)]
MANY = [f"d/{n}" for n in range(30)]


def test_an_emptied_root_is_held_until_a_later_look_confirms_it(rig: Rig) -> None:
    fill(rig.root, *FEW)
    rig.sync()
    for name in FEW:
        (rig.root / name).unlink()
    survey = rig.sync()
    assert (survey.held, survey.gone, survey.reason) == ({"data": 3}, [], False)
    assert idle(rig.sync(Look({"data": set()}))), "a hint elsewhere says nothing of it"
    survey = rig.sync(CONFIRM)
    assert (survey.held, survey.confirmed) == ({}, {"data"})
    assert paths(rig.manifest()) == {"data"}
    assert rig.mirrored() == set()


def test_what_else_changed_is_committed_meanwhile(rig: Rig) -> None:
    fill(rig.root, *MANY, "keep")
    rig.sync()
    for name in MANY:
        (rig.root / name).unlink()
    fill(rig.root, "new")
    (rig.root / "keep").write_text("changed")
    assert rig.sync().held == {"data": 30}
    manifest = rig.manifest()
    assert {"data/new", *(f"data/{n}" for n in MANY)} <= paths(manifest)
    restored = rig.restored()
    assert (restored / "keep").read_text() == "changed"
    assert (restored / "d/7").read_text() == "d/7"
    fill(rig.root, *MANY)  # they come back: a volume that was away
    assert rig.sync().held == {}
    assert idle(rig.sync())


def test_a_rescan_confirms_only_what_an_earlier_look_saw(rig: Rig) -> None:
    fill(rig.root, *MANY, "a", "b")
    rig.sync()
    for name in MANY[:20]:
        (rig.root / name).unlink()
    held = rig.sync().held
    assert held == {"data": 20}
    shutil.rmtree(rig.root / "d")  # and now something else happens
    survey = rig.sync(Look(confirm_held=held))
    assert (survey.held, survey.confirmed, survey.gone) == ({"data": 30}, set(), [])
    fill(rig.root, *MANY[:5])  # a part comes back
    survey = rig.sync(Look(confirm_held=survey.held))
    assert (survey.held, survey.confirmed, len(survey.gone)) == ({}, {"data"}, 25)


def test_what_is_excluded_is_not_what_keeps_a_root_from_being_empty(rig: Rig) -> None:
    fill(rig.root, *FEW, *(f"cache/{n}" for n in range(20)))
    rig.sync()
    rig.patterns = ["cache/"]
    rig.surveyor = rig.new_surveyor()
    for name in FEW:
        (rig.root / name).unlink()
    assert rig.sync().held == {"data": 3}


def test_a_checkpoint_confirms_in_a_root_that_is_there_only(rig: Rig) -> None:
    fill(rig.root, *FEW)
    rig.sync()
    shutil.rmtree(rig.root)
    assert rig.sync(PRESENT).held == {"data": 3}
    rig.root.mkdir()
    survey = rig.sync(PRESENT)
    assert (survey.held, survey.confirmed) == ({}, {"data"})
    assert paths(rig.manifest()) == {"data"}


def test_a_root_that_vanished_is_confirmed_by_a_later_look_too(rig: Rig) -> None:
    fill(rig.root, *FEW)
    rig.sync()
    shutil.rmtree(rig.root)
    assert rig.sync().held == {"data": 3}
    assert [r.kind for r in rig.manifest().roots] == ["dir"]
    rig.sync(CONFIRM)
    assert [r.kind for r in rig.manifest().roots] == ["absent"]
    assert paths(rig.manifest()) == set()
    assert idle(rig.sync())


def test_a_few_deleted_files_of_many_go_at_once(rig: Rig) -> None:
    fill(rig.root, *MANY)
    rig.sync()
    for name in MANY[:15]:
        (rig.root / name).unlink()
    assert len(rig.sync().gone) == 15
    assert len(rig.mirrored()) == 15


def test_a_new_name_is_no_deletion(rig: Rig) -> None:
    fill(rig.root, *MANY)
    rig.sync()
    os.rename(rig.root / "d", rig.root / "e")
    assert rig.sync(Look({"data": {"d", "e"}})).held == {}
    assert paths(rig.manifest()) == {"data", "data/e", *(f"data/e/{n}" for n in range(30))}


def test_other_files_in_the_place_of_all_that_was_are_not_taken_for_it(rig: Rig) -> None:
    """An app that finds its folder empty writes its defaults; what was there may be on a volume that went away."""
    fill(rig.root, *FEW)
    rig.sync()
    for name in FEW:
        (rig.root / name).unlink()
    fill(rig.root, "default1", "default2", "default3")
    assert rig.sync().held == {"data": 3}
    assert (rig.restored() / "0").read_text() == "0"


@pytest.mark.parametrize("what", ["file", "link"])
def test_a_held_folder_is_not_replaced_by_what_nothing_can_lie_below(rig: Rig, what: str) -> None:
    """A manifest that names a file and something below it could never be restored."""
    fill(rig.root, *MANY)
    rig.sync()
    shutil.rmtree(rig.root / "d")
    (rig.root / "d").write_text("now a file") if what == "file" else (rig.root / "d").symlink_to("x")
    fill(rig.root, "new")
    assert rig.sync().held == {"data": 30}
    assert (rig.restored() / "d/3").read_text() == "d/3"
    rig.sync(CONFIRM)
    assert rig.manifest().entries["data/d"].kind == ("file" if what == "file" else "symlink")
    assert os.path.lexists(rig.restored() / "d")
    assert not (rig.restored() / "d").is_dir()


def test_a_file_where_the_root_was_is_held(rig: Rig) -> None:
    fill(rig.root, "a", "b")
    rig.sync()
    shutil.rmtree(rig.root)
    rig.root.write_text("x")
    assert rig.sync().held == {"data": 2}
    assert rig.sync(Look({"data": {""}})).held == {"data": 2}
    assert (rig.restored() / "a").read_text() == "a"
    rig.sync(CONFIRM)
    assert rig.restored().read_text() == "x"


def test_a_single_file_that_lost_all_its_bytes_is_held(base: Path) -> None:
    rig = Rig(base, ("one.json",))
    try:
        rig.root.write_text("{}")
        rig.sync()
        rig.root.write_text("")
        assert rig.sync().held == {"one.json": 1}
        assert rig.restored().read_text() == "{}"
        rig.root.write_text("[1]")
        assert rig.sync().held == {}
        assert rig.restored().read_text() == "[1]"
        rig.root.write_text("")
        survey = rig.sync(PRESENT)
        assert (survey.held, survey.confirmed) == ({}, {"one.json"})
        assert rig.restored().read_text() == ""
    finally:
        rig.close()


def test_an_only_database_that_lost_all_its_bytes_is_held(rig: Rig) -> None:
    fill(rig.root, "a", "b", "c")
    with closing(sqlite3.connect(rig.root / "app.db")) as db:
        db.execute("CREATE TABLE t AS SELECT 1 AS x")
    rig.sync()
    (rig.root / "app.db").write_bytes(b"")
    (rig.root / "a").write_text("changed")
    assert rig.sync().held == {"data": 1}
    restored = rig.restored()
    assert (restored / "a").read_text() == "changed"
    with closing(sqlite3.connect(restored / "app.db")) as db:
        assert db.execute("SELECT x FROM t").fetchall() == [(1,)]
    rig.sync(CONFIRM)
    assert rig.manifest().entries["data/app.db"].size == 0


# Trouble


@pytest.mark.parametrize("scenario", ["locked_folder_is_no_endless_news", "locked_file_is_carried"])
def test_as_user_1000(scenario: str) -> None:
    run_alone(scenario, "tests.sync.alone")


def test_another_number_for_the_device_says_nothing_of_what_is_deleted(rig: Rig) -> None:
    """A container that is started again finds its disk under another st_dev: deletions there are deletions."""
    fill(rig.root, "a", "d/b", "d/c", "d/e")
    rig.sync()
    rig.sync()
    for row in rig.index.under("data"):
        if row.stat is not None:
            rig.index.touch([replace(row, stat=replace(row.stat, dev=row.stat.dev + 1))])
    rig.surveyor = rig.new_surveyor()
    (rig.root / "d/b").unlink()
    survey = rig.sync()
    assert survey.unreadable == {}
    assert [r.entry.path for r in survey.gone] == ["data/d/b"]


def test_a_volume_below_a_root_that_goes_away_stays_in_the_snapshot(rig: Rig) -> None:
    """Look after look: what the folder is now must not become what it was."""
    fill(rig.root, *MANY, "vol/a", "vol/sub/b")
    (rig.root / "vol").chmod(0o755)
    rig.sync()
    for row in rig.index.under("data/vol"):
        assert row.stat is not None
        rig.index.touch([replace(row, stat=replace(row.stat, dev=row.stat.dev + 1))])
    shutil.rmtree(rig.root / "vol")
    (rig.root / "vol").mkdir(mode=0o700)
    for hints in (None, {"data": {"vol/a", "vol/sub"}}, {"data": {"vol"}}, None):
        fill(rig.root, "new")
        (rig.root / "new").write_text(repr(hints))
        survey = rig.sync(Look(hints))
        assert survey.gone == []
        assert set(survey.unreadable) <= {"data/vol/a", "data/vol/sub", "data/vol/sub/b"}
        assert survey.unreadable
        assert (rig.restored() / "vol/sub/b").read_text() == "vol/sub/b"


# A folder that is written as a unit


def test_a_folder_that_is_written_as_a_unit_goes_in_as_one_or_flagged(rig: Rig) -> None:
    """Each version is written from the first file to the last: at every moment the first are a version ahead."""
    names = [f"{n:02}" for n in range(20)]
    for name in names:
        (rig.root / name).write_bytes(bytes(80_000))
    app = (
        "import os, sys, time\nversion = 0\nwhile True:\n  version += 1\n  for n in range(20):\n"
        "    with open('new', 'wb') as file:\n      file.write(version.to_bytes(4, 'big') * 20_000)\n"
        "    os.replace('new', f'data/{n:02}')\n  time.sleep(0.004)\n"
    )
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", app], cwd=rig.root.parent) as process:
        try:
            for _ in range(12):
                rig.sync()
                entries = rig.manifest().entries
                if not any(entries[f"data/{n}"].flag for n in names):
                    restored = rig.restored()
                    versions = [int.from_bytes((restored / n).read_bytes()[:4], "big") for n in names]
                    assert versions == sorted(versions, reverse=True)
                    assert versions[0] - versions[-1] <= 1
            assert process.poll() is None
        finally:
            process.kill()
    rig.sync()
    assert not any(e.flag for e in rig.manifest().entries.values())


def test_what_changes_while_it_is_staged_is_staged_again(rig: Rig) -> None:
    fill(rig.root, "a", "b")
    rig.sync()
    (rig.root / "a").write_text("a2")
    asked = []

    def more() -> Mapping[str, Iterable[str]]:
        asked.append(1)
        if len(asked) == 1:  # the app finishes what it began, after "a" was staged
            (rig.root / "a").write_text("a3")
            (rig.root / "b").write_text("b3")
        return {"data": {"a", "b"}}

    with TemporaryDirectory(dir=rig.base) as folder:
        survey = rig.surveyor.look(Look({"data": {"a"}}), Path(folder), more)
        files = {s.entry.path: s for s in survey.staged if s.entry.kind == "file"}
        assert {p: s.source for p, s in files.items()} == {"data/a": b"a3", "data/b": b"b3"}
        assert {s.entry.flag for s in files.values()} == {""}
        rig.commit(rig.pack(survey, Path(folder)))
    assert len(asked) == 2
    assert (rig.restored() / "b").read_text() == "b3"


def test_what_never_holds_still_is_flagged(rig: Rig) -> None:
    fill(rig.root, "log", "b")
    rig.sync()
    turn = 0

    def more() -> Mapping[str, Iterable[str]]:
        nonlocal turn
        turn += 1
        (rig.root / "log").write_text("x" * turn)
        return {}

    fill(rig.root, "new")
    (rig.root / "log").write_text("")
    with TemporaryDirectory(dir=rig.base) as folder:
        survey = rig.surveyor.look(Look(), Path(folder), more)
        found = {s.entry.path: s for s in survey.staged}
    assert turn == 3
    assert (found["data/log"].entry.flag, found["data/log"].row.settled) == ("unsettled", False)
    assert found["data/log"].source == b"xx", "the newest copy"
    assert found["data/new"].entry.flag == ""


def test_a_large_file_that_never_holds_still_is_copied_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "AGAIN_MOST", 1000)
    fill(rig.root, "log")
    rig.sync()
    turn = 0

    def more() -> Mapping[str, Iterable[str]]:
        nonlocal turn
        turn += 1
        (rig.root / "log").write_text("x" * (2000 + turn))
        return {}

    more()
    with TemporaryDirectory(dir=rig.base) as folder:
        survey = rig.surveyor.look(Look(), Path(folder), more)
        [one] = [s for s in survey.staged if s.entry.kind == "file"]
    assert (turn, one.source, one.entry.flag) == (2, b"x" * 2001, "unsettled")


def test_where_nobody_writes_nothing_is_looked_at_twice(rig: Rig) -> None:
    fill(rig.root, "a")

    def more() -> Mapping[str, Iterable[str]]:
        raise AssertionError("looked again")

    with TemporaryDirectory(dir=rig.base) as folder:
        assert rig.surveyor.look(Look(still=True), Path(folder), more).reason


def test_what_goes_while_others_are_staged_is_not_in_the_snapshot(rig: Rig) -> None:
    fill(rig.root, "a", "b", "c", "d/e")
    rig.sync()
    for name in ("a", "b", "d/e"):
        (rig.root / name).write_text("changed")

    def more() -> Mapping[str, Iterable[str]]:
        (rig.root / "a").unlink(missing_ok=True)
        if (rig.root / "d").is_dir():
            shutil.rmtree(rig.root / "d")
            (rig.root / "d").write_text("a file now")
        return {}

    with TemporaryDirectory(dir=rig.base) as folder:
        survey = rig.surveyor.look(Look(), Path(folder), more)
        rig.commit(rig.pack(survey, Path(folder)))
    assert paths(rig.manifest()) == {"data", "data/b", "data/c", "data/d"}
    assert (rig.restored() / "d").read_text() == "a file now"


def test_what_is_deleted_while_it_is_staged_is_gone(rig: Rig) -> None:
    fill(rig.root, "a", "b", "c")
    rig.sync()
    (rig.root / "a").write_text("changed")
    (rig.root / "b").write_text("changed")

    def more() -> Mapping[str, Iterable[str]]:
        (rig.root / "a").unlink(missing_ok=True)
        return {}

    with TemporaryDirectory(dir=rig.base) as folder:
        survey = rig.surveyor.look(Look(), Path(folder), more)
        assert [r.entry.path for r in survey.gone] == ["data/a"]
        assert [s.entry.path for s in survey.staged if s.entry.kind == "file"] == ["data/b"]


# After somebody else's edit


def test_reassert_puts_every_file_again(rig: Rig) -> None:
    fill(rig.root, "a", "d/b")
    (rig.root / "link").symlink_to("a")
    rig.sync()
    survey = rig.look(Look(reassert=True))
    files = {s.entry.path: s for s in survey.staged if s.entry.kind == "file"}
    assert {p: s.source for p, s in files.items()} == {"data/a": b"a", "data/d/b": b"d/b"}


def test_a_root_that_was_replaced_by_a_link_is_not_followed(rig: Rig) -> None:
    (rig.root / "own").write_text("own")
    rig.sync()
    outside = rig.base / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    os.rename(rig.root, rig.base / "aside")
    rig.root.symlink_to(outside)
    survey = rig.look()
    assert (survey.staged, survey.gone) == ([], [])
    assert "outside" in survey.unreadable["data"]
