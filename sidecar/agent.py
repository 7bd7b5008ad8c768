"""The agent: one asyncio process that claims, restores, says ready, keeps syncing, and makes the last snapshot.

`Agent.live` is the whole story. Everything that it does stands in the rooms: recovery, sync, web.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidecar import log, once, session
from sidecar.errors import EX_FAILED, RestoreFailed, SidecarError
from sidecar.link import ALIVE_S, Link
from sidecar.recovery import report, start
from sidecar.recovery.start import Recovered, Start
from sidecar.session import Session
from sidecar.sync.engine import Engine
from sidecar.verbs import AgentVerbs
from sidecar.web.app import build
from sidecar.web.server import Web
from sidecar.web.unix import SOCKET_NAME

REGAIN_S = 60.0
REMIND_S = 3600.0
LEASE_YOUNG_S, LEASE_OLD_S = 10.0, 20.0


@dataclass(frozen=True, slots=True)
class Life:
    """How this agent was started; ``main_pid`` is set where main already runs, whatever became of it."""

    fd: int | None = None
    instance: str = ""
    keep: tuple[tuple[str, str], ...] = ()
    main_pid: int | None = None
    main_exit: int | None = None
    locks: tuple[int, ...] = ()
    before_main: bool = False


class Agent:
    """One life of the agent beside one main process."""

    def __init__(self, here: Session, life: Life, link: Link) -> None:
        self.here, self.life, self.link, self.state = here, life, link, here.state
        self.verbs = AgentVerbs(self.state)
        self.engine: Engine | None = None
        self.start = Start(here.store, here.index, here.plan, self.state, here.record)
        self._tasks: list[asyncio.Task[Any]] = []
        self._work: list[asyncio.Task[Any]] = []

    async def live(self) -> int:
        """From the first line to the last sync; the exit code."""
        web = await self.open()
        try:
            if self.life.main_pid is None:
                code = await self.recover()
                if code is not None:
                    return code
            else:
                self.beside_main()
            self.link.say("ready")
            await self.keep_syncing()
            return await self.last_sync()
        finally:
            self.state.phase = "stopped"
            for task in (*self._tasks, *self._work):
                task.cancel()
            await web.stop()

    # --- the parts of a life ----------------------------------------------------------------------------------------

    async def open(self) -> Web:
        """Answer health checks and the supervisor before anything slow begins."""
        settings = self.here.settings
        app = build(
            self.state,
            self.verbs,
            prefix=settings.prefix,
            api_token=settings.api_token,
            upstream=settings.upstream is not None,
        )
        socket_path = Path(settings.state_dir) / SOCKET_NAME
        web = Web(app, host=settings.host, port=settings.port, socket_path=socket_path)
        await web.start()
        for code, sentence in web.problems.items():
            self.state.note(code, sentence)
        self.link.start()
        self.link.say("hello", settings.stop_timeout_s, settings.shutdown_grace_s)
        self.link.hand_over(self.here.locks.fds)
        self._tasks += [asyncio.create_task(self._beat()), asyncio.create_task(self._follow_main())]
        if not settings.store.persistent:
            self._tasks.append(asyncio.create_task(self._remind()))
        if settings.space_id is not None:
            log.info(f"/health and /status answer on port {settings.port}, inside of the container only")
        return web

    async def recover(self) -> int | None:
        """Claim and restore; None once main may start, else the exit code."""
        report.check_roots(list(self.here.settings.roots), self.state)
        try:
            recovered = await self._unless_stopped(self.start.recover())
        except RestoreFailed as failure:
            return await self._failed(failure)
        except Stopped:
            await self.start.give_back()
            self.link.say("done")
            return 0
        if recovered is None:
            self._go_on_without()
        else:
            report.say(recovered, list(self.here.settings.roots), self.state, self.here.record)
            self.state.recovery = self.here.record.document("ok")
            await self._attach(recovered)
        self.state.recovered = True
        self.state.phase = "ready"
        return None

    def beside_main(self) -> None:
        """An agent before this one has restored: main runs, and nothing is restored over it."""
        self.state.recovered = True
        self.state.phase = "running"
        self.state.main_state, self.state.main_pid = "running", self.life.main_pid
        self.link.main.pid, self.link.main.exited = self.life.main_pid, self.life.main_exit
        self.link.main.started.set()
        if ("mode", "orphan") in self.life.keep:
            self.state.mode = "orphan"
            self._background(self._orphaned())
        else:
            self._background(self._reattached())

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
            if self.engine is not None:
                self._background(self.engine.snapshot("stop", orders.until))
            await first(orders.final, orders.gone)
        if orders.gone.is_set() and not orders.final.is_set():
            log.warning("the supervisor is gone: syncing on as long as main lives")
            await _until_gone(self.link.main.pid)

    async def last_sync(self) -> int:
        """The difference, and the release of the lease, in one commit."""
        self.state.phase = "stopping"
        grace = self.here.settings.shutdown_grace_s
        until = (self.link.orders.until or time.monotonic() + grace) - min(0.5, grace / 20)
        while self.engine is None and time.monotonic() < until and self._attaching() and self._may_write():
            await asyncio.sleep(0.05)
        if not self.link.main.started.is_set():
            await self.start.give_back()
            self.link.say("done")
            return 0
        if self.engine is None:
            log.error(f"the last sync was not made: {self._why_not()}. What changed since is on this disk only")
            self.link.say("done")
            return EX_FAILED
        result = await self.engine.final(until)
        if result.ok:
            branch = self.engine.line.branch
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
        return 0 if result.ok else EX_FAILED

    # --- from a recovery to an engine -------------------------------------------------------------------------------

    async def _attach(self, recovered: Recovered) -> None:
        """Make the engine that a finished restore, or a confirmed cold start, allows for."""
        if recovered.tenure is None:
            self._background(self._regain(recovered))
            return
        self.link.say("keep", "epoch", recovered.tenure.epoch)
        engine = await session.engine(self.here, session.base_of(recovered), recovered.tenure, recovered.access.now)
        await session.ride(self.here, engine, recovered)
        self._run(engine)

    def _run(self, engine: Engine) -> None:
        self.engine = self.verbs.engine = engine
        self._background(self._sync_once_main_runs(engine))
        self._background(self._heed_lease(engine))

    async def _sync_once_main_runs(self, engine: Engine) -> None:
        await self.link.main.started.wait()
        gc.collect()
        await engine.run()

    async def _regain(self, recovered: Recovered) -> None:
        """Unleased: try again until the store lets us, as long as its head is still what was restored."""
        while self.engine is None:
            await asyncio.sleep(REGAIN_S)
            taken = await start.regain(self.here.store, recovered, self.here.plan.me)
            if taken is not None:
                log.info(f"the lease is ours now (epoch {taken.tenure.epoch}): what main wrote is synced")
                self.state.lease, self.state.epoch = "held", taken.tenure.epoch
                self.state.clear("unleased")
                base = session.base_of(replace(recovered, head=taken.revision))
                self._run(await session.engine(self.here, base, taken.tenure, None))

    def _go_on_without(self) -> None:
        """SIDECAR_ON_RESTORE_FAILURE=continue: main runs, and what it writes never touches the main line."""
        self.state.mode = "orphan"
        self.state.note("orphan", "recovery failed: what main writes goes to a branch of its own")
        self.state.recovery = self.here.record.document("continue")
        log.error(
            f"recovery failed: {self.state.recovery_error}. SIDECAR_ON_RESTORE_FAILURE=continue: main starts"
            f" on what is on this disk; what it writes goes to branch orphan/{self.here.plan.me.instance},"
            " nothing of it to the main line"
        )
        self.link.say("keep", "mode", "orphan")
        self._background(self._orphaned())

    async def _orphaned(self) -> None:
        await self.start.give_back()
        self._run(await session.orphan_engine(self.here))

    async def _reattached(self) -> None:
        self._run(await session.reattached_engine(self.here))

    async def _heed_lease(self, engine: Engine) -> None:
        """Look whether somebody asks for the lease, or has taken it."""
        began = time.monotonic()
        while engine.tenure is not None and self.state.lease == "held":
            await asyncio.sleep(LEASE_YOUNG_S if time.monotonic() - began < 600 else LEASE_OLD_S)
            await engine.heed_lease()

    # --- what goes on beside it -------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            self.state.loop_beat_mono = time.monotonic()
            self.link.say("alive")
            await asyncio.sleep(ALIVE_S)

    async def _remind(self) -> None:
        """Say hourly that nothing outlives this machine: whoever looks at a log sees its end."""
        while True:
            session.say_not_persisted(self.here.settings, self.state)
            await asyncio.sleep(REMIND_S)

    async def _follow_main(self) -> None:
        """Mirror what the supervisor says of main into the state."""
        main = self.link.main
        await main.started.wait()
        self.state.phase = "running" if self.state.phase == "ready" else self.state.phase
        while True:
            self.state.main_pid = main.pid
            self.state.main_state = "exited" if main.exited is not None else "running"
            self.state.main_exit = main.exited
            self.state.ready = main.exited is None
            await asyncio.sleep(0.5)

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
        self.state.recovery = self.here.record.document("failed")
        log.error(f"recovery failed: {failure.message}. Nothing was uploaded, and main is not started")
        await self.start.give_back()
        self.link.say("fail", failure.exit_code)
        return failure.exit_code

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(_complain)
        self._work.append(task)

    def _attaching(self) -> bool:
        return any(not t.done() for t in self._work)

    def _may_write(self) -> bool:
        return self.state.lease != "unleased"

    def _why_not(self) -> str:
        if self.state.lease == "unleased":
            return f"the store could not be written to ({self.start.why_unleased.rstrip('.')})"
        return self.state.sync.error or self.state.recovery_error or "the store could not be reached in time"


class Stopped(Exception):
    """A stop came before ready."""


async def first(*events: asyncio.Event) -> None:
    """Wait until one of ``events`` is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def _until_gone(pid: int | None) -> None:
    while pid is not None and _lives(pid):
        await asyncio.sleep(0.2)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _complain(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error(f"{type(error).__name__}: {error}. The agent ends; its supervisor starts it again")
        log.debug("traceback", exc_info=error)
        os._exit(EX_FAILED)


def main(argv: Sequence[str]) -> int:
    """``sidecar agent``: the exit code."""
    life = _arguments(argv)
    link = Link(life.fd)
    log.setup()
    # Worker threads hash and copy while the loop answers health checks: it must get the interpreter back soon.
    sys.setswitchinterval(0.001)
    code = EX_FAILED
    try:
        here = session.open_session(os.environ, life.instance or os.urandom(8).hex(), life.locks)
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
    if not link.supervised and not life.before_main:
        await once.require_known(here)
    if not link.supervised:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, link.orders.final.set)
    try:
        return await agent.live()
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(here.store.close(), 1)


def _arguments(argv: Sequence[str]) -> Life:
    parser = argparse.ArgumentParser("sidecar agent", description="The agent alone, without a supervisor.")
    parser.add_argument("--before-main", action="store_true", help="restore first: main is not running yet")
    for name in ("--supervised", "--main-pid", "--main-exit"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--instance", default="", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--locks", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    keep = tuple((k, v) for k, _, v in (item.partition("=") for item in given.keep))
    locks = tuple(int(fd) for fd in given.locks.split(",") if fd)
    return Life(given.supervised, given.instance, keep, given.main_pid, given.main_exit, locks, given.before_main)
