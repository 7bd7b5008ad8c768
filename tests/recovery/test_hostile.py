"""Snapshots that somebody made to do harm: refused before anything in a root changes, with what is wrong named.

Each case is a good snapshot in a real store, with somebody's commit on top of it. ``tests/snapshot`` has each lie of a
manifest by itself; here it goes the whole way of a start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sidecar.errors import SidecarError
from sidecar.recovery.reading import read_manifest
from sidecar.recovery.restore import Restored
from sidecar.snapshot import bundle, codec, shards
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.manifest import PATH, Manifest
from tests.journeys.space import Space
from tests.recovery.world import World, fill, picture

Document = dict[str, Any]
Puts = Mapping[str, bytes]
Made = Callable[[Document], Puts]
"""Changes the manifest's JSON, and says what else is put into the store."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    fill(world.root, {"a": "kept", "b/c": "kept too", "b/packed": "in a bundle"})
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("nobody's business")
    return world


def attacked(world: World, made: Made) -> str:
    """A good snapshot, and on top of it what ``made`` makes of its manifest."""
    _, manifest = world.snapshot(bundled=lambda path: path.endswith("packed"))
    document = json.loads(codec.encode(manifest))
    put = made(document)
    (world.root / "a").unlink()  # it is to come back
    (world.root / "b/packed").unlink()
    return world.commit({PATH: json.dumps(document).encode(), **put})


def start(world: World, revision: str) -> Restored:
    async def read(store: Any) -> Manifest | None:
        return await read_manifest(store, revision, world.state)

    manifest = world.with_store(read)
    assert manifest is not None
    return world.restore(revision, manifest)


def seen(world: World) -> list[dict[str, Any]]:
    """What is in the root and beside it; but for our own staging, which a later try goes on from."""
    found = [picture(at) for at in (world.root, world.base / "outside")]
    return [{p: v for p, v in each.items() if p and not p.startswith(f"/{STAGING_PREFIX}")} for each in found]


def entry(path: str, content: bytes = b"bad", **more: Any) -> Document:
    base = {"path": path, "kind": "file", "mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0}
    return {**base, "size": len(content), "sha256": sha256(content).hexdigest(), **more}


def adding(*entries: Document) -> Made:
    def made(d: Document) -> Puts:
        d["entries"].extend(entries)
        return {}

    return made


def setting(path: str, **values: Any) -> Made:
    def made(d: Document) -> Puts:
        next(e for e in d["entries"] if e["path"] == path).update(values)
        return {}

    return made


def packing(raw: bytes) -> Made:
    """data/b/packed lies in another bundle, of these bytes."""

    def made(d: Document) -> Puts:
        name = sha256(raw).hexdigest()
        next(e for e in d["entries"] if e["path"] == "data/b/packed").update(bundle=name, frame=[0, len(raw)])
        d["bundles"] = {name: len(raw)}
        return {bundle.store_path(name): raw}

    return made


def tar(**members: bytes) -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return zstandard.ZstdCompressor().compress(out.getvalue())


def sharded(count: int, said: int) -> Made:
    """The manifest is in one shard of ``count`` entries, of which ``said`` are spoken of."""

    def made(d: Document) -> Puts:
        documents = [entry(f"data/{n:07}") for n in range(count)]
        shard, raw = shards.write(documents, "data")
        part = {"sha256": shard.sha256, "size": shard.size, "plain": shard.plain, "first": "data"}
        d.update(requires=["shards"], entries=[], bundles={}, shards=[{**part, "entries": said}])
        return {shards.store_path(shard.sha256): raw}

    return made


def doing(change: Callable[[Document], Any]) -> Made:
    def made(d: Document) -> Puts:
        change(d)
        return {}

    return made


LINK = {"path": "data/b/link", "kind": "symlink", "mode": 0o777, "uid": 0, "gid": 0, "mtime_ns": 0}
DEEP = "data/" + "/".join("d" * 300)
BOMB = zstandard.ZstdCompressor().compress(bytes(200_000_000))

HOSTILE: dict[str, tuple[Made, str]] = {
    "up and out": (adding(entry("data/../../outside/file")), "data/../../outside/file"),
    "absolute": (adding(entry("/etc/cron.d/x")), "/etc/cron.d/x"),
    "a link that leads out, and a file through it": (
        adding({**LINK, "target": "../../../outside"}, entry("data/b/link/file")),
        "data/b/link/file",
    ),
    "an entry twice": (adding(entry("data/a")), "data/a"),
    "a name with NUL": (adding(entry("data/b/x\0y")), "data/b/x"),
    "a device": (setting("data/a", kind="chr"), "data/a"),
    "larger in the store than it says": (setting("data/a", size=1), "data/a"),
    "smaller in the store than it says": (setting("data/a", size=1 << 20), "data/a"),
    "larger in its bundle than it says": (setting("data/b/packed", size=1), "data/b/packed"),
    "a bundle without the member": (packing(tar(other=b"x")), "data/b/packed"),
    "a bundle that is a bomb": (packing(BOMB), "unpacks to more"),
    "a million entries in shards": (sharded(3, 1_000_000), "1,000,000 entries"),
    "more entries in a shard than it says": (sharded(3, 2), "3 entries"),
    "folders without end": (adding(entry(DEEP)), "data/d/d/d"),
    "lists without end": (lambda d: {PATH: b'{"format":1,"entries":' + b"[" * 900_000}, "no JSON"),
    "an unknown format": (doing(lambda d: d.update(format=99)), "99"),
    "no format": (doing(lambda d: d.clear()), "no format"),
    "a root that is ours": (doing(lambda d: d["roots"][0].update(name=".sidecar")), ".sidecar"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_before_anything_changes_and_named(world: World, name: str) -> None:
    made, culprit = HOSTILE[name]
    revision = attacked(world, made)
    before = seen(world)
    with pytest.raises(SidecarError) as refused:
        start(world, revision)
    assert culprit in refused.value.message
    assert len(refused.value.message) < 1000
    assert seen(world) == before


def test_what_is_refused_above_is_restored_without_the_lie(world: World) -> None:
    """Else nothing would be proven."""
    start(world, attacked(world, doing(lambda d: None)))
    assert (world.root / "a").read_text() == "kept"
    assert (world.root / "b/packed").read_text() == "in a bundle"


def test_members_of_a_bundle_that_nobody_names_go_nowhere(world: World) -> None:
    members = {"data/b/extra": b"1", "../outside/file": b"2", "/etc/x": b"3", "data/b/packed": b"in a bundle"}
    start(world, attacked(world, packing(tar(**members))))
    assert sorted(os.listdir(world.root / "b")) == ["c", "packed"]
    assert [p.read_text() for p in (world.base / "outside").iterdir()] == ["nobody's business"]


CALL = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "sidecar", "restore"], capture_output=True, text=True, timeout=60)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, done.stderr)
"""


def test_a_million_entries_cost_neither_memory_nor_time(world: World) -> None:
    entries = b",".join(json.dumps(entry(f"data/{n}")).encode() for n in range(10_000))
    attacked(world, lambda d: {PATH: b'{"format":1,"entries":[' + b",".join([entries] * 100) + b"]}"})
    space = Space(world.base / "space", f"file://{world.base}/store", f"data={world.root}")
    before = seen(world)
    done = subprocess.run([sys.executable, "-c", CALL], env=space.env, capture_output=True, text=True, timeout=60)
    code, kilobytes, said = done.stdout.split(" ", 2)
    assert (code, "Traceback" in said) == ("1", False), said
    assert "refused unread" in said
    assert int(kilobytes) < 150_000
    assert seen(world) == before
