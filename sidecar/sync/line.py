"""The one door to the store's main line: nothing is committed but through here, and nothing without a base.

What others do wrong is to upload the empty state after a failed restore. Here a snapshot can only be committed with a
``Base``, which only a finished restore or a confirmed cold start makes, and only onto the head that it names.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from sidecar import log
from sidecar.snapshot.manifest import HANDS, LEASE, SnapshotId, snapshot_in
from sidecar.stores.base import Commit, Conflict, Revision, Source, Store, StoreError, Unavailable
from sidecar.sync.pace import Budget, backoff
from sidecar.sync.reads import GivenUp, newest, read_id, read_small, until_cut
from sidecar.sync.rights import Edited, Fenced, Tenure, Verdict, Withdrawn, about_the_lease, weigh

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Base:
    """What this life started from: a restored snapshot at ``revision``, or a confirmed cold start (no snapshot).

    ``branch`` is None on the main line; a side branch (``orphan/…``, ``fenced/…``) starts at ``revision``. ``sent`` is
    the number of a snapshot that may still be on its way: it is never given out again.
    """

    revision: Revision | None
    snapshot: SnapshotId | None
    branch: str | None = None
    sent: SnapshotId | None = None


SINCE = 100
"""Commits that are looked through for our last one."""

RENEW_S = 20.0
"""How often who waits for the lease is told that the hand-over still goes on."""

LONG_S = 20.0
"""A store that wants to be left alone for longer has failed for now: whoever waits is to know, and tries again."""

TURNS = 5
"""How often one commit gives way to commits that only ask for the lease."""


class Line:
    """Commits snapshots onto a base, one after the other."""

    def __init__(self, store: Store, base: Base, tenure: Tenure | None, budget: Budget) -> None:
        if not isinstance(base, Base):
            raise TypeError("no snapshot without a base")
        if base.branch is None and tenure is None:
            raise TypeError("no snapshot on the main line without a lease")
        self.store = store
        self.tenure = tenure
        self.budget = budget
        self.branch = base.branch
        self.head = base.revision
        self.ours = base.revision
        """What was last known to hold all that the manifest names; the head, unless somebody edited the store."""
        self.snapshot = base.snapshot
        self.unclear: str | None = None
        """The title of a commit whose answer never came; ``resolve`` finds out what became of it."""
        self.requested = False
        """Somebody asks for the lease."""
        self.lost = False
        """Nobody holds the lease: its file was deleted or broken by hand. The next commit puts ours there again."""
        self._sent = base.sent
        self._cut = asyncio.Event()
        self._renewed = 0.0  # when who waits for the lease last heard of us

    def next_id(self) -> SnapshotId:
        """The id of the next snapshot: above all that came before, and above what was sent without an answer.

        Titles are how a commit of ours is known again: no two of them may be the same.
        """
        epoch = self.tenure.epoch if self.tenure else (self.snapshot.epoch if self.snapshot else 0)
        last = max((n for n in (self.snapshot, self._sent) if n is not None), default=None)
        if last is None or last.epoch < epoch:
            return SnapshotId(epoch, 1)
        return SnapshotId(last.epoch, last.sequence + 1)

    def sent(self) -> frozenset[SnapshotId]:
        """The snapshots of which one is what was last committed here: one that had no answer may be it."""
        return frozenset(n for n in (self.snapshot, self._sent) if n is not None)

    def fork(self, branch: str) -> None:
        """From now on everything goes to ``branch``, which starts at what was last committed here."""
        self.branch = branch

    async def commit(
        self, put: Mapping[str, Source], delete: Iterable[str], message: str, *, automatic: bool, until: float
    ) -> Revision:
        """Commit onto the head, settling unclear answers; ``until`` is a monotonic time to give up at.

        Raises Fenced, Edited, Withdrawn (while we hand over), Refused, Denied, Unavailable and the other StoreErrors.
        """
        delete = list(delete)
        title = message.partition("\n")[0]
        number = snapshot_in(title)
        if number is not None:
            self._sent = SnapshotId.parse(number)
        self._cut.clear()
        failures, turns, unclear = 0, 0, False
        while True:
            if self._handing and time.monotonic() - self._renewed > RENEW_S / 2:
                await self._renew()  # so that the next time is not due while this is on its way
            parent = self.head
            try:
                revision = await self.patiently(self._send(put, delete, message, until))
            except Conflict:
                if self.head != parent:
                    continue  # what we told who waits came between: what was sent need not be sent again
                landed = await self._landed(title, until)
                if landed is None:
                    turns += 1
                    await self._give_way(until)
                    if turns > TURNS:
                        raise Unavailable("the lease is asked for without a pause; the next sync tries again") from None
                    continue
                revision = landed
            except Unavailable as error:
                if error.unclear:
                    unclear = True
                    self.budget.note(time.monotonic(), automatic=False)  # the store may have counted it
                landed = await self._landed(title, until) if unclear else None
                if landed is None:
                    failures += 1
                    wait = backoff(failures, 0.5, 15.0, error.retry_after)
                    if failures >= 3 or wait > LONG_S or self._cut.is_set() or time.monotonic() + wait > until:
                        self.unclear = title if unclear else None
                        raise
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._cut.wait(), wait)
                    continue
                revision = landed
            # The store counts when it landed, which may be long after it was sent: what is noted is never earlier.
            self.budget.note(time.monotonic(), automatic=automatic)
            self.head = self.ours = revision
            self.lost = False
            return revision

    async def patiently(self, work: Awaitable[T]) -> T:
        """``work``, which may take long: while we hand over, who waits for that is told every 20 s that we live."""
        task = asyncio.ensure_future(work)
        try:
            while True:
                left = max(self._renewed + RENEW_S - time.monotonic(), 0.0) if self._handing else None
                if (await asyncio.wait({task}, timeout=left))[0]:
                    return task.result()
                await self._renew()
        finally:
            task.cancel()

    @property
    def _handing(self) -> bool:
        return self.branch is None and self.tenure is not None and self.tenure.handing

    async def answer(self, until: float) -> None:
        """Answer who asks that we hand over: they wait from now on. Raises as ``commit`` does."""
        assert self.tenure is not None
        handing = {LEASE: self.tenure.handing_over()}
        self._renewed = time.monotonic()
        await self.commit(handing, [], HANDS, automatic=False, until=until)
        self._renewed = time.monotonic()

    async def _renew(self) -> None:
        """Say that the hand-over goes on. Where the head has moved the next commit finds out: nothing is raised."""
        assert self.tenure is not None
        self._renewed, parent = time.monotonic(), self.head
        until = self._renewed + RENEW_S
        revision: Revision | None = None
        handing = {LEASE: self.tenure.handing_over()}
        try:
            revision = await asyncio.wait_for(self.store.commit(parent, handing, [], HANDS), RENEW_S)
        except (StoreError, TimeoutError) as error:
            log.debug(f"who waits for the lease could not be told that we hand over: {error}")
            revision = await self._landed(HANDS, until)
        if revision is not None:
            self.budget.note(time.monotonic(), automatic=False)
            self.ours = revision if self.ours == parent else self.ours
            self.head = revision

    def cut(self) -> None:
        """Give up the commit that is under way: something that matters more waits for it."""
        self._cut.set()

    async def _send(self, put: Mapping[str, Source], delete: list[str], message: str, until: float) -> Revision:
        sending = self.store.commit(self.head, put, delete, message, self.branch)
        try:
            return await until_cut(sending, self._cut, until - time.monotonic())
        except GivenUp:
            raise Unavailable("the store gave no answer in time", unclear=True) from None

    async def _landed(self, title: str, until: float) -> Revision | None:
        """Whether a commit of ours that had no clear answer is the head, on top of ours, and as which revision."""
        try:
            return await self._found(title, until)
        except StoreError as error:
            log.debug(f"can't tell yet whether {title!r} landed: {error}")
            return None

    async def _history(self, limit: int, seconds: float) -> list[Commit]:
        """The newest commits on our branch, as ``newest`` has them."""
        return await newest(self.store, self.branch, limit, self._cut, seconds)

    async def _found(self, title: str, until: float) -> Revision | None:
        """The head, where it is our commit of that ``title`` on top of what we committed last."""
        seconds = min(until - time.monotonic(), 30.0)
        history = await self._history(2, seconds)
        if not history or history[0].title != title:
            return None
        revision = history[0].revision
        if self.head is None or (len(history) == 2 and history[1].revision == self.head):
            return revision
        # A squash leaves one commit, and the title of another's snapshot may be the same where a lease was deleted.
        alone = len(history) < 2 and (self.branch is not None or await self.judge(revision, seconds) != "fenced")
        return revision if alone else None

    async def resolve(self, until: float) -> str | None:
        """The title of the commit whose answer never came, if it got through after all: then it is the head.

        Raises StoreError.
        """
        if self.unclear is None:
            return None
        self._cut.clear()
        revision = await self._found(self.unclear, until)
        title, self.unclear = self.unclear, None
        if revision is None:
            return None
        self.head = self.ours = revision
        return title

    async def _give_way(self, until: float) -> None:
        """The head is not what we committed last: take it over where it only asks for the lease.

        Raises Fenced where the lease is somebody else's now, Edited (with the head taken over) where it is ours, and
        Withdrawn where it is to stay ours.
        """
        seconds = min(until - time.monotonic(), 60.0)
        if self.branch is not None:
            history = await self._history(1, seconds)
            self.head = history[0].revision if history else self.head
            raise Edited
        if await self.heed(seconds) == "withdrawn":
            raise Withdrawn

    async def heed(self, seconds: float) -> Verdict:
        """What the lease at the head says of us; the head is taken over where we may still write on it.

        A squash gives our snapshot another revision, and changes nothing. Raises Fenced, and Edited where more than
        the lease was changed. StoreError where it can't be read.
        """
        limit = max(seconds, 0.1)
        try:
            head = await asyncio.wait_for(self.store.head(), limit)
        except TimeoutError:
            raise Unavailable(f"{self.store.url} gave no answer in time") from None
        if head == self.head:
            return "requested" if self.requested else "mine"
        verdict = await self.judge(head, limit)
        if verdict == "fenced":
            raise Fenced
        history = await self._history(SINCE, seconds)
        there = next((n for n, commit in enumerate(history) if commit.revision == self.head), None)
        since = history if there is None else history[:there]
        same = False
        if there is None and self.head is not None and len(history) < SINCE:
            self.ours = head  # a squash: its bytes are checked wherever they are taken from
            same = await self._same(head, since, limit)
        epoch = self.tenure.epoch if self.tenure is not None else 0
        titles = [commit.title for commit in since]
        footing = weigh(verdict, epoch, titles, gone=there is None and self.head is not None, same=same)
        if footing == "fenced":
            raise Fenced
        self.requested, self.lost, self.head = verdict == "requested", verdict in ("lost", "older"), head
        if footing == "edited":
            raise Edited
        self.ours = head
        return verdict

    async def _same(self, head: Revision | None, history: list[Commit], limit: float) -> bool:
        """Whether a squashed ``history``, whose newest revision is ``head``, is our snapshot under another name."""
        if self.snapshot is None or sum(not about_the_lease(c.title) for c in history) != 1:
            return False
        return await read_id(self.store, head, limit) == str(self.snapshot)

    async def judge(self, head: Revision | None, limit: float) -> Verdict:
        """What the lease at ``head`` says of us."""
        if self.tenure is None:
            return "mine"
        return self.tenure.judge(await read_small(self.store, head, LEASE, limit))
