"""A real folder store that fails when it is told to, and a lease to write under."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sidecar.recovery import lease as leases
from sidecar.recovery.lease import Lease, Tenure
from sidecar.stores.base import Revision, Source, Store, Unavailable, Usage
from sidecar.stores.folder import FolderStore


class Faulty:
    """``store`` with the faults of ``plan``: method -> what happens at its next calls, one each.

    "ok" lets a call through, "hang" never answers, "lands" does it and answers that it is unclear, "late" does it
    after it was given up, an exception is raised instead.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.url, self.persistent, self.squashes = store.url, store.persistent, store.squashes
        self.plan: dict[str, list[Any]] = defaultdict(list)
        self.calls: list[str] = []
        self.late: list[asyncio.Task[Any]] = []

    async def _do(self, name: str, *args: Any, **named: Any) -> Any:
        self.calls.append(name)
        fault = self.plan[name].pop(0) if self.plan[name] else "ok"
        call = getattr(self.store, name)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "lands":
            await call(*args, **named)
            raise Unavailable("502 after it was sent", unclear=True)
        if fault == "late":

            async def later() -> Any:
                await asyncio.sleep(0.3)
                return await call(*args, **named)

            self.late.append(asyncio.create_task(later()))
            raise Unavailable("504 after it was sent", unclear=True)
        if isinstance(fault, Exception):
            raise fault
        return await call(*args, **named)

    async def head(self) -> Revision | None:
        return await self._do("head")

    async def fetch(self, revision: Revision, paths: Iterable[str], into: Path, progress: Any = None) -> None:
        await self._do("fetch", revision, paths, into, progress)

    async def listing(self, revision: Revision) -> Mapping[str, int]:
        return await self._do("listing", revision)

    async def identities(self, revision: Revision) -> Mapping[str, str]:
        return await self._do("identities", revision)

    async def commit(
        self,
        parent: Revision | None,
        put: Mapping[str, Source],
        delete: Iterable[str],
        message: str,
        branch: str | None = None,
    ) -> Revision:
        return await self._do("commit", parent, put, delete, message, branch)

    async def history(self, limit: int, branch: str | None = None) -> Any:
        return await self._do("history", limit, branch)

    async def keep(self, revision: Revision, name: str) -> None:
        await self._do("keep", revision, name)

    async def branches(self) -> Mapping[str, Revision]:
        return await self._do("branches")

    async def drop(self, name: str) -> None:
        await self._do("drop", name)

    async def compact(
        self, oldest: Revision | None = None, *, branch: str | None = None, title: str = "", dry_run: bool = False
    ) -> int | None:
        return await self._do("compact", oldest, branch=branch, title=title, dry_run=dry_run)

    async def usage(self) -> Usage:
        return await self._do("usage")

    async def check(self, create: bool = False) -> Any:
        return await self._do("check", create)

    async def close(self) -> None:
        for task in self.late:
            task.cancel()
        await self.store.close()


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Faulty]:
    """The store in ``folder``, made where it isn't there."""
    real = FolderStore(folder)
    store = Faulty(real)
    try:
        await real.check(create=True)
        yield store
    finally:
        await store.close()


def held(epoch: int = 1, instance: str = "me", space: str = "local") -> Lease:
    return Lease(epoch, instance, space, "held")


async def begin(store: Store, lease: Lease, more: Mapping[str, Source] | None = None) -> tuple[Revision, Tenure]:
    """The lease, claimed on top of the head."""
    put = {leases.PATH: leases.encode(lease), **(more or {})}
    title = f"sidecar: lease {lease.epoch} claimed by {lease.instance}"
    return await store.commit(await store.head(), put, [], title), Tenure(lease)


async def contents(store: Store, revision: Revision | None = None) -> dict[str, bytes]:
    """Everything of a revision, or of the head."""
    at = revision or await store.head()
    assert at is not None
    with TemporaryDirectory() as folder:
        paths = list(await store.listing(at))
        await store.fetch(at, paths, Path(folder))
        return {path: _read(f"{folder}/{path}") for path in paths}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


async def titles(store: Store, branch: str | None = None) -> list[str]:
    """Oldest first."""
    return [commit.title for commit in reversed(await store.history(1000, branch))]
