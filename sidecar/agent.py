"""The agent: one asyncio process that claims, restores, verifies, keeps syncing, and makes the last snapshot.

`Agent.live` is the whole story. Everything that it does stands in the rooms: recovery, sync, web.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from sidecar import company, log, once, pings, serving, session, unsupervised
from sidecar.company import first
from sidecar.errors import EX_FAILED, RestoreFailed, SidecarError
from sidecar.heartbeat import Heartbeat
from sidecar.life import Life, parse
from sidecar.link import Link
from sidecar.recording import Recording
from sidecar.recovery import report
from sidecar.recovery.checks import Checks
from sidecar.recovery.claim import Claimed
from sidecar.recovery.start import Start, classify
from sidecar.recovery.terms import Recovered
from sidecar.resuming import Resuming
from sidecar.serving import Serving
from sidecar.session import Session
from sidecar.syncing import Syncing


class Agent:
    """One life of the agent beside one main process."""

    def __init__(self, here: Session, life: Life, link: Link) -> None:
        self.here, self.life, self.link, self.state = here, life, link, here.state
        self.checks = Checks(here.settings, self.state, here.record)
        self.start = Start(here.store, here.index, here.plan, self.state, here.record, self.checks.before_main)
        self.heartbeat = Heartbeat(here.settings.heartbeat_url, self.state)
        self.recording = Recording(here)
        self.recording.posted = self.heartbeat.recovered
        self.resuming = Resuming(here, life, link, self.start, self.recording)
        self.start.brought, self.start.resume = self.brought, self.resuming.before_main
        self.start.waits, self.start.claimant.took = self.waits, self.took
        self.start.claimant.knew = {"1": True, "0": False}.get(dict(life.keep).get("clean", ""))
        self.syncing = Syncing(here, link, self.start, self.resuming)
        self._company: list[asyncio.Task[Any]] = []
        self.state.holds_main = link.supervised or life.before_main

    async def live(self) -> int:
        """From the first line to the last sync; the exit code."""
        served = await self.open()
        try:
            if self.life.main_pid is None:
                code = await self.recover()
                if code is not None:
                    return code
            else:
                await self.beside_main()
            self.link.say("ready")
            await self.keep_syncing()
            return await self.last_sync()
        finally:
            self.state.phase = "stopped"
            self.syncing.end()
            for task in self._company:
                task.cancel()
            await served.stop()

    async def open(self) -> Serving:
        """Answer health checks and the supervisor before anything slow begins."""
        here, settings, link = self.here, self.here.settings, self.link
        served = await serving.serve(settings, self.state, self.syncing.verbs)
        link.start()
        link.say("hello", settings.stop_timeout_s, settings.shutdown_grace_s)
        link.hand_over(here.locks.fds)
        pings.recall(self.state, settings.state_dir)
        beside = company.all_along(here, link, self.checks, self.heartbeat, lambda: self.syncing.engine)
        serving.say(settings)
        self._company += [asyncio.create_task(work) for work in beside]
        return served

    async def recover(self) -> int | None:
        """Claim, restore, verify and resume; None once main may start, else the exit code."""
        self.heartbeat.start()
        report.check_roots(list(self.here.settings.roots), self.state)
        try:
            recovered = await self._unless_stopped(self._start())
        except RestoreFailed as failure:
            return await self._failed(failure)
        except Stopped:
            await self.recording.write("stopped")
            await self.start.claimant.give_back(self.recording.last)
            self.link.say("done")
            return 0
        if recovered is None:
            await self.recording.write("continue")
            self.syncing.go_on_without()
        else:
            await self.recording.write("ok")
            await self.syncing.attach(recovered)
        self.state.recovered = True
        self.state.phase = "ready"
        self.heartbeat.ready()
        return None

    def brought(self, recovered: Recovered) -> None:
        """The roots are as they are to be: say what was restored, before anything else is done with it."""
        report.say(recovered, list(self.here.settings.roots), self.state, self.here.record)

    def took(self, claimed: Claimed) -> None:
        """The lease tells how the life before ended until it is ours: an agent after this one couldn't know."""
        if claimed.clean is not None:
            self.link.say("keep", "clean", "1" if claimed.clean else "0")

    async def waits(self) -> None:
        """It could not be done in time, and is tried on (SIDECAR_ON_RESTORE_FAILURE=wait): recorded once."""
        if self.state.recovery is None:
            await self.recording.write("waiting")

    async def beside_main(self) -> None:
        """An agent before this one has restored: main runs, and nothing is restored over it."""
        self.state.recovered = True
        self.state.phase = "running"
        self.state.main_state, self.state.main_pid = "running", self.life.main_pid
        self.link.main.pid, self.link.main.exited = self.life.main_pid, self.life.main_exit
        self.link.main.started.set()
        await self.recording.remember()
        await self.resuming.recall()
        self.syncing.reattach(orphan=("mode", "orphan") in self.life.keep)

    async def keep_syncing(self) -> None:
        """Until main is gone and the last sync is due."""
        orders = self.link.orders
        if not self.link.supervised:
            self.state.main_state = "running"
            self.state.phase = "running"
            self.link.main.started.set()
        await first(orders.stop, orders.final, orders.gone)
        if orders.stop.is_set() and not self.link.main.started.is_set():
            return  # main could not be executed: there is no `final` to wait for
        if orders.stop.is_set() and not orders.final.is_set() and self.link.supervised:
            self.state.phase = "stopping"
            if self.syncing.engine is not None:
                self.syncing.beside(self.syncing.engine.snapshot("stop", orders.until))
            await first(orders.final, orders.gone)
        if orders.gone.is_set() and not orders.final.is_set():
            await unsupervised.go_on(self.link, self.state, self.here.settings, self.syncing)

    async def last_sync(self) -> int:
        """The difference, and the release of the lease, in one commit."""
        self.state.phase = "stopping"
        grace = self.here.settings.shutdown_grace_s
        until = (self.link.orders.until or time.monotonic() + grace) - min(0.5, grace / 20)
        await self.syncing.wait(until)
        engine = self.syncing.engine
        if not self.link.main.started.is_set():
            await self.start.claimant.give_back()
            self.link.say("done")
            return 0
        if engine is None:
            why = self.syncing.why_not()
            self.syncing.end()
            await self.start.claimant.give_back(unleased=self.state.lease == "unleased")
            log.error(f"the last sync was not made: {why}. What changed since is on this disk only")
            self.link.say("done")
            await self.heartbeat.ended(why)
            return EX_FAILED
        result = await engine.final(until)
        if result.ok:
            branch = engine.line.branch
            where = f"on branch {branch}, " if branch else ""
            lease = "" if branch else "; lease released"
            log.info(f"last sync: durable {result.snapshot}, {where}{result.changed:,} changed{lease}")
            if result.troubled:
                path, why = min(result.troubled.items())
                log.warning(f"{len(result.troubled):,} entries are not in it as they are on disk: {path!r} is {why}")
        else:
            since = self.state.sync.snapshot or "the start"
            log.error(
                f"the last sync failed: {result.error.rstrip('.')}. What changed since {since} is on this disk only:"
                " if it survives, the next start sends the rest"
            )
        self.link.say("done")
        await self.heartbeat.ended(result.error)
        return 0 if result.ok else EX_FAILED

    async def _start(self) -> Recovered | None:
        if self.link.supervised or self.life.before_main:
            return await self.start.recover()
        # Main runs already: nothing is restored over it.
        await once.require_known(self.here)
        try:
            return await self.start.claim_only()
        except SidecarError as error:
            raise classify(error) from None

    async def _unless_stopped(self, work: Coroutine[Any, Any, Recovered | None]) -> Recovered | None:
        """``work``, given up when a stop is ordered before it is done."""
        task = asyncio.create_task(work)
        orders = self.link.orders
        stop = asyncio.create_task(first(orders.stop, orders.final, orders.gone))
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, SidecarError, TimeoutError):
            await asyncio.wait_for(task, 5)
        raise Stopped

    async def _failed(self, failure: RestoreFailed) -> int:
        self.state.phase = "failed"
        log.error(f"recovery failed: {failure.message}. Nothing was uploaded, and main is not started")
        await self.recording.write("failed")
        await self.start.claimant.give_back(self.recording.last)
        self.link.say("fail", failure.exit_code)
        await self.heartbeat.last_words()
        return failure.exit_code


class Stopped(Exception):
    """A stop came before ready."""


def main(argv: Sequence[str]) -> int:
    """``sidecar agent``: the exit code."""
    life = parse(argv)
    link = Link(life.fd)
    log.setup()
    # Worker threads hash and copy while the loop answers health checks: it must get the interpreter back soon.
    sys.setswitchinterval(0.001)
    code = EX_FAILED
    try:
        here = session.open_session(os.environ, life.instance or os.urandom(8).hex(), life.locks)
        session.keep_scratch(here.plan.state_dir)
    except SidecarError as error:
        log.error(error.message)
        link.say("fail", error.exit_code)
        return error.exit_code
    if link.supervised:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    try:
        code = asyncio.run(_live(here, life, link))
    except SidecarError as error:
        log.error(error.message)
        code = error.exit_code
    sys.stderr.flush()
    # A thread may hang in a request that nothing can cut; nothing that matters is left to be done.
    os._exit(code)


async def _live(here: Session, life: Life, link: Link) -> int:
    agent = Agent(here, life, link)
    if not link.supervised:
        unsupervised.obey_signals(link.orders)
    try:
        return await agent.live()
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(here.store.close(), 1)
