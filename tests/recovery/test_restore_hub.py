"""Restores from a Hub that are cut by SIGKILL, or want little of much: what the Hub counts tells what was fetched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.recovery.restore import Damaged, restore_to
from sidecar.recovery.staging import LARGE
from sidecar.snapshot import codec
from sidecar.snapshot.manifest import Manifest
from sidecar.state import RestoreProgress
from tests.hub.server import LocalHub
from tests.recovery.cut import HubWorld
from tests.recovery.world import fill, picture
from tests.stores.hubs import local_hub

REPO_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with local_hub() as hub:
        yield hub


@pytest.fixture
def world(hub: LocalHub, tmp_path: Path) -> HubWorld:
    world = HubWorld(tmp_path)
    world.hub = hub.url
    return world


def committed(world: HubWorld, hub: LocalHub, *, bundled: Callable[[str], bool]) -> tuple[str, Manifest, Any]:
    """What the roots hold, on the Hub and no longer here; and how it looked."""
    before = picture(world.root)
    revision, manifest = world.snapshot(bundled=bundled)
    (world.base / "manifest.json").write_bytes(codec.encode(manifest))
    world.empty_disk()
    hub.reset()
    return revision, manifest, before


def start(world: HubWorld, revision: str, *more: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.recovery.cut", str(world.base), world.hub, revision, *more]
    return subprocess.Popen(argv, cwd=REPO_ROOT, stdout=subprocess.PIPE)


def ended(child: subprocess.Popen[bytes]) -> int:
    child.communicate(timeout=60)
    return child.returncode


def came(hub: LocalHub) -> int:
    """Bytes of large files that the Hub has sent."""
    return int(hub.counters().get("cdn", {"bytes_out": 0})["bytes_out"])


def test_a_large_file_goes_on_where_a_kill_left_it(hub: LocalHub, world: HubWorld) -> None:
    size = LARGE + 3_000_000
    fill(world.root, {"large": os.urandom(size), "small": "x"})
    revision, _, before = committed(world, hub, bundled=lambda path: False)
    hub.fault("cut_response", endpoint="cdn", after=6_000_000)
    rule = hub.fault("hang", endpoint="cdn", times=None)
    child = start(world, revision)
    until = time.monotonic() + 20
    while time.monotonic() < until and not hub.fired(rule):
        time.sleep(0.02)
    child.kill()
    assert ended(child) == -signal.SIGKILL
    begun = next((world.root / ".sidecar-tmp-restore").glob("*.part")).stat().st_size
    assert begun > 4_000_000
    hub.reset()
    assert ended(start(world, revision)) == 0
    assert picture(world.root) == before
    assert came(hub) == size - begun


@pytest.mark.parametrize("spoiled", ["changed", "longer"])
def test_the_beginning_of_a_file_that_is_wrong_is_no_damage(hub: LocalHub, world: HubWorld, spoiled: str) -> None:
    fill(world.root, {"large": os.urandom(LARGE + 1000)})
    revision, manifest, before = committed(world, hub, bundled=lambda path: False)
    staging = world.root / ".sidecar-tmp-restore"
    staging.mkdir(parents=True)
    wrong = b"\0" * (1_000_000 if spoiled == "changed" else LARGE + 2000)
    (staging / f"{manifest.entries['data/large'].sha256}.part").write_bytes(wrong)
    world.restore(revision, manifest)
    assert picture(world.root) == before


def test_a_bundle_that_came_is_not_fetched_again(hub: LocalHub, world: HubWorld) -> None:
    fill(world.root, {f"{n}": os.urandom(40_000) for n in range(60)})
    revision, _, before = committed(world, hub, bundled=lambda path: True)
    assert ended(start(world, revision, "31")) == -signal.SIGKILL
    staged = list((world.root / ".sidecar-tmp-restore").iterdir())
    assert len(staged) == 31, "30 members, and the bundle that holds all 60"
    hub.reset()
    assert ended(start(world, revision)) == 0
    assert picture(world.root) == before
    assert came(hub) == 0
    assert hub.count("resolve") == 0


def partly(hub: LocalHub, world: HubWorld) -> tuple[str, Manifest, Any]:
    """A bundle of 4 MB, of which a surviving disk lacks one file of 40 kB."""
    fill(world.root, {f"{n:03}": os.urandom(40_000) for n in range(100)})
    revision, manifest, before = committed(world, hub, bundled=lambda path: True)
    world.restore(revision, manifest)
    (world.root / "050").unlink()
    os.utime(world.root, ns=(1, before[""][2]))
    hub.reset()
    return revision, manifest, before


def test_one_file_missing_costs_a_part_of_its_bundle(hub: LocalHub, world: HubWorld) -> None:
    revision, manifest, before = partly(hub, world)
    for name in ("index.db", "index.db-wal", "index.db-shm"):
        (world.state / name).unlink(missing_ok=True)
    assert world.restore(revision, manifest).fetched == 1
    assert picture(world.root) == before
    assert came(hub) < 300_000
    assert [r["range"] is not None for r in hub.requests("cdn")] == [True]


@pytest.mark.parametrize("fault", [{"action": "corrupt"}, {"action": "status", "status": 200, "body": "no"}])
def test_a_part_that_is_wrong_makes_the_whole_be_fetched(hub: LocalHub, world: HubWorld, fault: dict[str, Any]) -> None:
    revision, manifest, before = partly(hub, world)
    rule = hub.fault(endpoint="cdn", **fault)
    assert restored_to(world, revision, manifest, "data/050") == before["/050"][-1]
    assert hub.fired(rule) == 1


def test_a_member_that_is_wrong_in_the_bundle_is_damage(hub: LocalHub, world: HubWorld) -> None:
    revision, manifest, _ = partly(hub, world)
    other = manifest.entries["data/051"]
    lie = replace(manifest.entries["data/050"], sha256=other.sha256)
    wrong = replace(manifest, entries={**manifest.entries, "data/050": lie})
    with pytest.raises(Damaged, match="data/050"):
        restored_to(world, revision, wrong, "data/050")


def restored_to(world: HubWorld, revision: str, manifest: Manifest, path: str) -> bytes:
    """One path of a snapshot, in a folder beside the roots."""
    to = world.base / "to"
    world.with_store(lambda s: restore_to(s, revision, manifest, to, only=path, progress=RestoreProgress()))
    return (to / path).read_bytes()


def test_memory_does_not_grow_with_what_is_restored(hub: LocalHub, world: HubWorld) -> None:
    """Of 64 MB in one file and 32 MB in one bundle; `python -m bench memory` does it with 2 GB."""
    fill(world.root, {"large": os.urandom(64 << 20), **{f"b/{n}": os.urandom(1 << 20) for n in range(32)}})
    revision, _, _ = committed(world, hub, bundled=lambda path: "/b/" in path)
    child = start(world, revision)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert int(out) < 90_000, "kB"
