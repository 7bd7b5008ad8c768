"""What a command that only looks needs: the store, a snapshot by name, a copy of the local index.

No lease, no lock and no check of identity: all of it works beside a running agent.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import quote

from sidecar import log
from sidecar.commands import words
from sidecar.errors import ManifestError, SidecarError, UsageError
from sidecar.recovery.restore import entry_path, read_manifest
from sidecar.roots import Root
from sidecar.settings import Settings, load
from sidecar.snapshot.exclude import own_paths
from sidecar.snapshot.index import Index
from sidecar.snapshot.keeping import ids, kept_as, near
from sidecar.snapshot.manifest import Manifest, SnapshotId, snapshot_in
from sidecar.stores.base import Commit, Corrupt, Denied, NotFound, Revision, Store
from sidecar.stores.opening import open_store

T = TypeVar("T")

SOME, ALL = 200, 100_000
"""Commits of a history that are asked for at first, and when those don't tell."""

SHORTEST = 4
"""Letters of a revision that are taken for its beginning."""


class NoSuch(SidecarError):
    """The store has no such snapshot: a mistake of whoever names it, which no other time or token mends."""


class Unreadable(SidecarError):
    """A snapshot whose manifest can't be believed; ``damage`` is false where only this version can't read it."""

    def __init__(self, revision: Revision, error: ManifestError | Corrupt) -> None:
        super().__init__(
            f"the snapshot at revision {revision[:12]} can't be read: {error.message.rstrip('.')}. "
            "`sidecar snapshots` lists others; --revision takes one"
        )
        self.damage = error.damage if isinstance(error, ManifestError) else True


@dataclass(frozen=True, slots=True)
class Found:
    """A snapshot, and the revision that it was read at."""

    revision: Revision
    manifest: Manifest

    @property
    def id(self) -> str:
        return str(self.manifest.snapshot)


@dataclass(frozen=True, slots=True)
class Reader:
    """The store that the settings name; ``scratch`` is an empty folder that goes when the command ends."""

    settings: Settings
    store: Store
    scratch: Path

    async def find(self, wanted: str | None = None) -> Found:
        """The snapshot ``wanted``: an id such as 7.113, a revision or its beginning, or ``head`` (as None is).

        Raises NoSuch where it isn't there, NotFound where nothing is, UsageError for a beginning that fits several,
        Unreadable for a damaged one.
        """
        return await self.at(await self.revision(wanted or "head"))

    async def at(self, revision: Revision) -> Found:
        """The snapshot at ``revision``. Raises as ``find`` does."""
        try:
            manifest = await read_manifest(self.store, revision, self.scratch)
        except (ManifestError, Corrupt) as error:
            raise Unreadable(revision, error) from error
        except NotFound as error:
            raise NoSuch(error.message) from error
        if manifest is None:
            raise NoSuch(f"{self.store.url} has no snapshot at revision {revision[:12]}{self.hint}")
        return Found(revision, manifest)

    async def revision(self, wanted: str) -> Revision:
        if wanted == "head":
            head = await self.store.head()
            if head is None:
                raise NotFound(f"nothing was ever kept in {self.store.url}{self.hint}")
            return head
        history = await self.store.history(SOME)
        found = choose(wanted, history)
        # What is further back counts only where the newest don't settle it.
        if len(history) == SOME and (found is None or (not is_id(wanted) and len(wanted) < 7)):
            history = await self.store.history(ALL)
            found = choose(wanted, history)
        if found is not None:
            return found
        branches = await self.store.branches()
        kept = kept_as(branches, wanted)
        if kept is not None:
            return kept
        if len(wanted) >= 40 and all(c in "0123456789abcdef" for c in wanted):
            return wanted  # of another branch, perhaps: the store will tell
        raise NoSuch(
            f"{self.store.url} has no snapshot {words.name(wanted)!r}{near(wanted, ids(history, branches))}; "
            "`sidecar snapshots` lists those that it has"
        )

    @property
    def hint(self) -> str:
        return "" if self.settings.store.persistent else " (SIDECAR_STORE is not set: set it to where they are kept)"

    def own_paths(self) -> tuple[str, ...]:
        """Where our own files are, which no snapshot holds."""
        folder = self.settings.store.path if self.settings.store.kind == "folder" else None
        return own_paths(self.settings.state_dir, os.environ, folder)

    def path(self, text: str, manifest: Manifest) -> str:
        """What a person's path, local and absolute or a snapshot's own, is called in ``manifest``."""
        if text.startswith("/"):
            text = os.path.normpath(text)
        where = [*self.settings.roots, *(Root(r.name, r.path) for r in manifest.roots if r.path)]
        return entry_path(text, where)


def choose(wanted: str, history: Sequence[Commit]) -> Revision | None:
    """The newest commit that carries the snapshot ``wanted``, or the one whose revision starts so."""
    if is_id(wanted):
        return next((c.revision for c in history if snapshot_in(c.title) == wanted), None)
    fitting = [c.revision for c in history if c.revision.startswith(wanted)] if len(wanted) >= SHORTEST else []
    if len(fitting) > 1 and wanted not in fitting:
        raise UsageError(f"{wanted!r} is the beginning of {len(fitting)} revisions: write more of it")
    return (wanted if wanted in fitting else fitting[0]) if fitting else None


def is_id(text: str) -> bool:
    try:
        SnapshotId.parse(text)
    except ManifestError:
        return False
    return True


def nothing_at(path: str, found: Found) -> SidecarError:
    return SidecarError(
        f"snapshot {found.id} has nothing at {words.name(path)!r}; `sidecar ls {found.id}` shows what it has"
    )


def reading(work: Callable[[Reader], Awaitable[T]], *, need_paths: bool = False) -> T:
    """Run ``work`` on the store that the environment names. Raises SidecarErrors."""
    settings = load(os.environ, need_paths=need_paths, reject_unknown=False)
    log.setup(settings.log, settings.log_level)

    async def run() -> T:
        store = open_store(settings)
        try:
            with TemporaryDirectory(prefix="sidecar-") as folder:
                reader = Reader(settings, store, Path(folder))
                try:
                    return await work(reader)
                except (NotFound, Denied) as error:
                    if reader.hint in error.message:
                        raise
                    raise type(error)(f"{error.message.rstrip('.')}{reader.hint}") from error
        finally:
            await store.close()

    return asyncio.run(run())


def index_copy(settings: Settings, scratch: Path, *, known: bool = True) -> Index | None:
    """What this disk was last known to hold, as a copy: the original may be a running agent's. Blocks.

    None where there is none, where it can't be read, or, with ``known``, where it isn't of this store.
    """
    path = Path(settings.state_dir) / "index.db"
    if not path.exists():
        return None
    copy = scratch / "index.db"
    try:
        # Not by Index: that would set a file aside that it can't open, under an agent that uses it.
        with (
            closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=rw", uri=True, timeout=5)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        index = Index(copy)
        found = index.known()
    except sqlite3.Error as error:
        log.warning(f"the local index {str(path)!r} can't be read ({error}): what changed here can't be told from it")
        return None
    if known and (found is None or found.store != settings.store.url):
        index.close()
        return None
    return index
