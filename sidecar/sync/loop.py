"""When the engine syncs by itself: what has changed is due, what rides goes alone, a rescan looks at everything."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

from sidecar import heap, log
from sidecar.errors import SidecarError
from sidecar.sync.engine import Engine
from sidecar.sync.rights import Edited, Fenced, Withdrawn

CHECK_S = 5.0
"""How often is made sure that the folders that are watched are still the roots."""


async def run(engine: Engine) -> None:
    """Watch and sync until cancelled. What goes wrong is said, kept in the state and tried again."""
    starting = asyncio.ensure_future(asyncio.to_thread(engine.watcher.start))
    try:
        await asyncio.shield(starting)
        await asyncio.to_thread(heap.give_back)  # what the restore needed
        engine.state.sync.watcher = engine.watcher.kind
        engine.everything()
        next_rescan, next_check = _rescan_after(engine), time.monotonic() + CHECK_S
        engine.dirty.last = 0.0  # the difference to what was restored goes at once
        while True:
            now = time.monotonic()
            if now >= next_rescan:
                engine.everything()
                engine.dirty.last = 0.0
                engine.confirming = engine.snapshotter.held
                next_rescan = _rescan_after(engine)
            if now >= next_check:
                next_check = now + CHECK_S
                await _check_watcher(engine)
            _take_up(engine, now)
            at = _due(engine, now)
            if at is not None and at <= now:
                await engine.snapshot("automatic")
                await asyncio.sleep(0)  # whatever that came to: we can be cancelled
                continue
            alone = _alone(engine, now) if at is None else None
            if alone is not None and alone <= now:
                await _send_rides(engine)
                continue
            engine.wake.clear()
            times = (at, alone, next_rescan, next_check, *engine.snapshotter.later.values())
            wait = min(t for t in times if t is not None) - now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(engine.wake.wait(), max(wait, 0.01))
    finally:
        await asyncio.wait({starting})  # a start that is under way can't be stopped
        await asyncio.to_thread(engine.watcher.stop)


def _rescan_after(engine: Engine) -> float:
    return time.monotonic() + engine.options.rescan_s * (0.9 + 0.2 * random.random())


async def _check_watcher(engine: Engine) -> None:
    if await asyncio.to_thread(engine.watcher.stale):
        await asyncio.to_thread(engine.watcher.refresh)
        engine.state.sync.watcher = engine.watcher.kind
        engine.everything()  # nobody has told what happened there until now


def _take_up(engine: Engine, now: float) -> None:
    """Look at the large databases whose turn it is."""
    later = engine.snapshotter.later
    due = [path for path, at in later.items() if at <= now]
    for path in due:
        del later[path]
    if due:
        engine.dirty.entries(due, now)


def _due(engine: Engine, now: float) -> float | None:
    """When the next automatic snapshot goes; None where nothing has changed."""
    at = engine.dirty.due(engine.options.quiet_s, engine.options.max_delay_s)
    if at is None or engine.over:  # what is written from here on would be due, and refused, without a pause
        engine.bulletin.waits(None)
        return None
    free = engine.budget.automatic_at(now)
    engine.bulletin.waits(free if free > max(at, engine.not_before, now) else None)
    return max(at, engine.not_before, free)


def _alone(engine: Engine, now: float) -> float | None:
    """When what rides goes without a snapshot; None where there is nothing, or where no snapshot was made yet."""
    rides = engine.rides
    if not rides.files or not engine.snapshotter.settled or engine.over:
        return None
    return max(rides.alone_at, engine.budget.automatic_at(now))


async def _send_rides(engine: Engine) -> None:
    """One small commit that makes no snapshot. Never raises; what fails is tried again."""
    snapshotter = engine.snapshotter
    async with engine.lock:
        engine.rides.try_later()
        snapshotter.weight, rides = 0, dict(engine.rides.files)
        title = f"sidecar: recovery record of {engine.options.instance}"
        until = time.monotonic() + 60
        try:
            await snapshotter.settle_unclear(until)
            await engine.line.commit(rides, [], title, automatic=True, until=until)
            engine.rides.sent(rides)
        except Fenced:
            engine.fenced()
        except Withdrawn:
            snapshotter.stays()
        except Edited:
            snapshotter.edited()
            engine.everything()
        except SidecarError as error:
            log.debug(f"the recovery record could not be sent, and waits: {error}")
