"""Roots as they are in real life: a whole home, a mount, a single file, one that comes late or goes away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.image import enter, image
from tests.journeys.space import REPO, Space, agent_of, can_mount, living, on_tmpfs, tree

REPO_ID = "alice/home"


def an_idle_home(tmp: Path) -> None:
    """`~` as root, with everything of ours in it: once all is kept, nothing more is committed."""
    with LocalHub(tmp / "hub", process=True) as hub:
        space = past.hub_space(hub, tmp / "space", REPO_ID, SIDECAR_PATHS="home=~", SIDECAR_RESCAN="2s")
        home = space.disk
        environment(home / "venv")
        for name in ("SIDECAR_STATE_DIR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
            space.env.pop(name, None)
        space.env["HOME"] = str(home)
        space.python = str(home / "venv/bin/python")
        space.env["LD_LIBRARY_PATH"] = f"{sys.base_prefix}/lib"
        past.write(home, {"notes.txt": b"mine", ".config/app.json": b"{}", "project/.git/HEAD": b"ref: x"})
        (home / "empty").mkdir()
        (home / ".cache/huggingface").mkdir(parents=True)
        with living(space):
            space.start("sleep", "1000")
            space.running()
            space.checkpoint()
            time.sleep(1)
            before = hub.commits(REPO_ID)
            assert (home / ".local/state/sidecar/index.db").exists()
            assert list((home / "venv").rglob("*.pyc")), "our own environment changes while we run"
            for n in range(10):
                (home / ".cache/huggingface/download").write_text(str(n))
                time.sleep(1)
            assert [c["title"] for c in hub.commits(REPO_ID)] == [c["title"] for c in before]
            (home / "notes.txt").write_text("changed")
            space.wait(lambda s: hub.read(REPO_ID, "home/notes.txt") == b"changed")
            paths = {e["path"] for e in past.manifest_of(hub, REPO_ID, "main")["entries"]}
            files = {"home/notes.txt", "home/.config/app.json", "home/project/.git/HEAD"}
            folders = {"home", "home/.config", "home/project", "home/project/.git", "home/empty"}
            ours = {"home/.local", "home/.local/state", "home/.cache"}  # what stands above our own
            assert files | folders <= paths
            assert paths - files - folders <= ours
            assert space.end() == 143, space.said()
            assert "Traceback" not in space.said()


def environment(at: Path) -> None:
    """A virtual environment of this Python, with our package in it."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = at / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    (at / "bin").mkdir()
    (at / "bin/python").symlink_to(f"{sys.base_prefix}/bin/{version}")
    (at / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n")
    (site / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    shutil.copytree(REPO / "sidecar", site / "sidecar", ignore=shutil.ignore_patterns("__pycache__"))


def in_folder(tmp: Path, paths: str | None = None, **settings: str) -> Space:
    return Space(tmp / "space", f"file://{tmp}/store", paths, SIDECAR_COMMITS_PER_HOUR="100", **settings)


def a_working_directory(tmp: Path) -> None:
    """Main's working directory is the root: files come into the folder that it stands in."""
    with living(in_folder(tmp)) as space:
        space.cwd = space.disk / "data"
        space.cwd.mkdir()
        assert space.start("sh", "-c", "echo kept > kept").wait(20) == 0, space.said()
        shutil.rmtree(space.disk / "data")
        (space.disk / "data").mkdir()
        inode = (space.disk / "data").stat().st_ino
        line = "cat kept; echo more > more"
        assert space.start("sh", "-c", line).wait(20) == 0, space.said()
        assert (space.disk / "data").stat().st_ino == inode
        space.cwd = space.home
        space.lose_disk()
        assert space.start("true").wait(20) == 0, space.said()
        assert (space.disk / "data/more").read_text() == "more\n"


def a_mount_point(tmp: Path) -> None:
    with living(in_folder(tmp)) as space:
        space.within = on_tmpfs(f"8m:{space.disk}/data")
        line = "mkdir disk/data/deep; echo kept > disk/data/deep/kept; chmod 750 disk/data; ln -s deep disk/data/link"
        assert space.start("sh", "-c", line).wait(20) == 0, space.said()
        space.lose_disk()
        line = "stat -c %a disk/data > seen; cat disk/data/link/kept >> seen; rm disk/data/link"
        assert space.start("sh", "-c", line).wait(20) == 0, space.said()
        assert (space.home / "seen").read_text() == "750\nkept\n"
        # The volume goes away under a running main: that deletes nothing.
        space.start("sleep", "1000")
        main = space.running()["main"]["pid"]
        space.checkpoint()
        umount = ["umount", "-l", f"{space.disk}/data"]
        subprocess.run(["nsenter", "-t", str(main), "-m", "-r", *umount], check=True)
        status, body = space.post("/checkpoint")
        assert status == 422, body
        assert space.get()["roots"][0]["state"] == "unreadable"
        assert space.end() == 143, space.said()
        space.within = []
        space.lose_disk()
        assert space.start("cat", "disk/data/deep/kept").wait(20) == 0, space.said()
        assert "Traceback" not in space.said()


def a_single_file(tmp: Path) -> None:
    paths = f"settings={tmp}/space/disk/etc/app.ini"
    with living(in_folder(tmp, paths)) as space:
        ini = space.disk / "etc/app.ini"
        ini.parent.mkdir()
        (ini.parent / "other").write_text("not ours")
        space.start("sleep", "1000")
        space.running()
        ini.write_text("first")
        space.wait(lambda s: s["roots"][0]["files"] == 1)
        # As editors and libraries save: a new file takes the old one's name.
        (ini.parent / "new").write_text("second")
        os.replace(ini.parent / "new", ini)
        ini.chmod(0o600)
        before = space.get()["sync"]["snapshot"]
        space.wait(lambda s: s["sync"]["snapshot"] != before and s["sync"]["pending"] == 0)
        space.kill()
        space.lose_disk()
        assert space.start("true").wait(20) == 0, space.said()
        assert ini.read_text() == "second"
        assert ini.stat().st_mode & 0o777 == 0o600
        assert os.listdir(ini.parent) == ["app.ini"]


def a_root_that_comes_late(tmp: Path) -> None:
    """No error, nothing made by us; what main puts there is noticed at once (the next rescan is far)."""
    paths = f"data={tmp}/space/disk/not/yet/here\nfile={tmp}/space/disk/not/either"
    with living(in_folder(tmp, paths)) as space:
        space.start("sleep", "1000")
        space.running()
        space.wait(lambda s: s["roots"][0]["state"] == "absent")
        assert not (space.disk / "not").exists()
        (space.disk / "not/yet/here/deep").mkdir(parents=True)
        (space.disk / "not/yet/here/deep/f").write_text("late")
        (space.disk / "not/either").write_text("too")
        space.wait(lambda s: [r["files"] for r in s["roots"]] == [1, 1] and s["sync"]["pending"] == 0)
        # Another folder takes its place: the one that is watched is not the root any more.
        os.rename(space.disk / "not/yet/here", space.disk / "not/yet/old")
        (space.disk / "not/yet/here/deep").mkdir(parents=True)
        (space.disk / "not/yet/here/deep/f").write_text("late")
        time.sleep(6)
        (space.disk / "not/yet/here/deep/f").write_text("later")
        space.wait(lambda s: s["roots"][0]["bytes"] == len("later"), 10)
        space.kill()
        space.lose_disk()
        assert space.start("true").wait(20) == 0, space.said()
        assert (space.disk / "not/yet/here/deep/f").read_text() == "later"
        assert (space.disk / "not/either").read_text() == "too"


def twelve(space: Space) -> None:
    past.write(space.disk, {f"data/f{n}": str(n).encode() for n in range(12)})
    past.write(space.disk, {"conf/c": b"c"})


def entries(hub: LocalHub, revision: str = "main") -> set[str]:
    return {e["path"] for e in past.manifest_of(hub, REPO_ID, revision)["entries"] if e["kind"] == "file"}


ALL = {f"data/f{n}" for n in range(12)}


def a_root_that_goes_away(tmp: Path) -> None:
    """Held back; a later rescan confirms it, and the snapshot before it is kept."""
    settings = {"SIDECAR_RESCAN": "3s"}
    with (
        LocalHub(tmp / "hub", process=True) as hub,
        living(past.hub_space(hub, tmp / "space", REPO_ID, **settings)) as space,
    ):
        twelve(space)
        space.start("sleep", "1000")
        space.running()
        before = space.checkpoint()["snapshot"]
        os.rename(space.disk / "data", space.home / "away")
        space.wait(lambda s: "held-deletion" in s["notes"])
        assert entries(hub) >= ALL
        assert space.get("/health")["status"] == "warn"
        space.wait(lambda s: "held-deletion" not in s["notes"])
        space.wait(lambda s: entries(hub) == {"conf/c"})
        kept = [name for name in hub.branches(REPO_ID) if name.startswith("kept/")]
        assert kept == [f"kept/{before}"]
        assert entries(hub, kept[0]) >= ALL
        assert "look like a fault" in space.said() or "looks like a fault" in space.said()
        assert space.end() == 143, space.said()


def not_by_an_end(tmp: Path) -> None:
    """Nor by the next start, nor by a sync that is tried again, nor by a checkpoint without the root."""
    with LocalHub(tmp / "hub", process=True) as hub, living(past.hub_space(hub, tmp / "space", REPO_ID)) as space:
        twelve(space)
        space.start("sleep", "1000")
        space.running()
        space.checkpoint()
        # A new agent looks at everything, can't commit, and looks again.
        agent = agent_of(space)
        os.kill(agent, signal.SIGSTOP)
        shutil.rmtree(space.disk / "data")
        (space.disk / "conf/new").write_text("new")
        fault = hub.fault("status", status=403, endpoint="commit", times=1)
        os.kill(agent, signal.SIGKILL)
        space.wait(lambda s: "conf/new" in entries(hub), 30)
        assert hub.fired(fault) == 1
        assert entries(hub) >= ALL
        status, body = space.post("/checkpoint")
        assert status == 422, body
        assert "data" in body["roots"]
        assert entries(hub) >= ALL
        assert space.end() == 143, space.said()
        assert entries(hub) >= ALL | {"conf/new"}
        space.start("sleep", "1000")
        space.running()
        assert set(tree(space.disk)) >= ALL, "the start brings them back"
        # With the root there, the app can say that it means it.
        os.rename(space.disk / "data", space.home / "away")
        (space.disk / "data").mkdir()
        space.wait(lambda s: "held-deletion" in s["notes"])
        assert entries(hub) >= ALL
        space.checkpoint()
        assert entries(hub) == {"conf/c", "conf/new"}
        assert any(name.startswith("kept/") for name in hub.branches(REPO_ID))
        assert space.end() == 143, space.said()
        assert "Traceback" not in space.said()


def a_folder_that_cant_be_read(_: Path) -> None:
    """Main locked us out of a folder: what the store has of it stays."""
    with image() as (folder, space):
        (folder / "data").mkdir()
        os.chown(folder / "data", 1000, 1000)
        data = str(folder / "data")
        first = enter(folder, space, "sh", "-c", "mkdir $0/shut; echo kept > $0/shut/f", data)
        assert first.returncode == 0, first.stderr
        second = enter(folder, space, "sh", "-c", "chmod 0 $0/shut; echo other > $0/other", data)
        assert second.returncode == 0, second.stderr
        assert "can't be copied now" in second.stderr
        assert "shut" in second.stderr
        third = enter(folder, space, "sh", "-c", ":")
        assert third.returncode == 0, third.stderr
        shutil.rmtree(data)
        Path(data).mkdir()
        os.chown(data, 1000, 1000)
        shutil.rmtree(space.state)
        fourth = enter(folder, space, "sh", "-c", "chmod 700 $0/shut; cat $0/shut/f $0/other", data)
        assert (fourth.returncode, fourth.stdout) == (0, "kept\nother\n"), fourth.stderr
        assert "Traceback" not in second.stderr + third.stderr + fourth.stderr


PLAIN = [
    an_idle_home,
    not_by_an_end,
    a_root_that_goes_away,
    a_working_directory,
    a_single_file,
    a_root_that_comes_late,
]
MOUNTS = [a_mount_point, a_folder_that_cant_be_read]
JOBS: dict[str, Callable[[Path], None]] = {job.__name__: job for job in (*PLAIN, *MOUNTS)}


@pytest.mark.parametrize("root", [job.__name__ for job in PLAIN])
def test_a_root(root: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[root].result()


@pytest.mark.skipif(not can_mount(), reason="needs mounts of its own (root)")
@pytest.mark.parametrize("root", [job.__name__ for job in MOUNTS])
def test_a_root_on_a_mount(root: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[root].result()
