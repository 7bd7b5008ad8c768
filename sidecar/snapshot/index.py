"""The local index: what the last durable snapshot holds, and the stat of each file when it was staged.

It is how a scan knows what changed without reading it, and how a start with a surviving disk knows what is newer
than the store. A sync writes its changes as *pending* before it commits and promotes them afterwards: a crash in
between is settled at the next start by asking the head which snapshot it is. SQLite keeps it whole through any crash;
a file that is damaged all the same is set aside and treated as lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sidecar.snapshot import rows as _rows
from sidecar.snapshot import tally as _tally
from sidecar.snapshot.entries import Entries, Mark
from sidecar.snapshot.indexfile import SCHEMA, Known
from sidecar.snapshot.manifest import Manifest, RootRecord, Shard, SnapshotId
from sidecar.snapshot.rows import Row, Stat, clamp
from sidecar.snapshot.tally import Bundle, Tally

__all__ = ["Index", "Known", "Mark", "Row", "Stat", "clamp"]

PAGE = 1000


class Index(Entries):
    """The index in one SQLite file. Calls may come from any thread, one at a time; all of them block."""

    def forget(self, brought: Mapping[str, str] | None = None) -> None:
        """Believe nothing of this index from now on, but for what the image ``brought``; survives a crash."""
        with self._lock, self._transaction():
            for table in ("entries", "pending", "gone", "lost", "shipped", "tombstones", "meta"):
                self._db.execute(f"DELETE FROM {table}")
            self._set("schema", str(SCHEMA))
            if brought is not None:
                self._brought(brought)

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

    def forget_folders(self, root: str) -> None:
        """Know no place of ``root``'s folders: their device has another number than when they were seen."""
        raw = os.fsencode(root)
        with self._lock, self._transaction():
            self._db.execute(
                "UPDATE entries SET dev=NULL, ino=NULL, st_size=NULL, st_mtime=NULL, ctime=NULL"
                " WHERE kind='dir' AND (path=? OR (path>? AND path<?))",
                (raw, raw + b"/", raw + b"0"),
            )


def _path(row: tuple[Any, ...]) -> bytes:
    return bytes(row[0])


def _values(s: Shard) -> list[Any]:
    return [s.sha256, s.size, s.plain, s.entries, s.first]


def _dump(parts: Mapping[str, Sequence[Shard]]) -> str:
    return json.dumps({key: [_values(p) for p in found] for key, found in parts.items()})


def _between(low: bytes, high: bytes | None) -> tuple[str, tuple[bytes, ...]]:
    return ("path>=?", (low,)) if high is None else ("path>=? AND path<?", (low, high))
