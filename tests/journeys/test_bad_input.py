"""What people get wrong: one line that names it and the fix, or a warning; never a traceback, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.image import enter, image
from tests.journeys.space import Space, can_mount, living, on_tmpfs, tree

WRONG: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "unknown-variable": ({"SIDECAR_QUITE": "2s"}, ("SIDECAR_QUITE", "SIDECAR_QUIET?")),
    "relative-path": ({"SIDECAR_PATHS": "data"}, ("SIDECAR_PATHS", "'data'", "relative")),
    "overlapping-roots": (
        {"SIDECAR_PATHS": "{disk}/a:{disk}/a/b"},
        ("SIDECAR_PATHS", "/a/b' lies in", "one of the two"),
    ),
    "overlapping-by-a-link": ({"SIDECAR_PATHS": "{disk}/a:{disk}/link"}, ("SIDECAR_PATHS", "the same folder")),
    "root-is-everything": ({"SIDECAR_PATHS": "/"}, ("SIDECAR_PATHS", "'/'", "name the folders")),
    "root-is-the-state-dir": ({"SIDECAR_PATHS": "{state}"}, ("SIDECAR_PATHS", "state dir", "SIDECAR_STATE_DIR")),
    "store-in-a-root": ({"SIDECAR_STORE": "file://{disk}/data/store"}, ("store's folder", "outside of every root")),
    "wrong-scheme": ({"SIDECAR_STORE": "ftp://host/x"}, ("SIDECAR_STORE", "'ftp://host/x'", "hf://datasets/")),
    "no-scheme": ({"SIDECAR_STORE": "/srv/store"}, ("SIDECAR_STORE", "file:///srv/store")),
    "token-with-a-newline": ({"HF_TOKEN": "hf_secret\nsecond"}, ("HF_TOKEN", "line break", "not shown")),
    "no-paths": ({"SIDECAR_PATHS": ""}, ("SIDECAR_PATHS",)),
    "bad-duration": ({"SIDECAR_QUIET": "2 parsecs"}, ("SIDECAR_QUIET", "2 parsecs", "2s")),
    "two-at-once": (
        {"SIDECAR_QUIET": "soon", "SIDECAR_PORT": "http"},
        ("SIDECAR_QUIET", "soon", "SIDECAR_PORT", "'http'"),
    ),
}


def refused(tmp: Path, env: Mapping[str, str], words: tuple[str, ...]) -> None:
    """78, at once, in a line for each mistake; main isn't started and nothing is written."""
    space = Space(tmp / "space", f"file://{tmp}/store")
    (space.disk / "a").mkdir()
    (space.disk / "link").symlink_to("a")
    given = {name: value.format(disk=space.disk, state=space.state) for name, value in env.items()}
    with living(space):
        assert space.start("touch", "ran", **given).wait(20) == 78, space.said()
        lines = space.said().splitlines()
        assert [line for line in lines if not line.startswith("sidecar ERROR ")] == []
        assert len(lines) == len(env) + 1, "one line for each mistake, and that main was not started"
        for word in words:
            assert word in space.said()
        assert "secret" not in space.said()
        assert not (space.home / "ran").exists()
        assert not (tmp / "store").exists()
        assert tree(space.disk).keys() == {"a", "link"}


def a_root_that_is_a_link(tmp: Path) -> None:
    """What is kept is what it leads to; that it does so is said."""
    space = Space(tmp / "space", f"file://{tmp}/store", paths=f"data={tmp}/space/disk/link")
    elsewhere = tmp / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    (space.disk / "link").symlink_to(elsewhere)
    with living(space):
        assert space.start("true").wait(20) == 0, space.said()
        assert "is a symlink" in space.said()
        assert str(elsewhere) in space.said()
        shutil.rmtree(elsewhere)
        elsewhere.mkdir()
        shutil.rmtree(space.state)
        assert space.start("true").wait(20) == 0, space.said()
        assert (elsewhere / "kept").read_text() == "kept"
        assert (space.disk / "link").is_symlink()
        assert "Traceback" not in space.said()


def our_port_is_taken(tmp: Path) -> None:
    space = Space(tmp / "space", f"file://{tmp}/store")
    with living(space), socket.socket() as taken:
        taken.bind(("0.0.0.0", space.port))
        taken.listen()
        assert space.start("sh", "-c", "mkdir -p disk/data; echo x > disk/data/x").wait(20) == 0, space.said()
        said = space.said()
        assert str(space.port) in said
        assert "WARNING" in said
        assert "SIDECAR_PORT" in said
        assert "Traceback" not in said
        space.lose_disk()
        assert space.start("grep", "x", "disk/data/x").wait(20) == 0, space.said()


