"""What the index knows of files that the image itself brought, and of those that main deleted since."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from sidecar.snapshot.indexfile import IndexFile


class Brought(IndexFile):
    """Hashes by path, in two tables: what was shipped, and the tombstones of what of it is gone."""

    def shipped(self) -> dict[str, str]:
        """What the image brought: path -> sha256, of a link or a folder as ``manifest.fingerprint`` has it."""
        return self._hashes("shipped")

    def tombstones(self) -> dict[str, str]:
        """The shipped paths that main deleted, with what was shipped."""
        return self._hashes("tombstones")

    def stale(self, key: str) -> bool:
        """Whether the store may have another list of what was ``shipped``, or of ``tombstones``."""
        with self._lock:
            return self._meta(f"stale:{key}") is not None

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

    def _fill(self, table: str, hashes: Mapping[str, str]) -> None:
        self._db.execute(f"DELETE FROM {table}")
        self._put(table, hashes)
        self._set(f"stale:{table}", "1")

    def _put(self, table: str, hashes: Mapping[str, str]) -> None:
        rows = ((os.fsencode(path), sha) for path, sha in hashes.items())
        self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?,?)", rows)
