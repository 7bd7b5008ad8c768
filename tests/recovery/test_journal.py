"""The redo journal: finished by a later start wherever the first one died, without the store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.recovery import journal
from sidecar.recovery.plan import Op, Place
from sidecar.recovery.redo import Journal
from sidecar.recovery.restore import finish_journal
from sidecar.snapshot import codec
from sidecar.snapshot.index import Index, Known
from sidecar.snapshot.manifest import Manifest
from tests.recovery.test_restore import MEMORY, database, values
from tests.recovery.world import STORE_ID, World, fill, picture


@pytest.mark.parametrize("conflicts", ["on the same disk", "on another"])
def test_killed_before_every_single_change(tmp_path: Path, conflicts: str) -> None:
    """Each kind of operation is in it: see ``prepared``. In memory, since hundreds of deaths sync a lot."""
    step = 6 if conflicts == "on another" else 1  # that one costs a sync of a real disk for each
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        base = Path(name)
        revision = prepared(base)
        if conflicts == "on another":
            (base / "before/state/conflicts").symlink_to(tmp_path)
        run = subprocess.run(
            [sys.executable, "-m", "tests.recovery.killed", base, revision, str(step)],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-3000:]
        assert int(run.stdout) >= (90 if conflicts == "on another" else 60), "points of death"


def prepared(base: Path) -> str:
    """``before`` is a disk with all that a restore may meet, ``wanted`` what it must become."""
    world = World(base)
    fill(world.root, {"kept": "k", "plain": "p", "twin": "p", "d/e/deep": "x", "replaced": "old", "was": "file"})
    fill(world.root, {"conflict": "c", "folder/x": "f", "chmod": "m"})
    database(world.root / "x.db", 1).close()
    (world.root / "link").symlink_to("kept")
    (world.root / "other link").symlink_to("plain")
    world.restore(*world.snapshot())
    fill(world.root, {"replaced": "new"})
    (world.root / "shut").mkdir()
    fill(world.root, {"shut/in": "s"})
    (world.root / "shut").chmod(0o555)
    os.utime(world.root / "d", ns=(1, 12345))
    revision, manifest = world.snapshot()
    shutil.copytree(world.root, base / "wanted", symlinks=True)
    (base / "manifest.json").write_bytes(codec.encode(manifest))
    for name in ("plain", "twin", "link", "other link", "conflict", "x.db"):
        (world.root / name).unlink()
    for name in ("d", "folder", "shut"):
        shutil.rmtree(world.root / name)
    fill(world.root, {"conflict": "mine", "link/a": "mine, in a folder", "replaced": "old", "folder": "mine"})
    (world.root / "d").symlink_to("/mine")
    fill(world.root, {"x.db": "mine", "x.db-wal": "mine, beside a database", "x.db-journal": "j"})
    (world.root / "chmod").chmod(0o600)
    (world.root / "other link").mkdir()
    for name in ("disk", "state"):
        shutil.copytree(base / name, base / "before" / name, symlinks=True)
    return revision


def test_no_journal_is_no_outcome(tmp_path: Path) -> None:
    assert finish_journal(tmp_path) is None
    assert not journal.is_open(tmp_path)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def interrupted(world: World, manifest: Manifest, revision: str, ops: list[Op], *, wary: bool = True) -> Place:
    """A journal that was written, and nothing of it done."""
    base = os.path.realpath(world.root)
    place = Place("data", str(world.root), base, "", f"{base}/.sidecar-tmp-restore")
    os.makedirs(place.staging)
    for op in ops:
        if op.what == "file":
            shutil.copy(world.base / "originals" / op.rel, f"{place.staging}/{op.source}")
    log = Journal(
        STORE_ID,
        str(manifest.snapshot),
        revision,
        "i",
        True,
        str(world.state / "conflicts/1"),
        (place,),
        tuple(ops),
        wary,
    )
    journal.write(world.state, log, manifest)
    return place


def file_ops(world: World, manifest: Manifest) -> list[Op]:
    shutil.copytree(world.root, world.base / "originals")
    return [
        Op(
            "file",
            0,
            e.path.removeprefix("data/"),
            e.path,
            e.mode,
            e.uid,
            e.gid,
            e.mtime_ns,
            e.sha256,
            e.size,
            e.sha256,
        )
        for _, e in sorted(manifest.entries.items())
        if e.kind == "file"
    ]


def test_finished_offline_and_the_index_describes_it(world: World) -> None:
    fill(world.root, {"a": "one", "b": "two"})
    revision, manifest = world.snapshot()
    ops = file_ops(world, manifest)
    world.empty_disk()
    world.root.mkdir()
    interrupted(world, manifest, revision, ops)
    with closing(world.index()) as index:
        outcome = finish_journal(world.state, index)
        assert outcome is not None
        assert outcome.conflict_count == 0
        assert (outcome.complete, outcome.store, outcome.snapshot, outcome.revision, outcome.operations) == (
            *(True, STORE_ID, "1.1", revision, 2),
        )
        assert index.known() == Known(STORE_ID, manifest.snapshot, revision)
        row = index.get("data/a")
        assert row is not None
        assert row.stat is not None
    assert sorted(os.listdir(world.root)) == ["a", "b"]
    assert finish_journal(world.state) is None
    assert world.restore(revision, manifest).fetched == 0


@pytest.mark.parametrize("gone", ["staging", "one file", "root"])
def test_staging_that_was_wiped_is_reported_and_the_store_asked_again(world: World, gone: str) -> None:
    fill(world.root, {"a": "one", "b": "two"})
    revision, manifest = world.snapshot()
    ops = file_ops(world, manifest)
    world.empty_disk()
    world.root.mkdir()
    place = interrupted(world, manifest, revision, ops)
    if gone == "one file":
        os.unlink(f"{place.staging}/{ops[0].source}")
    else:
        shutil.rmtree(place.staging if gone == "staging" else place.base)
    outcome = finish_journal(world.state)
    assert outcome is not None
    assert not outcome.complete
    assert outcome.lost == (("data/a",) if gone == "one file" else ("data/a", "data/b"))
    assert "'data/a'" in outcome.why
    assert journal.is_open(world.state), "main must not start"
    done = world.restore(revision, manifest)
    assert done.fetched == (1 if gone == "one file" else 2)
    assert (world.root / "a").read_text() == "one"
    assert not journal.is_open(world.state)


def test_restore_finishes_it_first_and_says_what_went_to_conflicts(world: World) -> None:
    fill(world.root, {"a": "one", "b": "two"})
    revision, manifest = world.snapshot()
    ops = [replace(op, away=True) for op in file_ops(world, manifest)]
    fill(world.root, {"a": "mine"})
    interrupted(world, manifest, revision, ops)
    fill(world.root, {"c": "three"})
    done = world.restore(revision, manifest)
    assert done.conflicts == world.state / "conflicts/1"
    assert done.conflict_count == 2
    assert (done.conflicts / "data/a").read_text() == "mine"
    assert (world.root / "a").read_text() == "one"


@pytest.mark.parametrize("damage", ["cut", "garbage", "another version", "a line of it"])
def test_journal_that_cannot_be_read_is_reported(world: World, damage: str) -> None:
    fill(world.root, {"a": "one"})
    revision, manifest = world.snapshot()
    ops = file_ops(world, manifest)
    interrupted(world, manifest, revision, ops)
    path = world.state / journal.NAME
    raw = path.read_bytes()
    lines = raw.splitlines(keepends=True)
    changed = {
        "cut": b"".join(lines[:-1]),
        "garbage": b"\xff" * 100,
        "another version": raw.replace(b'"format":1', b'"format":2'),
        "a line of it": lines[0] + b'{"what":"file","surprise":1}\n' + lines[-1],
    }
    path.write_bytes(changed[damage])
    outcome = finish_journal(world.state)
    assert outcome is not None
    assert not outcome.complete
    assert outcome.why
    assert journal.is_open(world.state)
    world.restore(revision, manifest)
    assert not journal.is_open(world.state)
    assert os.listdir(world.root) == ["a"]


def test_half_a_restore_makes_nothing_newer(world: World) -> None:
    """The index still knows the snapshot before; without the note it would call the half-placed one newer."""
    fill(world.root, {"a": "one", "b": "one"})
    old_revision, old = world.snapshot()
    world.restore(old_revision, old)
    fill(world.root, {"a": "two"})
    with closing(world.index()) as index:
        index.set_note(journal.NOTE, "1.2")
    done = world.restore(old_revision, old)
    assert (done.kept_newer, done.conflict_count) == (0, 1)
    assert (world.root / "a").read_text() == "one"


def test_names_of_any_bytes_survive_the_journal(world: World) -> None:
    name = os.fsdecode(b'\xff\n"x')
    fill(world.root, {name: "odd"})
    (world.root / "link").symlink_to(name)
    revision, manifest = world.snapshot()
    ops = file_ops(world, manifest)
    ops.append(Op("link", 0, "link2", "data/link2", target=name))
    world.empty_disk()
    world.root.mkdir()
    interrupted(world, manifest, revision, ops)
    log = journal.read(world.state)
    assert log is not None
    assert log.ops == tuple(ops)
    outcome = finish_journal(world.state)
    assert outcome is not None
    assert outcome.complete
    assert (world.root / name).read_text() == "odd"
    assert os.readlink(world.root / "link2") == name


def test_conflict_copy_that_is_there_already_is_never_overwritten(world: World) -> None:
    """A crash came between the copy and the original's end, and something else stands there now."""
    fill(world.root, {"a": "one"})
    revision, manifest = world.snapshot()
    ops = [replace(op, away=True) for op in file_ops(world, manifest)]
    fill(world.root, {"a": "second"})
    fill(world.state, {"conflicts/1/data/a": "first"})
    interrupted(world, manifest, revision, ops)
    assert finish_journal(world.state) is not None
    assert picture(world.state / "conflicts/1/data").keys() == {"", "/a", "/a~2"}
    assert (world.state / "conflicts/1/data/a").read_text() == "first"
    assert (world.state / "conflicts/1/data/a~2").read_text() == "second"
    assert (world.root / "a").read_text() == "one"


