"""Engines on real roots and a real folder store, made as an agent makes them after a restore or a cold start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from sidecar.recovery.lease import Lease, Tenure, decode
from sidecar.recovery.reading import read_manifest
from sidecar.roots import Root
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import LEASE, Manifest, SnapshotId
from sidecar.state import RootState, State
from sidecar.stores.base import Store
from sidecar.sync import loop
from sidecar.sync.attempt import Options
from sidecar.sync.bulletin import Result
from sidecar.sync.engine import Engine
from sidecar.sync.line import Base
from sidecar.sync.pace import Budget
from sidecar.sync.reads import read_small
from tests.sync.faulty import Faulty, begin, held, opened
from tests.sync.rig import STORE_ID, Elsewhere


@dataclass
class Life:
    """One instance beside one main process: its disk, its index, its engine."""

    base: Path
    store: Faulty
    instance: str = "me"
    names: tuple[str, ...] = ("data",)
    quiet_s: float = 0.05
    max_delay_s: float = 0.6
    rescan_s: float = 3600.0
    state_dir: Path | None = None
    store_at: Path | None = None
    ceiling: int | None = None
    roots: list[Root] = field(init=False)
    index: Index = field(init=False)
    state: State = field(init=False)
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        (self.base / "disk").mkdir(parents=True, exist_ok=True)
        self.roots = [Root(n, str(self.base / "disk" / n)) for n in self.names]
        for root in self.roots:
            if "." not in root.name:
                os.makedirs(root.path, exist_ok=True)
        self.own = self.state_dir or self.base / f"state-{self.instance}"
        self.own.mkdir(exist_ok=True)
        self.index = Index(self.own / "index.db")
        self.state = State(self.instance, "0", "local", self.store.url, True)
        self.state.roots = {r.name: RootState(r.name) for r in self.roots}
        self.state.main_state, self.state.lease = "running", "held"

    @property
    def root(self) -> Path:
        return Path(self.roots[0].path)

    async def begin(self, lease: Lease | None = None, snapshot: SnapshotId | None = None) -> Engine:
        """Claim ``lease`` on top of the head, and make the engine on that."""
        revision, tenure = await begin(self.store.store, lease or held(1, self.instance))
        return self.make(Base(revision, snapshot), tenure)

    def make(self, base: Base, tenure: Tenure | None) -> Engine:
        devices = {r.name: os.stat(r.path).st_dev if os.path.exists(r.path) else None for r in self.roots}
        options = Options(
            roots=self.roots,
            patterns=(),
            own=(os.path.realpath(self.own), os.path.realpath(self.base / "store")),
            quiet_s=self.quiet_s,
            max_delay_s=self.max_delay_s,
            rescan_s=self.rescan_s,
            state_dir=self.own,
            store_id=STORE_ID,
            space="local",
            instance=self.instance,
            version="0",
        )
        budget = Budget(1000, self.ceiling)
        self.engine = Engine(base, self.store, self.index, tenure, options, self.state, budget, devices)
        return self.engine

    async def told(self) -> Result:
        """An automatic snapshot, as if the watcher had told that anything may have changed."""
        self.engine.everything()
        return await self.engine.snapshot("automatic")

    def fill(self, *names: str, text: str | None = None) -> None:
        for name in names:
            at = self.root / name
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(name if text is None else text)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Engine]:
        """The engine's loop, from its first snapshot on."""
        first, real = asyncio.Event(), self.engine.take

        async def snapshot(*args: Any) -> Result:
            try:
                return await real(*args)
            finally:
                first.set()

        vars(self.engine)["take"] = snapshot
        task = asyncio.create_task(loop.run(self.engine))
        try:
            await until(lambda: task.done() or first.is_set())
            yield self.engine
            assert not task.done(), "the loop never ends by itself"
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def manifest(self, revision: str | None = None) -> Manifest:
        at = revision or await self.store.store.head()
        assert at is not None
        found = await read_manifest(self.store.store, at, self.own)
        assert found is not None
        return found

    async def lease(self) -> Lease:
        raw = await read_small(self.store.store, await self.store.store.head(), LEASE)
        assert raw is not None
        return decode(raw)

    async def restored(self, revision: str | None = None) -> Path:
        """The folder above the roots as a fresh machine has it after a restore of the head, or of ``revision``."""
        at = revision or await self.store.store.head()
        assert at is not None
        manifest = await self.manifest(at)
        names = tuple(r.name for r in manifest.roots)
        world = Elsewhere(Path(mkdtemp(dir=self.base)), self.store_at or self.base / "store", names)
        await asyncio.to_thread(world.restore, at, manifest)
        return world.base / "disk"

    def close(self) -> None:
        self.index.close()


async def until(true: Callable[[], Any], within: float = 10.0) -> None:
    """Wait until ``true`` says so."""
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it never came to that"
        await asyncio.sleep(0.01)


def live(base: Path, scenario: Callable[[Life], Any], **more: Any) -> None:
    """``scenario`` with one life on a fresh disk and an empty store, its lease claimed; a cold start."""

    async def main() -> None:
        async with opened(base / "store") as store:
            life = Life(base, store, **more)
            try:
                await life.begin()
                await scenario(life)
            finally:
                life.close()

    asyncio.run(main())


async def snapshots(store: Store, branch: str | None = None) -> list[str]:
    """The ids of the snapshots in the history, oldest first."""
    found = [c.title for c in reversed(await store.history(1000, branch))]
    return [t.removeprefix("sidecar: snapshot ") for t in found if t.startswith("sidecar: snapshot ")]


__all__ = ["Life", "live", "replace", "snapshots", "until"]
