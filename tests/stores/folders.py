"""What the folder store's tests share: a store on a folder, and a look at what is on its disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sidecar.stores.base import Revision, Source, Store
from sidecar.stores.folder import FolderStore
from sidecar.stores.ledger import NO_PATHS, Ledger
from sidecar.stores.objects import KINDS, Key

T = TypeVar("T")


def run(root: Path, scenario: Callable[[FolderStore], Awaitable[T]], *, create: bool = False, **settings: Any) -> T:
    """``scenario`` with a store on ``root``, in an event loop of its own."""

    async def main() -> T:
        store = FolderStore(root, **settings)
        try:
            if create:
                await store.check(create=True)
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(main())


def put(root: Path, files: Mapping[str, Source], delete: tuple[str, ...] = (), title: str = "x") -> Revision:
    """One commit on the head."""

    async def scenario(store: Store) -> Revision:
        return await store.commit(await store.head(), files, delete, title)

    return run(root, scenario, create=True)


def read(root: Path, into: Path, revision: Revision | None = None) -> dict[str, bytes]:
    """Everything of a revision, or of the head, fetched into a new folder."""
    into.mkdir(parents=True)

    async def scenario(store: Store) -> dict[str, bytes]:
        at = revision or await store.head()
        assert at is not None
        paths = await store.listing(at)
        await store.fetch(at, paths, into)
        found = {path: (into / path).read_bytes() for path in paths}
        assert {path: len(data) for path, data in found.items()} == paths
        return found

    return run(root, scenario)


def on_disk(root: Path) -> set[Key]:
    """Every object that has its name, needed or not."""
    ledger = Ledger(root, "main")
    return {(kind, oid) for kind in KINDS for oid in ledger.objects.ids(kind)}


def needed(root: Path) -> set[Key]:
    """Every object that a ref reaches."""
    return Ledger(root, "main").live(frozenset(), lambda: None) - {("trees", NO_PATHS)}


def leftovers(root: Path) -> list[str]:
    """What should not be there between two commits."""
    return sorted(p.name for p in (root / "tmp").iterdir()) + [p.name for p in root.glob("landing*")]
