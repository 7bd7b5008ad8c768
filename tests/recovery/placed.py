"""`python -m tests.recovery.placed SCENARIO BASE`: restores on mounts, as other users, onto full disks.

Each scenario is a function here; `test_places` runs it as root in a mount namespace of its own, so that nothing of
it is left anywhere. Whatever fails ends in a traceback.
"""

from __future__ import annotations

import ctypes  # noqa: F401  (see become)
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidecar.errors import EX_CONFIG, RestoreFailed
from sidecar.recovery import journal
from sidecar.recovery.aside import Aside, count
from sidecar.recovery.restore import finish_journal
from sidecar.recovery.tree import Tree
from sidecar.roots import Root
from sidecar.snapshot.manifest import Manifest
from sidecar.stores.base import StoreError
from tests.recovery.world import World, Wrapped, fill, picture

SCENARIOS: dict[str, Callable[[Path], None]] = {}


def scenario(call: Callable[[Path], None]) -> Callable[[Path], None]:
    SCENARIOS[call.__name__] = call
    return call


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def tmpfs(at: Path, size: str = "64m") -> None:
    at.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at))


def refused(world: World, revision: str, manifest: Manifest, **more: Any) -> Any:
    try:
        world.restore(revision, manifest, **more)
    except (RestoreFailed, StoreError) as failure:
        return failure
    raise AssertionError("it was restored")


# Mounts


@scenario
def root_that_is_a_mount_point(base: Path) -> None:
    world = World(base)
    fill(world.root, {"a": "1", "d/e": "2"})
    world.root.chmod(0o750)
    before = picture(world.root)
    revision, manifest = world.snapshot()
    world.empty_disk()
    tmpfs(world.root)
    world.restore(revision, manifest)
    assert picture(world.root) == before
    assert os.path.ismount(world.root)
    fill(world.root, {"a": "mine"})
    shutil.rmtree(world.state)
    world.state.mkdir()
    done = world.restore(revision, manifest)
    assert done.conflicts is not None
    assert (done.conflicts / "data/a").read_text() == "mine", "moved to another filesystem"
    assert picture(world.root) == before


@scenario
def conflicts_go_to_another_filesystem_whole(base: Path) -> None:
    world = World(base)
    fill(world.root, {"was": "1", "link": "2"})
    revision, manifest = world.snapshot()
    world.empty_disk()
    tmpfs(world.root)
    fill(world.root, {"was/a/b": "mine", "was/c": "mine"})
    (world.root / "was/link").symlink_to("/somewhere")
    (world.root / "link").symlink_to("/elsewhere")
    os.mkfifo(world.root / "was/pipe")
    (world.root / "was/a").chmod(0o700)
    os.utime(world.root / "was/c", ns=(1, 999))
    mine = picture(world.root / "was")
    del mine["/pipe"]  # holds nothing, and no copy of it means anything
    done = world.restore(revision, manifest)
    assert done.conflicts is not None
    assert picture(done.conflicts / "data/was", times=False) == picture_without_times(mine)
    assert os.stat(done.conflicts / "data/was/c").st_mtime_ns == 999
    assert os.readlink(done.conflicts / "data/link") == "/elsewhere"
    assert sorted(os.listdir(world.root)) == ["link", "was"]
    assert (done.conflict_count, done.blocked) == (4, ()), "files and links, each of them"


