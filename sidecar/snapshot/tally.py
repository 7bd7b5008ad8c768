"""What the index has counted, so that no sync has to look at all of it: files and bytes of roots, life in bundles."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sidecar.snapshot.manifest import Entry, Manifest, root_of


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle of ``size`` stored bytes, into which files of ``packed`` bytes were put.

    ``files`` of them, of ``live`` bytes, are still what an entry names.
    """

    size: int
    packed: int
    files: int = 0
    live: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """Of one state of the index: how many entries it has, files and bytes of each root, and its bundles."""

    entries: int = 0
    roots: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    bundles: Mapping[str, Bundle] = field(default_factory=dict)

    def dump(self) -> str:
        bundles = {sha: (b.size, b.packed, b.files, b.live) for sha, b in self.bundles.items()}
        return json.dumps({"entries": self.entries, "roots": dict(self.roots), "bundles": bundles})

    @classmethod
    def load(cls, text: str | None) -> Tally:
        if text is None:
            return cls()
        found = json.loads(text)
        roots = {name: (files, size) for name, (files, size) in found["roots"].items()}
        return cls(found["entries"], roots, {sha: Bundle(*b) for sha, b in found["bundles"].items()})

    def moved(self, old: Iterable[Counted], new: Iterable[Counted]) -> Tally:
        """As it is once ``old`` rows have given way to ``new`` ones. Bundles stay, also dead ones."""
        entries = self.entries
        roots = {name: [*counts] for name, counts in self.roots.items()}
        lives = {sha: [b.files, b.live] for sha, b in self.bundles.items()}
        for sign, rows in ((-1, old), (1, new)):
            for path, kind, size, bundle in rows:
                entries += sign
                root = root_of(path, roots) if kind != "dir" else None
                if root is not None:
                    roots[root][0] += sign
                    roots[root][1] += sign * size
                if bundle is not None and bundle in lives:
                    lives[bundle][0] += sign
                    lives[bundle][1] += sign * size
        bundles = {sha: replace(b, files=lives[sha][0], live=lives[sha][1]) for sha, b in self.bundles.items()}
        return Tally(entries, {name: (files, size) for name, (files, size) in roots.items()}, bundles)


Counted = tuple[str, str, int, str | None]
"""What of a row counts: path, kind, size, bundle."""


def of_manifest(manifest: Manifest) -> Tally:
    """All of a snapshot. Where it doesn't say what was put into a bundle, its live frames stand for the whole."""
    frames: dict[str, dict[int, int]] = {sha: {} for sha in manifest.bundles}
    for e in manifest.entries.values():
        if e.frame is not None and e.frame.bundle in frames:
            frames[e.frame.bundle][e.frame.offset] = e.frame.length
    empty = Tally(0, {r.name: (0, 0) for r in manifest.roots}, {s: Bundle(n, 0) for s, n in manifest.bundles.items()})
    tally = empty.moved((), map(counted, manifest.entries.values()))
    bundles = {}
    for sha, b in tally.bundles.items():
        guess = b.live * b.size // max(sum(frames[sha].values()), 1)
        bundles[sha] = replace(b, packed=max(manifest.packed.get(sha, guess), b.live))
    return replace(tally, bundles=bundles)


def counted(e: Entry) -> Counted:
    return e.path, e.kind, e.size, e.frame.bundle if e.frame is not None else None


_MOVED = "(SELECT path FROM pending UNION SELECT path FROM gone)"
_OLD = f"(SELECT e.path AS path, kind, size, bundle FROM {_MOVED} AS m CROSS JOIN entries AS e ON e.path=m.path)"
# The sum of sizes that a foreign manifest may state overflows 64 bits.
_SUM = "sum(size >> 20), sum(size & 1048575)"


def after_pending(db: sqlite3.Connection, now: Tally, new: Mapping[str, Bundle], roots: Sequence[str]) -> Tally:
    """As it is once the tables ``pending`` and ``gone`` are promoted, with the ``new`` bundles and these ``roots``.

    Costs what is in those tables, and of a root that wasn't counted until now what the index has of it.
    """
    bundles = dict(now.bundles)
    for sha, built in new.items():
        # The same files give the same bundle: one that is there already has its count of what it carries.
        known = bundles.get(sha, built)
        bundles[sha] = replace(built, files=known.files, live=known.live)
    by_root = {name: now.roots[name] if name in now.roots else under(db, name) for name in roots}
    entries = now.entries
    for sign, source in ((-1, _OLD), (1, "pending")):
        if sign < 0 and not now.entries:
            continue
        entries += sign * int(db.execute(f"SELECT count(*) FROM {source}").fetchone()[0])
        for number, files, high, low in _by_root(db, source, roots):
            if number is not None:
                was = by_root[roots[number]]
                by_root[roots[number]] = (was[0] + sign * files, was[1] + sign * ((high << 20) + low))
        grouped = f"SELECT bundle, count(*), {_SUM} FROM {source} WHERE bundle IS NOT NULL GROUP BY bundle"
        for sha, files, high, low in db.execute(grouped).fetchall():
            b = bundles[sha]
            bundles[sha] = replace(b, files=b.files + sign * files, live=b.live + sign * ((high << 20) + low))
    return Tally(entries, by_root, {sha: b for sha, b in bundles.items() if b.files > 0})


def _by_root(db: sqlite3.Connection, source: str, roots: Sequence[str]) -> Iterable[tuple[int | None, int, int, int]]:
    if not roots:
        return []
    names = [os.fsencode(name) for name in roots]
    cases = " ".join(f"WHEN path=? OR (path>? AND path<?) THEN {n}" for n in range(len(names)))
    values = [value for name in names for value in (name, name + b"/", name + b"0")]
    return db.execute(
        f"SELECT CASE {cases} END AS root, count(*), {_SUM} FROM {source} WHERE kind!='dir' GROUP BY root", values
    ).fetchall()


def under(db: sqlite3.Connection, path: str) -> tuple[int, int]:
    """How many files are at or under ``path``, and their bytes, by looking."""
    raw = os.fsencode(path)
    files, high, low = db.execute(
        f"SELECT count(*), {_SUM} FROM entries WHERE kind!='dir' AND (path=? OR (path>? AND path<?))",
        (raw, raw + b"/", raw + b"0"),
    ).fetchone()
    return files, ((high or 0) << 20) + (low or 0)
