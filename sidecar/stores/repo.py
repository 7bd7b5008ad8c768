"""Changing a folder store: commits, kept revisions, pruning; each all or nothing, whenever the process dies.

Everything that changes a ref holds the folder's lock; nothing else does. A commit is staged without the lock,
for the parent that the caller named. Under the lock the parent is compared, the objects get their names, and
one rename of the ref makes it so. ``landing.json`` says what a writer is about to add, so that the next one
can take it away if this one is killed right there.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from sidecar.masking import shown
from sidecar.stores import disk, pathtree
from sidecar.stores.base import Conflict, Corrupt, Revision, Source, Unavailable
from sidecar.stores.disk import Alive
from sidecar.stores.ledger import NO_PATHS, Ledger, Nodes, Record, stage_record
from sidecar.stores.objects import KINDS, Key, Objects, Staging, Vanished, is_id
from sidecar.stores.paths import check_clashes

_LANDING = "landing.json"
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One commit to be: what ``parent`` gets on ``ref``. No path is both put and deleted."""

    ref: str
    parent: Revision | None
    put: Mapping[str, Source]
    delete: frozenset[str]
    message: str


class Repo:
    """The writing side of the store at ``ledger.root``. Blocking; errors of the disk are ``OSError``."""

    def __init__(self, ledger: Ledger, lock_timeout: float, grace: float) -> None:
        self._ledger = ledger
        self._objects: Objects = ledger.objects
        self._root: Path = ledger.root
        self._lock_timeout = lock_timeout
        self._grace = grace

    @contextlib.contextmanager
    def locked(self, alive: Alive) -> Iterator[float]:
        """The lock, the file system's own time, and no leftovers of whoever had it before."""
        with disk.locked(self._root / "lock", self._lock_timeout, alive) as fd:
            os.utime(fd)
            now = os.fstat(fd).st_mtime
            self._mend(alive)
            self._objects.tidy(now, self._grace)
            yield now

    def _mend(self, alive: Alive) -> None:
        """Take away what a writer added that was killed before its ref changed; never what a ref reaches."""
        landing = self._root / _LANDING
        try:
            plan = orjson.loads(landing.read_bytes())
            before: dict[str, Revision | None] = dict(plan["refs"])
            keys: set[Key] = {(kind, oid) for kind, oid in plan["fresh"] if kind in KINDS and is_id(oid)}
        except FileNotFoundError:
            return
        except (ValueError, TypeError, KeyError):  # torn by a power loss: `compact` finds what it meant
            before, keys = {}, set()
        with contextlib.suppress(Corrupt):
            # After a power loss this file may be older than the refs: then only what no ref reaches goes.
            same = self._ledger.heads() == before
            self._objects.discard(keys if same or not keys else keys - self._ledger.live(frozenset(), alive))
        landing.unlink()

    def begin(self) -> bool:
        """Make the main line where there is none; was it made? The lock is held."""
        if self._ledger.has_ref(self._ledger.line):
            return False
        self._ledger.point(self._ledger.line, None)
        return True

    def commit(self, change: Change, alive: Alive) -> Revision:
        """See ``Store.commit``."""
        self._compare(change)
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(Vanished):
                return self._commit(change, alive)
        raise Unavailable(
            f"the store at {shown(str(self._root))} was pruned {_ATTEMPTS} times during one commit. Nothing "
            "was committed; try again.",
            retry_after=random.uniform(1, 5),
        )

    def _commit(self, change: Change, alive: Alive) -> Revision:
        with Staging(self._objects, alive) as staging:
            nodes = Nodes(self._objects, staging)
            tree = NO_PATHS if change.parent is None else self._ledger.record(change.parent).tree
            check_clashes(nodes, tree, change.put, change.delete)
            entries: dict[str, pathtree.Entry | None] = dict.fromkeys(change.delete)
            for path, source in change.put.items():
                alive()
                if isinstance(source, bytes):
                    entries[path] = pathtree.Entry(staging.add("contents", source), len(source))
                else:
                    entries[path] = pathtree.Entry(*staging.add_file(source))
            tree = pathtree.update(nodes, tree, entries)
            revision = stage_record(staging, Record(change.parent, tree, change.message, time.time()))
            with self.locked(alive):
                self._compare(change)
                self._land(staging, change.ref, revision)
        return revision

    def _compare(self, change: Change) -> None:
        """``Conflict`` where the parent isn't what the ref names; a new branch begins anywhere."""
        ledger, parent = self._ledger, change.parent
        if change.ref != ledger.line and not ledger.has_ref(change.ref):
            if parent is not None and not ledger.has(parent):
                raise ledger.no_revision(parent)
            return
        head = ledger.head(change.ref)
        if head != parent:
            raise Conflict(
                f"{shown(change.ref)} of the store at {shown(str(self._root))} is at {_short(head)}, not at "
                f"{_short(parent)}: somebody else has committed. Nothing was changed."
            )

    def _land(self, staging: Staging, ref: str, revision: Revision) -> None:
        """Give what is staged its names and ``ref`` its new revision, all or nothing. The lock is held."""
        fresh = staging.fresh()
        landing, temporary = self._root / _LANDING, self._objects.tmp / "locked-landing"
        plan = orjson.dumps({"refs": self._ledger.heads(), "fresh": fresh})
        # Not synced: it is there for the death of a process, and a machine that loses power may forget it.
        disk.write_file(temporary, plan, durable=False)
        temporary.replace(landing)
        try:
            staging.install()
            self._ledger.point(ref, revision)
        except OSError:
            self._objects.discard(fresh)
            landing.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # the commit is made; whoever locks next sees that nothing is to do
            landing.unlink()

    def keep(self, revision: Revision, ref: str, alive: Alive) -> None:
        """See ``Store.keep``; ``Conflict`` where that branch is at another revision."""
        with self.locked(alive):
            if not self._ledger.has(revision):
                raise self._ledger.no_revision(revision)
            if not self._ledger.has_ref(ref):
                self._ledger.point(ref, revision)
                return
            known = self._ledger.head(ref)
            if known != revision:
                raise Conflict(
                    f"the branch {shown(ref)} is at {_short(known)} and stays there; keep {_short(revision)} "
                    "under another name."
                )

    def drop(self, ref: str, alive: Alive) -> None:
        """See ``Store.drop``."""
        with self.locked(alive):
            self._ledger.unname(ref)

    def prune(self, oldest: Revision | None, alive: Alive, *, dry_run: bool) -> int:
        """Cut the main line before ``oldest`` (else its newest revision) and prune what no ref reaches any more.

        Branches keep what ``compact`` lets them keep, and the revision that they came from. Nothing that stays is
        touched or renamed, so a death at any point leaves at worst something that the next pruning finds. Returns the
        bytes on the disk that this gives back.
        """
        with self.locked(alive) as now:
            line = list(self._ledger.newest(self._ledger.line, alive)) if self._head() else []
            names = [revision for revision, _ in line]
            if oldest is not None and oldest not in names:
                raise self._ledger.no_revision(oldest)
            stays = set(names[: names.index(oldest) + 1] if oldest is not None else names[:1])
            old = frozenset(self._ledger.main_line(alive)) - stays if names else frozenset()
            live = self._ledger.live(old, alive, forks=True)
            dead = {
                kind: [key for oid in self._objects.ids(kind) if (key := (kind, oid)) not in live] for kind in KINDS
            }
            size = sum(map(self._objects.weigh, dead.values()))
            if not dry_run:
                # Revisions first: none may be listed whose contents have gone.
                self._objects.to_trash(dead["revisions"], now)
                disk.at_once(disk.sync_folder, {self._objects.path(key).parent for key in dead["revisions"]})
                self._objects.to_trash([*dead["trees"], *dead["contents"]], now)
                self._objects.tidy(now, self._grace)
            return size

    def _head(self) -> Revision | None:
        return self._ledger.head(self._ledger.line)

    def compact(self, alive: Alive, title: str = "") -> None:
        """Squash the main line into one revision, and prune what no ref reaches.

        A branch keeps its newest revision and the commits made on it, not the main line that it came from.
        """
        with self.locked(alive) as now:
            head = self._ledger.head(self._ledger.line)
            if head is None:
                return
            record = self._ledger.record(head)
            self._ledger.live(frozenset(self._ledger.main_line(alive)), alive)  # damage shows before any change
            if record.parent is not None:
                with Staging(self._objects, alive) as staging:
                    squashed = Record(None, record.tree, title or record.message, record.at, squashed=head)
                    self._land(staging, self._ledger.line, stage_record(staging, squashed))
            live = self._ledger.live(frozenset(self._ledger.main_line(alive)), alive)
            for kind in KINDS:
                keys: Iterator[Key] = ((kind, oid) for oid in self._objects.ids(kind))
                self._objects.to_trash([key for key in keys if key not in live], now)
            self._objects.tidy(now, self._grace)


def _short(revision: Revision | None) -> str:
    return "its beginning" if revision is None else shown(revision[:12])
