"""From what a start allows for to the engine that syncs, and what goes on around it while main lives."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from sidecar import log, session, tending
from sidecar.errors import EX_FAILED, SidecarError
from sidecar.link import Link
from sidecar.recovery import again, reattach
from sidecar.recovery.again import Standing
from sidecar.recovery.claim import Claimed
from sidecar.recovery.start import Start
from sidecar.recovery.terms import Recovered
from sidecar.recovery.turns import Left, Waiting
from sidecar.resuming import Resuming
from sidecar.session import Session
from sidecar.sync import loop
from sidecar.sync.engine import Engine
from sidecar.sync.handover import heed_lease
from sidecar.sync.pace import spread
from sidecar.verbs import AgentVerbs

REGAIN_S = 60.0
LEASE_YOUNG_S, LEASE_OLD_S = 10.0, 20.0
YOUNG_S = 600.0

NOBODY_S = 30.0
"""Who asked for the lease has at least so long to come for it, once it was handed over."""

STILL_S, CLAIM_S = 5.0, 60.0


class Syncing:
    """The one engine of a life, as soon as there may be one; until then ``engine`` is None."""

    def __init__(self, here: Session, link: Link, starting: Start, resuming: Resuming) -> None:
        self.here, self.link, self.state, self.start = here, link, here.state, starting
        self.resuming, self.recording = resuming, resuming.recording
        self.verbs = AgentVerbs(self.state)
        self.verbs.unpruned = tending.why_not(here.settings)
        self.engine: Engine | None = None
        self._work: list[asyncio.Task[Any]] = []
        self._turning: list[asyncio.Task[Any]] = []

    async def attach(self, recovered: Recovered) -> None:
        """Make the engine that a finished restore, or a confirmed cold start, allows for."""
        await asyncio.to_thread(reattach.note_choice, self.here.index, self.here.plan.me.instance, recovered)
        if recovered.tenure is None:
            self.beside(self._regain(recovered))
            return
        self.link.say("keep", "epoch", recovered.tenure.epoch)
        engine = await session.engine(self.here, session.base_of(recovered), recovered.tenure, recovered.access.now)
        await self._ride(engine, recovered)
        self._run(engine)

    async def _ride(self, engine: Engine, recovered: Recovered) -> None:
        session.ride(self.here, engine, recovered)
        await self.recording.ride(engine, recovered.head)
        later = self.resuming.attach(engine)
        if later is not None:
            self._mind(later)

    def go_on_without(self) -> None:
        """SIDECAR_ON_RESTORE_FAILURE=continue: main runs, and what it writes never touches the main line."""
        self.state.mode = "orphan"
        self.state.note("orphan", "recovery failed: what main writes goes to a branch of its own")
        log.error(
            f"recovery failed: {self.state.recovery_error}. SIDECAR_ON_RESTORE_FAILURE=continue: main starts"
            f" on what is on this disk; what it writes goes to branch orphan/{self.here.plan.me.instance},"
            " nothing of it to the main line"
        )
        self.link.say("keep", "mode", "orphan")
        self.beside(self._orphaned())

    def reattach(self, orphan: bool) -> None:
        """Go on where the agent before this one ended."""
        if orphan:
            self.state.mode = "orphan"
        self.beside(self._orphaned() if orphan else self._reattached())

    def beside(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run ``work`` until the end of this life; a fault in it ends the agent, which is then started anew."""
        return self._mind(asyncio.create_task(work))

    def _mind(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        task.add_done_callback(_complain)
        self._work.append(task)
        return task

    async def wait(self, until: float) -> None:
        """Until there is an engine, or none can come; at most until ``until`` (monotonic)."""
        while self.engine is None and time.monotonic() < until and any(not t.done() for t in self._work):
            if self.state.lease == "unleased":
                return
            await asyncio.sleep(0.05)

    def why_not(self) -> str:
        """Why there is no engine."""
        if self.state.lease == "unleased":
            return f"the store could not be written to ({self.start.claimant.why_unleased.rstrip('.')})"
        return self.state.sync.error or self.state.recovery_error or "the store could not be reached in time"

    def end(self) -> None:
        for task in self._work:
            task.cancel()

    def _run(self, engine: Engine) -> None:
        self.engine = self.verbs.engine = engine
        tend = tending.tend(self.here.settings, self.state, engine)
        self._turning = [self.beside(self._sync_once_main_runs(engine)), self.beside(tend)]
        self.beside(self._heed_lease(engine))

    async def _sync_once_main_runs(self, engine: Engine) -> None:
        await self.link.main.started.wait()
        gc.collect()
        await loop.run(engine)

    async def _regain(self, recovered: Recovered) -> None:
        """Unleased: try again until the store lets us, as long as its head is still what was restored."""
        while self.engine is None:
            await asyncio.sleep(spread(REGAIN_S))
            plan = self.here.plan
            got = await again.regain(self.here.store, recovered, plan, Waiting(plan.handoff_wait_s))
            if got is not None:
                tenure, manifest = got.taken.tenure, got.manifest
                log.info(f"the lease is ours now (epoch {tenure.epoch}): what main wrote is synced")
                self.link.say("keep", "epoch", tenure.epoch)
                origin = replace(recovered.origin, manifest=manifest)
                leased = replace(recovered, head=got.taken.revision, origin=origin)
                if manifest is not None and manifest is not recovered.manifest:
                    engine = await session.engine_again(self.here, got.taken, manifest)
                else:
                    engine = await session.engine(self.here, session.base_of(leased), tenure, None)
                await self._ride(engine, leased)
                self._run(engine)
                # Only now: whoever reads it may ask for a checkpoint at once.
                self.state.lease, self.state.epoch = "held", tenure.epoch
                self.state.clear("unleased")

    async def _orphaned(self) -> None:
        await self.start.claimant.give_back()
        self._run(await session.orphan_engine(self.here))

    async def _reattached(self) -> None:
        engine = await session.reattached_engine(self.here)
        await self.resuming.reattach(engine)
        self._run(engine)

    async def _heed_lease(self, engine: Engine) -> None:
        """Look whether somebody asks for the lease, or has taken it."""
        began = time.monotonic()
        while engine.tenure is not None and self.state.lease == "held":
            await asyncio.sleep(spread(LEASE_YOUNG_S if time.monotonic() - began < YOUNG_S else LEASE_OLD_S))
            await heed_lease(engine)
        if engine.tenure is not None and engine.left:
            await self._reclaim(engine, Left(engine.tenure.epoch, engine.left))

    async def _reclaim(self, old: Engine, left: Left) -> None:
        """Fenced: take the lease again where nobody came for it, or who came has given it back without beginning."""
        here, since = self.here, time.monotonic()
        patience = max(2 * here.plan.handoff_wait_s, NOBODY_S)
        while True:
            waited = time.monotonic() - since
            await asyncio.sleep(spread(LEASE_YOUNG_S if waited < YOUNG_S else LEASE_OLD_S))
            try:
                look = again.standing(here.store, here.plan, left, time.monotonic() - since, patience)
                found = await asyncio.wait_for(look, CLAIM_S)
            except (SidecarError, TimeoutError) as error:
                log.debug(f"the lease can't be looked at now: {error}")
                continue
            if self.link.orders.stop.is_set() or self.link.orders.final.is_set():
                return
            if found is not None and await self._take_again(old, found):
                return

    async def _take_again(self, old: Engine, found: Standing) -> bool:
        """Claim what we left, and put an engine on the main line in the place of ``old``."""
        if not await old.hold_still(STILL_S):
            return False
        taken: Claimed | None = None
        self.engine = self.verbs.engine = None  # whoever wants one waits for the new one
        try:
            with contextlib.suppress(TimeoutError):
                taken = await asyncio.wait_for(again.reclaim(self.here.store, found, self.here.plan.me), CLAIM_S)
            if taken is None:
                self.engine = self.verbs.engine = old
                return False
            for task in self._turning:
                task.cancel()
            await asyncio.wait(self._turning)
        finally:
            old.go_on(retired=taken is not None)
        who = "nobody came for the lease" if found.lease.instance == self.here.plan.me.instance else "it was given back"
        log.info(f"{who}: it is ours again (epoch {taken.tenure.epoch}); what main wrote meanwhile is synced")
        self.link.say("keep", "epoch", taken.tenure.epoch)
        new = await session.engine_again(self.here, taken, found.manifest)
        self.state.lease, self.state.epoch = "held", taken.tenure.epoch
        self.state.sync.error = self.state.sync.error_since = None
        self.state.sync.error_code, self.state.sync.denied = "", False
        self._run(new)
        return True


def _complain(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error(f"{type(error).__name__}: {error}. The agent ends; its supervisor starts it again")
        log.debug("traceback", exc_info=error)
        os._exit(EX_FAILED)
