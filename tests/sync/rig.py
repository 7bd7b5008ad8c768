"""Roots on a real disk that are synced to a real folder store, piece by piece, and restored elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TypeVar

from sidecar.recovery.reading import read_manifest
from sidecar.roots import Root
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Manifest, SnapshotId
from sidecar.stores.base import Store
from sidecar.stores.folder import FolderStore
from sidecar.sync.look import Look, Survey
from sidecar.sync.pack import Package, pack
from sidecar.sync.survey import Surveyor
from tests.recovery.world import World

T = TypeVar("T")
STORE_ID = "test-store"


@dataclass(frozen=True)
class Me:
    space: str = "local"
    instance: str = "test"
    version: str = "0"


class Elsewhere(World):
    """A fresh machine with the same store."""

    def __init__(self, base: Path, store: Path, names: tuple[str, ...]) -> None:
        self.store_at = store
        super().__init__(base, names)

    def open_store(self) -> FolderStore:
        return FolderStore(self.store_at)


@dataclass
class Rig:
    """The roots ``names`` under ``base/disk``; a name with a dot in it is a single file's."""

    base: Path
    names: tuple[str, ...] = ("data",)
    patterns: Sequence[str] = ()
    layout: str = "auto"
    head: str | None = None
    last: SnapshotId | None = None
    refused: set[str] = field(default_factory=set)
    compacting: bool = False

    def __post_init__(self) -> None:
        (self.base / "disk").mkdir(parents=True)
        (self.base / "state").mkdir()
        self.roots = [Root(n, str(self.base / "disk" / n), self.layout) for n in self.names]  # type: ignore[arg-type]
        for root in self.roots:
            if "." not in root.name:
                os.makedirs(root.path)
        self.index = Index(self.base / "state" / "index.db")
        self.surveyor = self.new_surveyor()
        self.with_store(lambda store: store.check(create=True))

    def new_surveyor(self) -> Surveyor:
        """As a new life of the agent makes it."""
        devices = {r.name: os.stat(r.path).st_dev if os.path.exists(r.path) else None for r in self.roots}
        own = (os.path.realpath(self.base / "state"), os.path.realpath(self.base / "store"))
        return Surveyor(self.roots, self.index, self.patterns, own, devices)

    @property
    def root(self) -> Path:
        return Path(self.roots[0].path)

    def close(self) -> None:
        self.index.close()

    def with_store(self, call: Callable[[Store], Awaitable[T]]) -> T:
        async def run() -> T:
            store = FolderStore(self.base / "store")
            try:
                return await call(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def look(self, how: Look | None = None) -> Survey:
        with TemporaryDirectory(dir=self.base) as folder:
            return self.surveyor.look(how or Look(), Path(folder))

    def sync(self, how: Look | None = None) -> Survey:
        """Look, and commit what is worth it."""
        with TemporaryDirectory(dir=self.base) as folder:
            survey = self.surveyor.look(how or Look(), Path(folder))
            if survey.reason:
                self.commit(self.pack(survey, Path(folder)))
        return survey

    def pack(self, survey: Survey, folder: Path, *, anew: bool = False) -> Package:
        number = SnapshotId(1, self.last.sequence + 1 if self.last else 1)
        how = {"anew": anew, "compacting": self.compacting}
        return pack(survey, self.index, folder, number, self.last, Me(), self.refused, **how)

    def commit(self, package: Package) -> None:
        self.head = self.with_store(lambda s: s.commit(self.head, package.put, package.delete, package.title))
        self.last = package.snapshot
        self.index.promote(STORE_ID, self.head)

    def manifest(self, revision: str | None = None) -> Manifest:
        """The manifest at the head, or ``revision``, as a start reads it."""
        at = revision or self.head
        assert at is not None
        found = self.with_store(lambda store: read_manifest(store, at, self.base / "state"))
        assert found is not None
        return found

    def listing(self) -> dict[str, int]:
        """The store's own paths at the head."""
        head = self.head
        assert head is not None
        return dict(self.with_store(lambda store: store.listing(head)))

    def mirrored(self) -> set[str]:
        return {path for path in self.listing() if not path.startswith(".sidecar/")}

    def restored(self, revision: str | None = None) -> Path:
        """The first root as a fresh machine has it after a restore of the head, or of ``revision``."""
        at = revision or self.head
        assert at is not None
        world = Elsewhere(Path(mkdtemp(dir=self.base)), self.base / "store", self.names)
        world.restore(at, self.manifest(at))
        return world.root
