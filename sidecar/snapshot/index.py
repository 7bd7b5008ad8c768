"""The local index: what the last durable snapshot holds, and the stat of each file when it was staged.

It is how a scan knows what changed without reading it, and how a start with a surviving disk knows what is newer
than the store. A sync writes its changes as *pending* before it commits and promotes them afterwards: a crash in
between is settled at the next start by asking the head which snapshot it is. SQLite keeps it whole through any crash;
a file that is damaged all the same is set aside and treated as lost.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.snapshot import machine
from sidecar.snapshot import rows as _rows
from sidecar.snapshot import tally as _tally
from sidecar.snapshot.manifest import Manifest, RootRecord, Shard, SnapshotId
from sidecar.snapshot.rows import COLUMNS as _COLUMNS
from sidecar.snapshot.rows import Row, Stat, clamp
from sidecar.snapshot.rows import from_sql as _unpack
from sidecar.snapshot.tally import Bundle, Counted, Tally

__all__ = ["Index", "Known", "Mark", "Row", "Stat", "clamp"]

SCHEMA = 2
AT_ONCE = 500
PAGE = 1000


Mark = tuple[int | None, ...]
"""An entry by what a stat of it says, as long as it is unchanged: st_mode, st_uid, st_gid, st_dev, st_ino, st_size,
st_mtime_ns, st_ctime_ns. None where no stat proves anything."""


@dataclass(frozen=True, slots=True)
class Known:
    """The snapshot that the index describes, and the store that it was committed to."""

    store: str
    snapshot: SnapshotId
    revision: str


_MARK = (
    "path, CASE WHEN flag='' AND (settled OR kind='dir') THEN"
    f" mode | CASE kind WHEN 'file' THEN {stat.S_IFREG} WHEN 'dir' THEN {stat.S_IFDIR} ELSE {stat.S_IFLNK} END END,"
    " uid, gid, dev, ino, st_size, CASE kind WHEN 'dir' THEN mtime_ns ELSE st_mtime END, ctime"
)


def _damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is bad: a lock or a full disk says nothing about it."""
    code = getattr(error, "sqlite_errorcode", None)
    # SQLITE_ERROR is another version's schema: of no use here either.
    return code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class Index:
    """The index in one SQLite file. Calls may come from any thread, one at a time; all of them block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._empty: bool | None = None  # nobody has looked since the last change
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if not _damaged(error) and not path.is_dir():
                raise machine.start_failed(error, path.parent) from None
            os.replace(path, f"{path}.damaged")
            for ending in ("-wal", "-shm"):
                Path(f"{path}{ending}").unlink(missing_ok=True)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA cache_size=-2000")
            db.executescript(_rows.TABLE.format(name="entries") + _rows.TABLE.format(name="pending"))
            db.executescript(
                "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
                f"CREATE INDEX IF NOT EXISTS by_base ON entries (base) WHERE base!={_rows.SAME};"
                "CREATE TABLE IF NOT EXISTS lost (path BLOB PRIMARY KEY) WITHOUT ROWID;"
                "CREATE INDEX IF NOT EXISTS by_parent ON entries (parent);"
                "CREATE INDEX IF NOT EXISTS by_flag ON entries (flag) WHERE flag!='';"
                "CREATE TABLE IF NOT EXISTS gone (path BLOB PRIMARY KEY) WITHOUT ROWID;"
                "CREATE TABLE IF NOT EXISTS shipped (path BLOB PRIMARY KEY, sha TEXT NOT NULL) WITHOUT ROWID;"
                "CREATE TABLE IF NOT EXISTS tombstones (path BLOB PRIMARY KEY, sha TEXT NOT NULL) WITHOUT ROWID;"
            )
            row = db.execute("SELECT value FROM meta WHERE key='schema'").fetchone()
            if row is not None and row[0] != str(SCHEMA):
                raise sqlite3.DatabaseError("unknown schema")
            db.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (str(SCHEMA),))
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _meta(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return row[0] if row else None

    def _set(self, key: str, value: str | None) -> None:
        if value is None:
            self._db.execute("DELETE FROM meta WHERE key=?", (key,))
        else:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (key, value))

    def note(self, key: str) -> str | None:
        """A small value that ``set_note`` kept beside the entries."""
        with self._lock:
            return self._meta(f"note:{key}")

    def set_note(self, key: str, value: str | None) -> None:
        with self._lock:
            self._set(f"note:{key}", value)

    def known(self) -> Known | None:
        """Which snapshot the entries are, or None: then nothing in here may be believed."""
        with self._lock:
            store, snapshot, revision = self._meta("store"), self._meta("snapshot"), self._meta("revision")
        if store is None or snapshot is None or revision is None:
            return None
        return Known(store, SnapshotId.parse(snapshot), revision)

    def forget(self, brought: Mapping[str, str] | None = None) -> None:
        """Believe nothing of this index from now on, but for what the image ``brought``; survives a crash."""
        with self._lock, self._transaction():
            for table in ("entries", "pending", "gone", "lost", "shipped", "tombstones", "meta"):
                self._db.execute(f"DELETE FROM {table}")
            self._set("schema", str(SCHEMA))
            if brought is not None:
                self._brought(brought)

    def _transaction(self) -> _Transaction:
        self._empty = None
        return _Transaction(self._db)

    def replace(self, known: Known, manifest: Manifest, stats: Mapping[str, Stat]) -> None:
        """Describe ``manifest`` as just restored; ``stats`` are of the local files that now hold its entries."""
        with self._lock, self._transaction():
            for table in ("entries", "pending", "gone", "lost"):
                self._db.execute(f"DELETE FROM {table}")
            parts = manifest.sharding
            base: dict[str, int] = {}
            if parts is not None:
                base = dict.fromkeys(parts.replaced, _rows.REPLACED) | dict.fromkeys(parts.added, _rows.ADDED)
                self._db.executemany("INSERT INTO lost VALUES (?)", ((os.fsencode(p),) for p in parts.gone))
            other = _rows.ADDED if parts is None else _rows.SAME
            self._db.executemany(
                _rows.INSERT.format("entries"),
                ((*_rows.to_sql(Row(e, stats.get(p))), base.get(p, other)) for p, e in manifest.entries.items()),
            )
            self._set("tally", _tally.of_manifest(manifest).dump())
            self._set("shards", json.dumps([_values(p) for p in parts.shards] if parts else []))
            # What counts as shipped from here on may be another list than the store has: that is for ``stale`` to say.
            self._set("hashed", _dump(manifest.hashed))
            self._describe(known, manifest)

    def _describe(self, known: Known, manifest: Manifest) -> None:
        self._set("store", known.store)
        self._set("snapshot", str(known.snapshot))
        self._set("revision", known.revision)
        self._set("roots", json.dumps([[r.name, r.path, r.kind, r.layout] for r in manifest.roots]))
        self._fill("shipped", manifest.shipped)
        self._fill("tombstones", manifest.tombstones)

    def _fill(self, table: str, hashes: Mapping[str, str]) -> None:
        self._db.execute(f"DELETE FROM {table}")
        self._put(table, hashes)
        self._set(f"stale:{table}", "1")

    def _put(self, table: str, hashes: Mapping[str, str]) -> None:
        rows = ((os.fsencode(path), sha) for path, sha in hashes.items())
        self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?,?)", rows)

    def begin(
        self,
        snapshot: SnapshotId,
        puts: Iterable[Row],
        gone: Iterable[str],
        bundles: Mapping[str, Bundle],
        roots: Iterable[RootRecord],
        buried: Mapping[str, str] | None = None,
        risen: Iterable[str] = (),
        *,
        looked: bool = False,
    ) -> Tally:
        """Note what snapshot ``snapshot`` will change, before it is committed, and count what there is then.

        ``bundles`` are the new ones. In which parts the manifest is stored is for ``reshard`` to say, after this.
        ``buried`` are shipped paths that are deleted now, with what was shipped; ``risen`` are back again.
        ``looked`` says that ``unlooked`` is settled by it.
        """
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM pending")
            self._db.execute("DELETE FROM gone")
            self._db.executemany(_rows.INSERT.format("pending"), ((*_rows.to_sql(r), _rows.ADDED) for r in puts))
            self._db.executemany("INSERT OR REPLACE INTO gone VALUES (?)", ((os.fsencode(p),) for p in gone))
            self._set("pending", str(snapshot))
            records = list(roots)
            self._set("pending_roots", json.dumps([[r.name, r.path, r.kind, r.layout] for r in records]))
            coming = _tally.after_pending(self._db, self._tally(), bundles, [r.name for r in records])
            self._set("pending_tally", coming.dump())
            self._set("pending_shards", None)
            self._set("pending_hashed", None)
            self._set("pending_tombstones", json.dumps([dict(buried or {}), list(risen), looked]))
            return coming

    def reshard(
        self,
        parts: Sequence[Shard],
        folded: Sequence[tuple[bytes, bytes | None]],
        hashed: Mapping[str, Sequence[Shard]] | None = None,
    ) -> None:
        """Note in which parts the pending snapshot's manifest is stored; ``folded`` are ranges written anew.

        A range is from its first path up to its second one, or to the end. ``hashed`` are the parts of what was
        shipped, and of tombstones.
        """
        ranges = [[os.fsdecode(low), None if high is None else os.fsdecode(high)] for low, high in folded]
        with self._lock:
            self._set("pending_shards", json.dumps([[_values(p) for p in parts], ranges]))
            self._set("pending_hashed", _dump(hashed or {}))

    def hashed(self) -> dict[str, tuple[Shard, ...]]:
        """The parts in which the store has what was shipped, and tombstones, where these lists are long."""
        with self._lock:
            found = json.loads(self._meta("hashed") or "{}")
        return {key: tuple(Shard(*part) for part in parts) for key, parts in found.items()}

    def stale(self, key: str) -> bool:
        """Whether the store may have another list of what was ``shipped``, or of ``tombstones``."""
        with self._lock:
            return self._meta(f"stale:{key}") is not None

    def pending(self) -> SnapshotId | None:
        """The snapshot that was being committed when this index was last used, if its outcome is not known."""
        with self._lock:
            value = self._meta("pending")
        return SnapshotId.parse(value) if value else None

    def promote(self, store: str, revision: str) -> None:
        """The pending snapshot is durable as ``revision``: its changes become the entries."""
        with self._lock, self._transaction():
            self._adopt(*json.loads(self._meta("pending_shards") or "[[],[]]"))
            self._set("tally", self._meta("pending_tally"))
            if self._meta("pending_hashed") is not None:
                self._set("hashed", self._meta("pending_hashed"))
                self._set("stale:shipped", None)
                self._set("stale:tombstones", None)
            self._set("store", store)
            self._set("snapshot", self._meta("pending"))
            self._set("revision", revision)
            self._set("roots", self._meta("pending_roots"))
            buried, risen, looked = json.loads(self._meta("pending_tombstones") or "[{},[],false]")
            self._put("tombstones", buried)
            self._db.executemany("DELETE FROM tombstones WHERE path=?", ((os.fsencode(p),) for p in risen))
            if looked:
                self._set("unlooked", None)
            self._drop_pending()

    def _adopt(self, parts: list[list[Any]], folded: list[tuple[str, str | None]]) -> None:
        """Make the pending rows entries, and mark which of all entries are what their shards say."""
        run, same, replaced, added = self._db.execute, _rows.SAME, _rows.REPLACED, _rows.ADDED
        before = bool(self.shards())
        if before and parts:
            run(
                "INSERT OR IGNORE INTO lost SELECT g.path FROM gone AS g CROSS JOIN entries AS e ON e.path=g.path"
                f" WHERE e.base!={added}"
            )
            base = (
                f"CASE WHEN EXISTS (SELECT 1 FROM entries AS e WHERE e.path=p.path AND e.base!={added})"
                f" OR EXISTS (SELECT 1 FROM lost AS l WHERE l.path=p.path) THEN {replaced} ELSE {added} END"
            )
        else:
            base = str(same if parts else added)
        run("DELETE FROM entries WHERE path IN (SELECT path FROM gone)")
        run(f"INSERT OR REPLACE INTO entries SELECT {_rows.ALL}, {base} FROM pending AS p")
        run("DELETE FROM lost WHERE path IN (SELECT path FROM pending)")
        for low, high in folded:
            within, values = _between(os.fsencode(low), None if high is None else os.fsencode(high))
            run(f"UPDATE entries SET base={same} WHERE base!={same} AND {within}", values)
            run(f"DELETE FROM lost WHERE {within}", values)
        if before and not parts:
            run(f"UPDATE entries SET base={added}")
            run("DELETE FROM lost")
        self._set("shards", json.dumps(parts))

    def discard(self) -> None:
        """The pending snapshot was not committed."""
        with self._lock, self._transaction():
            self._drop_pending()

    def _drop_pending(self) -> None:
        self._db.execute("DELETE FROM pending")
        self._db.execute("DELETE FROM gone")
        for key in ("tally", "shards", "hashed", "roots", "tombstones"):
            self._set(f"pending_{key}", None)
        self._set("pending", None)

    def moved(self, revision: str) -> None:
        """The same snapshot now has another revision (a lease commit, an outside edit, a squash)."""
        with self._lock:
            self._set("revision", revision)

    def touch(self, rows: Iterable[Row]) -> None:
        """Refresh rows whose bytes were found unchanged although their stat was not."""
        fresh = {r.entry.path: r for r in rows}
        with self._lock, self._transaction():
            old = self._counted(list(fresh))
            new = [_tally.counted(r.entry) for r in fresh.values()]
            self._db.executemany(_rows.TOUCH, (_rows.to_sql(r) for r in fresh.values()))
            if set(old) != set(new):
                self._set("tally", self._tally().moved(old, new).dump())

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

    def many(self, paths: Sequence[str]) -> dict[str, Row]:
        """The rows of those of ``paths`` that have one."""
        with self._lock:
            rows = self._some(_COLUMNS, paths) if self._tally().entries else []
        return {r.entry.path: r for r in map(_unpack, rows)}

    def coming(self, low: bytes = b"", high: bytes | None = None) -> Iterator[tuple[Any, ...]]:
        """What the pending snapshot has from ``low`` up to ``high``, in path order: path and ``rows.ENTRY``."""
        last: bytes | None = low
        while last is not None:
            rows, last = self._coming(last, high)
            yield from rows

    def _coming(self, low: bytes, high: bytes | None) -> tuple[list[tuple[Any, ...]], bytes | None]:
        """A first part of that, and from where to go on; merged here, which costs SQLite more than reading does."""
        within, values = _between(low, high)
        page = f"SELECT path, {_rows.ENTRY} FROM {{}} WHERE {within} ORDER BY path LIMIT {PAGE}"
        with self._lock:
            new = self._db.execute(page.format("pending"), values).fetchall()
            old = self._db.execute(page.format("entries"), values).fetchall()
            ends = [rows[-1][0] + b"\0" for rows in (new, old) if len(rows) == PAGE]
            end = min(ends, default=high)
            within, values = _between(low, end)
            over = {r[0] for r in self._db.execute(f"SELECT path FROM gone WHERE {within}", values)}
        new = [r for r in new if end is None or r[0] < end]
        over.update(r[0] for r in new)
        rows = [r for r in old if (end is None or r[0] < end) and r[0] not in over]
        if new:
            rows = sorted((*rows, *new), key=_path)
        return rows, end if ends else None

    def coming_delta(self) -> tuple[list[tuple[Any, ...]], list[bytes]]:
        """How the pending snapshot differs from the shards that there are: its rows, and the paths that are gone.

        Rows are in path order, each with its path and ``rows.ENTRY``.
        """
        with self._lock:
            rows = self._db.execute(
                # Else SQLite reads all rows, to have them in order without sorting the few.
                f"SELECT path, {_rows.ENTRY} FROM pending UNION ALL"
                f" SELECT path, {_rows.ENTRY} FROM entries AS e INDEXED BY by_base"
                f" WHERE base!={_rows.SAME} AND NOT EXISTS (SELECT 1 FROM pending AS p WHERE p.path=e.path)"
                " AND NOT EXISTS (SELECT 1 FROM gone AS g WHERE g.path=e.path) ORDER BY path"
            ).fetchall()
            gone = self._db.execute(
                "SELECT path FROM lost UNION SELECT g.path FROM gone AS g CROSS JOIN entries AS e ON e.path=g.path"
                f" WHERE e.base!={_rows.ADDED} EXCEPT SELECT path FROM pending ORDER BY path"
            ).fetchall()
        return rows, [r[0] for r in gone]

    def delta_size(self) -> int:
        """How many entries differ from their shards, or are missing from them."""
        with self._lock:
            differ = self._db.execute(
                f"SELECT count(*) FROM entries INDEXED BY by_base WHERE base!={_rows.SAME}"
            ).fetchone()[0]
            return int(differ + self._db.execute("SELECT count(*) FROM lost").fetchone()[0])

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

    def shards(self) -> tuple[Shard, ...]:
        """The parts in which the store has the manifest; none where it has it whole."""
        with self._lock:
            return tuple(Shard(*part) for part in json.loads(self._meta("shards") or "[]"))

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

    def forget_folders(self, root: str) -> None:
        """Know no place of ``root``'s folders: their device has another number than when they were seen."""
        raw = os.fsencode(root)
        with self._lock, self._transaction():
            self._db.execute(
                "UPDATE entries SET dev=NULL, ino=NULL, st_size=NULL, st_mtime=NULL, ctime=NULL"
                " WHERE kind='dir' AND (path=? OR (path>? AND path<?))",
                (raw, raw + b"/", raw + b"0"),
            )

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

    def shipped(self) -> dict[str, str]:
        """What the image brought: path -> sha256, of a link or a folder as ``manifest.fingerprint`` has it."""
        return self._hashes("shipped")

    def tombstones(self) -> dict[str, str]:
        """The shipped paths that main deleted, with what was shipped."""
        return self._hashes("tombstones")

    def _hashes(self, table: str) -> dict[str, str]:
        with self._lock:
            return {os.fsdecode(path): sha for path, sha in self._db.execute(f"SELECT path, sha FROM {table}")}

    def shipped_among(self, paths: Iterable[str]) -> dict[str, str]:
        """Those of ``paths`` that the image brought."""
        return self._among("shipped", paths)

    def buried_among(self, paths: Iterable[str]) -> dict[str, str]:
        """Those of ``paths`` that have a tombstone."""
        return self._among("tombstones", paths)

    def _among(self, table: str, paths: Iterable[str]) -> dict[str, str]:
        out = {}
        with self._lock:
            if self._db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is None:
                return {}
            for path in paths:
                row = self._db.execute(f"SELECT sha FROM {table} WHERE path=?", (os.fsencode(path),)).fetchone()
                if row is not None:
                    out[path] = row[0]
        return out

    def brought(self) -> dict[str, str] | None:
        """What ``note_brought`` noted of this disk, as long as no snapshot was restored to it; else None."""
        with self._lock:
            return self.shipped() if self.known() is None and self._meta("brought") is not None else None

    def note_brought(self, hashes: Mapping[str, str]) -> None:
        """This disk is fresh: ``hashes`` is all that lay in the roots before anything of ours or main's did."""
        with self._lock, self._transaction():
            self._brought(hashes)

    def _brought(self, hashes: Mapping[str, str]) -> None:
        self._fill("shipped", hashes)
        self._set("brought", "1")
        self._set("unlooked", "1")

    def unlooked(self) -> bool:
        """Whether main may have deleted a shipped path before any snapshot had it: no row would tell."""
        with self._lock:
            return self._meta("unlooked") is not None


def _path(row: tuple[Any, ...]) -> bytes:
    return bytes(row[0])


def _values(s: Shard) -> list[Any]:
    return [s.sha256, s.size, s.plain, s.entries, s.first]


def _dump(parts: Mapping[str, Sequence[Shard]]) -> str:
    return json.dumps({key: [_values(p) for p in found] for key, found in parts.items()})


def _between(low: bytes, high: bytes | None) -> tuple[str, tuple[bytes, ...]]:
    return ("path>=?", (low,)) if high is None else ("path>=? AND path<?", (low, high))


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def __enter__(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.db.execute("COMMIT")
        finally:
            if self.db.in_transaction:  # a full disk may have rolled it back already
                self.db.execute("ROLLBACK")
