"""A store in a folder of this machine, or of a volume mounted into it: the embedded default.

It needs nothing but the folder: no server, no account. Any number of processes may use it at once; what they
may rely on after a crash at any point stands in ``repo`` and ``objects``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from sidecar.masking import shown
from sidecar.stores import disk, home, paths
from sidecar.stores.base import (
    Access,
    Commit,
    NotFound,
    Progress,
    Revision,
    Source,
    StoreError,
    Unavailable,
    Unsupported,
    Usage,
)
from sidecar.stores.disk import Alive, Sink
from sidecar.stores.folderread import Reader
from sidecar.stores.ledger import Ledger
from sidecar.stores.pathtree import Entry
from sidecar.stores.repo import Change, Repo

_T = TypeVar("_T")

LOCK_TIMEOUT_S = 10.0
GRACE_S = 3600.0
"""How long an object stays readable once ``compact`` found that nothing names it: longer than any restore."""

_THREADS = 4


class FolderStore:
    """The store in the folder ``path``, below ``prefix`` in its tree, on the branch ``branch`` (else "main").

    A commit waits ``lock_timeout`` seconds for other writers; ``grace`` (seconds) is how long pruned objects
    can still be read.
    """

    squashes = False

    def __init__(
        self,
        path: Path | str,
        *,
        prefix: str = "",
        branch: str | None = None,
        url: str | None = None,
        persistent: bool = True,
        lock_timeout: float = LOCK_TIMEOUT_S,
        grace: float = GRACE_S,
    ) -> None:
        if prefix and paths.why_not(prefix):
            raise ValueError(f"{shown(prefix)} can't be a prefix: {paths.why_not(prefix)}")
        self._root = Path(path).absolute()
        self._below = f"{prefix}/" if prefix else ""
        self._ledger = Ledger(self._root, branch or "main")
        self._repo = Repo(self._ledger, lock_timeout, grace)
        self.url = url or "file://" + quote(os.fsencode(self._root))
        self._reader = Reader(self._ledger, self._root, self._below, self.url)
        self.persistent = persistent
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="folder-store")
        self._running: set[threading.Event] = set()
        self._closed = False
        self._known = False

    async def head(self) -> Revision | None:
        """The newest revision of the main line, or None where nothing was ever committed."""
        return await self._run("reading the head", lambda alive: self._ledger.head(self._ledger.line))

    async def fetch(
        self, revision: Revision, paths: Iterable[str], into: Path, progress: Progress | None = None
    ) -> None:
        """Write ``paths`` as of ``revision`` below ``into``; see ``Store.fetch``."""
        wanted = list(dict.fromkeys(paths))
        await self._run("fetching", lambda alive: self._reader.fetch(revision, wanted, into, progress, alive))

    async def fetch_range(
        self, revision: Revision, path: str, span: range, into: Path, progress: Progress | None = None
    ) -> None:
        """A part of ``path``; see ``Ranged``."""
        if not span:
            return
        sink = Sink(into, span)
        try:
            await self._run("fetching", partial(self._reader.fetch_range, revision, path, sink, progress))
        finally:
            await asyncio.to_thread(sink.close)

    async def listing(self, revision: Revision) -> Mapping[str, int]:
        """Every path of ``revision`` with its size in bytes."""
        return await self._run("listing", lambda alive: self._listing(revision, alive, lambda entry: entry.size))

    async def identities(self, revision: Revision) -> Mapping[str, str]:
        """The sha256 of each file; see ``Identified``."""
        return await self._run("listing", lambda alive: self._listing(revision, alive, lambda entry: entry.content))

    async def commit(
        self,
        parent: Revision | None,
        put: Mapping[str, Source],
        delete: Iterable[str],
        message: str,
        branch: str | None = None,
    ) -> Revision:
        """One new revision; see ``Store.commit``. ``Refused`` for a file that would be a folder too."""
        puts = dict(put)
        deletes = frozenset(self._below + path for path in delete)
        text = message.encode("utf-8", "replace").decode()

        def work(alive: Alive) -> Revision:
            paths.check_paths(puts)
            named = {self._below + path: source for path, source in puts.items()}
            ref = branch or self._ledger.line
            return self._repo.commit(Change(ref, parent, named, deletes - named.keys(), text), alive)

        return await self._run("committing", work)

    async def history(self, limit: int, branch: str | None = None) -> list[Commit]:
        """The newest ``limit`` commits, newest first; none for a branch that isn't there."""
        return await self._run(
            "reading history", lambda alive: self._ledger.history(branch or self._ledger.line, limit, alive)
        )

    async def keep(self, revision: Revision, name: str) -> None:
        """Keep ``revision`` as branch ``name``; ``Conflict`` where that branch keeps another one."""
        await self._run("keeping a revision", lambda alive: self._repo.keep(revision, name, alive))

    async def branches(self) -> Mapping[str, Revision]:
        """Every other branch with a commit, and its newest revision."""

        def work(alive: Alive) -> dict[str, Revision]:
            heads = self._ledger.heads().items()
            return {ref: tip for ref, tip in heads if tip is not None and ref != self._ledger.line}

        return await self._run("reading the branches", work)

    async def drop(self, name: str) -> None:
        """Let go of a branch; what only it needs goes with the next ``compact``."""
        if name == self._ledger.line:
            raise StoreError(f"{shown(name)} is the main line of {self.url}: it stays. Nothing was changed.")
        await self._run("dropping a branch", lambda alive: self._repo.drop(name, alive))

    async def compact(
        self, oldest: Revision | None = None, *, branch: str | None = None, title: str = "", dry_run: bool = False
    ) -> int | None:
        """Cut the main line before ``oldest``, or squash it; what nothing needs any more goes after a grace.

        A branch needs no squashing here: what it came from is not kept for it.
        """
        if self._below:
            raise Unsupported(
                f"{self.url} is a part of a store: its history is that of the other parts too. Nothing was changed."
            )
        if branch is not None:
            return 0
        if oldest is None and not dry_run:
            return await self._run("compacting", lambda alive: self._repo.compact(alive, title))
        return await self._run("pruning", lambda alive: self._repo.prune(oldest, alive, dry_run=dry_run))

    async def usage(self) -> Usage:
        """Costs a look at every object, not at its bytes."""

        def work(alive: Alive) -> Usage:
            commits = sum(1 for _ in self._ledger.newest(self._ledger.line, alive))
            return Usage(commits, self._ledger.objects.size(alive), shutil.disk_usage(self._root).free)

        return await self._run("measuring the store", work)

    async def check(self, create: bool = False) -> Access:
        """What stands in the folder, and may we write; ``Denied`` where it holds something else."""
        return await self._run("looking at the folder", lambda alive: self._check(create, alive), require=False)

    async def close(self) -> None:
        """Let running calls end at their next step, and give the threads back."""
        self._closed = True
        for stop in self._running:
            stop.set()
        await asyncio.to_thread(self._pool.shutdown, wait=True)

    async def _run(self, doing: str, work: Callable[[Alive], _T], *, require: bool = True) -> _T:
        if self._closed:
            raise self._gone()
        stop = threading.Event()

        def alive() -> None:
            if stop.is_set():
                raise self._gone()

        def call() -> _T:
            try:
                alive()
                if require and not self._known:
                    home.require(self._root)
                    self._known = True
                return work(alive)
            except OSError as error:
                raise disk.trouble(error, doing, self._root) from error

        self._running.add(stop)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        finally:
            stop.set()  # a cancelled caller's thread ends at its next step
            self._running.discard(stop)

    def _gone(self) -> StoreError:
        return Unavailable(f"the store {self.url} was closed or the call given up; nothing was committed by it.")

    def _listing(self, revision: Revision, alive: Alive, what: Callable[[Entry], _T]) -> dict[str, _T]:
        found = {}
        for path, entry in self._ledger.walk(revision, self._below):
            if not path.startswith(self._below):
                break
            alive()
            found[path.removeprefix(self._below)] = what(entry)
        return found

    def _check(self, create: bool, alive: Alive) -> Access:
        found = home.look(self._root)
        if found != "store" and not create:
            writable = home.could_make(self._root)
            detail = "nothing here yet" if writable else "nothing here yet, and no permission to make it"
            return Access(writable=writable, exists=False, now=time.time(), detail=detail)
        if found == "store":
            return self._check_store(create, alive)
        home.make(self._root)
        with self._repo.locked(alive):
            created = home.look(self._root) != "store"
            if created:
                self._repo.begin()
                home.mark(self._root)
        return Access(writable=True, exists=not created, created=created, now=time.time(), detail="a new folder store")

    def _check_store(self, create: bool, alive: Alive) -> Access:
        why = home.why_unwritable(self._root)
        exists, created = True, False
        try:
            self._ledger.head(self._ledger.line)
        except NotFound:  # the store is there, this branch of it is not
            exists = False
            if create and why is None:
                with self._repo.locked(alive):
                    created = self._repo.begin()
        return Access(why is None, exists, created, now=time.time(), detail=why or "a folder store")
