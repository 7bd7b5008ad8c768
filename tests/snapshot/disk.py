"""A folder on a real disk, an index that knows it, and the two ways to scan it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Iterable, Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

from sidecar.snapshot.exclude import Excluder
from sidecar.snapshot.found import Found
from sidecar.snapshot.index import Index, Row
from sidecar.snapshot.manifest import Entry, SnapshotId
from sidecar.snapshot.scan import Scan, scan_paths, scan_root

NAME = "data"
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where many small trees come and go: no disk has to turn for them."""


@dataclass
class Disk:
    """The root ``data`` at ``base/data``."""

    base: Path
    patterns: Sequence[str] = ()
    device: int | None = None
    sequence: int = 0
    index: Index = field(init=False)

    def __post_init__(self) -> None:
        self.base.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(exist_ok=True)
        self.index = Index(self.base / "index.db")
        self.device = os.stat(self.root).st_dev

    @property
    def root(self) -> Path:
        return self.base / NAME

    def scan(self) -> Scan:
        return scan_root(NAME, str(self.root), self.index, self.excluder(), self.device)

    def hinted(self, *hints: str) -> Scan:
        return scan_paths(NAME, str(self.root), hints, self.index, self.excluder(), self.device)

    def excluder(self) -> Excluder:
        return Excluder(str(self.root), self.patterns, ())

    def learn(self, *, settled: bool = True) -> None:
        """Make the index describe what is there now, as after a sync."""
        scan = self.scan()
        self.sequence += 1
        rows = [row_of(f, settled) for f in (*scan.changed, *scan.touched)]
        self.index.begin(SnapshotId(1, self.sequence), rows, scan.missing, {}, [])
        self.index.promote("store", f"r{self.sequence}")
        # What can't be learnt stays as it was: a socket in the place of a file that is known.
        assert settled is False or news(self.scan()) == (set(), set(), dict(scan.unreadable))

    def close(self) -> None:
        self.index.close()


def row_of(f: Found, settled: bool = True) -> Row:
    size, sha, target = 0, "", ""
    if f.kind == "file":
        data = Path(f.absolute).read_bytes()
        size, sha = len(data), hashlib.sha256(data).hexdigest()
    elif f.kind == "symlink":
        target = os.readlink(f.absolute)
    return Row(Entry(f.path, f.kind, f.mode, f.uid, f.gid, f.stat.mtime_ns, size, sha, target), f.stat, settled)


def news(scan: Scan) -> tuple[set[str], set[str], dict[str, str]]:
    """What a scan came to, by paths: changed, missing, unreadable."""
    assert len({f.path for f in scan.changed}) == len(scan.changed), "nothing is staged twice"
    return {f.path for f in scan.changed}, set(scan.missing), dict(scan.unreadable)


# Random edits: what an app may do to a tree, each as (verb, path, another path or a number)

segments = st.sampled_from(["a", "b", "c", "x.db", "x.db-wal", "é", "\udcff", "n\nl", "skip.pid"])
relatives = st.lists(segments, min_size=1, max_size=3).map("/".join)
verbs = st.sampled_from(
    ["write", "write", "folder", "link", "remove", "chmod", "rename", "database", "socket", "touch"]
)
edits = st.lists(st.tuples(verbs, relatives, relatives), min_size=1, max_size=8)


def edit(root: Path, verb: str, relative: str, other: str) -> Iterable[str]:
    """Do it, if it can be done; the paths whose names or contents were touched, as a watcher would tell them."""
    at, to = root / relative, root / other
    try:
        if verb == "write":
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(os.fsencode(other))
        elif verb == "touch":
            os.utime(at, ns=(1, len(other)), follow_symlinks=False)
        elif verb == "folder":
            at.mkdir(parents=True, exist_ok=True)
        elif verb == "link":
            at.parent.mkdir(parents=True, exist_ok=True)
            at.symlink_to("nowhere/" + os.path.basename(other))
        elif verb == "remove":
            shutil.rmtree(at) if at.is_dir() and not at.is_symlink() else at.unlink()
        elif verb == "chmod":
            os.chmod(at, 0o700 + len(other) % 8)
        elif verb == "rename":
            to.parent.mkdir(parents=True, exist_ok=True)
            os.rename(at, to)
        elif verb == "database":
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_bytes(b"SQLite format 3\0" + os.fsencode(other))
        elif verb == "socket":
            at.parent.mkdir(parents=True, exist_ok=True)
            with chdir(at.parent), socket.socket(socket.AF_UNIX) as listening:
                listening.bind(os.fsencode(at.name))
    except OSError:
        pass
    return [relative, other] if verb == "rename" else [relative]
