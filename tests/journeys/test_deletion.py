"""What is gone, what only seems to be, and what is let go of: with the real agent, over several lives."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.recovery.reading import read_manifest
from sidecar.stores.folder import FolderStore
from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.space import REPO, Space, living

REPO_ID = "alice/gone"

SICK = """
import errno, os, sys

if "agent" in sys.orig_argv:
    import sidecar.tending

    sidecar.tending.FIRST_S, sidecar.tending.EVERY_S, sidecar.tending.LAST = 0.5, 0.5, 4

    def failing(real):
        def call(path=".", *args, **named):
            if isinstance(path, (str, bytes)) and os.fsdecode(path).startswith({folder!r}) and access({marker!r}, 0):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return real(path, *args, **named)

        return call

    access = os.access
    for name in ("scandir", "listdir", "stat", "lstat", "open", "access"):
        setattr(os, name, failing(getattr(os, name)))
"""
"""An EIO of the disk, as the agent's own calls would see it, below ``folder`` for as long as ``marker`` is there.

A device that fails needs a device mapper, FUSE or a compiler for LD_PRELOAD, which a bare Debian hasn't; whatever
raises it, what the agent has of it is an OSError from one of these calls.
"""


def sick(space: Space) -> Path:
    """Let the agent's calls below data/sick fail while the file that this names exists."""
    marker = space.home / "sick"
    (space.home / "site").mkdir(exist_ok=True)
    script = SICK.format(folder=f"{space.disk}/data/sick", marker=str(marker))
    (space.home / "site/sitecustomize.py").write_text(script)
    space.env["PYTHONPATH"] = f"{space.home}/site:{REPO}"
    return marker


def kept(space: Space, snapshot: str | None = None) -> dict[str, str]:
    """What the store in a folder has, of the newest snapshot or of another one: path -> sha256 of a file, else ""."""

    async def read() -> dict[str, str]:
        store = FolderStore(space.env["SIDECAR_STORE"].removeprefix("file://"))
        try:
            revision = await store.head()
            if snapshot is not None:
                title = f"sidecar: snapshot {snapshot}"
                revision = next((c.revision for c in await store.history(100) if c.title == title), None)
            manifest = await read_manifest(store, revision, space.home) if revision else None
            return {path: e.sha256 for path, e in manifest.entries.items()} if manifest else {}
        finally:
            await store.close()

    return asyncio.run(read())


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def what_only_seems_to_be_gone(tmp: Path) -> None:
    disk = tmp / "space/disk"
    roots = f"data={disk}/data\nconf={disk}/conf\nonly={disk}/only\nsolo={disk}/solo.json"
    space = Space(tmp / "space", f"file://{tmp}/store", roots, SIDECAR_COMMITS_PER_HOUR="100")
    past.write(disk, {f"data/sick/{n}": b"sick" for n in range(3)})
    past.write(disk, {f"data/f{n}": b"f" for n in range(9)})
    past.write(disk, {"data/cache/x": b"cached", "conf/c": b"conf", "solo.json": b"{}"})
    (disk / "only").mkdir()
    with closing(sqlite3.connect(disk / "only/app.db")) as db:
        db.execute("CREATE TABLE t AS SELECT 7 AS x")
    marker = sick(space)
    with living(space):
        space.start()
        space.running()
        space.checkpoint()
        # A disk that fails in a part of a root: what the store has of it stays, and a checkpoint is not good.
        marker.touch()
        (disk / "data/f0").write_text("changed")
        status, body = space.post("/checkpoint")
        assert (status, set(body["roots"])) == (422, {"data"}), body
        assert kept(space)["data/f0"] == sha("changed")
        assert [kept(space)[f"data/sick/{n}"] for n in range(3)] == [sha("sick")] * 3
        assert space.get()["sync"]["unreadable"] >= 1
        marker.unlink()
        space.checkpoint()
        assert space.get()["sync"]["unreadable"] == 0
        # A single file and an only database that lost all their bytes; a shutdown doesn't confirm it.
        (disk / "solo.json").write_text("")
        (disk / "only/app.db").write_bytes(b"")
        (disk / "data/f0").write_text("and on")
        space.wait(lambda s: "held-deletion" in s["notes"] and s["sync"]["pending"] == 0)
        assert space.end() == 143, space.said()
        assert (kept(space)["data/f0"], kept(space)["solo"]) == (sha("and on"), sha("{}"))

        # Another disk; a root that isn't declared any more, and a folder that is excluded now.
        space.lose_disk()
        space.env["SIDECAR_PATHS"] = roots.replace(f"conf={disk}/conf\n", "")
        space.env["SIDECAR_EXCLUDE"] = "cache/"
        space.start()
        space.running()
        assert (disk / "solo.json").read_text() == "{}"
        with closing(sqlite3.connect(disk / "only/app.db")) as db:
            assert db.execute("SELECT x FROM t").fetchall() == [(7,)]
        past.write(disk, {"data/cache/x": b"other", "data/cache/y": b"new", "data/g": b"g"})
        before = space.checkpoint()["snapshot"]
        assert {"conf/c", "data/g"} <= kept(space).keys()
        assert "data/cache/y" not in kept(space)
        assert kept(space)["data/cache/x"] == sha("cached")
        assert space.sidecar("forget", "data/g", "--yes").returncode == 1
        done = space.sidecar("forget", f"{disk}/conf", "--dry-run")
        assert (done.returncode, done.stdout) == (0, "conf  1 file  4 B\n"), done.stderr
        for name in ("conf", f"{disk}/data/cache"):
            done = space.sidecar("forget", name, "--yes")
            assert done.returncode == 0, done.stderr
        left = kept(space).keys()
        assert not [p for p in left if p.startswith(("conf", "data/cache"))]
        assert {f"data/f{n}" for n in range(9)} | {"data/g", "data/sick/1", "only/app.db", "solo"} <= left
        assert kept(space, before)["conf/c"] == sha("conf"), "history has it"
        assert (disk / "data/cache/y").read_text() == "new"
        space.wait(lambda s: s["commits"]["stored_bytes"] and s["commits"]["total"])
        rows = space.sidecar("snapshots").stdout.splitlines()
        assert rows[0].split() == ["SNAPSHOT", "WHEN", "AGE", "FILES", "SIZE", "CHANGED", "REVISION"]
        assert rows[1].split()[-4] != "-", rows[1]
        # The past goes when it is told to, and the agent goes on.
        done = space.sidecar("prune", "--keep-last", "1", "--yes")
        assert done.returncode == 0, done.stderr
        assert kept(space, before) == {}
        (disk / "data/g").write_text("after")
        space.checkpoint()
        # An emptied root right before the end.
        shutil.rmtree(disk / "data")
        (disk / "data").mkdir()
        assert space.end() == 143, space.said()
        space.lose_disk()
        assert space.start("cat", f"{disk}/data/g").wait(20) == 0, space.said()
        assert (disk / "data/f3").read_text() == "f"
        assert not (disk / "conf").exists()
        assert "Traceback" not in space.said()


