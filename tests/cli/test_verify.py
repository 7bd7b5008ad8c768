"""`verify`: what a store no longer gives back is found and named; what it does is confirmed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.commands import drill
from sidecar.commands.drill import groups
from sidecar.recovery import staging
from sidecar.snapshot import codec
from sidecar.snapshot.manifest import PATH, Entry, Frame, SnapshotId
from tests.cli.conftest import ODD, Kept
from tests.cli.desk import Desk
from tests.recovery.world import fill


def spoil(world: Kept, content: bytes) -> None:
    """Change one byte of what the folder store keeps for ``content``."""
    import hashlib

    name = hashlib.sha256(content).hexdigest()
    (found,) = (p for p in objects(world) if name in str(p).replace("/", ""))
    os.chmod(found, 0o600)
    found.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def objects(world: Kept) -> Iterator[Path]:
    return (p for p in (world.base / "store" / "contents").rglob("*") if p.is_file())


def test_everything_is_read_back(desk: Desk, shelf: Kept) -> None:
    answer = desk("verify")
    assert (answer.code, answer.out) == (0, "")
    assert "verified 1.2: 7 files" in answer.err
    report = desk("verify", "--revision", "1.1", "--json").json
    assert report["ok"] is True
    assert [(s["snapshot"], s["files"], s["damaged"]) for s in report["snapshots"]] == [("1.1", 7, [])]


def test_a_flipped_byte_is_found_and_named(desk: Desk, world: Kept) -> None:
    spoil(world, bytes(range(256)))
    spoil(world, b"new\n")
    answer = desk("verify")
    assert answer.code == 1
    assert [line.split("  ")[:3] for line in answer.lines if line.split("  ")[1] == "1.2"] == [
        ["damaged", "1.2", "data/new"],
        ["damaged", "1.2", "data/sub/b.bin"],
    ]
    assert "2 of 7 files" in answer.err
    assert "Traceback" not in answer.err
    report = desk("verify", "--json")
    assert report.code == 1
    assert [d["path"] for d in report.json["snapshots"][0]["damaged"]] == ["data/new", "data/sub/b.bin"]
    assert desk("cat", "data/a.txt").code == 0
    assert desk("cat", "data/new").code == 1, "bytes that are not what was committed are never shown"
    assert desk("cat", "data/new").raw == b""


def test_full_reads_the_earlier_snapshots_too(desk: Desk, world: Kept) -> None:
    spoil(world, b"soon")
    assert desk("verify").code == 0, "only 1.1 holds it"
    answer = desk("verify", "--full")
    assert answer.code == 1
    assert [line.split("  ")[:3] for line in answer.lines] == [
        ["unnamed", "1.2", "data/gone"],
        ["damaged", "1.1", "data/gone"],
    ]
    assert "verified 1.2" in answer.err
    assert "1.1: 1 of 7 files" in answer.err
    assert desk("verify", "--full", "--revision", "1.1").code == 1


def test_full_reads_equal_content_once(desk: Desk, shelf: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = staging.fetch

    async def counted(store, revision, manifest, wants, meter):
        wants = list(wants)
        read.extend(w.entry.path for w in wants)
        await real(store, revision, manifest, wants, meter)

    monkeypatch.setattr(drill, "fetch", counted)
    assert desk("verify", "--full").code == 0
    assert read.count("data/sub/b.bin") == 1
    assert read.count("data/a.txt") == 2, "its content differs in the two"
    assert read.count("data/gone") == 1


def test_a_damaged_bundle_names_all_that_it_carries(desk: Desk, world: Kept) -> None:
    bundled = [p for p in objects(world) if p.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"]
    assert bundled, "the odd name can't be mirrored"
    for path in bundled:
        os.chmod(path, 0o600)
        path.write_bytes(path.read_bytes()[:-9] + b"\0" * 9)
    report = desk("verify", "--json")
    assert report.code == 1
    (bundle, odd) = report.json["snapshots"][0]["damaged"]
    assert bundle["path"].startswith(".sidecar/bundles/")
    assert odd.keys() == {"path_b64", "why"}
    assert r"damaged  1.2  data/odd \xff\x0a\x1b[31mname" in desk("verify").out
    assert ODD.encode("utf-8", "surrogateescape") not in desk("verify").raw


def test_an_earlier_manifest_that_is_damaged_does_not_end_the_drill(desk: Desk, world: Kept) -> None:
    world.sequence = 7
    world.commit({PATH: b"no json"})
    world.keep()
    answer = desk("verify", "--full")
    assert answer.code == 1
    assert PATH in answer.out
    assert "verified 1.8" in answer.err
    assert "verified 1.1" in answer.err


def test_groups_are_bounded_and_keep_a_bundle_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "GROUP_FILES", 3)
    monkeypatch.setattr(drill, "GROUP_BYTES", 100)

    def entry(name: str, size: int, frame: Frame | None = None) -> Entry:
        return Entry(name, "file", 0o644, 0, 0, 0, size, "0" * 64, "", frame)

    plain = [entry(f"p{n}", 10) for n in range(4)] + [entry("large", 95), entry("small", 6)]
    packed = [entry(f"b{n}", 10, Frame("x" if n % 2 else "y", n, 1)) for n in range(9)]
    made = [[e.path for e in group] for group in groups([*packed[:5], *plain, *packed[5:]])]
    assert made == [
        ["p0", "p1", "p2"],
        ["p3"],
        ["large"],
        ["small"],
        ["b0", "b2", "b4", "b6", "b8"],
        ["b1", "b3", "b5", "b7"],
    ]


def test_damage_names_the_newest_snapshot_that_verifies(desk: Desk, world: Kept) -> None:
    (world.root / "new").unlink()
    (world.root / "newest").write_text("newest")
    world.keep()
    spoil(world, b"newest")
    answer = desk("verify")
    assert answer.code == 1
    assert "The newest snapshot that verifies is 1.2: SIDECAR_REVISION=1.2" in answer.err
    spoil(world, b"new\n")
    report = desk("verify", "--json").json
    assert [(s["snapshot"], len(s["damaged"])) for s in report["snapshots"]] == [("1.3", 1), ("1.2", 1), ("1.1", 0)]
    assert (report["ok"], report["newest_good"]) == (False, "1.1")
    spoil(world, bytes(range(256)))
    answer = desk("verify")
    assert "No earlier snapshot" in answer.err
    assert desk("verify", "--json").json["newest_good"] is None


def test_a_damaged_manifest_at_the_head_is_damage_with_a_way_out(desk: Desk, world: Kept) -> None:
    world.commit({PATH: b"no json"})
    answer = desk("verify")
    assert (answer.code, answer.lines[0].split("  ")[:3]) == (1, ["damaged", "1.2", PATH])
    assert "The store was changed since 1.2 was committed" in answer.err
    assert desk("restore", "--revision", "1.1").code == 0, "a damaged head is no hindrance"


def test_full_reads_every_bundle_whole(desk: Desk, world: Kept) -> None:
    world.revisions.append(world.snapshot(bundled=lambda path: path.startswith("data/"))[0])
    bundled = max(
        (p for p in objects(world) if p.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"), key=lambda p: p.stat().st_size
    )
    raw = bundled.read_bytes()
    os.chmod(bundled, 0o600)
    bundled.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    answer = desk("verify", "--full")
    assert answer.code == 1
    assert any(".sidecar/bundles/" in line for line in answer.lines)
    bundled.write_bytes(raw)
    assert desk("verify", "--full").code == 0


def test_it_reads_into_the_state_dir_and_clears_up_what_a_killed_one_left(desk: Desk, world: Kept) -> None:
    left = world.state / f"verify-{os.getppid()}-abc"  # a living process has that number by now
    fill(left, {"verify/x": "x"})
    fill(world.state, {"verify-me": "not ours"})
    assert desk("verify").code == 0
    assert not left.exists()
    assert (world.state / "verify-me").exists()
    assert [p.name for p in world.state.iterdir() if p.name.startswith("verify-")] == ["verify-me"]


def test_too_little_room_is_said_before_anything_is_fetched(
    desk: Desk, shelf: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    class Full:
        f_bavail, f_frsize, f_blocks = 0, 4096, 1000

    monkeypatch.setattr(os, "statvfs", lambda path: Full() if "verify-" in str(path) else real(path))
    answer = desk("verify")
    assert (answer.code, answer.out) == (1, "")
    assert "too little space to verify in" in answer.err


def test_what_a_snapshot_has_lost_is_not_made_good_by_another_that_has_it(desk: Desk, world: Kept) -> None:
    manifest = replace(world.snapshot()[1], snapshot=SnapshotId(1, 4))

    async def lose() -> None:
        store = world.open_store()
        puts = {PATH: codec.encode(manifest)}
        await store.commit(await store.head(), puts, ["data/sub/b.bin"], "sidecar: snapshot 1.4")
        await store.close()

    asyncio.run(lose())
    world.sequence = 4
    (world.root / "newest").write_text("newest")
    world.keep()
    spoil(world, b"newest")
    report = desk("verify", "--json").json
    assert [(s["snapshot"], [d["path"] for d in s["damaged"]]) for s in report["snapshots"]] == [
        ("1.5", ["data/newest"]),
        ("1.4", ["data/sub/b.bin"]),
        ("1.3", []),
    ]
