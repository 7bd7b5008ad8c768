"""The file that the local index lies in: opened, set aside where it is damaged, and its small values by key."""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from sidecar.snapshot import machine
from sidecar.snapshot import rows as _rows
from sidecar.snapshot.manifest import SnapshotId

SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Known:
    """The snapshot that the index describes, and the store that it was committed to."""

    store: str
    snapshot: SnapshotId
    revision: str


def _damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is bad: a lock or a full disk says nothing about it."""
    code = getattr(error, "sqlite_errorcode", None)
    # SQLITE_ERROR is another version's schema: of no use here either.
    return code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class IndexFile:
    """One SQLite file. SQLite keeps it whole through any crash."""

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

    def _transaction(self) -> _Transaction:
        self._empty = None
        return _Transaction(self._db)

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