def test_what_was_written_since_the_cut_makes_way_into_conflicts(world: World) -> None:
    """Nothing stood there when it was planned: an entrypoint's default, or an app that ran without the sidecar."""
    fill(world.root, {"a": "one", "b": "two", "c": "three", "x.db": "four"})
    (world.root / "link").symlink_to("a")
    (world.root / "folder").mkdir()
    revision, manifest = world.snapshot()
    shutil.rmtree(world.root / "folder")
    (world.root / "link").unlink()
    ops = [Op("dir", 0, "folder", "data/folder", 0o700), *file_ops(world, manifest)]
    ops = [replace(op, sides=("-wal",)) if op.rel == "x.db" else op for op in ops]
    ops.append(Op("link", 0, "link", "data/link", 0o777, target="a"))
    for name in ("a", "b", "c", "x.db"):
        (world.root / name).unlink()
    interrupted(world, manifest, revision, ops)
    fill(world.root, {"a": "mine", "b/in": "mine, in a folder", "folder": "f", "link": "l", "x.db-wal": "w"})
    outcome = finish_journal(world.state)
    assert outcome is not None
    assert (outcome.complete, outcome.conflict_count) == (True, 5)
    moved = world.state / "conflicts/1/data"
    assert {p.name: p.read_text() for p in moved.iterdir() if p.is_file()} == {
        "a": "mine",
        "folder": "f",
        "link": "l",
        "x.db-wal": "w",
    }
    assert (moved / "b/in").read_text() == "mine, in a folder"
    assert {p.name: p.read_text() for p in world.root.iterdir() if p.is_file() and not p.is_symlink()} == {
        "a": "one",
        "b": "two",
        "c": "three",
        "x.db": "four",
    }
    assert os.readlink(world.root / "link") == "a"
    assert (world.root / "folder").is_dir()


