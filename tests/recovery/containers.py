"""One Space over many containers, without processes: each begins with what its image ships, restores, and syncs."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from sidecar.recovery import image
from sidecar.recovery.reading import read_manifest
from sidecar.recovery.restore import Restored, restore
from sidecar.roots import Root
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Manifest, SnapshotId
from sidecar.state import RestoreProgress
from sidecar.stores.folder import FolderStore
from sidecar.sync.look import Look
from sidecar.sync.pack import pack
from sidecar.sync.survey import Surveyor
from tests.sync.rig import Me

STORE_ID = "test-store"
Shipped = Mapping[str, str | Callable[[Path], None]]


@dataclass
class Line:
    """The store below ``base``, and the disk of the container that runs now."""

    base: Path
    patterns: Sequence[str] = ()
    single: bool = False
    last: SnapshotId | None = None
    head: str | None = None
    restored: Restored = field(default_factory=Restored)

    def __post_init__(self) -> None:
        name = "conf.json" if self.single else "data"
        self.roots = [Root(name, str(self.base / "disk" / name))]

    @property
    def root(self) -> Path:
        return Path(self.roots[0].path)

    @property
    def state(self) -> Path:
        return self.base / "state"

    def container(self, shipped: Shipped, *, fresh: bool = True, revision: str | None = None) -> Restored:
        """A new container whose image has ``shipped``; main may run when this returns."""
        if fresh:
            shutil.rmtree(self.base / "disk", ignore_errors=True)
            shutil.rmtree(self.state, ignore_errors=True)
            self.state.mkdir()
            (self.base / "disk").mkdir()
        for name, content in shipped.items():
            path = self.root / name if name else self.root
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content)
            else:
                content(path)
        return asyncio.run(self._start(revision))

    async def _start(self, revision: str | None) -> Restored:
        store = FolderStore(self.base / "store")
        index = Index(self.state / "index.db")
        try:
            await store.check(create=True)
            image.note(index, self.state, self.roots, self.patterns, (), lambda: None)
            at = revision or self.head
            manifest = await read_manifest(store, at, self.state) if at else None
            if at is None or manifest is None:
                index.forget(index.shipped())
                return Restored()
            more = {"index": index, "store_id": STORE_ID, "state_dir": self.state, "instance": "test"}
            progress = RestoreProgress()
            self.restored = await restore(store, at, manifest, self.roots, progress=progress, **more)  # type: ignore[arg-type]
            return self.restored
        finally:
            index.close()
            await store.close()

    def sync(self) -> Manifest:
        """What main did is durable now; the snapshot."""
        index = Index(self.state / "index.db")
        device = os.stat(self.base / "disk").st_dev
        surveyor = Surveyor(self.roots, index, self.patterns, (), {r.name: device for r in self.roots})
        with TemporaryDirectory(dir=self.base) as name:
            folder = Path(name)
            sure = {r.name: 1000 for r in self.roots}
            survey = surveyor.look(Look(confirm_held=sure), folder)
            if survey.reason:
                epoch = self.last.epoch + 1 if self.last else 1
                number = SnapshotId(epoch, 1)
                package = pack(survey, index, folder, number, self.last, Me(), ())

                async def commit() -> str:
                    store = FolderStore(self.base / "store")
                    try:
                        return await store.commit(self.head, package.put, package.delete, package.title)
                    finally:
                        await store.close()

                self.head = asyncio.run(commit())
                index.promote(STORE_ID, self.head)
                self.last = number
        index.close()
        return self.manifest()

    def manifest(self) -> Manifest:
        async def read() -> Manifest:
            store = FolderStore(self.base / "store")
            try:
                assert self.head is not None
                found = await read_manifest(store, self.head, self.base)
                assert found is not None
                return found
            finally:
                await store.close()

        return asyncio.run(read())

    def read(self, name: str = "") -> str | None:
        path = self.root / name if name else self.root
        return path.read_text() if path.is_file() else None
