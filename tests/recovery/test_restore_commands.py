"""What `sidecar restore` does for a person: in part, elsewhere, as a preview; and an index rebuilt beside main."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import RestoreFailed, SidecarError, UsageError
from sidecar.recovery import journal
from sidecar.recovery.restore import Restored, confirm_local, entry_path, preview, restore_paths, restore_to
from sidecar.roots import Root
from sidecar.snapshot.index import Known, Stat
from sidecar.snapshot.manifest import Manifest
from sidecar.state import RestoreProgress
from sidecar.stores.base import Store
from tests.recovery.test_restore import database
from tests.recovery.world import STORE_ID, World, fill, picture


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, ("data", "home/user/.n8n", "x.json"))


@pytest.fixture
def snapshot(world: World) -> tuple[str, Manifest]:
    fill(world.root, {"a": "one", "d/b": "two", "d/c": "three"})
    (world.root / "d/link").symlink_to("b")
    (world.root / "d").chmod(0o750)
    fill(Path(world.roots[1].path), {"config": "{}"})
    Path(world.roots[2].path).write_text("[]")
    return world.snapshot()


def laid_out(world: World, snapshot: tuple[str, Manifest], dest: Path, **more: Any) -> Restored:
    async def call(store: Store) -> Restored:
        return await restore_to(store, *snapshot, dest, progress=RestoreProgress(), **more)

    done = world.with_store(call)
    assert isinstance(done, Restored)
    return done


def brought(world: World, snapshot: tuple[str, Manifest], only: str | None, **more: Any) -> Restored:
    async def call(store: Store) -> Restored:
        with closing(world.index()) as index:
            return await restore_paths(
                *(store, *snapshot, more.pop("roots", world.roots), only),
                index=index,
                store_id=STORE_ID,
                state_dir=world.state,
                progress=RestoreProgress(),
                instance="cli",
                **more,
            )

    done = world.with_store(call)
    assert isinstance(done, Restored)
    return done


# --to


def test_laid_out_by_root_name_and_nothing_else_is_touched(
    world: World, snapshot: tuple[str, Manifest], tmp_path: Path
) -> None:
    fill(world.root, {"a": "mine now"})
    before = picture(tmp_path / "disk")
    done = laid_out(world, snapshot, tmp_path / "out/here")
    assert (done.files, done.fetched, done.conflicts) == (5, 5, None)
    found = picture(tmp_path / "out/here")
    assert {p for p, s in found.items() if len(s) == 4} == {
        *("/data/a", "/data/d/b", "/data/d/c", "/home/user/.n8n/config", "/x.json"),
    }
    assert found["/data/d"] == before["/data/d"], "mode and time too"
    assert found["/data/d/link"] == before["/data/d/link"]
    assert found["/data/a"][-1] == b"one"
    assert picture(tmp_path / "disk") == before
    assert os.listdir(world.state) == []


def test_only_a_part_with_the_folders_above_it(world: World, snapshot: tuple[str, Manifest], tmp_path: Path) -> None:
    laid_out(world, snapshot, tmp_path / "out", only="data/d")
    assert picture(tmp_path / "out").keys() == {"", "/data", "/data/d", "/data/d/b", "/data/d/c", "/data/d/link"}
    laid_out(world, snapshot, tmp_path / "file", only="home/user/.n8n/config")
    assert (tmp_path / "file/home/user/.n8n/config").read_text() == "{}"
    assert os.stat(tmp_path / "file/home").st_mode & 0o777 == 0o755


def test_folder_that_is_not_empty_needs_force(world: World, snapshot: tuple[str, Manifest], tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, {"data/a": "in the way", "mine": "stays", ".sidecar-tmp-restore/in-1/x": "of a killed one"})
    with pytest.raises(UsageError, match="--force"):
        laid_out(world, snapshot, out)
    assert (out / "data/a").read_text() == "in the way"
    done = laid_out(world, snapshot, out, force=True)
    assert (done.conflict_count, done.fetched) == (0, 5)
    assert (out / "data/a").read_text() == "one"
    assert (out / "mine").read_text() == "stays"
    assert sorted(os.listdir(out)) == ["data", "home", "mine", "x.json"]
    assert laid_out(world, snapshot, out, force=True).fetched == 0


def test_killed_before_it_goes_on_without_force(world: World, snapshot: tuple[str, Manifest], tmp_path: Path) -> None:
    fill(tmp_path / "out", {".sidecar-tmp-restore/in-1/x": "left by a kill"})
    laid_out(world, snapshot, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["data", "home", "x.json"]


def test_force_follows_no_link_and_removes_no_folder(
    world: World, snapshot: tuple[str, Manifest], tmp_path: Path
) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    fill(outside, {"user/.n8n/config": "theirs", "a": "theirs"})
    out.mkdir()
    (out / "home").symlink_to(outside)
    (out / "data").mkdir()
    (out / "data/a").symlink_to(outside / "a")
    before = picture(outside)
    laid_out(world, snapshot, out, force=True)
    assert picture(outside) == before
    assert (out / "home/user/.n8n/config").read_text() == "{}"
    (out / "data/a").unlink()
    fill(out, {"data/a/deep": "mine"})
    with pytest.raises(RestoreFailed, match="data/a"):
        laid_out(world, snapshot, out, force=True)
    assert (out / "data/a/deep").read_text() == "mine"


def test_dest_that_is_a_file(world: World, snapshot: tuple[str, Manifest], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SidecarError):
        laid_out(world, snapshot, tmp_path / "file")
    with pytest.raises(SidecarError):
        laid_out(world, snapshot, tmp_path / "file", force=True)
    assert (tmp_path / "file").read_text() == "mine"


# --path, into the roots


def test_part_of_a_root_comes_back_and_what_was_there_goes_to_conflicts(
    world: World, snapshot: tuple[str, Manifest]
) -> None:
    """Asked for by a person, nothing is newer: also where the index knows this very snapshot."""
    world.restore(*snapshot)
    fill(world.root, {"a": "mine", "d/b": "broken", "d/extra": "mine"})
    (world.root / "d/c").unlink()
    with closing(world.index()) as index:
        rows = list(index.rows())
    done = brought(world, snapshot, "data/d")
    assert (done.fetched, done.conflict_count) == (2, 1)
    assert done.conflicts is not None
    assert (done.conflicts / "data/d/b").read_text() == "broken"
    assert {n: (world.root / n).read_text() for n in ("a", "d/b", "d/c", "d/extra")} == {
        "a": "mine",
        "d/b": "two",
        "d/c": "three",
        "d/extra": "mine",
    }
    with closing(world.index()) as index:
        assert list(index.rows()) == rows, "what was restored is a change for the next sync"
    assert not journal.is_open(world.state)


def test_one_file_whose_folders_are_gone(world: World, snapshot: tuple[str, Manifest]) -> None:
    world.empty_disk()
    assert brought(world, snapshot, "data/d/b").fetched == 1
    assert picture(world.base / "disk").keys() == {"", "/data", "/data/d", "/data/d/b"}
    assert os.stat(world.root / "d").st_mode & 0o777 == 0o750


def test_all_of_it_recorded_lets_a_sync_follow(world: World, snapshot: tuple[str, Manifest]) -> None:
    fill(world.root, {"a": "mine"})
    done = brought(world, snapshot, None, record=True)
    assert done.conflict_count == 1
    with closing(world.index()) as index:
        assert index.known() == Known(STORE_ID, snapshot[1].snapshot, snapshot[0])
        row = index.get("data/a")
        assert row is not None
        assert row.stat == Stat.of(os.lstat(world.root / "a"))


def test_path_that_is_not_there_is_said(world: World, snapshot: tuple[str, Manifest], tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match=r"sidecar ls 1\.1") as failure:
        brought(world, snapshot, "data/no")
    assert "'data/no'" in failure.value.message
    with pytest.raises(SidecarError, match="data/no"):
        laid_out(world, snapshot, tmp_path / "out", only="data/no")
    with pytest.raises(UsageError, match="--to"):
        brought(world, snapshot, "data/d", roots=world.roots[1:])


def test_part_alone_does_not_hide_that_a_restore_was_cut_off(world: World, snapshot: tuple[str, Manifest]) -> None:
    (world.state / journal.NAME).write_text("cut off")
    with pytest.raises(RestoreFailed, match="without --path"):
        brought(world, snapshot, "data/d")
    assert journal.is_open(world.state)
    brought(world, snapshot, None)
    assert not journal.is_open(world.state)


def test_paths_as_people_write_them(world: World) -> None:
    roots = [Root("data", "/data"), Root("home/user/.n8n", "/home/user/.n8n"), Root("x", "/srv/x.json")]
    assert {
        p: entry_path(p, roots) for p in ("/data/a", "data/a", "/data/", "/home/user/.n8n", "/srv/x.json", "x")
    } == {
        "/data/a": "data/a",
        "data/a": "data/a",
        "/data/": "data",
        "/home/user/.n8n": "home/user/.n8n",
        "/srv/x.json": "x",
        "x": "x",
    }
    assert entry_path("/database", roots) == "database"


# --dry-run


def test_preview_says_what_a_restore_then_does(world: World, snapshot: tuple[str, Manifest]) -> None:
    world.restore(*snapshot)
    fill(world.root, {"a": "mine"})
    (world.root / "d/c").unlink()
    (world.root / "d/b").chmod(0o600)
    os.unlink(world.roots[2].path)
    os.mkfifo(world.roots[2].path)
    before = picture(world.base / "disk", times=False)
    with closing(world.index()) as index:
        said = {s.entry.path: s.action for s in preview(snapshot[1], world.roots, index, None)}
    assert {p: a for p, a in said.items() if a != "keep"} == {
        "data/a": "conflict",
        "data/d/c": "fetch",
        "data/d/b": "meta",
        "data/d": "meta",
        "x.json": "blocked",
    }
    assert said["home/user/.n8n/config"] == "keep"
    assert picture(world.base / "disk", times=False) == before
    done = brought(world, snapshot, None)
    assert (done.conflict_count, done.fetched, done.blocked) == (1, 2, ("x.json",))
    with pytest.raises(SidecarError):
        preview(snapshot[1], world.roots, None, "no/such")


def test_preview_of_a_newer_head_tells_replaced_from_conflicting(world: World) -> None:
    world.roots = world.roots[:1]
    fill(world.root, {"a": "old", "b": "old"})
    world.restore(*world.snapshot())
    inode = os.stat(world.root / "a").st_ino
    fill(world.base, {"keep": "old"})
    os.rename(world.root / "a", world.base / "a")
    fill(world.root, {"a": "new", "b": "new"})
    _, newer = world.snapshot()
    os.rename(world.base / "a", world.root / "a")
    fill(world.root, {"b": "mine"})
    assert os.stat(world.root / "a").st_ino == inode
    with closing(world.index()) as index:
        said = {s.entry.path: s.action for s in preview(newer, world.roots, index, "data/a")}
        assert said == {"data/a": "replace"}
        every = {s.entry.path: s.action for s in preview(newer, world.roots, index, None)}
        assert every["data/b"] == "conflict"


# A lost index, beside a running main


def test_lost_index_is_rebuilt_from_what_is_equal(
    world: World, snapshot: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    revision, manifest = snapshot
    fill(world.root, {"d/b": "newer"})
    (world.root / "d/c").unlink()
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr("sidecar.recovery.restore.time.time_ns", lambda: later)
    before = picture(world.base / "disk")
    with closing(world.index()) as index:
        confirm_local(manifest, world.roots[:2], index, STORE_ID, revision)
        assert index.known() == Known(STORE_ID, manifest.snapshot, revision)
        rows = {r.entry.path: r for r in index.rows()}
        assert {p: r.entry for p, r in rows.items()} == manifest.entries
        assert {p for p, r in rows.items() if r.stat} == {"data/a", "data/d/link", "home/user/.n8n/config"}
        assert rows["data/a"].stat == Stat.of(os.lstat(world.root / "a"))
    assert picture(world.base / "disk") == before


def test_what_was_written_this_moment_proves_nothing(world: World, snapshot: tuple[str, Manifest]) -> None:
    revision, manifest = snapshot
    with closing(world.index()) as index:
        confirm_local(manifest, world.roots, index, STORE_ID, revision)
        assert [r.entry.path for r in index.rows() if r.stat] == []


def test_nothing_in_a_root_makes_it_fail(
    world: World, snapshot: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Main may have turned everything around; what the snapshot has is then simply not confirmed."""
    revision, manifest = snapshot
    shutil.rmtree(world.root)
    world.root.write_text("a file now")
    shutil.rmtree(world.roots[1].path)
    os.unlink(world.roots[2].path)
    os.mkdir(world.roots[2].path)
    database(world.base / "unrelated.db", 1).close()
    with closing(world.index()) as index:
        confirm_local(manifest, world.roots, index, STORE_ID, revision)
        assert [r.entry.path for r in index.rows() if r.stat] == []
        assert index.known() is not None


def test_loop_is_never_blocked(world: World) -> None:
    """Hashing and copying happen in threads: the web part answers meanwhile."""
    fill(world.root, {f"{n}": os.urandom(8_000_000) for n in range(6)})
    snapshot = world.snapshot()
    world.empty_disk()

    async def call(store: Store) -> float:
        worst, stop = 0.0, False

        async def beat() -> None:
            nonlocal worst
            while not stop:
                before = time.monotonic()
                await asyncio.sleep(0.005)
                worst = max(worst, time.monotonic() - before - 0.005)

        beating = asyncio.create_task(beat())
        await restore_to(store, *snapshot, world.base / "out", force=True, progress=RestoreProgress())
        stop = True
        await beating
        return worst

    def once() -> float:
        shutil.rmtree(world.base / "out", ignore_errors=True)
        return float(world.with_store(call))

    # A busy machine may stop us once; a blocked loop is blocked each time.
    assert any(once() < 0.1 for _ in range(4))
