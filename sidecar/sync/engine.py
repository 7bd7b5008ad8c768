"""The sync engine: one snapshot at a time, for as long as main lives and once more after it, whoever asks for it.

``loop`` asks when something has changed, ``verbs`` when somebody calls, the agent when main stops. What makes a
snapshot stands in ``attempt``, and how the lease is handed over in ``handover``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from sidecar import heap
from sidecar.errors import TryLater
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import SnapshotId
from sidecar.state import State
from sidecar.stores.base import Store
from sidecar.sync import history, outcome, pace
from sidecar.sync.attempt import SMALL, Attempt, Options, Snapshotter, Why, remove
from sidecar.sync.bulletin import Bulletin, Result
from sidecar.sync.dirty import Dirty, Paths, below_roots
from sidecar.sync.line import Base, Line
from sidecar.sync.look import Hints as LookHints
from sidecar.sync.look import Look
from sidecar.sync.pace import Budget
from sidecar.sync.rights import Fenced, Tenure
from sidecar.sync.survey import Surveyor
from sidecar.sync.watch import Watcher


class Engine:
    """Keeps the store one sync behind the disk. Can't be made without a base: see ``line``."""

    def __init__(
        self,
        base: Base,
        store: Store,
        index: Index,
        tenure: Tenure | None,
        options: Options,
        state: State,
        budget: Budget,
        devices: dict[str, int | None],
    ) -> None:
        self.line = Line(store, base, tenure, budget)
        self.store, self.index, self.tenure = store, index, tenure
        self.options, self.state, self.budget = options, state, budget
        self.bulletin = Bulletin(state)
        surveyor = Surveyor(options.roots, index, options.patterns, options.own, devices)
        self.snapshotter = Snapshotter(self.line, index, surveyor, options, state, self.bulletin)
        self.rides = self.snapshotter.rides
        self.on_fenced: Callable[[], None] = lambda: None
        self.left: frozenset[SnapshotId] | None = None
        """Once fenced: the snapshots of which one is the last that it put on the main line."""
        self.lock = asyncio.Lock()
        """Held by whatever commits."""
        self.wake = asyncio.Event()
        """Set where the loop has to think again of what is due."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be woken
                loop.call_soon_threadsafe(self._hinted)

        self.dirty = Dirty(options.roots, wake)
        self.watcher = Watcher([r.path for r in options.roots], self.dirty.hints, self._ignored)
        self.confirming: dict[str, int] = {}
        """What was held when the rescan came that may confirm it."""
        self.seen_by_hand: Mapping[str, int] = {}
        """Mass deletions that a `sidecar sync` without an agent has seen before, and may confirm."""
        self.not_before = 0.0
        """When an automatic snapshot may be tried again after failures (monotonic)."""
        self._failures = 0
        self._retired = self._over = False
        self._checkpoint: asyncio.Task[Result] | None = None
        self._begun: asyncio.Task[Any] | None = None  # the checkpoint that has its turn, or had it last

    def _ignored(self, path: str) -> bool:
        return f"/{STAGING_PREFIX}" in path or any(path == p or path.startswith(p + "/") for p in self.options.own)

    def _hinted(self) -> None:
        self.dirty.hinted()
        self.bulletin.pending(self.dirty.waiting(), self.dirty.first)
        self.wake.set()

    def everything(self) -> None:
        """Look at every entry at the next sync."""
        self.dirty.everything()
        self.wake.set()

    def along(self, files: Mapping[str, bytes]) -> None:
        """Put ``files`` (store paths) with the next commit, or by themselves where none is due soon."""
        self.rides.put(files)
        self.wake.set()

    # --- one snapshot ---------------------------------------------------------------------------------------------

    async def snapshot(self, why: Why, until: float | None = None, forget: str = "") -> Result:
        """Look, stage and commit once. ``until`` is a monotonic time; past it the attempt is given up.

        At or under ``forget`` (an entry's path) the new snapshot has nothing any more that it only carried forward.

        Never raises for what a store or a disk does: the result says it.
        """
        until = until if until is not None else time.monotonic() + 3600
        try:
            if why == "final" and self.lock.locked():
                await self._make_way(until)
            else:
                await asyncio.wait_for(self.lock.acquire(), max(until - time.monotonic(), 0.01))
        except TimeoutError:
            return outcome.still_busy(self.state.sync.error)
        try:
            return await self.take(why, until, forget)
        finally:
            self.lock.release()

    async def _make_way(self, until: float) -> None:
        """Take the lock for the last sync: a small commit that hangs is cut while there is time for another.

        A large one may need all of the time, and would only begin anew. Raises TimeoutError.
        """
        left = max(until - time.monotonic(), 0.01)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.lock.acquire(), left / 2)
            return
        if self.snapshotter.weight <= SMALL:
            self.line.cut()
        await asyncio.wait_for(self.lock.acquire(), left / 2)

    async def take(self, why: Why, until: float, forget: str = "") -> Result:
        """As ``snapshot``, for who has the lock."""
        if self._retired or (self.over and why != "final"):
            return Result(False, error="nothing is synced any more from here: ask again", code="unavailable")
        began = time.monotonic()
        dirty, first = self.dirty.take()
        folder = self.options.state_dir / "staging" / f"{os.getpid()}-{time.monotonic_ns()}"
        attempt = Attempt(why, self._look(why, dirty, forget), folder, until, first)
        try:
            result = await self.snapshotter.make(attempt, self.dirty.more)
        except Exception as error:
            if isinstance(error, Fenced):
                self.fenced()
            result = outcome.failed(error, self.options.state_dir)
        finally:
            await asyncio.to_thread(remove, folder)
        if result.ok:
            self.confirming = {}
            # What waits for the lock meanwhile would begin behind the last one, and be killed in its middle.
            self._over = why == "final"
        if result.ok and self.snapshotter.roomless:
            self._short_of_room(first)
        elif result.ok:
            self._failures, self.not_before = 0, 0.0
            self.bulletin.good(self.dirty.waiting(), self.dirty.first or time.monotonic(), began)
        else:
            self._bad(result, dirty, first)
        if result.changed >= heap.MANY and why != "final":
            await asyncio.to_thread(heap.give_back)
        return result

    def _look(self, why: Why, dirty: Paths, forget: str) -> Look:
        full = dirty is None or why != "automatic"
        hints: LookHints = None if full or dirty is None else {**dirty, **dict.fromkeys(self.snapshotter.held)}
        return Look(
            hints,
            # Not just any look at everything: a sync that is tried again looks anew within a second.
            confirm_held=self.confirming if full and why == "automatic" else self.seen_by_hand,
            confirm_present=why == "checkpoint" and self.state.main_state == "running",
            reassert=self.snapshotter.reassert,
            still=why == "final",
            paced=why == "automatic",
            forget=forget,
        )

    def _bad(self, result: Result, dirty: Paths, first: float) -> None:
        """Nothing of it is durable: all of it is dirty still."""
        self.dirty.put_back(dirty, first)
        self._failures += 1
        self.not_before = time.monotonic() + pace.backoff(self._failures, retry_after=result.retry_after)
        self.bulletin.bad(result, self.dirty.waiting(), self.dirty.first)

    def _short_of_room(self, first: float) -> None:
        """All is durable but what there was no room to copy: that is tried again, and holds up nothing else."""
        roomless = self.snapshotter.roomless
        path, why = min(roomless.items())
        result = Result(False, error=f"{path!r}: {why}. Free some disk space", code="no-room")
        self._bad(result, below_roots(roomless, [root.name for root in self.options.roots]), first)
        self.not_before = min(self.not_before, time.monotonic() + self.options.max_delay_s)

    def fenced(self) -> None:
        """Another instance holds the lease: what is written from here on goes to a branch of our own."""
        if self.state.lease != "fenced":
            branch = f"fenced/{self.options.instance}"
            self.left = self.line.sent()
            self.bulletin.fenced(branch)
            self.line.fork(branch)
            self.everything()
            self.on_fenced()

    @property
    def over(self) -> bool:
        """Whether nothing is synced from here any more: the last sync went through, or another engine goes on."""
        return self._over or self._retired

    async def hold_still(self, seconds: float) -> bool:
        """Sync nothing until ``go_on``; False where a sync is under way for longer than ``seconds``."""
        try:
            await asyncio.wait_for(self.lock.acquire(), seconds)
        except TimeoutError:
            return False
        return True

    def go_on(self, *, retired: bool) -> None:
        """Sync again; ``retired``: never again, another engine has the index now."""
        self._retired = retired
        self.lock.release()

    # --- verbs ----------------------------------------------------------------------------------------------------

    async def prune(self, retention: history.Retention, dry_run: bool = False) -> history.Plan:
        """Let go of old snapshots, with nobody asking for the lease meanwhile. Raises Fenced, Edited, SidecarErrors.

        A squash renames the head and has no parent check: it is read again afterwards.
        """
        if dry_run:
            return await history.look(self.store, retention)
        async with self.lock:
            await self.snapshotter.settle_unclear(time.monotonic() + 60)
            if self.snapshotter.reassert or self.line.lost:
                # A squash would take away what the history tells of an edit, and of who has written.
                raise TryLater("somebody edited the store: the next sync puts that right, then history can be pruned")
            if await self.line.heed(30) != "mine" or (self.tenure is not None and self.tenure.handing):
                raise TryLater("a new instance asks for the lease: nothing was pruned")
            found = await history.look(self.store, retention)
            began = time.monotonic()
            for _ in range(await history.carry_out(self.store, found)):
                self.budget.note(began, automatic=False)
            await self.line.heed(60)
            if self.line.head is not None and self.line.snapshot is not None:
                await asyncio.to_thread(self.index.moved, self.line.head)
                self.state.sync.revision = self.line.head
            return found

    async def checkpoint(self) -> Result:
        """A snapshot whose look at every entry began after this call; calls that come while one waits share it."""
        waiting = self._checkpoint
        if waiting is None or waiting.done() or waiting is self._begun:
            waiting = self._checkpoint = asyncio.create_task(self._one_checkpoint())
        return await asyncio.shield(waiting)

    async def _one_checkpoint(self) -> Result:
        async with self.lock:
            self._begun = asyncio.current_task()
            now = time.monotonic()
            wait = self.budget.checkpoint_at(now) - now
            refused = outcome.no_checkpoint(self.line.branch, self.state.lease, wait)
            return refused or await self.take("checkpoint", time.monotonic() + 600)

    async def final(self, until: float, *, why: Why = "final", forget: str = "") -> Result:
        """The last snapshot and the release of the lease in one commit; tried until ``until`` (monotonic)."""
        failures = 0
        while True:
            result = await self.snapshot(why, until, forget)
            if result.ok or result.code in ("fenced", "denied"):
                return result
            failures += 1
            wait = pace.backoff(failures, 0.3, 2.0)
            if time.monotonic() + wait >= until:
                return result
            await asyncio.sleep(wait)
