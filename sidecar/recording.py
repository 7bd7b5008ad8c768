"""Where the record of a start goes: the log, the status, the state dir, the store and the heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from sidecar import log
from sidecar.errors import SidecarError
from sidecar.recovery import diary, record
from sidecar.session import Session
from sidecar.snapshot.manifest import RECOVERY
from sidecar.stores.base import Revision
from sidecar.sync.engine import Engine
from sidecar.sync.reads import read_small

READ_S = 20.0


class Recording:
    """The one record of this start. ``posted`` is told of each that is complete."""

    def __init__(self, here: Session) -> None:
        self.here = here
        self.posted: Callable[[Mapping[str, Any]], None] = lambda document: None
        self._others: bytes | None = None  # those in the store; None where that isn't known
        self._ms: int | None = None

    async def write(self, result: str) -> None:
        """A start came to ``result``: say so wherever that needs no store."""
        here = self.here
        here.record.facts["epoch"] = here.state.epoch
        self._ms = None
        document = await self._keep(result)
        self._ms = document["ms"]
        log.info(record.summary(document), extra={"fields": {"recovery": document}})
        self.posted(document)

    async def amend(self, engine: Engine | None) -> None:
        """What is in the record changed after main's start."""
        document = await self._keep(str((self.here.state.recovery or {}).get("result", "ok")))
        self.posted(document)
        if engine is not None and self._others is not None:
            engine.along({RECOVERY: await self._all(self._others, document)})

    async def ride(self, engine: Engine, head: Revision | None) -> None:
        """Let it go along with ``engine``'s next commit, with all of this disk's that the store at ``head`` lacks."""
        if await self._ask(head, READ_S):
            engine.along({RECOVERY: await self._all(self._others, self.here.state.recovery or {})})

    async def last(self, head: Revision | None, seconds: float) -> dict[str, bytes]:
        """What a commit that gives the lease back takes along; nothing where ``head`` doesn't tell in time."""
        if await self._ask(head, seconds):
            return {RECOVERY: await self._all(self._others, self.here.state.recovery or {})}
        return {}

    async def _ask(self, head: Revision | None, seconds: float) -> bool:
        """Read the store's. Without them nothing is written: it would drop them; the state dir has ours till then."""
        try:
            self._others = await read_small(self.here.store, head, RECOVERY, seconds) or b""
        except (SidecarError, TimeoutError) as error:
            log.debug(f"earlier recovery records can't be read, so that this one waits in the state dir: {error}")
        return self._others is not None

    async def remember(self) -> None:
        """An agent beside a main that runs shows the record of the start that it goes on from."""
        kept = await asyncio.to_thread(diary.read, self.here.plan.state_dir, self.here.plan.store_id)
        mine = [d for d in kept if d.get("instance") == self.here.plan.me.instance]
        self.here.state.recovery = mine[-1] if mine else None

    async def correct(self) -> None:
        """``state.recovery``, which an agent before this one has written, turned out otherwise."""
        document = self.here.state.recovery or {}
        await asyncio.to_thread(diary.write, self.here.plan.state_dir, self.here.plan.store_id, document)
        self.posted(document)

    async def _keep(self, result: str) -> dict[str, Any]:
        document = self.here.record.document(result, self._ms)
        self.here.state.recovery = document
        await asyncio.to_thread(diary.write, self.here.plan.state_dir, self.here.plan.store_id, document)
        return document

    async def _all(self, others: bytes | None, document: Mapping[str, Any]) -> bytes:
        kept = await asyncio.to_thread(diary.read, self.here.plan.state_dir, self.here.plan.store_id)
        return record.append(others, *kept, document)
