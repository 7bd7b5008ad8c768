"""A start while somebody else changes the store under it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sidecar.recovery.lease import Me
from sidecar.recovery.record import Record
from sidecar.recovery.start import Plan, Start
from sidecar.roots import Root
from sidecar.snapshot.index import Index
from sidecar.state import RootState, State
from sidecar.stores.folder import FolderStore
from tests.sync.faulty import opened
from tests.sync.lives import Life


class Squashed(FolderStore):
    """Is squashed while the first files are fetched: their revision has another name then, and the old one is gone."""

    squashed = 0

    async def fetch(self, revision: str, paths: Iterable[str], into: Path, progress: Any = None) -> None:
        wanted = list(paths)
        if not self.squashed and any(p.startswith("data/") for p in wanted):
            self.squashed += 1
            await self.compact()
        await super().fetch(revision, wanted, into, progress)


def test_a_restore_whose_revision_is_squashed_away_goes_on_from_the_head(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "store") as first:
            life = Life(tmp_path / "life", first)
            await life.begin()
            life.fill(*(f"d/{n}" for n in range(20)))
            assert (await life.engine.final(time.monotonic() + 10)).ok
            life.close()
        disk, state_dir = tmp_path / "new", tmp_path / "state"
        disk.mkdir()
        state_dir.mkdir()
        plan = Plan(
            roots=(Root("data", str(disk / "data")),),
            me=Me("other", "local"),
            store_id="test-store",
            state_dir=state_dir,
            cold_start="allow",
            revision=None,
            handoff_wait_s=1,
            timeout_s=5,
            on_failure="exit",
        )
        store = Squashed(tmp_path / "store", grace=0)
        index = Index(state_dir / "index.db")
        state = State("other", "0", "local", store.url, True)
        state.roots = {"data": RootState("data")}
        try:
            found = await Start(store, index, plan, state, Record("other")).recover()
            assert store.squashed == 1
            assert found is not None
            assert found.tenure is not None
            assert found.head == await store.head()
            assert (disk / "data/d/7").read_text() == "d/7"
            known = await asyncio.to_thread(index.known)
            assert known is not None
            assert str(known.snapshot) == "1.1"
        finally:
            index.close()
            await store.close()

    asyncio.run(main())
