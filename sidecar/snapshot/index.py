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
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.errors import SidecarError
from sidecar.snapshot.manifest import Entry, Frame, Manifest, RootRecord, SnapshotId

SCHEMA = 1


def clamp(ns: int) -> int:
    """A time in ns that 64 bits hold: ext4 and XFS know times far beyond 2262, which no index or manifest says."""
    return max(-(1 << 63) + 1, min(ns, (1 << 63) - 1))


@dataclass(frozen=True, slots=True)
class Stat:
    """What makes a file *unchanged* when it is equal (design, section 5)."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, st: os.stat_result) -> Stat:
        return cls(st.st_dev, st.st_ino, st.st_size, clamp(st.st_mtime_ns), clamp(st.st_ctime_ns))


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as it was committed; ``stat`` is None where the local file was never seen to hold it.

    ``settled`` is false where the file changed so shortly before its staging that an equal stat proves nothing.
    """

    entry: Entry
    stat: Stat | None = None
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Known:
    """The snapshot that the index describes, and the store that it was committed to."""

    store: str
    snapshot: SnapshotId
    revision: str


_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bundles (sha TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {name} (
  path BLOB PRIMARY KEY, parent BLOB NOT NULL, kind TEXT, mode INTEGER, uid INTEGER, gid INTEGER, mtime_ns INTEGER,
  size INTEGER, sha TEXT, target BLOB, bundle TEXT, off INTEGER, len INTEGER, flag TEXT,
  dev INTEGER, ino INTEGER, st_size INTEGER, st_mtime INTEGER, ctime INTEGER, settled INTEGER) WITHOUT ROWID;
"""
_COLUMNS = (
    "path, kind, mode, uid, gid, mtime_ns, size, sha, target, bundle, off, len, flag,"
    " dev, ino, st_size, st_mtime, ctime, settled"
)
_INSERT = "INSERT OR REPLACE INTO {} VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"


def _pack(row: Row) -> tuple[Any, ...]:
    e, f, s = row.entry, row.entry.frame, row.stat
    path = os.fsencode(e.path)
    where = (f.bundle, f.offset, f.length) if f else (None, None, None)
    # st_ino and st_dev are unsigned 64-bit numbers; SQLite's integers are signed.
    stat = (_signed(s.dev), _signed(s.ino), s.size, s.mtime_ns, s.ctime_ns) if s else (None,) * 5
    return (
        *(path, path.rpartition(b"/")[0], e.kind, e.mode, e.uid, e.gid, e.mtime_ns, e.size, e.sha256),
        *(os.fsencode(e.target), *where, e.flag, *stat, int(row.settled)),
    )


def _unpack(r: tuple[Any, ...]) -> Row:
    frame = Frame(r[9], r[10], r[11]) if r[9] is not None else None
    path, target = os.fsdecode(r[0]), os.fsdecode(r[8])
    entry = Entry(path, r[1], r[2], r[3], r[4], r[5], r[6], r[7], target, frame, r[12])
    stat = Stat(r[13] & _U64, r[14] & _U64, r[15], r[16], r[17]) if r[13] is not None else None
    return Row(entry, stat, bool(r[18]))


_U64 = (1 << 64) - 1


def _damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is bad: a lock or a full disk says nothing about it."""
    code = getattr(error, "sqlite_errorcode", None)
    # SQLITE_ERROR is another version's schema: of no use here either.
    return code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _signed(n: int) -> int:
    return n - (1 << 64) if n >= 1 << 63 else n


class Index:
    """The index in one SQLite file. Calls may come from any thread, one at a time; all of them block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if not _damaged(error) and not path.is_dir():
                raise SidecarError(
                    f"the local index {path} can't be opened: {error}. Nothing was changed. Is another sidecar using"
                    " SIDECAR_STATE_DIR, or its disk full?"
                ) from None
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
            db.executescript(_TABLES.format(name="entries") + _TABLES.format(name="pending"))
            db.executescript(
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
            for table in ("entries", "pending", "gone", "bundles", "shipped", "tombstones", "meta"):
                self._db.execute(f"DELETE FROM {table}")
            self._set("schema", str(SCHEMA))
            if brought is not None:
                self._brought(brought)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def replace(self, known: Known, manifest: Manifest, stats: Mapping[str, Stat]) -> None:
        """Describe ``manifest`` as just restored; ``stats`` are of the local files that now hold its entries."""
        with self._lock, self._transaction():
            for table in ("entries", "pending", "gone", "bundles"):
                self._db.execute(f"DELETE FROM {table}")
            self._db.executemany(
                _INSERT.format("entries"),
                (_pack(Row(e, stats.get(p))) for p, e in manifest.entries.items()),
            )
            self._db.executemany("INSERT OR REPLACE INTO bundles VALUES (?,?)", manifest.bundles.items())
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

    def _put(self, table: str, hashes: Mapping[str, str]) -> None:
        rows = ((os.fsencode(path), sha) for path, sha in hashes.items())
        self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?,?)", rows)

    def begin(
        self,
        snapshot: SnapshotId,
        puts: Iterable[Row],
        gone: Iterable[str],
        bundles: Mapping[str, int],
        roots: Iterable[RootRecord],
        buried: Mapping[str, str] | None = None,
        risen: Iterable[str] = (),
        *,
        looked: bool = False,
    ) -> None:
        """Note what snapshot ``snapshot`` will change, before it is committed.

        ``buried`` are shipped paths that are deleted now, with what was shipped; ``risen`` are back again.
        ``looked`` says that ``unlooked`` is settled by it.
        """
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM pending")
            self._db.execute("DELETE FROM gone")
            self._db.executemany(_INSERT.format("pending"), (_pack(r) for r in puts))
            self._db.executemany("INSERT OR REPLACE INTO gone VALUES (?)", ((os.fsencode(p),) for p in gone))
            self._set("pending", str(snapshot))
            self._set("pending_bundles", json.dumps(dict(bundles)))
            self._set("pending_roots", json.dumps([[r.name, r.path, r.kind, r.layout] for r in roots]))
            self._set("pending_tombstones", json.dumps([dict(buried or {}), list(risen), looked]))

    def pending(self) -> SnapshotId | None:
        """The snapshot that was being committed when this index was last used, if its outcome is not known."""
        with self._lock:
            value = self._meta("pending")
        return SnapshotId.parse(value) if value else None

    def promote(self, store: str, revision: str) -> None:
        """The pending snapshot is durable as ``revision``: its changes become the entries."""
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM entries WHERE path IN (SELECT path FROM gone)")
            self._db.execute("INSERT OR REPLACE INTO entries SELECT * FROM pending")
            self._db.execute("DELETE FROM bundles")
            bundles = json.loads(self._meta("pending_bundles") or "{}")
            self._db.executemany("INSERT OR REPLACE INTO bundles VALUES (?,?)", bundles.items())
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

    def discard(self) -> None:
        """The pending snapshot was not committed."""
        with self._lock, self._transaction():
            self._drop_pending()

    def _drop_pending(self) -> None:
        self._db.execute("DELETE FROM pending")
        self._db.execute("DELETE FROM gone")
        for key in ("pending", "pending_bundles", "pending_roots", "pending_tombstones"):
            self._set(key, None)

    def moved(self, revision: str) -> None:
        """The same snapshot now has another revision (a lease commit, an outside edit, a squash)."""
        with self._lock:
            self._set("revision", revision)

    def touch(self, rows: Iterable[Row]) -> None:
        """Refresh rows whose bytes were found unchanged although their stat was not."""
        with self._lock, self._transaction():
            self._db.executemany(_INSERT.format("entries"), (_pack(r) for r in rows))

    def get(self, path: str) -> Row | None:
        with self._lock:
            found = self._db.execute(f"SELECT {_COLUMNS} FROM entries WHERE path=?", (os.fsencode(path),)).fetchone()
        return _unpack(found) if found else None

    def children(self, parent: str) -> dict[str, Row]:
        """The rows right under folder ``parent``, by path."""
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM entries WHERE parent=?", (os.fsencode(parent),)).fetchall()
        return {r.entry.path: r for r in map(_unpack, rows)}

    def under(self, path: str) -> list[Row]:
        """``path``'s own row and all below it, in path order."""
        raw = os.fsencode(path)
        with self._lock:
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
                f"SELECT {_COLUMNS} FROM entries AS e WHERE path>? AND path<?"
                " AND NOT EXISTS (SELECT 1 FROM entries AS p WHERE p.path=e.parent) ORDER BY path",
                (raw + b"/", raw + b"0"),
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
        """How many files ``root`` has, and their bytes."""
        raw = os.fsencode(root)
        with self._lock:
            n, size = self._db.execute(
                "SELECT count(*), coalesce(sum(size),0) FROM entries"
                " WHERE kind!='dir' AND (path=? OR (path>? AND path<?))",
                (raw, raw + b"/", raw + b"0"),
            ).fetchone()
        return n, size

    def flagged(self) -> list[Row]:
        """The rows that are unsettled, stale or unreadable."""
        with self._lock:
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM entries WHERE flag!=''").fetchall()
        return [_unpack(r) for r in rows]

    def bundles(self) -> dict[str, int]:
        with self._lock:
            return dict(self._db.execute("SELECT sha, size FROM bundles").fetchall())

    def live_bundles(self) -> set[str]:
        """The bundles that a committed entry still lies in."""
        with self._lock:
            rows = self._db.execute("SELECT DISTINCT bundle FROM entries WHERE bundle IS NOT NULL")
            return {r[0] for r in rows}

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
