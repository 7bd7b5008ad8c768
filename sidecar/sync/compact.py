"""Compaction: what still lives in bundles that are mostly dead moves to a new one, a bounded part at a time. Blocks.

The bytes are taken from the files on this disk where they are what the snapshot has. What no file gives stays where it
is, and its bundle with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat as st
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.snapshot import shards
from sidecar.snapshot.index import Index, Row, Stat
from sidecar.snapshot.manifest import SnapshotId, root_of
from sidecar.snapshot.stage import Staged
from sidecar.snapshot.tally import Bundle

BYTES, FILES = 8 * 1024 * 1024, 1000
"""So much of them one sync moves at most, or a single larger file: it adds to what a sync costs and sends."""

SMALL_FILES, SMALL_BYTES = 512, 4 * 1024 * 1024
SMALL_MOST, JOINED = 50, 8
"""Of more small bundles so many are joined: each is a request of a restore."""

LARGEST = 32 * 1024 * 1024
STUCK = "stuck-bundles"
"""The index's note of bundles that this disk can't empty, each with how many files it had left and when that was."""

AGAIN = 200
"""In every so many snapshots what is stuck is tried again."""


def victims(bundles: Mapping[str, Bundle]) -> list[str]:
    """Which bundles are to be emptied, the best worth it first; none while at most half of all their bytes is dead."""
    if sum(b.live for b in bundles.values()) * 2 < sum(b.packed for b in bundles.values()):
        dead = [sha for sha, b in bundles.items() if b.live * 2 < b.packed]
        return sorted(dead, key=lambda sha: (bundles[sha].live / bundles[sha].packed, sha))
    small = [sha for sha, b in bundles.items() if b.files <= SMALL_FILES and b.live <= SMALL_BYTES]
    if len(small) > SMALL_MOST:
        return sorted(small, key=lambda sha: (bundles[sha].files, sha))[:JOINED]
    return []


@dataclass(slots=True)
class _Stuck:
    """What the index notes of bundles that this disk can't empty."""

    index: Index
    when: str
    noted: dict[str, tuple[int, str]]

    @classmethod
    def of(cls, index: Index, number: SnapshotId) -> _Stuck:
        found = json.loads(index.note(STUCK) or "{}")
        when = f"{number.epoch}.{number.sequence // AGAIN}"
        return cls(index, when, {sha: (files, at) for sha, (files, at) in found.items()})

    def has(self, sha: str, bundle: Bundle) -> bool:
        """Whether hardly a file of it is left that could be moved."""
        files, when = self.noted.get(sha, (0, ""))
        return when == self.when and files * 10 >= bundle.files * 9

    def keep(self, failed: Mapping[str, int], bundles: Collection[str]) -> None:
        if failed:
            still = {sha: known for sha, known in self.noted.items() if sha in bundles}
            still.update({sha: (files, self.when) for sha, files in failed.items()})
            self.index.set_note(STUCK, json.dumps(still))


def moved(
    index: Index, tops: Mapping[str, str], folder: Path, busy: Collection[str], number: SnapshotId
) -> list[Staged]:
    """What snapshot ``number`` moves to a new bundle: rows as they are, each with its bytes.

    ``tops`` are where the roots lie that may be read, by name; ``busy`` are the paths that this snapshot puts or
    deletes anyway. ``folder`` is private, for what is too large to be held in memory.
    """
    tally = index.tally()
    stuck = _Stuck.of(index, number)
    chosen = victims({sha: b for sha, b in tally.bundles.items() if not stuck.has(sha, b)})
    # The shards' delta grows by what is moved: it must not make this commit fold them all.
    room = FILES
    if chosen and tally.entries > shards.WHOLE:
        room = min(FILES, shards.HARD - index.delta_size() - len(busy))
    out: list[Staged] = []
    failed: dict[str, int] = {}
    left = BYTES
    for sha, rows in index.in_bundles(_first(chosen, tally.bundles, room)).items():
        for row in rows:
            if row.entry.path in busy:
                continue
            if left <= 0 or len(out) >= room:
                break
            source = _bytes(row, tops, folder / f"moved-{len(out)}")
            if source is None:
                failed[sha] = failed.get(sha, 0) + 1
                continue
            out.append(Staged(row, source))
            left -= max(row.entry.size, 512)
    stuck.keep(failed, tally.bundles)
    return out


def _first(chosen: Sequence[str], bundles: Mapping[str, Bundle], room: int) -> list[str]:
    """The first of ``chosen`` that have so many files."""
    out: list[str] = []
    for sha in chosen:
        if room <= 0:
            break
        out.append(sha)
        room -= bundles[sha].files
    return out


def _bytes(row: Row, tops: Mapping[str, str], copy: Path) -> bytes | Path | None:
    """The bytes of an entry as the file on this disk has them; None where it hasn't."""
    e = row.entry
    root = root_of(e.path, tops)
    if root is None or row.stat is None or e.size > LARGEST:
        return None
    try:
        fd = os.open(tops[root] + e.path[len(root) :], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb", buffering=0) as file:
        try:
            status = os.fstat(fd)
            if not st.S_ISREG(status.st_mode) or Stat.of(status) != row.stat or status.st_size != e.size:
                return None
            data = file.read(e.size + 1)
        except OSError:
            return None
    # Whatever was written or renamed meanwhile: these are the very bytes that the store has, or they aren't taken.
    if hashlib.sha256(data).hexdigest() != e.sha256:
        return None
    if len(data) <= BYTES:
        return data
    copy.write_bytes(data)
    return copy
