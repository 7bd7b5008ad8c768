"""What one commit carries: decided from values, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sidecar.snapshot.found import Found
from sidecar.snapshot.index import Row, Stat
from sidecar.snapshot.manifest import mirrored, root_of
from sidecar.snapshot.scan import RootKind
from sidecar.snapshot.stage import Staged

PLAIN_MOST = 100
"""Plain files in one commit: the Hub advises 50 to 100, and more run into its time limit."""

BUNDLE_FILES = 500
BUNDLE_MEAN = 64 * 1024
BUNDLE_LARGE = 4 * 1024 * 1024
"""A file of a bundled root that is as large as this stays plain: people find it, and a store may share its parts."""

PORTION_BYTES, PORTION_FILES = 64 * 1024 * 1024, 4096
"""About so much goes into one bundle: what a restore can begin anew, and a compaction can do away with."""

MASS_LEAST = 10


@dataclass(frozen=True, slots=True)
class Places:
    """Which staged files are mirrored under their own names, and which travel in a bundle."""

    plain: tuple[Staged, ...]
    bundled: tuple[Staged, ...]


def bundled_below(layout: str, files: int, size: int) -> float:
    """Which files of a root of so many files and bytes are bundled: those of fewer bytes than this."""
    if layout in ("bundle", "mirror"):
        return math.inf if layout == "bundle" else 0
    return BUNDLE_LARGE if files > BUNDLE_FILES and size < files * BUNDLE_MEAN else 0


def place(staged: Sequence[Staged], bundled_roots: Mapping[str, float], refused: Collection[str]) -> Places:
    """Sort staged files by where their bytes go. Of too many plain files the smallest are bundled.

    ``bundled_roots`` says of each from which size on its files stay plain all the same.
    """
    plain: list[Staged] = []
    bundled: list[Staged] = []
    for item in staged:
        if item.source is None:
            continue
        path = item.entry.path
        root = root_of(path, bundled_roots)
        small = root is not None and item.entry.size < bundled_roots[root]
        (bundled if small or path in refused or not mirrored(path) else plain).append(item)
    if len(plain) > PLAIN_MOST:
        plain.sort(key=lambda s: s.entry.size, reverse=True)
        bundled.extend(plain[PLAIN_MOST:])
        del plain[PLAIN_MOST:]
    bundled.sort(key=lambda s: s.entry.path)
    return Places(tuple(plain), tuple(bundled))


def deletes(gone: Iterable[Row], replaced: Iterable[tuple[Row, Row]]) -> list[str]:
    """The mirrored paths that the store lets go of: deleted, moved into a bundle, or no file any more.

    ``replaced`` are pairs of an old and a new row of the same path.
    """
    out = [row.entry.path for row in gone if row.entry.kind == "file" and row.entry.frame is None]
    for old, new in replaced:
        was_plain = old.entry.kind == "file" and old.entry.frame is None
        is_plain = new.entry.kind == "file" and new.entry.frame is None
        if was_plain and not is_plain:
            out.append(old.entry.path)
    return sorted(out)


def lost(gone: Iterable[Row], new: Iterable[Found]) -> int:
    """How many files of ``gone`` are not under another name among ``new``: a folder that was moved has lost none."""
    elsewhere = {_identity(here.stat) for here in new if here.kind == "file"}
    files = (row for row in gone if row.entry.kind != "dir")
    return sum(1 for row in files if row.stat is None or _identity(row.stat) not in elsewhere)


def _identity(stat: Stat) -> tuple[int, ...]:
    # The inode alone says little: the number of a deleted file is given to the next one.
    return stat.dev, stat.ino, stat.size, stat.mtime_ns


def mass_deletion(files_before: int, lost_files: int, kind: RootKind, kind_before: RootKind) -> bool:
    """Whether so much of a root is gone that it is more likely a fault than meant (design, section 5).

    ``files_before`` is what the last snapshot has of it, ``lost_files`` how many of those are gone now.
    """
    if files_before == 0 or lost_files == 0:
        return False
    if kind == "absent" or lost_files >= files_before:
        return True
    if kind != kind_before and kind_before == "dir":
        return True
    return lost_files >= MASS_LEAST and lost_files * 2 > files_before


def looks_like_database(path: str) -> bool:
    """Whether a file's name says that it is a SQLite database: its bytes can't, once they are gone."""
    return path.lower().endswith((".db", ".db3", ".sqlite", ".sqlite3"))


def portions(sizes: Iterable[int]) -> list[int]:
    """How many files, of so many bytes each, go into each of the bundles that carry them all."""
    out: list[int] = []
    filled = 0
    for size in sizes:
        if not out or out[-1] >= PORTION_FILES or filled + size > PORTION_BYTES:
            out.append(0)
            filled = 0
        out[-1] += 1
        filled += size
    return out
