"""What an agent that comes after another one makes of a commit whose answer the other one didn't live to see."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.recovery.reattach import settle
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Entry, Manifest, RootRecord, SnapshotId
from sidecar.snapshot.rows import Row

SENT = SnapshotId(1, 1)
ENTRY = Entry("data/a", "file", 0o644, 0, 0, 0, 1, "0" * 64)
ROOTS = (RootRecord("data", "/data"),)


@pytest.mark.parametrize(
    ("at_the_head", "writer", "sender", "ours"),
    [
        (SENT, "me", "me", True),
        (SENT, "me", None, True),
        (SENT, "another", "me", False),
        (SnapshotId(1, 2), "me", "me", False),
    ],
)
def test_what_was_sent_is_at_the_head_or_never_was(
    tmp_path: Path, at_the_head: SnapshotId, writer: str, sender: str | None, ours: bool
) -> None:
    manifest = Manifest(at_the_head, None, "local", 0.0, writer, "1", ROOTS, {ENTRY.path: ENTRY})
    with closing(Index(tmp_path / "index.db")) as index:
        index.begin(SENT, [Row(ENTRY)], [], {}, ROOTS)
        assert asyncio.run(settle(index, "store", manifest, "r" * 40, sender)) is ours
        assert index.pending() is None
        assert (index.get("data/a") is not None) is ours
