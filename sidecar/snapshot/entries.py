"""Questions to the index: what the last durable snapshot has at a path, below a folder, in a bundle."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from sidecar.snapshot import tally as _tally
from sidecar.snapshot.brought import Brought
from sidecar.snapshot.manifest import RootRecord, Shard
from sidecar.snapshot.rows import COLUMNS as _COLUMNS
from sidecar.snapshot.rows import Row
from sidecar.snapshot.rows import from_sql as _unpack
from sidecar.snapshot.tally import Counted, Tally

AT_ONCE = 500

Mark = tuple[int | None, ...]
"""An entry by what a stat of it says, as long as it is unchanged: st_mode, st_uid, st_gid, st_dev, st_ino, st_size,
st_mtime_ns, st_ctime_ns. None where no stat proves anything."""

_MARK = (
    "path, CASE WHEN flag='' AND (settled OR kind='dir') THEN"
    f" mode | CASE kind WHEN 'file' THEN {stat.S_IFREG} WHEN 'dir' THEN {stat.S_IFDIR} ELSE {stat.S_IFLNK} END END,"
    " uid, gid, dev, ino, st_size, CASE kind WHEN 'dir' THEN mtime_ns ELSE st_mtime END, ctime"
)


class Entries(Brought):
    """The rows of the last durable snapshot. Calls may come from any thread, one at a time; all of them block."""

    def tally(self) -> Tally:
        """What there is, counted."""
        with self._lock:
            return self._tally()

    def _tally(self) -> Tally:
        return Tally.load(self._meta("tally"))

    def _is_empty(self) -> bool:
        """Whether there is no row at all: then the first look at a large tree needn't ask for each of its files."""
        if self._empty is None:
            self._empty = self._db.execute("SELECT 1 FROM entries LIMIT 1").fetchone() is None
        return self._empty

    def get(self, path: str) -> Row | None:
        with self._lock:
            if self._is_empty():
                return None
            found = self._db.execute(f"SELECT {_COLUMNS} FROM entries WHERE path=?", (os.fsencode(path),)).fetchone()
        return _unpack(found) if found else None

    def many(self, paths: Sequence[str]) -> dict[str, Row]:
        """The rows of those of ``paths`` that have one."""
        with self._lock:
            rows = self._some(_COLUMNS, paths) if self._tally().entries else []
        return {r.entry.path: r for r in map(_unpack, rows)}

    def _counted(self, paths: Sequence[str]) -> list[Counted]:
        found = self._some("path, kind, size, bundle", paths)
        return [(os.fsdecode(path), kind, size, bundle) for path, kind, size, bundle in found]

    def _some(self, columns: str, paths: Sequence[str]) -> list[Any]:
        out: list[Any] = []
        for at in range(0, len(paths), AT_ONCE):
            raw = [os.fsencode(p) for p in paths[at : at + AT_ONCE]]
            marks = ",".join("?" * len(raw))
            out += self._db.execute(f"SELECT {columns} FROM entries WHERE path IN ({marks})", raw).fetchall()
        return out

    def children(self, parent: str) -> dict[str, Row]:
        """The rows right under folder ``parent``, by path."""
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM entries WHERE parent=?", (os.fsencode(parent),)).fetchall()
        return {r.entry.path: r for r in map(_unpack, rows)}

    def marks_under(self, folder: str, most: int) -> list[tuple[str, Mark]] | None:
        """All that lies below ``folder``, in path order; None where it is more than ``most`` entries."""
        raw = os.fsencode(folder)
        between = (raw + b"/", raw + b"0")
        with self._lock:
            counted = "SELECT count(*) FROM (SELECT 1 FROM entries WHERE path>? AND path<? LIMIT ?)"
            if self._db.execute(counted, (*between, most + 1)).fetchone()[0] > most:
                return None
            rows = self._db.execute(
                f"SELECT {_MARK} FROM entries WHERE path>? AND path<? ORDER BY path", between
            ).fetchall()
        return [(r[0].decode("utf-8", "surrogateescape"), r[1:]) for r in rows]

    def marks_in(self, folder: str, after: str | None = None, until: str | None = None) -> list[tuple[str, Mark]]:
        """What lies right in ``folder``: paths after ``after``, up to and with ``until``, as bytes compare."""
        raw = os.fsencode(folder)
        low = raw + b"/" if after is None else os.fsencode(after)
        high = raw + b"0" if until is None else os.fsencode(until)
        with self._lock:
            rows = self._db.execute(
                f"SELECT {_MARK} FROM entries WHERE parent=? AND path>? AND path<=?", (raw, low, high)
            ).fetchall()
        return [(r[0].decode("utf-8", "surrogateescape"), r[1:]) for r in rows]

    def under(self, path: str) -> list[Row]:
        """``path``'s own row and all below it, in path order."""
        raw = os.fsencode(path)
        with self._lock:
            if self._is_empty():
                return []
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM entries WHERE path=? OR (path>? AND path<?) ORDER BY path",
                (raw, raw + b"/", raw + b"0"),
            ).fetchall()
        return [_unpack(r) for r in rows]

    def orphans(self, root: str) -> list[Row]:
        """The rows below ``root`` whose folder has no row of its own."""
        raw = os.fsencode(root)
        with self._lock:
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM entries WHERE parent IN (SELECT parent FROM ("  # asked once a folder
                " SELECT ? AS parent UNION SELECT DISTINCT parent FROM entries WHERE parent>? AND parent<?) AS f"
                " WHERE NOT EXISTS (SELECT 1 FROM entries AS p WHERE p.path=f.parent)) ORDER BY path",
                (raw, raw + b"/", raw + b"0"),
            ).fetchall()
        return [_unpack(r) for r in rows]

    def in_bundles(self, wanted: Sequence[str]) -> dict[str, list[Row]]:
        """The rows whose bytes are in each of the ``wanted`` bundles, in path order. Looks at every entry, once."""
        out: dict[str, list[Row]] = {sha: [] for sha in wanted}
        if not out:
            return out
        with self._lock:
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM entries WHERE bundle IN ({','.join('?' * len(wanted))}) ORDER BY path",
                tuple(wanted),
            ).fetchall()
        for r in rows:
            out[r[9]].append(_unpack(r))
        return out

    def rows(self) -> Iterator[Row]:
        """Every row in path order; a snapshot of the moment of the call in pieces of 1,000."""
        last = b""
        while True:
            with self._lock:
                rows = self._db.execute(
                    f"SELECT {_COLUMNS} FROM entries WHERE path>? ORDER BY path LIMIT 1000", (last,)
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield from map(_unpack, rows)

    def totals(self, root: str) -> tuple[int, int]:
        """How many files ``root`` has, and their bytes. Of what is no root of the snapshot it looks at each."""
        with self._lock:
            known = self._tally().roots.get(root)
            return known if known is not None else _tally.under(self._db, root)

    def flagged(self) -> list[Row]:
        """The rows that are unsettled, stale or unreadable."""
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM entries WHERE flag!=''").fetchall()
        return [_unpack(r) for r in rows]

    def bundles(self) -> dict[str, int]:
        """The bundles that an entry lies in, and their sizes."""
        return {sha: b.size for sha, b in self.tally().bundles.items()}

    def roots(self) -> list[RootRecord]:
        with self._lock:
            return [RootRecord(*r) for r in json.loads(self._meta("roots") or "[]")]

    def shards(self) -> tuple[Shard, ...]:
        """The parts in which the store has the manifest; none where it has it whole."""
        with self._lock:
            return tuple(Shard(*part) for part in json.loads(self._meta("shards") or "[]"))

    def hashed(self) -> dict[str, tuple[Shard, ...]]:
        """The parts in which the store has what was shipped, and tombstones, where these lists are long."""
        with self._lock:
            found = json.loads(self._meta("hashed") or "{}")
        return {key: tuple(Shard(*part) for part in parts) for key, parts in found.items()}