def replacing(world: World, ops: list[Op]) -> list[Op]:
    """``ops`` as a plan has them that has seen what stands there now, which the index knows."""
    out = []
    for op in ops:
        at = world.root / op.rel
        stats = [os.stat(p) for p in (at, Path(f"{at}-wal"), Path(f"{at}-journal")) if p.exists()]
        seen = (sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats), max(s.st_ctime_ns for s in stats))
        sides = ("-wal", "-shm", "-journal") if op.rel.endswith(".db") else ()
        out.append(replace(op, expect=seen, was=hashlib.sha256(at.read_bytes()).hexdigest(), sides=sides))
    return out


@pytest.mark.parametrize("written", ["not at all", "anew", "to its log", "to both"])
def test_what_is_replaced_makes_way_only_if_it_was_written_since(world: World, written: str) -> None:
    """Of a database with a log the log alone tells; what makes way takes its log along."""
    fill(world.root, {"a.db": "new"})
    revision, manifest = world.snapshot()
    ops = file_ops(world, manifest)
    fill(world.root, {"a.db": "old", "a.db-wal": "log"})
    interrupted(world, manifest, revision, replacing(world, ops))
    mine = {"anew": {"a.db": "mine"}, "to its log": {"a.db-wal": "logged"}, "to both": {"a.db": "m", "a.db-wal": "l"}}
    fill(world.root, mine.get(written, {}))
    outcome = finish_journal(world.state)
    assert outcome is not None
    assert {p.name: p.read_text() for p in world.root.iterdir()} == {"a.db": "new"}
    moved = {} if written == "not at all" else {"a.db": "old", "a.db-wal": "log"} | mine[written]
    folder = world.state / "conflicts/1/data"
    assert {p.name: p.read_text() for p in (folder.iterdir() if folder.exists() else ())} == moved
    assert (outcome.conflicts is not None, outcome.conflict_count) == (bool(moved), len(moved))


