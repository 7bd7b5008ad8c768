"""One start, from the first question to the store until main may run: find, claim, restore; again until it holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from sidecar import log
from sidecar.errors import EX_REFUSED, EX_TEMPFAIL, ManifestError, RestoreFailed, SidecarError
from sidecar.recovery import image, journal
from sidecar.recovery.claim import Moved, read_lease
from sidecar.recovery.claimant import Claimant, Seen
from sidecar.recovery.lease import Lease, Wait, decide
from sidecar.recovery.origin import Origin, find, way_out
from sidecar.recovery.patience import LATE_S, Patience, Progress
from sidecar.recovery.record import Record
from sidecar.recovery.restore import download, restore
from sidecar.recovery.shipped import note_image
from sidecar.recovery.terms import Plan, Recovered
from sidecar.recovery.tree import forget_digests
from sidecar.recovery.trouble import Damaged
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import SnapshotId
from sidecar.state import State
from sidecar.stores.base import Access, Denied, NotFound, Revision, Store

T = TypeVar("T")

Verify = Callable[[bool], Awaitable[None]]
"""The checks between restore and ready, each with a limit of its own; told whether this is a cold start.

Raises RestoreFailed where main must not start."""


class Start:
    """The attempts of one start; under which lease they are made, and how it is given back, the ``claimant`` knows."""

    def __init__(
        self, store: Store, index: Index, plan: Plan, state: State, record: Record, verify: Verify | None = None
    ) -> None:
        self.store, self.index, self.plan, self.state, self.record = store, index, plan, state, record
        self._verify = verify
        self.brought: Callable[[Recovered], None] = lambda recovered: None
        self.resume: Callable[[Recovered], Awaitable[Recovered]] = _as_it_is
        self.waits: Callable[[], Awaitable[None]] = _nothing
        self._progress = Progress()
        self._patience = Patience(self._progress, plan.timeout_s, plan.on_failure == "wait")
        self.claimant = Claimant(store, plan, state, self._progress, self._patience)
        self._ways_out: dict[str, str] = {}
        self._downloaded: SnapshotId | None = None
        self._read: str | None = None  # of which snapshot, in words: from then on an empty store is none to start from
        self._finished: journal.JournalOutcome | None = None  # of a restore that was cut off before this start

    async def recover(self) -> Recovered | None:
        """Try until it holds. None: go on without (``continue``). Raises RestoreFailed where the start is over."""
        self._progress.alive()
        last_said = float("-inf")
        while True:
            try:
                recovered = await self._patience.in_time(self._attempt(), self.store.url)
                self.brought(recovered)
                if self._verify is not None:
                    await self._verify(recovered.manifest is None)
                recovered = await self.resume(recovered)
                self.state.recovery_error = None
                return recovered
            except Moved:
                continue
            except SidecarError as error:
                failure = classify(error)
            self._progress.failures += 1
            over = failure.final or self._patience.over()
            if over:
                failure = await self._with_way_out(failure)
            self.state.recovery_error = failure.message
            self.record.facts["error"] = failure.message
            if over and self.plan.on_failure != "wait":
                if self._may_go_on_without(failure):
                    await asyncio.to_thread(image.close, self.index)
                    return None
                raise failure
            if over:
                self.state.phase = "waiting"
                await self.waits()
            if time.monotonic() - last_said >= (300 if over else 30):
                what = "main waits until it works (SIDECAR_ON_RESTORE_FAILURE=wait)" if over else "trying again"
                log.warning(f"recovery: {failure.message}; {what}")
                last_said = time.monotonic()
            pause = self._patience.pause(getattr(error_of(failure), "retry_after", None))
            await asyncio.sleep(max(pause, failure.pause_s))

    def _may_go_on_without(self, failure: RestoreFailed) -> bool:
        """Whether ``continue`` lets main start: not after a refusal, nor on a restore that is half in place."""
        if self.plan.on_failure != "continue" or failure.exit_code == EX_REFUSED:
            return False
        return not journal.is_open(self.plan.state_dir)

    async def _with_way_out(self, failure: RestoreFailed) -> RestoreFailed:
        """Of damage: say too from which snapshot a start would work. Looked up once for each damage."""
        if not isinstance(failure, Damaged):
            return failure
        if failure.message not in self._ways_out:
            patience = 60.0 if self.plan.on_failure == "wait" else LATE_S
            try:
                way = await asyncio.wait_for(way_out(self.store, failure, self.plan.state_dir), patience)
            except TimeoutError:
                return RestoreFailed(f"{failure.message}. Older snapshots can't be checked just now")
            self._ways_out[failure.message] = way
        return RestoreFailed(f"{failure.message}. {self._ways_out[failure.message]}")

    async def _attempt(self) -> Recovered:
        finished = await asyncio.to_thread(journal.finish_journal, self.plan.state_dir, self.index)
        self._finished = finished or self._finished
        noting = asyncio.create_task(
            note_image(self.index, self.plan, self._progress.alive)
        )  # reads this disk while the store is asked
        try:
            with self.record.step("claim") as row:
                seen = await self._look()
                if self._must_ask(seen):
                    await noting
                    await self._download(seen.origin)
                    self.state.phase = "claiming"
                found = await self.claimant.claim(seen, resumes=self.plan.resumes)
                row["detail"] = f"epoch {found.tenure.epoch}" if found.tenure else found.why_unleased
            await noting
        finally:
            noting.cancel()
            await asyncio.gather(noting, return_exceptions=True)
        self.state.phase = "restoring"
        with self.record.step("restore") as row:
            origin = found.origin
            if origin.manifest is None or origin.source is None:
                if journal.is_open(self.plan.state_dir):
                    raise RestoreFailed(
                        f"a restore was cut off half-way and its files are gone, and {self.store.url} has no snapshot"
                        f" to finish it from. To begin anew with what is on this disk, remove {self.plan.state_dir}"
                    )
                brought = await asyncio.to_thread(self.index.shipped)
                await asyncio.to_thread(self.index.forget, brought)
                forget_digests()
                row["detail"] = "cold start"
                return found
            at = found.head if origin.source == origin.head else origin.source
            assert at is not None
            work = restore(
                self.store,
                at,
                origin.manifest,
                self.plan.roots,
                index=self.index,
                store_id=self.plan.store_id,
                state_dir=self.plan.state_dir,
                progress=self.state.restore,
                instance=self.plan.me.instance,
                alive=lambda: self._brought(4),
                earlier=self._finished,
            )
            restored = await self._unless_squashed(work, found.head)
            row["detail"] = f"{restored.files} files, {restored.fetched} of them fetched"
            return replace(found, restored=restored)

    def _must_ask(self, seen: Seen) -> bool:
        return seen.access.writable and isinstance(decide(seen.lease, self.plan.me, least_epoch=seen.least_epoch), Wait)

    async def _download(self, origin: Origin) -> None:
        """Before anybody is asked to hand over: have all that there is by now, verified, in staging.

        So the holder, who is writing, is kept from it only for what it wrote meanwhile; and a start that can't restore
        disturbs nobody. Each later head that is waited at costs its difference.
        """
        if origin.manifest is None or origin.source is None or self._downloaded == origin.manifest.snapshot:
            return
        self.state.phase = "restoring"
        with self.record.step("download"):
            work = download(
                self.store,
                origin.source,
                origin.manifest,
                self.plan.roots,
                index=self.index,
                store_id=self.plan.store_id,
                state_dir=self.plan.state_dir,
                progress=self.state.restore,
                alive=lambda: self._brought(2),
            )
            await self._unless_squashed(work, origin.head)
        self._downloaded = origin.manifest.snapshot

    async def _unless_squashed(self, work: Awaitable[T], head: Revision | None) -> T:
        """``work``, which reads a revision. Raises Moved where a squash has given that another name.

        What was verified need not come again.
        """
        try:
            return await work
        except NotFound:
            if await self.store.head() == head:
                raise
            raise Moved from None

    def _brought(self, step: int) -> None:
        self._progress.reached(step, self.state.restore.files_done, self.state.restore.bytes_done)

    async def claim_only(self) -> Recovered:
        """Find what there is and take the lease, for a disk that needs no restore. Raises SidecarErrors.

        Such a disk holds the head's snapshot, whatever SIDECAR_REVISION would start from.
        """
        self.plan = replace(self.plan, revision=None, resumes=False)
        while True:
            try:
                return await self.claimant.claim(await self._look(), resumes=False)
            except Moved:
                continue

    async def _look(self) -> Seen:
        self.state.phase = "claiming"
        with self._patience.bounded(self.store):
            access = await self._access()
            head = await self.store.head()
            origin = await find(
                self.store,
                head,
                self.plan.roots,
                self.index,
                self.plan.state_dir,
                store_id=self.plan.store_id,
                cold_start=self.plan.cold_start,
                revision=self.plan.revision,
            )
            self._progress.reached(2)
            if origin.manifest is not None:
                self._read = f"this start has read its snapshot {origin.manifest.snapshot}"
            elif self._read is not None:
                raise RestoreFailed(
                    f"{self.store.url} is empty, but {self._read}: it was deleted or replaced since. Nothing was"
                    " changed. Bring it back, or restart to begin anew with what is here"
                )
            return Seen(access, head, origin, await self._lease(head))

    async def _access(self) -> Access:
        known = await asyncio.to_thread(self.index.known)
        had, anew = self._read, "restart" if self._read is not None else ""
        if known is not None and known.store == self.plan.store_id:
            had, anew = f"this disk was at its snapshot {known.snapshot}", f"remove {self.index.path}"
        # Where there was one, an empty one in its place would be in the way of whoever brings it back.
        try:
            access = await self.store.check(create=self.plan.cold_start != "refuse" and had is None)
        except NotFound as error:
            if had is None:
                raise
            raise RestoreFailed(
                f"{error.message.rstrip('.')}. {had.capitalize()}, and nothing was created."
                f" If that store is gone for good, {anew} to begin anew with what is here",
                final=True,
                code=EX_REFUSED,
            ) from error
        self._progress.reached(1)
        if had is not None and not access.exists:
            raise RestoreFailed(
                f"{self.store.url} is gone, but {had}: it was deleted, moved, or isn't mounted. Nothing was created."
                f" Bring it back, or {anew} to begin anew with what is here"
            )
        if access.created:
            log.warning(
                f"COLD START: created {self.store.url}; if you expected data here, stop and set"
                " SIDECAR_COLD_START=refuse"
            )
        return access

    async def _lease(self, head: Revision | None) -> Lease | None:
        try:
            return await read_lease(self.store, head)
        except ManifestError as error:
            if not error.damage:
                raise
            log.warning(f"{error.message}: taken as no lease")
            return None


async def _nothing() -> None:
    pass


async def _as_it_is(recovered: Recovered) -> Recovered:
    return recovered


def classify(error: SidecarError) -> RestoreFailed:
    """Any failure of an attempt as a restore failure: final where trying again can't help, with its exit code."""
    if isinstance(error, RestoreFailed):
        return error
    final = isinstance(error, Denied | NotFound)
    failure = RestoreFailed(error.message.rstrip("."), final=final, code=EX_REFUSED if final else EX_TEMPFAIL)
    failure.__cause__ = error
    return failure


def error_of(failure: RestoreFailed) -> Any:
    return failure.__cause__ or failure
