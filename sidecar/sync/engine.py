"""The sync engine: watch -> debounce -> snapshot -> commit, for as long as main lives, and once more after it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sidecar import log
from sidecar.errors import EX_FAILED, SidecarError, TryLater
from sidecar.roots import Root
from sidecar.snapshot import machine
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import LEASE, SnapshotId, root_of, snapshot_in
from sidecar.state import State
from sidecar.stores.base import Denied, Refused, Revision, Source, Store, StoreError, Unavailable
from sidecar.sync import heap, history, pace
from sidecar.sync.bulletin import Bulletin, Result
from sidecar.sync.edits import keep_edits
from sidecar.sync.line import Base, Line
from sidecar.sync.look import Hints as LookHints
from sidecar.sync.look import Look, Survey
from sidecar.sync.mend import carried, strays
from sidecar.sync.pace import Budget
from sidecar.sync.pack import pack, unpack_failed
from sidecar.sync.rights import Edited, Fenced, Tenure, Withdrawn
from sidecar.sync.survey import Surveyor
from sidecar.sync.watch import Hints, Watcher

SMALL = 1024 * 1024
"""Bytes that a store takes in a moment: a commit of no more that gets no answer is a commit that hangs."""

SOME = 50
"""Commits of a history, among which the newest snapshot is: lease commits and edits stand before it."""

EDITS = 4
"""How often one sync is planned anew because somebody edits the store."""

ALONE_S = 10.0
"""What is to go along with a commit waits so long for one before it goes alone: a start that ends sooner has one."""
ALONE_AGAIN_S = 60.0

CHECK_S = 5.0
"""How often is made sure that the folders that are watched are still the roots."""

Why = Literal["automatic", "checkpoint", "asked", "stop", "final", "handoff"]


@dataclass(frozen=True, slots=True)
class Options:
    """What the engine needs of the settings; times in seconds."""

    roots: Sequence[Root]
    patterns: Sequence[str]
    own: Sequence[str]
    quiet_s: float
    max_delay_s: float
    rescan_s: float
    state_dir: Path
    store_id: str
    space: str
    instance: str
    version: str


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
        self.surveyor = Surveyor(options.roots, index, options.patterns, options.own, devices)
        self.rides: dict[str, bytes] = {}
        self._alone_at = 0.0
        self.on_fenced: Callable[[], None] = lambda: None
        self.before_last: Callable[[], Awaitable[None]] | None = None
        """Done before the look whose snapshot lets go of the lease."""
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be woken
                loop.call_soon_threadsafe(self._hinted)

        self._hints = Hints(wake)
        self._watcher = Watcher([r.path for r in options.roots], self._hints, self._ignored)
        self._dirty: dict[str, set[str]] | None = {}  # root -> paths; None: everything
        self._first = self._last = 0.0
        self._held: dict[str, int] = {}
        self._confirming: dict[str, int] = {}  # what was held when the rescan came that may confirm it
        self._refused: set[str] = set()
        self._reassert = False
        self._roomless: dict[str, str] = {}
        self._later: dict[str, float] = {}  # large databases whose turn comes then
        self._from: str | None = None
        self._edits_at: Revision | None = None  # the head of whose edits there is a copy
        self.left: frozenset[SnapshotId] | None = None
        """Once fenced: the snapshots of which one is the last that it put on the main line."""
        self._retired = False
        self._failures = 0
        self._not_before = 0.0
        self._checkpoint: asyncio.Task[Result] | None = None
        self._weight = 0  # bytes of the commit that is, or was, under way

    # --- watching -------------------------------------------------------------------------------------------------

    def _ignored(self, path: str) -> bool:
        return f"/{STAGING_PREFIX}" in path or any(path == p or path.startswith(p + "/") for p in self.options.own)

    def _hinted(self) -> None:
        now = time.monotonic()
        self._first = self._first or now
        self._last = now
        self.bulletin.pending(self._waiting(), self._first)
        self._wake.set()

    def _waiting(self) -> int:
        return self._hints.waiting() + (1 if self._dirty is None else sum(map(len, self._dirty.values())))

    def everything(self) -> None:
        """Look at every entry at the next sync."""
        self._dirty = None
        self._first = self._first or time.monotonic()
        self._wake.set()

    def along(self, files: Mapping[str, bytes]) -> None:
        """Put ``files`` (store paths) with the next commit, or by themselves where none is due soon."""
        self.rides.update(files)
        self._alone_at = time.monotonic() + ALONE_S
        self._wake.set()

    def _collect(self) -> None:
        paths, everything = self._hints.take()
        if everything:
            self._dirty = None
        if self._dirty is None:
            return
        for name, relatives in self._by_root(paths).items():
            self._dirty.setdefault(name, set()).update(relatives)

    def _by_root(self, paths: Iterable[str]) -> dict[str, set[str]]:
        out: dict[str, set[str]] = {}
        for path in paths:
            for root in self.options.roots:
                if path == root.path or path.startswith(root.path + "/"):
                    out.setdefault(root.name, set()).add(path[len(root.path) :].lstrip("/"))
        return out

    def _more(self) -> dict[str, set[str]]:
        """What was hinted since a look began; from any thread."""
        return self._by_root(self._hints.peek())

    # --- the loop -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch and sync until cancelled. What goes wrong is said, kept in the state and tried again."""
        starting = asyncio.ensure_future(asyncio.to_thread(self._watcher.start))
        try:
            await asyncio.shield(starting)
            await asyncio.to_thread(heap.give_back)  # what the restore needed
            self.state.sync.watcher = self._watcher.kind
            self.everything()
            next_rescan, next_check = self._rescan_after(), time.monotonic() + CHECK_S
            self._last = 0.0  # the difference to what was restored goes at once
            while True:
                now = time.monotonic()
                if now >= next_rescan:
                    self.everything()
                    self._last = 0.0
                    self._confirming = self._held
                    next_rescan = self._rescan_after()
                if now >= next_check:
                    next_check = now + CHECK_S
                    if await asyncio.to_thread(self._watcher.stale):
                        await asyncio.to_thread(self._watcher.refresh)
                        self.state.sync.watcher = self._watcher.kind
                        self.everything()  # nobody has told what happened there until now
                self._take_up(now)
                at = self._due(now)
                if at is not None and at <= now:
                    await self.snapshot("automatic")
                    continue
                alone = self._alone(now) if at is None else None
                if alone is not None and alone <= now:
                    await self._send_rides()
                    continue
                self._wake.clear()
                times = (at, alone, next_rescan, next_check, *self._later.values())
                wait = min(t for t in times if t is not None) - now
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), max(wait, 0.01))
        finally:
            await asyncio.wait({starting})  # a start that is under way can't be stopped
            await asyncio.to_thread(self._watcher.stop)

    def _rescan_after(self) -> float:
        return time.monotonic() + self.options.rescan_s * (0.9 + 0.2 * random.random())

    def _due(self, now: float) -> float | None:
        if not self._first:
            return None
        last = max(self._last, self._hints.last) if self._last else 0.0
        at = pace.due(self._first, last, self.options.quiet_s, self.options.max_delay_s)
        return max(at, self._not_before, self.budget.automatic_at(now))

    def _alone(self, now: float) -> float | None:
        """When what rides goes without a snapshot; None where there is nothing, or where no snapshot was made yet."""
        if not self.rides or self.line.snapshot is None or self.line.branch is not None or self._from is not None:
            return None
        return max(self._alone_at, self.budget.automatic_at(now))

    async def _send_rides(self) -> None:
        """One small commit that makes no snapshot. Never raises; what fails is tried again."""
        async with self._lock:
            self._alone_at = time.monotonic() + ALONE_AGAIN_S
            self._weight, rides = 0, dict(self.rides)
            title = f"sidecar: recovery record of {self.options.instance}"
            until = time.monotonic() + 60
            try:
                await self._settle_unclear(until)
                await self.line.commit(rides, [], title, automatic=True, until=until)
                self._sent(rides)
            except Fenced:
                self._fenced()
            except Withdrawn:
                self._stays()
            except Edited:
                await self._edited()
                self.everything()
            except SidecarError as error:
                log.debug(f"the recovery record could not be sent, and waits: {error}")

    def _sent(self, rides: Mapping[str, bytes]) -> None:
        self.rides = {path: data for path, data in self.rides.items() if rides.get(path) is not data}

    # --- one snapshot ---------------------------------------------------------------------------------------------

    async def snapshot(self, why: Why, until: float | None = None, forget: str = "") -> Result:
        """Look, stage and commit once. ``until`` is a monotonic time; past it the attempt is given up.

        At or under ``forget`` (an entry's path) the new snapshot has nothing any more that it only carried forward.

        Never raises for what a store or a disk does: the result says it.
        """
        until = until if until is not None else time.monotonic() + 3600
        try:
            if why == "final" and self._lock.locked():
                await self._make_way(until)
            else:
                await asyncio.wait_for(self._lock.acquire(), max(until - time.monotonic(), 0.01))
        except TimeoutError:
            why_not = self.state.sync.error or "the store has not answered yet"
            return Result(False, error=f"another sync was still under way: {why_not.rstrip('.')}", code="timeout")
        try:
            return await self._snapshot(why, until, forget)
        finally:
            self._lock.release()

    async def _make_way(self, until: float) -> None:
        """Take the lock for the last sync: a small commit that hangs is cut while there is time for another.

        A large one may need all of the time, and would only begin anew. Raises TimeoutError.
        """
        left = max(until - time.monotonic(), 0.01)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._lock.acquire(), left / 2)
            return
        if self._weight <= SMALL:
            self.line.cut()
        await asyncio.wait_for(self._lock.acquire(), left / 2)

    async def _snapshot(self, why: Why, until: float, forget: str = "") -> Result:
        if self._retired:
            return Result(False, error="another engine goes on from here: ask again", code="unavailable")
        began = time.monotonic()
        self._collect()
        dirty, self._dirty = self._dirty, {}
        first, self._first = self._first or time.monotonic(), 0.0
        full = dirty is None or why != "automatic"
        hints: LookHints = None if full or dirty is None else {**dirty, **dict.fromkeys(self._held)}
        look = Look(
            hints,
            # Not just any look at everything: a sync that is tried again looks anew within a second.
            confirm_held=self._confirming if full and why == "automatic" else {},
            confirm_present=why == "checkpoint" and self.state.main_state == "running",
            reassert=self._reassert,
            still=why == "final",
            paced=why == "automatic",
            forget=forget,
        )
        folder = self.options.state_dir / "staging" / f"{os.getpid()}-{time.monotonic_ns()}"
        try:
            result = await self._attempt(why, look, folder, until, first)
        except Fenced:
            self._fenced()
            result = Result(False, error="another instance holds the lease now", code="fenced")
        except (OSError, sqlite3.OperationalError) as error:  # the last is the index's, on a full disk
            why_not, code = machine.staging_failed(error, self.options.state_dir)
            result = Result(False, error=why_not, code=code)
        except sqlite3.DatabaseError as error:
            log.error(f"the local index is damaged ({error}): the agent ends; a new one makes it anew from the files")
            os._exit(EX_FAILED)
        except Denied as error:
            result = Result(False, error=error.message, code="denied")
        except Unavailable as error:
            result = Result(False, error=error.message, code="unavailable", retry_after=error.retry_after)
        except SidecarError as error:
            result = Result(False, error=error.message, code="failed")
        except Exception as error:  # a fault of ours must not end all syncing for good
            log.error(f"a sync failed in a way that it should not: {type(error).__name__}: {error}", exc_info=True)
            result = Result(False, error=f"{type(error).__name__} in the sidecar itself", code="failed")
        finally:
            await asyncio.to_thread(_remove, folder)
        if result.ok:
            self._confirming = {}
        if result.ok and self._roomless:
            self._short_of_room(first)
        elif result.ok:
            self._failures, self._not_before = 0, 0.0
            self.bulletin.good(self._waiting(), self._first or time.monotonic(), began)
        else:
            self._bad(result, dirty, first)
        if result.changed >= heap.MANY and why != "final":
            await asyncio.to_thread(heap.give_back)
        return result

    async def _attempt(self, why: Why, look: Look, folder: Path, until: float, first: float) -> Result:
        if why in ("final", "handoff") and self.before_last is not None:
            await self.before_last()
        await self._settle_unclear(until)
        edits = 0
        while edits < EDITS:
            await asyncio.to_thread(_fresh, folder)
            try:
                return await self._once(why, look, folder, until, first)
            except Edited:
                await asyncio.to_thread(self.index.discard)
                await self._edited()
                edits += 1
                look = replace(look, hints=None, reassert=True)
            except Withdrawn:
                await asyncio.to_thread(self.index.discard)
                self._stays()
                why = "asked"
            except Refused as error:
                await asyncio.to_thread(unpack_failed, self.index)
                if error.path in self._refused:
                    raise  # in a bundle it is already: this can't be mended
                log.warning(f"{error.path!r} goes into a bundle: {error.message}")
                self._refused.add(error.path)
        raise Unavailable("the store's head moves faster than we can follow; the next sync tries again")

    async def _once(self, why: Why, look: Look, folder: Path, until: float, first: float) -> Result:
        """Look, and commit what is worth it. Raises what `Line.commit` does."""
        survey = await self.line.patiently(asyncio.to_thread(self.surveyor.look, look, folder, self._more))
        self.bulletin.held(survey, self._held.keys())
        due = {path: time.monotonic() + wait for path, wait in survey.deferred.items()}
        self._later = due if look.hints is None else self._later | due
        self.bulletin.looked(survey, self._later)
        self._held = dict(survey.held)
        self._roomless = {path: survey.unreadable[path] for path in survey.roomless if path in survey.unreadable}
        closing = why in ("final", "handoff")
        if not (survey.reason or closing or look.reassert) and self.line.snapshot is not None:
            if why == "checkpoint" and self.line.branch is None:
                await self.line.heed(until - time.monotonic())
            return self._result(survey, 0)
        if survey.confirmed and self.line.snapshot is not None:
            await self.line.keep(f"kept/{self.line.snapshot}")
        if self._from is not None:
            left = await self._left()
            await self.line.keep(f"damaged/{left}")
            self.state.note(
                "damaged-head",
                f"SIDECAR_REVISION={self._from}: snapshot {left}, the newest at the start, is kept on branch"
                f" damaged/{left}; what this Space saves goes on from {self._from}",
            )
        number = self.line.next_id()
        again: dict[str, Source] = {}
        if look.reassert:
            await self._keep_edits()
            taken = await self.line.patiently(carried(self.store, self.line.ours, survey, self.index, folder))
            survey.staged.extend(taken.staged)
            again = taken.put
        packing = asyncio.to_thread(
            pack,
            survey,
            self.index,
            folder,
            number,
            self.line.snapshot,
            self.options,
            frozenset(self._refused),
            anew=look.reassert,
            compacting=why in ("automatic", "asked") and not look.reassert,
        )
        package = await self.line.patiently(packing)
        rides = {p: data for p, data in self.rides.items() if p != LEASE or self.line.branch is None}
        again = {path: source for path, source in again.items() if path in package.parts}
        put, delete = {**again, **package.put, **rides}, package.delete
        if look.reassert:
            delete = [*delete, *await strays(self.store, self.line.head, package.parts)]
        title = package.title + (f" (from {self._from})" if self._from else "")
        message = f"{title}\n\n{package.body}"
        if self.tenure is not None and self.line.branch is None and (closing or self.line.lost):
            put[LEASE] = self.tenure.released(clean=True) if closing else self.tenure.held()
        self._weight = package.bytes
        revision = await self.line.commit(put, delete, message, automatic=why == "automatic", until=until)
        self.bulletin.totals(await asyncio.to_thread(self._promote, revision))
        self.line.snapshot, self._reassert, self._from = number, False, None
        self._sent(rides)
        self.state.commits_hour, self.state.commits_paced = self.budget.in_hour(time.monotonic())
        lag = time.monotonic() - first
        self.bulletin.durable(number, revision, package.changed, package.bytes, lag, self.line.branch)
        return self._result(survey, package.changed)

    async def _keep_edits(self) -> None:
        """Before our snapshot goes on top of somebody's edit: a copy of what they changed. Raises StoreError."""
        head = self.line.head
        if self._from is not None or self.line.branch is not None or head == self._edits_at:
            return
        keeping = keep_edits(self.store, self.line.ours, head, self.index, self.options.state_dir)
        try:
            found = str(await self.line.patiently(keeping))
        except OSError as error:
            found = f"no copy could be made of it ({error.strerror or error}): the store's history has it"
        self._edits_at = head
        if found:
            log.warning(f"of the edit in the store: {found}")

    async def _edited(self) -> None:
        """The store was edited by hand, and its lease is ours still: put all of our snapshot there again."""
        self._reassert = True
        self.bulletin.edited()

    async def _settle_unclear(self, until: float) -> None:
        """What the last commit put is still pending in the index: promote it if it got through after all."""
        title = await self.line.resolve(until)
        number, revision = await asyncio.to_thread(self.index.pending), self.line.head
        if title is None or number is None or revision is None or snapshot_in(title) != str(number):
            return
        await asyncio.to_thread(self.index.promote, self.options.store_id, revision)
        self.line.snapshot = number
        self._reassert, self._from = False, None
        self.state.sync.snapshot, self.state.sync.revision = str(number), revision
        log.debug(f"{number} was committed after all")

    def _promote(self, revision: str) -> dict[str, tuple[int, int]]:
        self.index.promote(self.options.store_id, revision)
        return {root.name: self.index.totals(root.name) for root in self.options.roots}

    def _result(self, survey: Survey, changed: int) -> Result:
        snapshot = str(self.line.snapshot) if self.line.snapshot else None
        return Result(True, snapshot, self.line.head, changed, troubled=survey.trouble(), held=dict(survey.held))

    # --- what came of it ------------------------------------------------------------------------------------------

    def _bad(self, result: Result, dirty: dict[str, set[str]] | None, first: float) -> None:
        """Nothing of it is durable: all of it is dirty still."""
        self._first = min(first, self._first) if self._first else first
        if dirty is None or self._dirty is None:
            self._dirty = None
        else:
            for root, paths in dirty.items():
                self._dirty.setdefault(root, set()).update(paths)
        self._failures += 1
        self._not_before = time.monotonic() + pace.backoff(self._failures, retry_after=result.retry_after)
        self.bulletin.bad(result, self._waiting(), self._first)

    def _short_of_room(self, first: float) -> None:
        """All is durable but what there was no room to copy: that is tried again, and holds up nothing else."""
        dirty = self._below_roots(self._roomless)
        path, why = min(self._roomless.items())
        self._bad(Result(False, error=f"{path!r}: {why}. Free some disk space", code="no-room"), dirty, first)
        self._not_before = min(self._not_before, time.monotonic() + self.options.max_delay_s)

    def _take_up(self, now: float) -> None:
        """Look at the large databases whose turn it is."""
        due = [path for path, at in self._later.items() if at <= now]
        for path in due:
            del self._later[path]
        if due and self._dirty is not None:
            for name, relatives in self._below_roots(due).items():
                self._dirty.setdefault(name, set()).update(relatives)
        if due:
            self._first = self._first or now

    def _below_roots(self, entries: Iterable[str]) -> dict[str, set[str]]:
        out: dict[str, set[str]] = {}
        for path in entries:
            name = root_of(path, (root.name for root in self.options.roots))
            if name is not None:
                out.setdefault(name, set()).add(path[len(name) + 1 :])
        return out

    def _fenced(self) -> None:
        if self.state.lease != "fenced":
            branch = f"fenced/{self.options.instance}"
            self.left = self.line.sent()
            self.bulletin.fenced(branch)
            self.line.fork(branch)
            self.everything()
            self.on_fenced()

    async def _left(self) -> str:
        """What the head that we don't go on from is called: its snapshot's id, which no squash renames."""
        try:
            history = await asyncio.wait_for(self.store.history(SOME), 60)
        except TimeoutError:
            raise Unavailable(f"{self.store.url} gave no answer in time") from None
        found = next((n for commit in history if (n := snapshot_in(commit.title)) is not None), None)
        return found or (self.line.head or "")[:12]

    def goes_on_from(self, chosen: str, source: Revision | None) -> None:
        """The disk holds snapshot ``chosen`` of revision ``source``, not the head.

        The first commit puts all of it, and keeps the head.
        """
        self._from, self._reassert, self.line.ours = chosen, True, source

    async def heed_lease(self) -> None:
        """Hand the lease over where somebody asks for it; stop writing where somebody has it. Never raises."""
        if self.tenure is None or self.line.branch is not None:
            return
        try:
            head = await asyncio.wait_for(self.store.head(), 30)
            if head == self.line.head and not (self.line.requested or self.tenure.handing):
                return
            async with self._lock:
                if self.state.lease != "held":
                    return
                verdict = await self.line.heed(30)
                if verdict == "withdrawn":
                    self._stays()
                elif verdict == "requested" or self.tenure.handing:
                    await self._hand_over(self.tenure)
        except Fenced:
            self._fenced()
        except Withdrawn:
            self._stays()
        except Edited:
            await self._edited()
            self.everything()
        except (StoreError, TimeoutError) as error:
            log.debug(f"the lease can't be looked at now: {error}")

    async def _hand_over(self, tenure: Tenure) -> None:
        """Answer that we do, make the last snapshot, and release the lease with it. What fails is tried again."""
        if not tenure.handing:
            log.info("a new instance asks for the lease: handing over")
        until = time.monotonic() + 600
        self.rides.pop(LEASE, None)
        await self.line.answer(until)
        self.line.requested = False
        if (await self._snapshot("handoff", until)).ok and tenure.handing:
            self._fenced()

    def _stays(self) -> None:
        """Who asked for the lease asks no more, in the middle of the hand-over."""
        self.line.requested = False
        log.info("the new instance asks for the lease no more: it stays ours")

    async def hold_still(self, seconds: float) -> bool:
        """Sync nothing until ``go_on``; False where a sync is under way for longer than ``seconds``."""
        try:
            await asyncio.wait_for(self._lock.acquire(), seconds)
        except TimeoutError:
            return False
        return True

    def go_on(self, *, retired: bool) -> None:
        """Sync again; ``retired``: never again, another engine has the index now."""
        self._retired = retired
        self._lock.release()

    # --- verbs ----------------------------------------------------------------------------------------------------

    async def prune(self, retention: history.Retention, dry_run: bool = False) -> history.Plan:
        """Let go of old snapshots, with nobody asking for the lease meanwhile. Raises Fenced, Edited, SidecarErrors.

        A squash renames the head and has no parent check: it is read again afterwards.
        """
        if dry_run:
            return await history.look(self.store, retention)
        async with self._lock:
            await self._settle_unclear(time.monotonic() + 60)
            if self._reassert or self.line.lost:
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
        if waiting is None or waiting.done() or self._lock_started(waiting):
            waiting = self._checkpoint = asyncio.create_task(self._one_checkpoint())
        return await asyncio.shield(waiting)

    def _lock_started(self, task: asyncio.Task[Result]) -> bool:
        return self._started is task

    _started: asyncio.Task[Result] | None = None

    async def _one_checkpoint(self) -> Result:
        async with self._lock:
            self._started = asyncio.current_task()
            if self.line.branch is not None:
                why = "another instance holds the lease" if self.state.lease == "fenced" else "recovery failed"
                error = f"{why}: what main writes goes to branch {self.line.branch}, not to the main line"
                return Result(False, error=error, code="fenced")
            at = self.budget.checkpoint_at(time.monotonic())
            if at > time.monotonic():
                wait = at - time.monotonic()
                return Result(
                    False,
                    error=f"the commit ceiling is reached; the next goes in {wait:.0f} s",
                    retry_after=wait,
                )
            return await self._snapshot("checkpoint", time.monotonic() + 600)

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


def _fresh(folder: Path) -> None:
    """Make ``folder`` anew; whatever stands beside it is what a killed agent was staging."""
    _remove(folder.parent)
    folder.mkdir(parents=True, mode=0o700)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
