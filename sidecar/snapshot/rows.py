"""A row of the local index: an entry as it was committed, and the stat of the file that held it; and its SQL."""

from __future__ import annotations

import os
from typing import Any

from sidecar.records import record
from sidecar.snapshot.manifest import Entry, Frame

_U64 = (1 << 64) - 1
_FAR = (1 << 63) - 1


def clamp(ns: int) -> int:
    """A time in ns that 64 bits hold: ext4 and XFS know times far beyond 2262, which no index or manifest says."""
    return max(-_FAR, min(ns, _FAR))


@record(frozen=True, slots=True)
class Stat:
    """What makes a file *unchanged* when it is equal (design, section 5)."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, st: os.stat_result) -> Stat:
        mtime_ns, ctime_ns = st.st_mtime_ns, st.st_ctime_ns
        if not (-_FAR < mtime_ns < _FAR and -_FAR < ctime_ns < _FAR):
            mtime_ns, ctime_ns = clamp(mtime_ns), clamp(ctime_ns)
        return cls(st.st_dev, st.st_ino, st.st_size, mtime_ns, ctime_ns)


@record(frozen=True, slots=True)
class Row:
    """An entry as it was committed; ``stat`` is None where the local file was never seen to hold it.

    ``settled`` is false where the file changed so shortly before its staging that an equal stat proves nothing.
    """

    entry: Entry
    stat: Stat | None = None
    settled: bool = True


SAME, REPLACED, ADDED = 0, 1, 2
"""``base``: the shard that covers the path has just this entry, another one of that path, or none."""

ENTRY = "kind, mode, uid, gid, mtime_ns, size, sha, target, bundle, off, len, flag"
COLUMNS = f"path, {ENTRY}, dev, ino, st_size, st_mtime, ctime, settled"
ALL = f"path, parent, {ENTRY}, dev, ino, st_size, st_mtime, ctime, settled"

TABLE = """
CREATE TABLE IF NOT EXISTS {name} (
  path BLOB PRIMARY KEY, parent BLOB NOT NULL, kind TEXT, mode INTEGER, uid INTEGER, gid INTEGER, mtime_ns INTEGER,
  size INTEGER, sha TEXT, target BLOB, bundle TEXT, off INTEGER, len INTEGER, flag TEXT,
  dev INTEGER, ino INTEGER, st_size INTEGER, st_mtime INTEGER, ctime INTEGER, settled INTEGER,
  base INTEGER NOT NULL) WITHOUT ROWID;
"""
INSERT = f"INSERT OR REPLACE INTO {{}} VALUES ({','.join('?' * 20)},?)"

_EXCLUDED = ", ".join(f"excluded.{name.strip()}" for name in ENTRY.split(","))
TOUCH = (
    f"INSERT INTO entries VALUES ({','.join('?' * 20)},{ADDED}) ON CONFLICT(path) DO UPDATE SET"
    + ", ".join(f" {n.strip()}=excluded.{n.strip()}" for n in ALL.split(",")[2:])
    + f", base=CASE WHEN base={SAME} AND ({ENTRY}) IS NOT ({_EXCLUDED}) THEN {REPLACED} ELSE base END"
)
"""Refresh a row; what of its entry is another now differs from its shard."""


_NO_FRAME = (None,) * 3
_NO_STAT = (None,) * 5


def to_sql(row: Row) -> tuple[Any, ...]:
    """The values of ``ALL``."""
    e, f, s = row.entry, row.entry.frame, row.stat
    path = os.fsencode(e.path)
    parent, _, _ = path.rpartition(b"/")
    target = os.fsencode(e.target) if e.target else b""
    bundle, offset, length = (f.bundle, f.offset, f.length) if f else _NO_FRAME
    # st_ino and st_dev are unsigned 64-bit numbers; SQLite's integers are signed.
    dev, ino, size, mtime_ns, ctime_ns = (
        (_signed(s.dev), _signed(s.ino), s.size, s.mtime_ns, s.ctime_ns) if s else _NO_STAT
    )
    return (
        *(path, parent, e.kind, e.mode, e.uid, e.gid, e.mtime_ns, e.size, e.sha256, target, bundle, offset, length),
        *(e.flag, dev, ino, size, mtime_ns, ctime_ns, int(row.settled)),
    )


def from_sql(r: tuple[Any, ...]) -> Row:
    """The row of the values of ``COLUMNS``."""
    stat = Stat(r[13] & _U64, r[14] & _U64, r[15], r[16], r[17]) if r[13] is not None else None
    return Row(entry_of(r), stat, bool(r[18]))


def entry_of(r: tuple[Any, ...]) -> Entry:
    frame = Frame(r[9], r[10], r[11]) if r[9] is not None else None
    return Entry(os.fsdecode(r[0]), r[1], r[2], r[3], r[4], r[5], r[6], r[7], os.fsdecode(r[8]), frame, r[12])


def _signed(n: int) -> int:
    return n - (1 << 64) if n >= 1 << 63 else n