def test_the_log_of_what_made_way_before_a_crash_follows_it(world: World) -> None:
    fill(world.root, {"a.db": "new"})
    revision, manifest = world.snapshot()
    ops = file_ops(world, manifest)
    fill(world.root, {"a.db": "old"})
    interrupted(world, manifest, revision, replacing(world, ops))
    (world.root / "a.db").unlink()
    fill(world.state, {"conflicts/1/data/a.db": "mine"})
    fill(world.root, {"a.db-wal": "its log"})
    assert finish_journal(world.state) is not None
    folder = world.state / "conflicts/1/data"
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"a.db": "mine", "a.db-wal": "its log"}
    assert {p.name: p.read_text() for p in world.root.iterdir()} == {"a.db": "new"}


def test_an_owner_or_another_link_is_no_write(world: World) -> None:
    """Both move the ctime: of two links to one file the first that is replaced changes the other's."""
    fill(world.root, {"a": "new a", "b": "new b"})
    revision, manifest = world.snapshot()
    ops = file_ops(world, manifest)
    fill(world.root, {"a": "old"})
    (world.root / "b").unlink()
    os.link(world.root / "a", world.root / "b")
    interrupted(world, manifest, revision, replacing(world, ops))
    os.chmod(world.root / "a", 0o600)
    outcome = finish_journal(world.state)
    assert outcome is not None
    assert (outcome.complete, outcome.conflicts) == (True, None)
    assert {p.name: p.read_text() for p in world.root.iterdir()} == {"a": "new a", "b": "new b"}


def test_a_journal_of_before_is_finished_as_it_was_meant(world: World) -> None:
    """It doesn't say what it replaces."""
    fill(world.root, {"a": "new"})
    revision, manifest = world.snapshot()
    ops = file_ops(world, manifest)
    fill(world.root, {"a": "old"})
    interrupted(world, manifest, revision, ops, wary=False)
    lines = (world.state / journal.NAME).read_text().splitlines()
    head = json.loads(lines[0])
    assert head.pop("wary") is False
    (world.state / journal.NAME).write_text("\n".join([json.dumps(head), *lines[1:]]) + "\n")
    outcome = finish_journal(world.state)
    assert outcome is not None
    assert (outcome.complete, outcome.conflicts) == (True, None)
    assert (world.root / "a").read_text() == "new"


def test_kept_file_that_changed_since_it_was_looked_at_is_left_alone(world: World) -> None:
    fill(world.root, {"a": "one"})
    revision, manifest = world.snapshot()
    found = os.stat(world.root / "a")
    expect = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    interrupted(world, manifest, revision, [Op("meta", 0, "a", "data/a", 0o600, 0, 0, 77, expect=expect)])
    fill(world.root, {"a": "two"})
    with closing(Index(world.state / "index.db")) as index:
        finish_journal(world.state, index)
        row = index.get("data/a")
        assert row is not None
        assert row.stat is None, "its content has to be looked at again"
    assert os.stat(world.root / "a").st_mtime_ns != 77


def test_values_of_the_test_database(tmp_path: Path) -> None:
    database(tmp_path / "x.db", 3).close()
    assert values(tmp_path / "x.db") == [3]
