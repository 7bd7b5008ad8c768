"""`verify`: what a store no longer gives back is found and named; what it does is confirmed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.commands import verify as verifying
from sidecar.commands.verify import groups
from sidecar.recovery import staging
from sidecar.snapshot.manifest import Entry, Frame
from tests.cli.conftest import ODD, Kept
from tests.cli.desk import Desk


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
    assert [line.split("  ")[:2] for line in answer.lines] == [["damaged", "data/new"], ["damaged", "data/sub/b.bin"]]
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
    assert [line.split("  ")[1] for line in answer.lines] == ["data/gone"]
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

    monkeypatch.setattr(verifying, "fetch", counted)
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
    assert [set(d) for d in report.json["snapshots"][0]["damaged"]] == [{"path_b64", "why"}]
    assert r"damaged  data/odd \xff\x0a\x1b[31mname" in desk("verify").out
    assert ODD.encode("utf-8", "surrogateescape") not in desk("verify").raw


def test_an_earlier_manifest_that_is_damaged_does_not_end_the_drill(desk: Desk, world: Kept) -> None:
    from sidecar.snapshot.manifest import PATH

    world.sequence = 7
    world.commit({PATH: b"no json"})
    world.keep()
    answer = desk("verify", "--full")
    assert answer.code == 1
    assert PATH in answer.out
    assert "verified 1.8" in answer.err
    assert "verified 1.1" in answer.err


def test_groups_are_bounded_and_keep_a_bundle_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "GROUP_FILES", 3)
    monkeypatch.setattr(verifying, "GROUP_BYTES", 100)

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
