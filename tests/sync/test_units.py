"""A folder that is written as a unit is captured as one, or flagged: never torn and taken for good."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sidecar.roots import Root
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import SnapshotId
from sidecar.snapshot.spool import Slice
from sidecar.snapshot.stage import Staged
from sidecar.sync.look import Look
from sidecar.sync.survey import Surveyor
from tests.snapshot.disk import FAST
from tests.sync.levels import Torn, opened

REPO = Path(__file__).resolve().parents[2]
LOOKS = 25


@contextmanager
def writing(folder: Path, *how: str) -> Iterator[None]:
    argv = [sys.executable, "-m", "tests.sync.levels", str(folder), *how]
    with subprocess.Popen(argv, cwd=REPO) as writer:
        try:
            until = time.monotonic() + 20
            while not (folder / "refs" / "head").exists():
                assert writer.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)
            yield
        finally:
            writer.kill()


def capture(base: Path, looks: int) -> tuple[int, int]:
    """Snapshots of a store that is being written: how many opened, and how many were flagged. Raises Torn."""
    root = Root("data", str(base / "data"))
    index = Index(base / "index.db")
    surveyor = Surveyor([root], index, [], [], {"data": os.stat(root.path).st_dev})
    copy, good, flagged = base / "copy", 0, 0
    try:
        for number in range(1, looks + 1):
            staging = base / "staging"
            staging.mkdir()
            found = surveyor.look(Look(), staging)
            gone = [row.entry.path for row in found.gone if row.entry.path not in {s.entry.path for s in found.staged}]
            apply(copy, found.staged, gone)
            index.begin(SnapshotId(1, number), [s.row for s in found.staged], gone, {}, found.roots)
            index.promote("store", str(number))
            shutil.rmtree(staging)
            if index.flagged():
                flagged += 1
            else:
                opened(copy / "data")
                good += 1
            time.sleep(0.02)
    finally:
        index.close()
    return good, flagged


def apply(copy: Path, staged: Iterable[Staged], gone: Iterable[str]) -> None:
    for path in gone:
        (copy / path).unlink(missing_ok=True)
    for item in staged:
        entry, source = item.entry, item.source
        at = copy / entry.path
        if entry.kind == "dir":
            at.mkdir(parents=True, exist_ok=True)
        elif source is not None:
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(held(source))


def held(source: bytes | Path | Slice) -> bytes:
    if isinstance(source, bytes):
        return source
    return source.read() if isinstance(source, Slice) else source.read_bytes()


@pytest.mark.parametrize("how", [(), ("0.01", "0.3")], ids=["without a pause", "in bursts"])
def test_each_capture_opens_or_is_flagged(how: tuple[str, ...]) -> None:
    with TemporaryDirectory(dir=FAST, prefix="sidecar-units-") as name:
        base = Path(name)
        (base / "data").mkdir()
        try:
            with writing(base / "data", "7", *how):
                good, flagged = capture(base, LOOKS)
        except Torn as torn:
            pytest.fail(f"a capture that is not flagged doesn't open: {torn}")
    assert good + flagged == LOOKS
    if how:
        assert good > flagged, "what rests now and then is captured whole"
