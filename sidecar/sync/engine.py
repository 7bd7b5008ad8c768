"""The sync engine: watch -> debounce -> snapshot -> commit, for as long as main lives, and once more after it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sidecar import log
from sidecar.errors import SidecarError
from sidecar.roots import Root
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import LEASE
from sidecar.snapshot.stage import NoRoom
from sidecar.state import State
from sidecar.stores.base import Denied, Refused, Store, StoreError, Unavailable
from sidecar.sync import pace
from sidecar.sync.line import Base, Edited, Fenced, Line, Tenure
from sidecar.sync.pace import Budget
from sidecar.sync.pack import Package, pack, unpack_failed
from sidecar.sync.survey import Hints as LookHints
from sidecar.sync.survey import Look, Survey, Surveyor
from sidecar.sync.watch import Hints, Watcher

SMALL = 1024 * 1024
"""Bytes that a store takes in a moment: a commit of no more that gets no answer is a commit that hangs."""

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


@dataclass(frozen=True, slots=True)
class Result:
    """What a snapshot came to: the durable one that holds all of it (new or not), or why there is none."""

    ok: bool
    snapshot: str | None = None
    revision: str | None = None
    changed: int = 0
    error: str = ""
    code: Literal["", "fenced", "unavailable", "denied", "no-room", "failed", "timeout"] = ""
    retry_after: float | None = None
    troubled: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)


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
        self.surveyor = Surveyor(options.roots, index, options.patterns, options.own, devices)
        self.rides: dict[str, bytes] = {}
        self.on_fenced: Callable[[], None] = lambda: None
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._hinted)

        self._hints = Hints(wake)
        self._watcher = Watcher([r.path for r in options.roots], self._hints, self._ignored)
        self._dirty: dict[str, set[str]] | None = {}  # root -> paths; None: everything
        self._first = self._last = 0.0
        self._held: frozenset[str] = frozenset()
        self._refused: set[str] = set()
        self._reassert = False
        self._from: str | None = None
        self._failures = 0
        self._not_before = 0.0
        self._last_log = float("-inf")
        self._suppressed = 0
        self._denied_logged = False
        self._checkpoint: asyncio.Task[Result] | None = None
        self._weight = 0  # bytes of the commit that is, or was, under way

    # --- watching -------------------------------------------------------------------------------------------------

    def _ignored(self, path: str) -> bool:
        return f"/{STAGING_PREFIX}" in path or any(path == p or path.startswith(p + "/") for p in self.options.own)

    def _hinted(self) -> None:
        now = time.monotonic()
        self._first = self._first or now
        self._last = now
        self.state.sync.pending_since_mono = self.state.sync.pending_since_mono or now
        self.state.sync.pending = self._hints.waiting() + self._waiting()
        self._wake.set()

    def _waiting(self) -> int:
        return 1 if self._dirty is None else sum(map(len, self._dirty.values()))

    def everything(self) -> None:
        """Look at every entry at the next sync."""
        self._dirty = None
        self._first = self._first or time.monotonic()
        self._wake.set()

    def _collect(self) -> None:
        paths, everything = self._hints.take()
        if everything:
            self._dirty = None
        if self._dirty is None:
            return
        for path in paths:
            for root in self.options.roots:
                if path == root.path or path.startswith(root.path + "/"):
                    self._dirty.setdefault(root.name, set()).add(path[len(root.path) :].lstrip("/"))

    # --- the loop -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch and sync until cancelled. What goes wrong is said, kept in the state and tried again."""
        await asyncio.to_thread(self._watcher.start)
        self.state.sync.watcher = self._watcher.kind
        self.everything()
        next_rescan = self._rescan_after()
        self._last = 0.0  # the difference to what was restored goes at once
        try:
            while True:
                now = time.monotonic()
                if now >= next_rescan:
                    self.everything()
                    self._last = 0.0
                    next_rescan = self._rescan_after()
                    await asyncio.to_thread(self._watcher.refresh)
                    self.state.sync.watcher = self._watcher.kind
                at = self._due(now)
                if at is not None and at <= now:
                    await self.snapshot("automatic")
                    continue
                self._wake.clear()
                wait = min(at if at is not None else next_rescan, next_rescan) - now
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), max(wait, 0.01))
        finally:
            await asyncio.to_thread(self._watcher.stop)

    def _rescan_after(self) -> float:
        return time.monotonic() + self.options.rescan_s * (0.9 + 0.2 * random.random())

    def _due(self, now: float) -> float | None:
        if not self._first:
            return None
        at = pace.due(self._first, self._last, self.options.quiet_s, self.options.max_delay_s)
        return max(at, self._not_before, self.budget.automatic_at(now))

    # --- one snapshot ---------------------------------------------------------------------------------------------

    async def snapshot(self, why: Why, until: float | None = None) -> Result:
        """Look, stage and commit once. ``until`` is a monotonic time; past it the attempt is given up.

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
            return await self._snapshot(why, until)
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

    async def _snapshot(self, why: Why, until: float) -> Result:
        self._collect()
        dirty, self._dirty = self._dirty, {}
        first, self._first = self._first or time.monotonic(), 0.0
        full = dirty is None or why != "automatic"
        hints: LookHints = None if full or dirty is None else {**dirty, **dict.fromkeys(self._held)}
        rescan = dirty is None and why == "automatic"
        look = Look(
            hints,
            confirm_held=self._held if rescan else frozenset(),
            confirm_present=why == "checkpoint" and self.state.main_state == "running",
            reassert=self._reassert,
        )
        folder = self.options.state_dir / "staging" / f"{os.getpid()}-{time.monotonic_ns()}"
        try:
            result = await self._attempt(why, look, folder, until, first)
        except Fenced:
            self._fenced()
            result = Result(False, error="another instance holds the lease now", code="fenced")
        except (NoRoom, OSError, sqlite3.OperationalError) as error:  # the last is the index's, on a full disk
            result = Result(False, error=f"staging failed: {_why(error)}. Free some disk space", code="no-room")
        except Denied as error:
            result = Result(False, error=error.message, code="denied")
        except Unavailable as error:
            result = Result(False, error=error.message, code="unavailable", retry_after=error.retry_after)
        except SidecarError as error:
            result = Result(False, error=error.message, code="failed")
        finally:
            await asyncio.to_thread(_remove, folder)
        if result.ok:
            self._succeeded()
        else:
            self._failed(result, dirty, first)
        return result

    async def _attempt(self, why: Why, look: Look, folder: Path, until: float, first: float) -> Result:
        await self._settle_unclear(until)
        for _ in range(4):
            await asyncio.to_thread(_fresh, folder)
            survey = await asyncio.to_thread(self.surveyor.look, look, folder)
            self._note(survey)
            closing = why in ("final", "handoff")
            if not (survey.reason or closing or look.reassert) and self.line.snapshot is not None:
                return self._result(survey, 0)
            if survey.confirmed and self.line.snapshot is not None:
                await self.line.keep(f"kept/{self.line.snapshot}")
            if self._from is not None:
                await self.line.keep(f"damaged/{(self.line.head or '')[:12]}")
            number = self.line.next_id()
            package = await asyncio.to_thread(
                pack,
                survey,
                self.index,
                folder,
                number,
                self.line.snapshot,
                self.options,
                frozenset(self._refused),
            )
            rides = dict(self.rides)
            put = {**package.put, **rides}
            title = package.title + (f" (from {self._from})" if self._from else "")
            if closing and self.tenure is not None and self.line.branch is None:
                put.update({LEASE: self.tenure.released(clean=True)})
            self._weight = package.bytes
            try:
                revision = await self.line.commit(put, package.delete, title, automatic=why == "automatic", until=until)
            except Edited:
                await asyncio.to_thread(self.index.discard)
                self._edited()
                look = Look(None, look.confirm_held, look.confirm_present, reassert=True)
                continue
            except Refused as error:
                await asyncio.to_thread(unpack_failed, self.index)
                log.warning(f"{error.path!r} goes into a bundle: {error.message}")
                self._refused.add(error.path)
                continue
            await asyncio.to_thread(self.index.promote, self.options.store_id, revision)
            self._durable(number, revision, package, survey, rides, first)
            return self._result(survey, package.changed)
        raise Unavailable("the store's head moves faster than we can follow; the next sync tries again")

    async def _settle_unclear(self, until: float) -> None:
        """What the last commit put is still pending in the index: promote it if it got through after all."""
        if not await self.line.resolve(until):
            return
        number, revision = await asyncio.to_thread(self.index.pending), self.line.head
        if number is not None and revision is not None:
            await asyncio.to_thread(self.index.promote, self.options.store_id, revision)
            self.line.snapshot = number
            self._reassert, self._from = False, None
            self.state.sync.snapshot, self.state.sync.revision = str(number), revision
            log.debug(f"{number} was committed after all")

    def _result(self, survey: Survey, changed: int) -> Result:
        troubled = {**survey.unreadable, **survey.stale}
        troubled.update({r.entry.path: r.entry.flag for r in self.index.flagged() if r.entry.path not in troubled})
        snapshot = str(self.line.snapshot) if self.line.snapshot else None
        return Result(True, snapshot, self.line.head, changed, troubled=troubled, held=dict(survey.held))

    # --- what came of it ------------------------------------------------------------------------------------------

    def _durable(
        self,
        number: object,
        revision: str,
        package: Package,
        survey: Survey,
        rides: Mapping[str, bytes],
        first: float,
    ) -> None:
        now = time.monotonic()
        sync = self.state.sync
        self.line.snapshot = package.snapshot
        self._reassert, self._from = False, None
        for path, data in rides.items():
            if self.rides.get(path) is data:
                del self.rides[path]
        sync.snapshot, sync.revision = str(number), revision
        sync.last_durable, sync.last_durable_mono = time.time(), now
        sync.lag_s = round(now - first, 3)
        self.count()
        self.state.commits_hour = len(self.budget.every)
        if self.state.commits_total is not None:
            self.state.commits_total += 1
        self.state.clear("cold-start")
        self._say_durable(package, now, sync.lag_s)

    def _say_durable(self, package: Package, now: float, lag: float) -> None:
        """At most one line a minute while all is well."""
        if now - self._last_log < 60 and not self.state.sync.error:
            self._suppressed += package.changed
            log.debug(f"durable {package.snapshot}: {package.changed} changed")
            return
        changed, self._suppressed, self._last_log = package.changed + self._suppressed, 0, now
        where = f" on branch {self.line.branch}" if self.line.branch else ""
        log.info(f"durable {package.snapshot}{where}: {changed:,} changed, {human(package.bytes)}, lag {lag:.1f} s")

    def _succeeded(self) -> None:
        sync = self.state.sync
        if sync.error:
            log.info(f"durable again after {time.time() - (sync.error_since or time.time()):.0f} s: {sync.snapshot}")
        sync.error, sync.error_since, sync.error_code, sync.denied = None, None, "", False
        self._failures, self._not_before = 0, 0.0
        sync.pending = self._hints.waiting() + self._waiting()
        sync.pending_since_mono = None if not sync.pending else (self._first or time.monotonic())

    def _failed(self, result: Result, dirty: dict[str, set[str]] | None, first: float) -> None:
        sync = self.state.sync
        self._first = min(first, self._first) if self._first else first
        if dirty is None or self._dirty is None:
            self._dirty = None
        else:
            for root, paths in dirty.items():
                self._dirty.setdefault(root, set()).update(paths)
        self._failures += 1
        self._not_before = time.monotonic() + pace.backoff(self._failures, retry_after=result.retry_after)
        sync.pending = max(self._hints.waiting() + self._waiting(), 1)
        sync.pending_since_mono = sync.pending_since_mono or self._first
        new = sync.error is None
        sync.error, sync.error_code, sync.denied = result.error, result.code, result.code == "denied"
        sync.error_since = sync.error_since or time.time()
        if new:
            since = time.strftime("%H:%M", time.localtime(sync.error_since))
            log.warning(f"not durable since {since}: {result.error}. Your files are safe on this disk only.")

    def _note(self, survey: Survey) -> None:
        if survey.held and set(survey.held) - self._held:
            for name in set(survey.held) - self._held:
                log.warning(
                    f"{survey.held[name]:,} entries of root {name!r} are gone at once: that looks like a fault, so the"
                    " store keeps them until the next rescan sees it again, or a checkpoint confirms it"
                )
        self._held = (self._held & set(survey.held)) | frozenset(survey.held)
        if self._held:
            self.state.note("held-deletion", f"a mass deletion is held back in: {', '.join(sorted(self._held))}")
        else:
            self.state.clear("held-deletion")
        sync, flagged = self.state.sync, self.index.flagged()
        trouble = {r.entry.path: r.entry.flag or "unreadable" for r in flagged}
        trouble.update(dict.fromkeys(survey.unreadable, "unreadable"))
        trouble.update(dict.fromkeys(survey.stale, "stale"))
        trouble.update({s.entry.path: s.entry.flag for s in survey.staged if s.entry.flag})
        for path, why in {**survey.unreadable, **survey.stale}.items():
            if path not in {f["path"] for f in sync.files}:
                log.warning(f"{path!r} can't be copied now ({why}): the store keeps what it has of it")
        sync.files = [{"path": p, "state": s} for p, s in sorted(trouble.items())[:100]]
        kinds = list(trouble.values())
        sync.unsettled, sync.stale = kinds.count("unsettled"), kinds.count("stale")
        sync.unreadable = len(kinds) - sync.unsettled - sync.stale
        sync.trouble_since_mono = (sync.trouble_since_mono or time.monotonic()) if kinds else None
        for root in self.options.roots:
            entry = self.state.roots[root.name]
            entry.excluded = survey.excluded.get(root.name, entry.excluded)
            entry.skipped = survey.skipped.get(root.name, entry.skipped)
            kind = survey.kinds.get(root.name, "absent")
            entry.state = kind if kind in ("absent", "unreadable") else "durable"
        self.count()

    def count(self) -> None:
        """Say in the state how much of each root is durable."""
        for name, entry in self.state.roots.items():
            entry.files, entry.bytes = self.index.totals(name)

    def _edited(self) -> None:
        self._reassert = True
        log.warning(
            "the store was edited by somebody else since our last snapshot. What this Space holds goes on top of"
            " it; files that no root names are left alone"
        )

    def _fenced(self) -> None:
        if self.state.lease != "fenced":
            branch = f"fenced/{self.options.instance}"
            log.warning(
                f"FENCED: another instance holds the lease. Nothing more goes to the main line; what this one writes"
                f" goes to branch {branch}"
            )
            self.state.lease = "fenced"
            self.line.fork(branch)
            self.everything()
            self.on_fenced()

    def goes_on_from(self, chosen: str) -> None:
        """The disk holds snapshot ``chosen``, not the head: the first commit puts all of it, and keeps the head."""
        self._from, self._reassert = chosen, True

    async def heed_lease(self) -> None:
        """Hand the lease over where somebody asks for it; stop writing where somebody has it. Never raises."""
        try:
            head = await asyncio.wait_for(self.store.head(), 30)
            if head == self.line.head:
                return
            async with self._lock:
                verdict = await self.line.judge(head, 30) if head != self.line.head else "mine"
                if verdict == "fenced":
                    self._fenced()
                elif verdict == "requested" and self.tenure is not None:
                    self.line.head = head
                    log.info("a new instance asks for the lease: handing over")
                    until = time.monotonic() + 600
                    handing = {LEASE: self.tenure.handing_over()}
                    await self.line.commit(handing, [], "sidecar: lease handing over", automatic=False, until=until)
                    result = await self._snapshot("handoff", until)
                    if result.ok:
                        self._fenced()
        except Fenced:
            self._fenced()
        except (StoreError, Edited, TimeoutError) as error:
            log.debug(f"the lease can't be looked at now: {error}")

    # --- verbs ----------------------------------------------------------------------------------------------------

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
            if self.state.lease == "fenced":
                return Result(False, error="another instance holds the lease", code="fenced")
            at = self.budget.checkpoint_at(time.monotonic())
            if at > time.monotonic():
                wait = at - time.monotonic()
                return Result(
                    False,
                    error=f"the commit ceiling is reached; the next goes in {wait:.0f} s",
                    retry_after=wait,
                )
            return await self._snapshot("checkpoint", time.monotonic() + 600)

    async def final(self, until: float, *, why: Why = "final") -> Result:
        """The last snapshot and the release of the lease in one commit; tried until ``until`` (monotonic)."""
        failures = 0
        while True:
            result = await self.snapshot(why, until)
            if result.ok or result.code in ("fenced", "denied"):
                return result
            failures += 1
            wait = pace.backoff(failures, 0.3, 2.0)
            if time.monotonic() + wait >= until:
                return result
            await asyncio.sleep(wait)


def _fresh(folder: Path) -> None:
    _remove(folder)
    folder.mkdir(parents=True, mode=0o700)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({os.fsdecode(error.filename or '?')})"
    return str(error)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def human(size: float) -> str:
    """A number of bytes as people say it."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