def picture_without_times(seen: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    return {p: (s[0], s[1], 0, *s[3:]) if len(s) > 2 else s for p, s in seen.items()}


@scenario
def single_file_that_is_a_mount_point(base: Path) -> None:
    """As a container's volume of one file: it can't be renamed over, so it is written in place."""
    world = World(base, ("x.json",))
    world.root.write_text('{"from": "the snapshot"}')
    revision, manifest = world.snapshot()
    volume = base / "volume.json"
    volume.write_text("mine, and much longer than the snapshot's one is")
    inode = volume.stat().st_ino
    world.root.unlink()
    world.root.touch()
    mount("--bind", str(volume), str(world.root))
    done = world.restore(revision, manifest)
    assert world.root.read_text() == volume.read_text() == '{"from": "the snapshot"}'
    assert (volume.stat().st_ino, volume.stat().st_mtime_ns) == (inode, manifest.entries["x.json"].mtime_ns)
    assert done.conflicts is not None
    assert (done.conflicts / "x.json").read_text().startswith("mine")
    assert os.listdir(base / "disk") == ["x.json"]
    with closing(world.index()) as index:
        row = index.get("x.json")
        assert row is not None
        assert row.stat is not None


@scenario
def file_below_the_root_that_is_a_mount_point(base: Path) -> None:
    world = World(base)
    fill(world.root, {"a": "1", "d/mounted": "2"})
    before = picture(world.root)
    revision, manifest = world.snapshot()
    volume = base / "volume"
    volume.write_text("mine")
    mount("--bind", str(volume), str(world.root / "d/mounted"))
    os.unlink(world.root / "a")
    done = world.restore(revision, manifest)
    assert picture(world.root) == before
    assert volume.read_text() == "2"
    assert done.conflict_count == 1


@scenario
def mount_point_in_the_way_of_a_file_is_left(base: Path) -> None:
    world = World(base)
    fill(world.root, {"other": "1", "same": "2", "z": "3"})
    revision, manifest = world.snapshot()
    world.empty_disk()
    tmpfs(world.root / "other")
    fill(world.root, {"other/a": "theirs", "same/x": "hidden"})
    fill(base / "bound", {"b": "theirs too"})
    mount("--bind", str(base / "bound"), str(world.root / "same"))  # the same filesystem: no stat tells
    done = world.restore(revision, manifest)
    assert done.blocked == ("data/other", "data/same")
    assert (world.root / "other/a").read_text() == "theirs"
    assert (world.root / "same/b").read_text() == "theirs too"
    assert (world.root / "z").read_text() == "3"
    assert not journal.is_open(world.state)
    assert done.files == 1


@scenario
def mounts_in_a_folder_that_would_make_way_are_left(base: Path) -> None:
    """Also where conflicts lie on another filesystem: the folder would be copied there, and then removed."""
    for other in (False, True):
        world = World(base / str(other))
        fill(world.root, {"was": "file", "z": "3"})
        revision, manifest = world.snapshot()
        world.empty_disk()
        fill(world.root, {"was/mine": "1", "was/bound/hidden": ""})
        fill(world.base / "precious", {"p": "theirs"})
        mount("--bind", str(world.base / "precious"), str(world.root / "was/bound"))
        if other:
            tmpfs(world.state / "conflicts")
        done = world.restore(revision, manifest)
        assert done.blocked == ("data/was",)
        assert (world.base / "precious/p").read_text() == "theirs"
        assert (world.root / "was/mine").read_text() == "1"
        assert (world.root / "z").read_text() == "3"
        assert not journal.is_open(world.state)


@scenario
def mount_that_came_since_is_left_as_well(base: Path) -> None:
    fill(base / "root", {"folder/mine": "1", "file": ""})
    fill(base / "precious", {"p": "theirs"})
    (base / "root/folder/bound").mkdir()
    mount("--bind", str(base / "precious"), str(base / "root/folder/bound"))
    mount("--bind", str(base / "precious/p"), str(base / "root/file"))
    tmpfs(base / "elsewhere")
    for conflicts in (base / "elsewhere/1", base / "here"):
        with Tree(str(base / "root")) as tree, Aside(str(conflicts), lambda: None) as aside:
            assert not aside.move(tree, "folder", "data/folder", in_place=True)
            assert not aside.move(tree, "file", "data/file", in_place=False)
            assert count(str(conflicts)) == 0
    assert (base / "precious/p").read_text() == "theirs"
    assert (base / "root/folder/mine").read_text() == "1"


@scenario
def bound_file_in_the_way_of_a_folder_or_link_is_left(base: Path) -> None:
    for other in (False, True):
        world = World(base / str(other))
        fill(world.root, {"folder/in": "1", "z": "3"})
        (world.root / "link").symlink_to("z")
        revision, manifest = world.snapshot()
        world.empty_disk()
        fill(world.root, {"folder": "", "link": ""})
        fill(world.base, {"theirs": "theirs"})
        for name in ("folder", "link"):
            mount("--bind", str(world.base / "theirs"), str(world.root / name))
        if other:
            tmpfs(world.state / "conflicts")
        done = world.restore(revision, manifest)
        assert done.blocked == ("data/folder", "data/folder/in", "data/link")
        assert (done.conflict_count, done.conflicts) == (0, None)
        assert (world.base / "theirs").read_text() == "theirs"
        assert (world.root / "z").read_text() == "3"
        assert not journal.is_open(world.state)


@scenario
def conflict_with_the_name_of_a_copy_in_the_making(base: Path) -> None:
    world = World(base)
    fill(world.root, {".part": "1", "a": "2"})
    revision, manifest = world.snapshot()
    fill(world.root, {".part": "mine too", "a": "mine"})
    shutil.rmtree(world.state)
    world.state.mkdir()
    tmpfs(world.state / "conflicts")
    done = world.restore(revision, manifest)
    assert done.conflicts is not None
    moved = {p.name: p.read_text() for p in (done.conflicts / "data").iterdir()}
    assert moved == {".part": "mine too", "a": "mine"}


# Full disks


@scenario
def too_small_a_disk_is_said_before_anything_is_changed(base: Path) -> None:
    world = World(base)
    fill(world.root, {"large": os.urandom(3_000_000), "small": "1"})
    revision, manifest = world.snapshot()
    world.empty_disk()
    tmpfs(world.root, "1m")
    fill(world.root, {"small": "mine"})
    calls: list[Wrapped] = []

    def wrap(store: object) -> object:
        calls.append(Wrapped(store))  # type: ignore[arg-type]
        return calls[-1]

    failure = refused(world, revision, manifest, wrap=wrap)
    assert repr(str(world.root)) in failure.message
    assert "3,0" in failure.message, "needed"
    assert "free" in failure.message
    assert not failure.final, "space may be made while it waits"
    assert calls[0].calls == [], "nothing was fetched for it"
    assert (world.root / "small").read_text() == "mine"
    mount("-o", "remount,size=8m", str(world.root))
    assert world.restore(revision, manifest).fetched == 2


@scenario
def bundles_need_room_as_well(base: Path) -> None:
    world = World(base)
    fill(world.root, {f"{n}": os.urandom(30_000) for n in range(20)})
    revision, manifest = world.snapshot(bundled=lambda path: True)
    world.empty_disk()
    tmpfs(world.root, "900k")  # enough for the files, not for the bundle beside them
    assert "too little space" in refused(world, revision, manifest).message


@scenario
def disk_that_fills_up_meanwhile(base: Path) -> None:
    world = World(base)
    fill(world.root, {"large": os.urandom(3_000_000)})
    revision, manifest = world.snapshot()
    world.empty_disk()
    tmpfs(world.root, "4m")
    fill(world.root, {"large": "mine"})

    class Filling(Wrapped):
        async def before(self, paths: list[str]) -> None:
            fill(world.root, {"somebody's": os.urandom(2_000_000)})

    failure = refused(world, revision, manifest, wrap=Filling)
    assert str(world.root) in failure.message, failure.message
    assert (world.root / "large").read_text() == "mine"
    os.unlink(world.root / "somebody's")
    assert world.restore(revision, manifest).fetched == 1


@scenario
def too_small_a_state_dir_is_what_is_named(base: Path) -> None:
    world = World(base)
    fill(world.root, {"a": "1"})
    revision, manifest = world.snapshot()
    fill(world.root, {"a": os.urandom(3_000_000)})
    shutil.rmtree(world.state)
    tmpfs(world.state, "1m")
    failure = refused(world, revision, manifest)
    assert f"{str(world.state)!r} needs" in failure.message, failure.message


@scenario
def disk_that_fills_up_while_conflicts_are_copied(base: Path) -> None:
    """The journal is open by then: it stays so, nothing is lost, and the next start finishes it."""
    world = World(base)
    fill(world.root, {"a": "1", "b": "2"})
    revision, manifest = world.snapshot()
    fill(world.root, {"a": os.urandom(3_000_000)})
    mine = (world.root / "a").read_bytes()
    shutil.rmtree(world.state)
    tmpfs(world.state, "8m")
    tmpfs(world.state / "conflicts", "1m")
    fill(world.root, {"b": "mine"})
    failure = refused(world, revision, manifest)
    assert "conflicts" in failure.message or repr(str(world.root / "a")) in failure.message, failure.message
    assert (world.root / "a").read_bytes() == mine
    assert journal.is_open(world.state)
    mount("-o", "remount,size=8m", str(world.state / "conflicts"))
    outcome = finish_journal(world.state)
    assert outcome is not None
    assert outcome.complete
    assert outcome.conflicts is not None
    assert (outcome.conflicts / "data/a").read_bytes() == mine
    assert {p.name: p.read_text() for p in world.root.iterdir()} == {"a": "1", "b": "2"}


# Users


def become(uid: int, *own: Path) -> None:
    """Go on as ``uid``, who owns ``own``."""
    for path in own:
        for at in [path, *path.rglob("*")]:
            os.chown(at, uid, uid, follow_symlinks=False)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


@scenario
def root_that_user_1000_may_not_write(base: Path) -> None:
    world = World(base)
    fill(world.root, {"a": "1"})
    revision, manifest = world.snapshot()
    (world.root / "a").unlink()
    become(1000, world.state, base / "store")
    failure = refused(world, revision, manifest)
    path = str(world.root)
    assert (failure.final, failure.exit_code) == (True, EX_CONFIG)
    assert f"RUN mkdir -p {path} && chown 1000:1000 {path}" in failure.message, failure.message
    assert repr(path) in failure.message
    assert "user 1000" in failure.message
    assert os.listdir(world.root) == []


@scenario
def root_that_is_missing_where_user_1000_may_not_make_it(base: Path) -> None:
    world = World(base)
    fill(world.root, {"a": "1"})
    revision, manifest = world.snapshot()
    shutil.rmtree(world.root)
    become(1000, world.state, base / "store")
    failure = refused(world, revision, manifest)
    path = str(world.root)
    assert (failure.final, failure.exit_code) == (True, EX_CONFIG)
    assert f"RUN mkdir -p {path} && chown 1000:1000 {path}" in failure.message, failure.message


@scenario
def read_only_root_says_so(base: Path) -> None:
    world = World(base)
    fill(world.root, {"a": "1"})
    revision, manifest = world.snapshot()
    (world.root / "a").unlink()
    mount("--bind", str(world.root), str(world.root))
    mount("-o", "remount,bind,ro", str(world.root))
    failure = refused(world, revision, manifest)
    assert (failure.final, failure.exit_code) == (True, EX_CONFIG)
    assert os.strerror(errno.EROFS) in failure.message


@scenario
def folder_inside_that_user_1000_may_not_write(base: Path) -> None:
    world = World(base)
    fill(world.root, {"a": "1", "theirs/b": "2"})
    revision, manifest = world.snapshot()
    (world.root / "a").unlink()
    (world.root / "theirs/b").unlink()
    os.chown(world.root, 1000, 1000)
    become(1000, world.state, base / "store")
    failure = refused(world, revision, manifest)
    assert repr(str(world.root / "theirs")) in failure.message
    assert f"chown -R 1000:1000 {world.root}" in failure.message, failure.message
    assert sorted(os.listdir(world.root)) == ["theirs"], "all or nothing"


@scenario
def nothing_to_write_needs_no_permission(base: Path) -> None:
    """An image's own files, root's, are as the snapshot has them, but for times: no reason to fail."""
    world = World(base)
    fill(world.root, {"a": "1", "d/b": "2"})
    revision, manifest = world.snapshot()
    os.utime(world.root / "a", ns=(5, 5))
    (world.root / "d").chmod(0o700)
    (world.root / "d").chmod(0o755)
    os.utime(world.root / "d", ns=(5, 5))
    become(1000, world.state, base / "store")
    done = world.restore(revision, manifest)
    assert (done.fetched, done.conflicts, done.blocked) == (0, None, ())
    assert world.restore(revision, manifest).fetched == 0


@scenario
def owners_come_back_for_root_only(base: Path) -> None:
    world = World(base)
    fill(world.root, {"a": "1", "d/b": "2"})
    (world.root / "l").symlink_to("a")
    for path, owner in (("a", 1234), ("d", 1235), ("d/b", 1236), ("l", 1237)):
        os.chown(world.root / path, owner, owner + 1, follow_symlinks=False)
    (world.root / "a").chmod(0o4755)
    revision, manifest = world.snapshot()
    world.empty_disk()
    world.restore(revision, manifest)
    for path, owner in (("a", 1234), ("d", 1235), ("d/b", 1236), ("l", 1237)):
        found = os.lstat(world.root / path)
        assert (found.st_uid, found.st_gid) == (owner, owner + 1), path
    assert os.stat(world.root / "a").st_mode & 0o7777 == 0o4755, "chown clears it"
    os.chown(world.root / "a", 0, 0)
    os.chmod(world.root / "a", 0o755)
    shutil.rmtree(world.state)
    world.state.mkdir()
    world.restore(revision, manifest)
    assert os.stat(world.root / "a").st_uid == 1234
    world.empty_disk()
    become(1000, world.state, base / "store", base / "disk")
    world.restore(revision, manifest)
    assert os.stat(world.root / "a").st_uid == 1000
    assert os.stat(world.root / "a").st_mode & 0o7777 == 0o4755


@scenario
def folders_without_write_permission_come_back_for_user_1000(base: Path) -> None:
    world = World(base)
    fill(world.root, {"r/o/a": "1", "r/o/b": "2", "none/x": "3"})
    for path, mode in (("r/o", 0o555), ("r", 0o555), ("none/x", 0o400)):
        (world.root / path).chmod(mode)
    before = picture(world.root)
    revision, manifest = world.snapshot()
    world.empty_disk()
    become(1000, world.state, base / "store", base / "disk")
    world.restore(revision, manifest)
    assert picture(world.root) == before
    (world.root / "r/o").chmod(0o755)
    (world.root / "r/o/a").unlink()
    (world.root / "r/o").chmod(0o555)
    os.utime(world.root / "r/o", ns=(1, manifest.entries["data/r/o"].mtime_ns))
    (world.state / "index.db").unlink()
    assert world.restore(revision, manifest).fetched == 1
    assert picture(world.root) == before


@scenario
def what_main_locked_itself_out_of_is_newer(base: Path) -> None:
    world = World(base)
    fill(world.root, {"d/a": "1", "e": "2"})
    revision, manifest = world.snapshot()
    become(1000, world.state, base / "store", base / "disk")
    world.restore(revision, manifest)
    (world.root / "d").chmod(0o000)
    (world.root / "e").unlink()
    done = world.restore(revision, manifest)
    assert done.fetched == 1
    assert os.stat(world.root / "d").st_mode & 0o777 == 0
    (world.state / "index.db").unlink()
    failure = refused(world, revision, manifest)
    assert repr(str(world.root / "d/a")) in failure.message, failure.message
    assert failure.final


@scenario
def single_writable_file_in_a_folder_of_somebody_elses(base: Path) -> None:
    world = World(base, ("x.json",))
    world.root.write_text("{}")
    revision, manifest = world.snapshot()
    world.root.write_text("mine")
    os.chown(world.root, 1000, 1000)
    become(1000, world.state, base / "store")
    done = world.restore(revision, manifest)
    assert world.root.read_text() == "{}"
    assert done.conflicts is not None
    assert (done.conflicts / "x.json").read_text() == "mine"
    assert sorted(os.listdir(world.state)) == ["conflicts", "index.db"], "nothing staged is left"
    world.root.write_text("mine")
    again = replace(world.roots[0], path=str(base / "disk/missing.json"))
    failure = refused(world, revision, manifest, roots=[Root("x.json", again.path)])
    assert failure.exit_code == EX_CONFIG


@scenario
def socket_left_by_a_dead_main(base: Path) -> None:
    """Where a folder of the snapshot is now a socket: left, whoever we are."""
    world = World(base)
    fill(world.root, {"run/a": "1"})
    revision, manifest = world.snapshot()
    shutil.rmtree(world.root / "run")
    os.chdir(world.root)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("run")
    assert world.restore(revision, manifest).blocked == ("data/run", "data/run/a")


if __name__ == "__main__":
    if sys.argv[1] == "--list":
        print(json.dumps(list(SCENARIOS)))
    else:
        SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
        os._exit(0)  # no clean-up as another user