def what_is_squashed(tmp: Path) -> None:
    """Past SIDECAR_SQUASH_AFTER the Hub's history is squashed under the app, and what is kept is what it was."""
    with LocalHub(tmp / "hub", process=True) as hub:
        space = past.hub_space(hub, tmp / "space", REPO_ID, SIDECAR_SQUASH_AFTER="7")
        sick(space)  # for its constants
        with living(space):
            space.start()
            space.running()
            made = []
            for n in range(6):
                past.write(space.disk, {"data/n": b"%d" % n, f"data/of{n}": b"x", "conf/c": b"c"})
                made.append(space.checkpoint()["snapshot"])
                if n:
                    (space.disk / f"data/of{n - 1}").unlink()
            space.wait(lambda s: s["commits"]["total"] is not None and s["commits"]["total"] < 5)
            assert "history squashed" in space.said()
            last = space.checkpoint()["snapshot"]
            rows = space.sidecar("snapshots").stdout.splitlines()[1:]
            kept = [row.split()[0] for row in rows]
            assert kept[0] == last
            assert len(kept) >= 4
            assert space.get()["health"] == "pass", space.get()["notes"]
            assert "edited" not in space.said()
            space.kill()
            space.lose_disk()
            # A new life, from the head and then from a snapshot that is a branch now.
            assert space.start("true").wait(30) == 0, space.said()
            assert (space.disk / "data/n").read_text() == "5"
            older = kept[-1]
            space.lose_disk()
            assert space.start("true", SIDECAR_REVISION=older).wait(30) == 0, space.said()
            assert (space.disk / "data/n").read_text() == str(made.index(older)), space.said()
            done = space.sidecar("prune", "--keep-last", "2", "--yes")
            assert done.returncode == 0, done.stderr
            assert len(space.sidecar("snapshots").stdout.splitlines()) - 1 == 2
            assert len(hub.commits(REPO_ID)) == 2, "the squash, and the lease that was given back"
            assert not [b for b in hub.branches(REPO_ID) if os.path.basename(b).startswith(f"{older}_")]
            done = space.sidecar("verify", "--full")
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in space.said()


JOBS: dict[str, Callable[[Path], None]] = {j.__name__: j for j in (what_only_seems_to_be_gone, what_is_squashed)}


@pytest.mark.parametrize("job", list(JOBS))
def test_over_several_lives(job: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[job].result()
