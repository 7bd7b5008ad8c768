"""One start, from the first question to the store until main may run: find, claim, restore; again until it holds."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from sidecar import log
from sidecar.errors import EX_REFUSED, EX_TEMPFAIL, ManifestError, RestoreFailed, SidecarError
from sidecar.recovery.claim import Claimed, Moved, Unleased, Waiting, claim, read_lease
from sidecar.recovery.lease import Lease, Me, Tenure
from sidecar.recovery.origin import Origin, find
from sidecar.recovery.record import Record
from sidecar.recovery.restore import Restored, restore
from sidecar.roots import Root
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Manifest
from sidecar.state import State
from sidecar.stores.base import Access, Denied, NotFound, Revision, Store, StoreError, Unavailable

T = TypeVar("T")
LATE_S = 5.0
"""An exit follows at most this long after the time without progress is up."""

Failure = Literal["wait", "exit", "continue"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a start needs of the settings; times in seconds."""

    roots: Sequence[Root]
    me: Me
    store_id: str
    state_dir: Path
    cold_start: str
    revision: str | None
    handoff_wait_s: float
    timeout_s: float
    on_failure: Failure


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a start came to. ``tenure`` is None where it may not write; ``head`` is the revision to commit onto."""

    head: Revision | None
    origin: Origin
    tenure: Tenure | None
    clean: bool | None
    restored: Restored
    access: Access
    why_unleased: str = ""

    @property
    def manifest(self) -> Manifest | None:
        return self.origin.manifest


@dataclass(slots=True)
class Progress:
    """When something last moved; the restore timeout counts from there."""

    moved: float = 0.0

    def alive(self) -> None:
        self.moved = time.monotonic()


class Start:
    """The attempts of one start. ``claimed`` is what must be given back if a stop comes before ready."""

    def __init__(self, store: Store, index: Index, plan: Plan, state: State, record: Record) -> None:
        self.store, self.index, self.plan, self.state, self.record = store, index, plan, state, record
        self.claimed: Claimed | None = None
        self._waiting = Waiting(plan.handoff_wait_s)
        self._progress = Progress()

    async def recover(self) -> Recovered | None:
        """Try until it holds. None: go on without (``continue``). Raises RestoreFailed where the start is over."""
        self._progress.alive()
        failures, last_said = 0, float("-inf")
        while True:
            try:
                recovered = await self._in_time(self._attempt())
                self.state.recovery_error = None
                return recovered
            except Moved:
                continue
            except SidecarError as error:
                failure = classify(error)
            failures += 1
            self.state.recovery_error = failure.message
            self.record.facts["error"] = failure.message
            over = failure.final or time.monotonic() - self._progress.moved >= self.plan.timeout_s
            if over and self.plan.on_failure != "wait":
                if self.plan.on_failure == "continue":
                    return None
                raise failure
            if over:
                self.state.phase = "waiting"
            if time.monotonic() - last_said >= (300 if over else 30):
                what = "main waits until it works (SIDECAR_ON_RESTORE_FAILURE=wait)" if over else "trying again"
                log.warning(f"recovery: {failure.message}; {what}")
                last_said = time.monotonic()
            await asyncio.sleep(self._pause(failures, getattr(error_of(failure), "retry_after", None)))

    def _pause(self, failures: int, retry_after: float | None) -> float:
        wait = min(60.0, 0.5 * 2.0 ** min(failures, 8)) * (0.5 + random.random() / 2)
        if retry_after is not None:
            wait = max(wait, min(retry_after, 60.0))
        if self.plan.on_failure == "wait":
            return wait
        left = self._progress.moved + self.plan.timeout_s - time.monotonic()
        return max(0.05, min(wait, left))

    async def _in_time(self, work: Awaitable[T]) -> T:
        """``work``, cut off once nothing has moved for the restore timeout."""
        task = asyncio.ensure_future(work)
        try:
            while True:
                left = self._progress.moved + self.plan.timeout_s - time.monotonic()
                patience = left if self.plan.on_failure != "wait" else max(left, 60.0)
                done, _ = await asyncio.wait({task}, timeout=max(patience, 0.05))
                if done:
                    return task.result()
                if time.monotonic() - self._progress.moved >= self.plan.timeout_s:
                    raise RestoreFailed(
                        f"{self.store.url} gave no answer and nothing moved for {self.plan.timeout_s:g} s"
                    )
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, SidecarError, Moved, TimeoutError):
                    await asyncio.wait_for(task, LATE_S)

    async def _attempt(self) -> Recovered:
        with self.record.step("claim") as row:
            claimed = await self._find_and_claim()
            row["detail"] = f"epoch {claimed.tenure.epoch}" if claimed.tenure else claimed.why_unleased
        self.state.phase = "restoring"
        with self.record.step("restore") as row:
            origin = claimed.origin
            if origin.manifest is None or origin.source is None:
                await asyncio.to_thread(self.index.forget)
                row["detail"] = "cold start"
                return claimed
            at = claimed.head if origin.source == origin.head else origin.source
            assert at is not None
            restored = await restore(
                self.store,
                at,
                origin.manifest,
                self.plan.roots,
                index=self.index,
                store_id=self.plan.store_id,
                state_dir=self.plan.state_dir,
                progress=self.state.restore,
                instance=self.plan.me.instance,
                alive=self._progress.alive,
            )
            row["detail"] = f"{restored.files} files, {restored.fetched} of them fetched"
            return replace(claimed, restored=restored)

    async def claim_only(self) -> Recovered:
        """Find what there is and take the lease, for a disk that needs no restore. Raises SidecarErrors."""
        while True:
            try:
                return await self._find_and_claim()
            except Moved:
                continue

    async def _find_and_claim(self) -> Recovered:
        self.state.phase = "claiming"
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
        taken = await self._claim(head, await self._lease(head), origin, access)
        if isinstance(taken, Claimed):
            return Recovered(taken.revision, origin, taken.tenure, taken.clean, Restored(), access)
        return Recovered(head, origin, None, None, Restored(), access, taken.why)

    async def _access(self) -> Access:
        access = await self.store.check(create=True)
        self._progress.alive()
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

    async def _claim(
        self, head: Revision | None, found: Lease | None, origin: Origin, access: Access
    ) -> Claimed | Unleased:
        if not access.writable:
            return Unleased(access.detail or "the store doesn't let us write")
        least = origin.manifest.snapshot.epoch if origin.manifest else 0
        taken = await claim(self.store, head, found, self.plan.me, least, self._waiting, self._progress.alive)
        if isinstance(taken, Claimed):
            self.claimed = taken
            self.state.epoch, self.state.lease = taken.tenure.epoch, "held"
        else:
            self.state.lease = "unleased"
        self._progress.alive()
        return taken


def classify(error: SidecarError) -> RestoreFailed:
    """Any failure of an attempt as a restore failure: final where trying again can't help, with its exit code."""
    if isinstance(error, RestoreFailed):
        return error
    final = isinstance(error, Denied | NotFound)
    failure = RestoreFailed(error.message, final=final, code=EX_REFUSED if final else EX_TEMPFAIL)
    failure.__cause__ = error
    return failure


