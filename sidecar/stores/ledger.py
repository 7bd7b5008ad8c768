"""What a folder store knows: refs name revisions, a revision names its parent and a tree of paths.

A ref is a file that is replaced as a whole. It is never missing: one that nothing was committed to yet says
so, and a store that lost its refs is damaged, not new.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote, unquote

import orjson

from sidecar.masking import shown
from sidecar.stores import disk, pathtree
from sidecar.stores.base import Commit, Corrupt, NotFound, Revision, StoreError, Unavailable
from sidecar.stores.disk import Alive
from sidecar.stores.objects import Key, Objects, Staging, damaged, is_id

_UNBORN = "unborn"
_BESIDE = ("kept/", "damaged/", "fenced/", "orphan/")
"""Branches that come off a main line: where there are none but these, there was one."""

_MAX_NAME = 255

NO_PATHS = hashlib.sha256(pathtree.encode(pathtree.EMPTY)).hexdigest()
"""The id of the empty tree, which stands on no disk."""


@dataclass(frozen=True, slots=True)
class Record:
    """One revision. ``at``: seconds since the epoch. ``squashed``: the revision that it stands in for."""

    parent: Revision | None
    tree: str
    message: str
    at: float
    squashed: Revision | None = None

    @property
    def title(self) -> str:
        return self.message.split("\n", 1)[0]


class Nodes:
    """The tree nodes of one operation: a few of them at hand, new ones staged."""

    def __init__(self, objects: Objects, staging: Staging | None = None) -> None:
        self._objects = objects
        self._staging = staging
        self._load = functools.lru_cache(maxsize=64)(self._read)

    def load(self, node_id: str) -> pathtree.Node:
        return pathtree.EMPTY if node_id == NO_PATHS else self._load(node_id)

    def _read(self, node_id: str) -> pathtree.Node:
        key: Key = ("trees", node_id)
        raw = self._staging.get(key) if self._staging else None
        raw = self._objects.read(key) if raw is None else raw
        if raw is None:
            raise damaged(key, "it is missing")
        try:
            return pathtree.decode(raw)
        except ValueError as error:
            raise damaged(key, str(error)) from None

    def save(self, node: pathtree.Node) -> str:
        if not node.keys:
            return NO_PATHS
        assert self._staging is not None, "reading makes no nodes"
        return self._staging.add("trees", pathtree.encode(node))


class Ledger:
    """Refs and revisions below one folder, whose main line is the ref ``line``. Reading takes no lock."""

    def __init__(self, root: Path, line: str) -> None:
        self.root = root
        self.line = line
        self.objects = Objects(root)
        self._folder = root / "refs"
        self._at = shown(str(root))

    # Refs

    def head(self, ref: str) -> Revision | None:
        """What a ref names: None where nothing was committed yet. ``NotFound`` where there is no such ref."""
        text = self._text(ref)
        if text is None:
            there = [unquote(name, errors="surrogateescape") for name in os.listdir(self._folder)]
            if ref == self.line and all(name.startswith(_BESIDE) for name in there):
                lost = f"refs/{self._path(ref).name} is gone" if there else "refs/ is empty"
                raise Corrupt(
                    f"the store at {self._at} has lost the names of its snapshots: {lost}. Nothing "
                    "was touched; bring that folder back from a copy, or name another one for a new start."
                )
            raise NotFound(f"no branch {shown(ref)} in the store at {self._at}.")
        return None if text == _UNBORN else text

    def has_ref(self, ref: str) -> bool:
        """Is there such a branch, be it without a commit?"""
        return self._text(ref) is not None

    def heads(self) -> dict[str, Revision | None]:
        """Every branch and what it names."""
        refs = (unquote(name, errors="surrogateescape") for name in os.listdir(self._folder))
        return {ref: self.head(ref) for ref in refs}

    def point(self, ref: str, revision: Revision | None) -> None:
        """Let ``ref`` name something else, at once and durably. The store's lock is held."""
        path, temporary = self._path(ref), self.objects.tmp / "locked-ref"
        disk.write_file(temporary, f"{revision or _UNBORN}\n".encode())
        temporary.replace(path)
        try:
            disk.sync_folder(self._folder)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise Unavailable(
                f"{shown(ref)} of the store at {self._at} was changed, but the disk doesn't confirm it "
                f"({why}). Read the head before trying again.",
                unclear=True,
            ) from error

    def unname(self, ref: str) -> None:
        """Let a ref go, durably. The store's lock is held."""
        self._path(ref).unlink(missing_ok=True)
        disk.sync_folder(self._folder)

    def _text(self, ref: str) -> str | None:
        path = self._path(ref)
        try:
            text = path.read_bytes().decode("ascii", "replace").strip()
        except FileNotFoundError:
            return None
        if text != _UNBORN and not is_id(text):
            raise Corrupt(
                f"{shown(str(path))} is damaged: it names no revision. Nothing was touched; bring that file "
                "back from a copy (one line: the id of the newest revision)."
            )
        return text

    def _path(self, ref: str) -> Path:
        name = quote(ref, safe="", errors="surrogateescape").replace(".", "%2E")
        if not 0 < len(name) <= _MAX_NAME:
            raise StoreError(f"{shown(ref)} is no branch name: it is empty or too long. Nothing was changed.")
        return self._folder / name

    # Revisions

    def record(self, revision: Revision) -> Record:
        """A revision, also one that was squashed away and is within the grace. ``NotFound``, ``Corrupt``.

        ``Unavailable`` where the whole store is gone, which says nothing of the revision.
        """
        found = self._find(revision)
        if found is None and not self.root.is_dir():
            raise Unavailable(
                f"the store at {self._at} is not there any more: it was moved away, deleted, or isn't mounted. "
                "Bring it back, then start again."
            )
        if found is None and self._text(self.line) == revision:
            raise damaged(("revisions", revision), "it is missing, though it is the newest one")
        if found is None:
            raise self.no_revision(revision)
        return found

    def has(self, revision: Revision) -> bool:
        """Is the revision in its place: neither unknown nor on its way out?"""
        return is_id(revision) and self.objects.has(("revisions", revision))

    def no_revision(self, revision: Revision) -> NotFound:
        return NotFound(
            f"no revision {shown(revision)} in the store at {self._at}: it never was there, or it has been "
            "squashed or pruned since."
        )

    def _find(self, revision: Revision) -> Record | None:
        raw = self.objects.read(("revisions", revision)) if is_id(revision) else None
        if raw is None:
            return None
        try:
            return Record(**orjson.loads(raw))
        except (ValueError, TypeError) as error:
            raise damaged(("revisions", revision), f"no revision: {error}") from None

    def log(self, revision: Revision | None, alive: Alive) -> Iterator[tuple[Revision, Record]]:
        """From ``revision``, which must be there, back as far as history is kept."""
        newest = revision
        while revision is not None:
            alive()
            found = self._find(revision)
            if found is None:
                if revision == newest:
                    raise damaged(("revisions", revision), "it is missing")
                return
            yield revision, found
            revision = found.parent

    def history(self, ref: str, limit: int, alive: Alive) -> list[Commit]:
        """The newest ``limit`` commits of ``ref``; none where it is a branch that isn't there."""
        if ref != self.line and not self.has_ref(ref):
            return []
        return [
            Commit(revision, record.title, record.at, record.message.partition("\n")[2].strip())
            for revision, record in islice(self.newest(ref, alive), limit)
        ]

    def newest(self, ref: str, alive: Alive) -> Iterator[tuple[Revision, Record]]:
        """What ``ref`` has, newest first, without what was cut off and is on its way out."""
        for n, (revision, record) in enumerate(self.log(self.head(ref), alive)):
            if n and not self.has(revision):
                return
            yield revision, record

    def main_line(self, alive: Alive) -> Iterator[Revision]:
        """Every revision that the main line ever had, as far as it is known, also from before a squash."""
        start = self.head(self.line)
        while start is not None and self._find(start):
            for revision, record in self.log(start, alive):
                yield revision
                start = record.squashed

    def live(self, old: frozenset[Revision], alive: Alive, *, forks: bool = False) -> set[Key]:
        """Every object that a ref reaches, not going back over those in ``old``. ``Corrupt`` if unsure.

        With ``forks`` the one of those that a branch came from is reached too.
        """
        revisions: set[str] = set()
        trees: set[str] = set()
        contents: set[str] = set()
        nodes = Nodes(self.objects)
        for ref, tip in self.heads().items():
            for revision, record in self.log(tip, alive):
                there = self.has(revision)
                if revision == tip and not there:
                    raise damaged(("revisions", revision), f"it is missing, though {shown(ref)} names it")
                if revision in revisions or not there:
                    break
                cut = revision in old and revision != tip
                if cut and not (forks and ref != self.line and tip not in old):
                    break
                revisions.add(revision)
                pathtree.reach(nodes, record.tree, trees, contents)
                if cut:
                    break
        keys: set[Key] = {("revisions", oid) for oid in revisions}
        keys.update(("trees", oid) for oid in trees)
        keys.update(("contents", oid) for oid in contents)
        return keys

    # Paths

    def find(self, revision: Revision, paths: list[str]) -> dict[str, pathtree.Entry]:
        """The entries of those of ``paths`` that ``revision`` has."""
        return pathtree.find(Nodes(self.objects), self.record(revision).tree, sorted(paths))

    def walk(self, revision: Revision, start: str) -> Iterator[tuple[str, pathtree.Entry]]:
        """Every path of ``revision`` from ``start`` on, in order."""
        return pathtree.walk(Nodes(self.objects), self.record(revision).tree, start)


def stage_record(staging: Staging, record: Record) -> Revision:
    """The id of a new revision; it and everything staged before it is on the disk after this."""
    revision = staging.add("revisions", orjson.dumps(asdict(record)))
    staging.settle()
    return revision