def seen_by(space: Space, path: Path) -> Path:
    """A path as the Space sees it, with the mounts that it has of its own."""
    assert space.process is not None
    return Path(f"/proc/{space.process.pid}/root{path}")


def a_full_disk_during_staging(tmp: Path) -> None:
    """What has room is durable, everybody is told of the rest, main goes on; with room again all of it is kept."""
    space = Space(tmp / "space", f"file://{tmp}/store", SIDECAR_COMMITS_PER_HOUR="100")
    space.within = on_tmpfs(f"3m:{space.state}")
    with living(space):
        space.start("sh", "-c", "mkdir -p disk/data; echo small > disk/data/small; exec sleep 1000")
        main = space.running()["main"]["pid"]
        space.checkpoint()
        (space.disk / "data/small").write_text("changed")
        (space.disk / "data/large").write_bytes(os.urandom(6 << 20))
        space.wait(lambda s: s["sync"]["error"] is not None)
        status, body = space.post("/checkpoint")
        assert (status, list(body["roots"])) == (422, ["data"])
        assert "Free some disk space" in space.said()
        assert "no room to copy" in space.said()
        assert space.sidecar("cat", "data/small").stdout == "changed"  # the rest goes on
        # Not a byte is left, not even for the index.
        with pytest.raises(OSError), open(seen_by(space, space.state) / "fill", "wb") as file:  # noqa: PT012
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        assert space.post("/checkpoint")[0] == 503
        assert space.get()["main"]["pid"] == main
        assert space.get("/health")["status"] == "warn"
        (seen_by(space, space.state) / "fill").unlink()
        # There is room for these files, which are empty, but none for the index to list them.
        (space.disk / "data/large").unlink()
        (space.disk / "data/many").mkdir()
        for n in range(4_000):
            (space.disk / f"data/many/{n:0250}").touch()
        status, body = space.post("/checkpoint")
        assert status == 503
        assert "is full" in body["detail"]
        assert space.process is not None
        mount = ["mount", "-o", "remount,size=64m", str(space.state)]
        subprocess.run(["nsenter", "-t", str(space.process.pid), "-m", "-r", *mount], check=True)
        space.checkpoint()
        assert space.get()["main"]["pid"] == main
        kept = tree(space.disk / "data")
        assert space.end() == 143, space.said()
        assert "Traceback" not in space.said()
        assert "the agent ended" not in space.said()
        space.within = []
        space.lose_disk()
        assert space.start("true").wait(20) == 0, space.said()
        assert tree(space.disk / "data") == kept


def a_disk_too_small_for_the_restore(tmp: Path) -> None:
    space = Space(tmp / "space", f"file://{tmp}/store")
    with living(space):
        (space.disk / "data").mkdir()
        (space.disk / "data/large").write_bytes(os.urandom(4 << 20))
        assert space.start("true").wait(20) == 0, space.said()
        space.lose_disk()
        space.within = on_tmpfs(f"2m:{space.disk}")
        code = space.start("touch", "ran", SIDECAR_RESTORE_TIMEOUT="1s", SIDECAR_ON_RESTORE_FAILURE="exit").wait(20)
        assert code == 75, space.said()
        assert "too little space" in space.said()
        assert "Nothing was changed" in space.said()
        assert not (space.home / "ran").exists()
        space.within = []
        assert space.start("true").wait(20) == 0, space.said()
        assert (space.disk / "data/large").stat().st_size == 4 << 20
        assert "Traceback" not in space.said()


# --- an image as people build it: a user of its own, the sidecar in an environment apart ------------------------------


def an_unwritable_root(_: Path) -> None:
    """Journey (b): user 1000, /data is root's. Said clearly, with the line for the Dockerfile."""
    with image() as (folder, space):
        (folder / "data").mkdir()
        fix = f"RUN mkdir -p {folder}/data && chown 1000"
        first = enter(folder, space, "sh", "-c", "env; id -u; echo x > $0/x", f"{folder}/data")
        errors = [line for line in first.stderr.splitlines() if line.startswith("sidecar ERROR")]
        assert len(errors) == 1, first.stderr
        assert f"{folder}/data" in errors[0]
        assert "uid 1000" in errors[0]
        assert fix in errors[0]
        assert "Traceback" not in first.stderr
        # Main sees the image's own environment, not ours.
        assert f"PATH={folder}/bin" in first.stdout.splitlines()
        assert "1000" in first.stdout.splitlines()
        # In a better image it works; then the folder is root's again, with files to restore into it.
        os.chown(folder / "data", 1000, 1000)
        second = enter(folder, space, "sh", "-c", "echo kept > $0/kept", f"{folder}/data")
        assert second.returncode == 0, second.stderr
        shutil.rmtree(folder / "data")
        (folder / "data").mkdir()
        shutil.rmtree(space.state)
        third = enter(folder, space, "touch", f"{space.home}/ran")
        assert third.returncode == 78, third.stderr
        assert fix in third.stderr
        assert "Nothing was changed" in third.stderr
        assert "Traceback" not in third.stderr
        assert not (space.home / "ran").exists()
        os.chown(folder / "data", 1000, 1000)
        fourth = enter(folder, space, "cat", f"{folder}/data/kept")
        assert (fourth.returncode, fourth.stdout) == (0, "kept\n"), fourth.stderr