def error_of(failure: RestoreFailed) -> Any:
    return failure.__cause__ or failure


async def regain(store: Store, recovered: Recovered, me: Me) -> Claimed | None:
    """An unleased start tries once more: the lease, if the head is still what was restored. None: not yet."""
    try:
        head = await store.head()
        if head != recovered.head:
            return None
        found = await read_lease(store, head)
        least = recovered.manifest.snapshot.epoch if recovered.manifest else 0
        taken = await claim(store, head, found, me, least, Waiting(0.0), lambda: None)
    except (Moved, StoreError, RestoreFailed, ManifestError):
        return None
    return taken if isinstance(taken, Claimed) else None


async def reattach(
    store: Store, index: Index, plan: Plan, alive: Callable[[], None] = lambda: None
) -> tuple[Claimed | None, Manifest | None, Revision | None, bool]:
    """Beside a main that already runs: pick up from the index, restoring nothing.

    Gives the lease (None where another instance has it), the head's manifest, the head, and whether the index
    describes it. Raises Moved, StoreError.
    """
    from sidecar.recovery.restore import read_manifest

    head = await store.head()
    if head is None:
        raise Unavailable(f"{store.url} has no head any more")
    manifest = await read_manifest(store, head, plan.state_dir)
    found = await read_lease(store, head)
    if found is not None and (found.instance != plan.me.instance or found.state == "released"):
        return None, manifest, head, False
    known = await asyncio.to_thread(index.known)
    pending = await asyncio.to_thread(index.pending)
    if manifest is not None and pending is not None:
        if pending == manifest.snapshot:
            await asyncio.to_thread(index.promote, plan.store_id, head)
        else:
            await asyncio.to_thread(index.discard)
        known = await asyncio.to_thread(index.known)
    intact = manifest is None or (
        known is not None and known.store == plan.store_id and known.snapshot == manifest.snapshot
    )
    least = manifest.snapshot.epoch if manifest else 0
    taken = await claim(store, head, found, plan.me, least, Waiting(0.0), alive)
    return (taken if isinstance(taken, Claimed) else None), manifest, head, intact
