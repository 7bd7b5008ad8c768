"""How the holder of the lease heeds who asks for it: answers, makes the last snapshot, and releases it with that."""

from __future__ import annotations

import asyncio
import time

from sidecar import log
from sidecar.snapshot.manifest import LEASE
from sidecar.stores.base import StoreError
from sidecar.sync.engine import Engine
from sidecar.sync.rights import Edited, Fenced, Tenure, Withdrawn


async def heed_lease(engine: Engine) -> None:
    """Hand the lease over where somebody asks for it; stop writing where somebody has it. Never raises."""
    line, tenure, snapshotter = engine.line, engine.tenure, engine.snapshotter
    if tenure is None or line.branch is not None:
        return
    try:
        head = await asyncio.wait_for(engine.store.head(), 30)
        if head == line.head and not (line.requested or tenure.handing):
            return
        async with engine.lock:
            if engine.state.lease != "held":
                return
            verdict = await line.heed(30)
            if verdict == "withdrawn":
                snapshotter.stays()
            elif verdict == "requested" or tenure.handing:
                await _hand_over(engine, tenure)
    except Fenced:
        engine.fenced()
    except Withdrawn:
        snapshotter.stays()
    except Edited:
        snapshotter.edited()
        engine.everything()
    except (StoreError, TimeoutError) as error:
        log.debug(f"the lease can't be looked at now: {error}")


async def _hand_over(engine: Engine, tenure: Tenure) -> None:
    """Answer that we do, make the last snapshot, and release the lease with it. What fails is tried again."""
    if not tenure.handing:
        log.info("a new instance asks for the lease: handing over")
    until = time.monotonic() + 600
    engine.rides.files.pop(LEASE, None)
    await engine.line.answer(until)
    engine.line.requested = False
    if (await engine.take("handoff", until)).ok and tenure.handing:
        engine.fenced()
