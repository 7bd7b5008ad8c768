"""What makes one snapshot: a survey of the roots, a package of what differs, a commit; again where that meets an edit.

Nothing here knows when a snapshot is due, nor waits its turn: whoever calls does, and hears what is in the way.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sidecar import log
from sidecar.roots import Root
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import LEASE, SnapshotId, snapshot_in
from sidecar.state import State
from sidecar.stores.base import Refused, Revision, Source, Unavailable
from sidecar.sync.beside import called, keep
from sidecar.sync.bulletin import Bulletin, Result
from sidecar.sync.edits import keep_edits
from sidecar.sync.line import Line
from sidecar.sync.look import Look, Survey
from sidecar.sync.mend import carried, strays
from sidecar.sync.pack import Package, pack, unpack_failed
from sidecar.sync.rides import Rides
from sidecar.sync.rights import Edited, Withdrawn
from sidecar.sync.survey import Surveyor

SMALL = 1024 * 1024
"""Bytes that a store takes in a moment: a commit of no more that gets no answer is a commit that hangs."""

EDITS = 4
"""How often one sync is planned anew because somebody edits the store."""

Why = Literal["automatic", "checkpoint", "asked", "stop", "final", "handoff"]


@dataclass(frozen=True, slots=True)
class Options:
    """What syncing needs of the settings; times in seconds."""

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
class Attempt:
    """One attempt: why it is made, how it looks, and the ``folder`` for what it stages.

    Monotonic times: ``until`` it is given up at; ``first`` is when the oldest change was seen that it takes along.
    """

    why: Why
    look: Look
    folder: Path
    until: float
    first: float

    @property
    def closing(self) -> bool:
        """Whether the snapshot lets go of the lease."""
        return self.why in ("final", "handoff")


class Snapshotter:
    """Makes snapshots on a line, one at a time, and remembers of each look what the next one has to know."""

    def __init__(
        self, line: Line, index: Index, surveyor: Surveyor, options: Options, state: State, bulletin: Bulletin
    ) -> None:
        self.line, self.index, self.surveyor, self.options = line, index, surveyor, options
        self.state, self.bulletin = state, bulletin
        self.rides = Rides()
        self.before_last: Callable[[], Awaitable[None]] | None = None
        """Done before the look whose snapshot lets go of the lease."""
        self.reassert = False
        """Whether all of our snapshot is to be put again: somebody edited the store."""
        self.held: dict[str, int] = {}
        self.roomless: dict[str, str] = {}
        self.later: dict[str, float] = {}
        """Large databases whose turn comes then."""
        self.weight = 0
        """Bytes of the commit that is, or was, under way."""
        self._refused: set[str] = set()
        self._from: str | None = None
        self._edits_at: Revision | None = None  # the head of whose edits there is a copy

    @property
    def settled(self) -> bool:
        """Whether the main line's head is a snapshot that this life goes on from."""
        return self.line.snapshot is not None and self.line.branch is None and self._from is None

    def goes_on_from(self, chosen: str, source: Revision | None) -> None:
        """The disk holds snapshot ``chosen`` of revision ``source``, not the head.

        The first commit puts all of it, and keeps the head.
        """
        self._from, self.reassert, self.line.ours = chosen, True, source

    async def make(self, attempt: Attempt, more: Callable[[], dict[str, set[str]]]) -> Result:
        """Look and commit once; ``more`` tells, from any thread, what was hinted since the look began.

        Raises Fenced, Refused, Denied, Unavailable and the other SidecarErrors, OSError, sqlite3.Error.
        """
        if attempt.closing and self.before_last is not None:
            await self.before_last()
        await self.settle_unclear(attempt.until)
        edits = 0
        while edits < EDITS:
            await asyncio.to_thread(_fresh, attempt.folder)
            try:
                return await self._once(attempt, more)
            except Edited:
                await asyncio.to_thread(self.index.discard)
                self.edited()
                edits += 1
                attempt = replace(attempt, look=replace(attempt.look, hints=None, reassert=True))
            except Withdrawn:
                await asyncio.to_thread(self.index.discard)
                self.stays()
                attempt = replace(attempt, why="asked")
            except Refused as error:
                await asyncio.to_thread(unpack_failed, self.index)
                if error.path in self._refused:
                    raise  # in a bundle it is already: this can't be mended
                log.warning(f"{error.path!r} goes into a bundle: {error.message}")
                self._refused.add(error.path)
        raise Unavailable("the store's head moves faster than we can follow; the next sync tries again")

    async def _once(self, attempt: Attempt, more: Callable[[], dict[str, set[str]]]) -> Result:
        """Look, and commit what is worth it. Raises what `Line.commit` does."""
        looking = asyncio.to_thread(self.surveyor.look, attempt.look, attempt.folder, more)
        survey = await self.line.patiently(looking)
        self._note(survey, attempt.look)
        if not (survey.reason or attempt.closing or attempt.look.reassert) and self.line.snapshot is not None:
            if attempt.why == "checkpoint" and self.line.branch is None:
                await self.line.heed(attempt.until - time.monotonic())
            return self._result(survey, 0)
        await self._keep_before(survey)
        number = self.line.next_id()
        again: dict[str, Source] = {}
        if attempt.look.reassert:
            again = await self._carry(survey, attempt.folder)
        package = await self._pack(attempt, survey, number)
        revision, rides = await self._commit(attempt, package, again)
        self.bulletin.totals(await asyncio.to_thread(self._promote, revision))
        self.line.snapshot, self.reassert, self._from = number, False, None
        self.rides.sent(rides)
        self.state.commits_hour, self.state.commits_paced = self.line.budget.in_hour(time.monotonic())
        lag = time.monotonic() - attempt.first
        self.bulletin.durable(number, revision, package.changed, package.bytes, lag, self.line.branch)
        return self._result(survey, package.changed)

    def _note(self, survey: Survey, look: Look) -> None:
        """What the next look has to know of this one."""
        self.bulletin.held(survey, self.held.keys())
        due = {path: time.monotonic() + wait for path, wait in survey.deferred.items()}
        self.later = due if look.hints is None else self.later | due
        self.bulletin.looked(survey, self.later)
        self.held = dict(survey.held)
        self.roomless = {path: survey.unreadable[path] for path in survey.roomless if path in survey.unreadable}

    async def _keep_before(self, survey: Survey) -> None:
        """Keep what the new snapshot takes away, or isn't made from, under branches of their own. Raises StoreError."""
        if survey.confirmed and self.line.snapshot is not None:
            await keep(self.line.store, self.line.head, f"kept/{self.line.snapshot}")
        if self._from is not None:
            left = await called(self.line.store, self.line.head)
            await keep(self.line.store, self.line.head, f"damaged/{left}")
            self.state.note(
                "damaged-head",
                f"SIDECAR_REVISION={self._from}: snapshot {left}, the newest at the start, is kept on branch"
                f" damaged/{left}; what this Space saves goes on from {self._from}",
            )

    async def _carry(self, survey: Survey, folder: Path) -> dict[str, Source]:
        """What only the store has of our snapshot: staged to be put again, and what of it is put as it is."""
        await self._keep_edits()
        taken = await self.line.patiently(carried(self.line.store, self.line.ours, survey, self.index, folder))
        survey.staged.extend(taken.staged)
        return taken.put

    async def _keep_edits(self) -> None:
        """Before our snapshot goes on top of somebody's edit: a copy of what they changed. Raises StoreError."""
        head = self.line.head
        if self._from is not None or self.line.branch is not None or head == self._edits_at:
            return
        keeping = keep_edits(self.line.store, self.line.ours, head, self.index, self.options.state_dir)
        try:
            found = str(await self.line.patiently(keeping))
        except OSError as error:
            found = f"no copy could be made of it ({error.strerror or error}): the store's history has it"
        self._edits_at = head
        if found:
            log.warning(f"of the edit in the store: {found}")

    async def _pack(self, attempt: Attempt, survey: Survey, number: SnapshotId) -> Package:
        packing = asyncio.to_thread(
            pack,
            survey,
            self.index,
            attempt.folder,
            number,
            self.line.snapshot,
            self.options,
            frozenset(self._refused),
            anew=attempt.look.reassert,
            compacting=attempt.why in ("automatic", "asked") and not attempt.look.reassert,
        )
        return await self.line.patiently(packing)

    async def _commit(
        self, attempt: Attempt, package: Package, again: dict[str, Source]
    ) -> tuple[Revision, dict[str, bytes]]:
        """The new head, and what rode along with it; raises what `Line.commit` does."""
        line, tenure = self.line, self.line.tenure
        rides = {p: data for p, data in self.rides.files.items() if p != LEASE or line.branch is None}
        again = {path: source for path, source in again.items() if path in package.parts}
        put, delete = {**again, **package.put, **rides}, package.delete
        if attempt.look.reassert:
            delete = [*delete, *await strays(line.store, line.head, package.parts)]
        title = package.title + (f" (from {self._from})" if self._from else "")
        message = f"{title}\n\n{package.body}"
        if tenure is not None and line.branch is None and (attempt.closing or line.lost):
            put[LEASE] = tenure.released(clean=True) if attempt.closing else tenure.held()
        self.weight = package.bytes
        automatic = attempt.why == "automatic"
        return await line.commit(put, delete, message, automatic=automatic, until=attempt.until), rides

    def _promote(self, revision: str) -> dict[str, tuple[int, int]]:
        self.index.promote(self.options.store_id, revision)
        return {root.name: self.index.totals(root.name) for root in self.options.roots}

    def _result(self, survey: Survey, changed: int) -> Result:
        snapshot = str(self.line.snapshot) if self.line.snapshot else None
        return Result(True, snapshot, self.line.head, changed, troubled=survey.trouble(), held=dict(survey.held))

    def edited(self) -> None:
        """The store was edited by hand, and its lease is ours still: put all of our snapshot there again."""
        self.reassert = True
        self.bulletin.edited()

    def stays(self) -> None:
        """Who asked for the lease asks no more, in the middle of the hand-over."""
        self.line.requested = False
        log.info("the new instance asks for the lease no more: it stays ours")

    async def settle_unclear(self, until: float) -> None:
        """What the last commit put is still pending in the index: promote it if it got through after all."""
        title = await self.line.resolve(until)
        number, revision = await asyncio.to_thread(self.index.pending), self.line.head
        if title is None or number is None or revision is None or snapshot_in(title) != str(number):
            return
        await asyncio.to_thread(self.index.promote, self.options.store_id, revision)
        self.line.snapshot = number
        self.reassert, self._from = False, None
        self.state.sync.snapshot, self.state.sync.revision = str(number), revision
        log.debug(f"{number} was committed after all")


def _fresh(folder: Path) -> None:
    """Make ``folder`` anew; whatever stands beside it is what a killed agent was staging."""
    remove(folder.parent)
    folder.mkdir(parents=True, mode=0o700)


def remove(folder: Path) -> None:
    """Remove what an attempt has staged, as far as that can be done. Blocks."""
    shutil.rmtree(folder, ignore_errors=True)