def no_home_at_all(_: Path) -> None:
    """User 1000 without a home that can be written: the state goes to the temp dir, and it works."""
    with image() as (folder, space):
        os.chown(space.home, 0, 0)
        (folder / "data").mkdir()
        os.chown(folder / "data", 1000, 1000)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        (folder / "store").mkdir()
        os.chown(folder / "store", 1000, 1000)
        space.env |= {"TMPDIR": f"{folder}/tmp", "SIDECAR_STORE": f"file://{folder}/store"}
        assert enter(folder, space, "sh", "-c", "echo kept > $0/kept", f"{folder}/data").returncode == 0
        (folder / "data/kept").unlink()
        shutil.rmtree(folder / "tmp/sidecar-1000")
        again = enter(folder, space, "cat", f"{folder}/data/kept")
        assert (again.returncode, again.stdout) == (0, "kept\n"), again.stderr
        assert "Traceback" not in again.stderr


def a_store_that_is_not_there_any_more(tmp: Path) -> None:
    """Moved, or not mounted: an empty one in its place would be in the way of who brings it back."""
    store = tmp / "store"
    with living(
        Space(tmp, f"file://{store}", SIDECAR_ON_RESTORE_FAILURE="exit", SIDECAR_RESTORE_TIMEOUT="1s")
    ) as space:
        (space.disk / "data").mkdir()
        (space.disk / "data" / "kept").write_bytes(b"kept")
        space.start()
        space.running()
        space.checkpoint()
        assert space.end() == 143
        store.rename(tmp / "elsewhere")
        process = space.start()
        assert process.wait(30) == 75, space.said()
        assert f"file://{store} is gone, but this disk was at its snapshot 1." in space.said()
        assert not store.exists(), "nothing is made in its place"
        assert "COLD START: created" not in space.said().partition("is gone")[2]
        (tmp / "elsewhere").rename(store)
        space.start()
        space.running()
        assert space.end() == 143


def a_dataset_that_is_not_seen_any_more(tmp: Path) -> None:
    with LocalHub(tmp / "hub", process=True) as hub, living(past.hub_space(hub, tmp / "home", "alice/seen")) as space:
        past.write(space.disk, {"data/kept": b"kept"})
        space.start()
        space.running()
        space.checkpoint()
        assert space.end() == 143
        before = hub.commits("alice/seen")
        fault = hub.fault("status", path="alice/seen.*", times=None, status=404)
        assert space.start(SIDECAR_ON_RESTORE_FAILURE="exit").wait(30) == 69, space.said()
        said = next(line for line in space.said().splitlines() if "ERROR recovery failed" in line)
        assert "alice/seen is no dataset, or the token" in said
        assert "This disk was at its snapshot 1." in said
        assert f"remove {space.state}/index.db" in said
        hub.clear_faults(fault)
        assert hub.commits("alice/seen") == before
        space.start()
        space.running()
        assert (space.disk / "data/kept").read_bytes() == b"kept"
        assert space.end() == 143


def _refusal(name: str) -> Callable[[Path], None]:
    env, words = WRONG[name]
    return lambda tmp: refused(tmp, env, words)


ALONE = [
    a_root_that_is_a_link,
    our_port_is_taken,
    a_store_that_is_not_there_any_more,
    a_dataset_that_is_not_seen_any_more,
]
MOUNTS = [a_full_disk_during_staging, a_disk_too_small_for_the_restore]
USERS = [an_unwritable_root, no_home_at_all]
JOBS: dict[str, Callable[[Path], None]] = {
    **{job.__name__: job for job in (*MOUNTS, *USERS, *ALONE)},
    **{name: _refusal(name) for name in WRONG},
}


@pytest.mark.parametrize("what", [*WRONG, *(job.__name__ for job in ALONE)])
def test_said_in_a_line(what: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[what].result()


@pytest.mark.skipif(not can_mount(), reason="needs mounts of its own (root)")
@pytest.mark.parametrize("what", [job.__name__ for job in MOUNTS])
def test_a_full_disk(what: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[what].result()


@pytest.mark.skipif(not can_mount(), reason="needs mounts of its own (root)")
@pytest.mark.parametrize("what", [job.__name__ for job in USERS])
def test_as_user_1000(what: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[what].result()
