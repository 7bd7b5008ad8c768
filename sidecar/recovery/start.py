"""One start, from the first question to the store until main may run: find, claim, restore; again until it holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from sidecar import log
from sidecar.errors import EX_REFUSED, EX_TEMPFAIL, ManifestError, RestoreFailed, SidecarError
from sidecar.recovery import image, journal
from sidecar.recovery.claim import Claimed, Moved, Unleased, Waiting, claim, read_lease, refusal, unask, withdraw
from sidecar.recovery.lease import Lease, Left, Me, Tenure, reclaims
from sidecar.recovery.meter import Meter
from sidecar.recovery.origin import Origin, find, way_out
from sidecar.recovery.record import Record
from sidecar.recovery.restore import Restored, read_manifest, restore
from sidecar.recovery.trouble import Damaged
from sidecar.roots import Root
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Manifest, SnapshotId
from sidecar.state import RestoreProgress, State
from sidecar.stores.base import Access, Conflict, Corrupt, Denied, NotFound, Revision, Store, StoreError, Unavailable

T = TypeVar("T")
LATE_S = 5.0
"""What is given up gets this long to end, and as long is looked for a way out of damage."""

LEAST_S = 3.0
"""Every attempt gets this long. With ``LATE_S`` an exit follows within 10 s after the restore timeout."""

WITHDRAWALS = 5
"""How often letting go of the lease gives way to other commits."""

Failure = Literal["wait", "exit", "continue"]

Along = Callable[[Revision, float], Awaitable[Mapping[str, bytes]]]
"""Files (store path and bytes) to put with a commit onto a revision, told within so many seconds."""


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
    exclude: Sequence[str] = ()
    own: Sequence[str] = ()


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
    """When something last moved, and when this start last came further than ever before.

    The restore timeout counts from the second: an attempt that fails where the one before it failed is no progress,
    however much it does on its way there. Until something has failed any sign of life is progress.
    """

    moved: float = 0.0
    gained: float = 0.0
    failures: int = 0
    best: tuple[int, int, int] = (0, 0, 0)

    def alive(self) -> None:
        """A sign of life."""
        self.moved = time.monotonic()
        if not self.failures:
            self.gained = self.moved

    def reached(self, step: int, files: int = 0, size: int = 0) -> None:
        """This attempt got so far: the number of the step, and what of a restore is done."""
        self.alive()
        if (step, files, size) > self.best:
            self.best, self.gained = (step, files, size), self.moved

    def waited(self) -> None:
        """Somebody is waited for, which has a bound of its own."""
        self.moved = self.gained = time.monotonic()


class Start:
    """The attempts of one start. ``claimed`` is the lease that it took; ``give_back`` where nothing comes of it."""

    def __init__(self, store: Store, index: Index, plan: Plan, state: State, record: Record) -> None:
        self.store, self.index, self.plan, self.state, self.record = store, index, plan, state, record
        self.claimed: Claimed | None = None
        self.why_unleased = ""
        self._waiting = Waiting(plan.handoff_wait_s)
        self._progress = Progress()
        self._ways_out: dict[str, str] = {}
        self._asked_for: Lease | Literal["nothing"] | None = "nothing"  # the lease that we found before we claimed

    async def recover(self) -> Recovered | None:
        """Try until it holds. None: go on without (``continue``). Raises RestoreFailed where the start is over."""
        self._progress.alive()
        last_said = float("-inf")
        while True:
            try:
                recovered = await self._in_time(self._attempt())
                self.state.recovery_error = None
                return recovered
            except Moved:
                continue
            except SidecarError as error:
                failure = classify(error)
            self._progress.failures += 1
            over = failure.final or time.monotonic() - self._progress.gained >= self.plan.timeout_s
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
            if time.monotonic() - last_said >= (300 if over else 30):
                what = "main waits until it works (SIDECAR_ON_RESTORE_FAILURE=wait)" if over else "trying again"
                log.warning(f"recovery: {failure.message}; {what}")
                last_said = time.monotonic()
            await asyncio.sleep(self._pause(getattr(error_of(failure), "retry_after", None)))

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

    def _pause(self, retry_after: float | None) -> float:
        wait = min(60.0, 0.5 * 2.0 ** min(self._progress.failures, 8)) * (0.5 + random.random() / 2)
        if retry_after is not None:
            wait = max(wait, min(retry_after, 60.0) * (1 + random.random() / 4))
        if self.plan.on_failure == "wait":
            return wait
        return max(0.05, min(wait, self._left()))

    def _left(self) -> float:
        """Seconds until the restore timeout is up."""
        return self._progress.gained + self.plan.timeout_s - time.monotonic()

    async def _in_time(self, work: Awaitable[T]) -> T:
        """``work``, cut off once nothing has moved for the restore timeout; in ``wait`` each attempt has all of it."""
        task, began = asyncio.ensure_future(work), time.monotonic()
        try:
            while True:
                left = self._left()
                if self.plan.on_failure == "wait":
                    left = max(self._progress.moved, began) + self.plan.timeout_s - time.monotonic()
                until = max(left + 1.0, began + LEAST_S - time.monotonic())
                if until <= 0:
                    raise RestoreFailed(
                        f"{self.store.url} gave no answer and nothing moved for {self.plan.timeout_s:g} s"
                    )
                done, _ = await asyncio.wait({task}, timeout=until)
                if done:
                    return task.result()
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, SidecarError, Moved, TimeoutError):
                    await asyncio.wait_for(task, LATE_S)

    def _bounded(self) -> AbstractContextManager[None]:
        """Where a store can cut its own repetitions short, it says what failed instead of us that nothing moved."""
        limit: Callable[[float], AbstractContextManager[None]] | None = getattr(self.store, "limit", None)
        left = self.plan.timeout_s if self.plan.on_failure == "wait" else self._left()
        return limit(max(left, LEAST_S - 1.0)) if limit is not None else contextlib.nullcontext()

    async def _attempt(self) -> Recovered:
        await asyncio.to_thread(journal.finish_journal, self.plan.state_dir, self.index)
        noting = asyncio.create_task(self._note_image())  # reads this disk while the store is asked
        try:
            with self.record.step("claim") as row, self._bounded():
                claimed = await self._find_and_claim()
                row["detail"] = f"epoch {claimed.tenure.epoch}" if claimed.tenure else claimed.why_unleased
            await noting
        finally:
            noting.cancel()
            await asyncio.gather(noting, return_exceptions=True)
        self.state.phase = "restoring"
        with self.record.step("restore") as row:
            origin = claimed.origin
            if origin.manifest is None or origin.source is None:
                if journal.is_open(self.plan.state_dir):
                    raise RestoreFailed(
                        f"a restore was cut off half-way and its files are gone, and {self.store.url} has no snapshot"
                        f" to finish it from. To begin anew with what is on this disk, remove {self.plan.state_dir}"
                    )
                brought = await asyncio.to_thread(self.index.shipped)
                await asyncio.to_thread(self.index.forget, brought)
                row["detail"] = "cold start"
                return claimed
            at = claimed.head if origin.source == origin.head else origin.source
            assert at is not None
            try:
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
                    alive=self._restored_some,
                )
            except NotFound:
                if await self.store.head() == claimed.head:
                    raise
                raise Moved from None  # a squash gave it another name: what was verified need not come again
            row["detail"] = f"{restored.files} files, {restored.fetched} of them fetched"
            return replace(claimed, restored=restored)

    async def _note_image(self) -> None:
        """Before anything is restored or main runs: what a fresh disk's image brought. Said where it is much."""
        plan, began = self.plan, time.monotonic()
        meter = Meter(RestoreProgress(), self._progress.alive)
        try:
            found = await meter.work(
                image.note, self.index, plan.state_dir, plan.roots, plan.exclude, plan.own, meter.tick
            )
        except OSError as error:
            log.warning(f"what the image ships can't be told ({error.strerror}): only snapshots count at this start")
            return
        if found is None:
            return
        if found.hashes:
            seconds = time.monotonic() - began
            what = f"{len(found.hashes):,} paths, {found.bytes:,} bytes read in {seconds:.1f} s"
            (log.info if seconds >= 1 else log.debug)(f"the image ships in the roots: {what}")
        if found.left:
            log.warning(
                f"the image ships more in the roots than {image.MOST_FILES:,} files and {image.MOST_BYTES >> 20:,} MB:"
                f" of {found.left:,} files a newer image's version won't win over the snapshot's"
            )

    def _restored_some(self) -> None:
        self._progress.reached(4, self.state.restore.files_done, self.state.restore.bytes_done)

    async def claim_only(self) -> Recovered:
        """Find what there is and take the lease, for a disk that needs no restore. Raises SidecarErrors.

        Such a disk holds the head's snapshot, whatever SIDECAR_REVISION would start from.
        """
        self.plan = replace(self.plan, revision=None)
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
        self._progress.reached(2)
        taken = await self._claim(head, await self._lease(head), origin, access)
        if isinstance(taken, Claimed):
            return Recovered(taken.revision, origin, taken.tenure, taken.clean, Restored(), access)
        return Recovered(head, origin, None, None, Restored(), access, taken.why)

    async def _access(self) -> Access:
        access = await self.store.check(create=self.plan.cold_start != "refuse")
        self._progress.reached(1)
        if access.created:
            log.warning(
                f"COLD START: created {self.store.url}; if you expected data here, stop and set"
                " SIDECAR_COLD_START=refuse"
            )
        return access

    async def give_back(self, along: Along | None = None) -> None:
        """Withdraw the claim, or the request, of a start that comes to nothing, also one whose answer never came.

        ``along`` is asked what to put with that commit. Never raises.
        """
        if self._asked_for == "nothing":
            return
        try:
            await asyncio.wait_for(self._withdraw(along), LATE_S)
        except (SidecarError, TimeoutError) as error:
            log.warning(f"the lease could not be given back ({said(error)}): the next start waits for us in vain")

    async def _withdraw(self, along: Along | None) -> None:
        """Let go of what is ours at the head; again where the head moves meanwhile. Raises StoreErrors."""
        claimed, self.claimed = self.claimed, None
        for attempt in range(1, WITHDRAWALS + 1):
            try:
                claimed = claimed or await self._landed()
                if claimed is not None:
                    more = await along(claimed.revision, LATE_S / 2) if along is not None else {}
                    await withdraw(self.store, claimed, more)
                    self.state.lease = "none"
                self._asked_for = "nothing"
                return
            except Conflict:
                claimed = None
                if attempt == WITHDRAWALS:
                    raise

    async def _landed(self) -> Claimed | None:
        """The lease, where it is ours without our having been told. What we only asked for is asked for no more."""
        head, me = await self.store.head(), self.plan.me
        found = await read_lease(self.store, head)
        if head is None or found is None or found.state not in ("held", "requested"):
            return None
        if found.instance != me.instance:
            if (found.state, found.requester) == ("requested", me.instance):
                await unask(self.store, head, found)
                log.info(f"instance {found.instance} need not hand over any more: the request is withdrawn")
            return None
        before = self._asked_for
        clean = isinstance(before, Lease) and before.state == "released" and before.clean
        return Claimed(head, Tenure(found), clean)

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
            self.state.lease, self.why_unleased = "unleased", access.detail or "the store doesn't let us write"
            self._progress.reached(3)
            return Unleased(self.why_unleased)
        least = origin.manifest.snapshot.epoch if origin.manifest else 0
        me = self.plan.me
        if found is None and origin.manifest is not None and origin.manifest.space not in (me.space, me.adopt):
            # Somebody deleted the lease: whose the snapshots are is told by their manifest too.
            holder = Lease(least, origin.manifest.instance, origin.manifest.space, "released")
            raise RestoreFailed(refusal(self.store, holder, me), final=True, code=EX_REFUSED)
        if found is None or found.instance != self.plan.me.instance:
            self._asked_for = found
        taken = await claim(self.store, head, found, self.plan.me, least, self._waiting, self._progress.waited)
        if isinstance(taken, Claimed):
            if self.claimed is not None and self.claimed.tenure.epoch == taken.tenure.epoch:
                taken = replace(taken, clean=self.claimed.clean)  # an earlier attempt took it, and knows
            self.claimed = taken
            self.state.epoch, self.state.lease = taken.tenure.epoch, "held"
        else:
            self.state.lease, self.why_unleased = "unleased", taken.why
        self._progress.reached(3)
        return taken


def classify(error: SidecarError) -> RestoreFailed:
    """Any failure of an attempt as a restore failure: final where trying again can't help, with its exit code."""
    if isinstance(error, RestoreFailed):
        return error
    final = isinstance(error, Denied | NotFound)
    failure = RestoreFailed(error.message.rstrip("."), final=final, code=EX_REFUSED if final else EX_TEMPFAIL)
    failure.__cause__ = error
    return failure


def said(error: SidecarError | TimeoutError) -> str:
    return error.message.rstrip(".") if isinstance(error, SidecarError) else "the store gave no answer in time"


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


@dataclass(frozen=True, slots=True)
class Standing:
    """A main line that a fenced instance may take again: its head, the lease there, and its snapshot."""

    head: Revision
    lease: Lease
    manifest: Manifest


async def standing(store: Store, plan: Plan, left: Left, waited_s: float, patience_s: float) -> Standing | None:
    """The main line, where a fenced instance may claim it again (see ``reclaims``). Raises SidecarErrors."""
    head = await store.head()
    found = await read_lease(store, head)
    if head is None or found is None or (found.state != "released" and found.instance != plan.me.instance):
        return None
    manifest = await read_manifest(store, head, plan.state_dir)
    stands = manifest.snapshot if manifest is not None else None
    if manifest is None or not reclaims(found, stands, plan.me, left, waited_s=waited_s, patience_s=patience_s):
        return None
    return Standing(head, found, manifest)


async def reclaim(store: Store, at: Standing, me: Me) -> Claimed | None:
    """Claim what is ``standing``; None where it could not be had, or isn't any more."""
    try:
        taken = await claim(store, at.head, at.lease, me, at.manifest.snapshot.epoch, Waiting(0.0), lambda: None)
    except (Moved, SidecarError):
        return None
    return taken if isinstance(taken, Claimed) else None


@dataclass(frozen=True, slots=True)
class Reattached:
    """What an agent finds beside a main that already runs.

    ``taken`` is None where another instance has the lease; ``intact`` tells whether the index describes
    ``manifest``: the head's, or that of the snapshot that SIDECAR_REVISION ``chosen`` to start from where nothing was
    committed since (its words, and its revision). ``sent`` is the number of a snapshot that may still be on its way
    from the agent before.
    """

    taken: Claimed | None
    manifest: Manifest | None
    head: Revision
    intact: bool
    sent: SnapshotId | None
    chosen: tuple[str, Revision] | None = None


CHOSEN = "chosen"


def note_choice(index: Index, instance: str, recovered: Recovered) -> None:
    """Remember for the agents after this one which snapshot ``instance`` started from instead of the head. Blocks."""
    origin = recovered.origin
    chosen = origin.chosen is not None and origin.source is not None
    noted = json.dumps([instance, origin.chosen, origin.source, recovered.head])
    index.set_note(CHOSEN, noted if chosen else None)


def choice(index: Index, instance: str) -> tuple[str, Revision, Revision | None] | None:
    """What ``instance`` started from instead of the head, as long as nothing was committed since. Blocks.

    Its words, its revision, and what was the head then.
    """
    noted = index.note(CHOSEN)
    known = index.known()
    if noted is None or known is None:
        return None
    whose, words, source, head = json.loads(noted)
    return (words, source, head) if whose == instance and known.revision == source else None


async def settle(index: Index, store_id: str, manifest: Manifest, head: Revision) -> bool:
    """Whether the index describes ``manifest``, the one at ``head``, once a commit of unknown outcome is settled."""
    sent = await asyncio.to_thread(index.pending)
    if sent is not None and sent == manifest.snapshot:
        await asyncio.to_thread(index.promote, store_id, head)
    elif sent is not None:
        await asyncio.to_thread(index.discard)
    known = await asyncio.to_thread(index.known)
    return known is not None and known.store == store_id and known.snapshot == manifest.snapshot


async def reattach(store: Store, index: Index, plan: Plan) -> Reattached:
    """Beside a main that already runs: pick up from the index, restoring nothing. Raises Moved, SidecarErrors."""
    head = await store.head()
    if head is None:
        raise Unavailable(f"{store.url} has no head any more")
    chosen = await asyncio.to_thread(choice, index, plan.me.instance)
    sent = await asyncio.to_thread(index.pending)
    try:
        manifest = await read_manifest(store, head, plan.state_dir)
    except (ManifestError, Corrupt):
        if chosen is None:
            raise
        manifest = None  # the damaged head that the choice was made for
    found = await read_lease(store, head)
    intact = manifest is None or await settle(index, plan.store_id, manifest, head)
    if found is not None and found.instance != plan.me.instance:
        # A life that has had no lease yet may take one, as long as the head is what it started from.
        unmoved = chosen[2] == head if chosen is not None else manifest is not None and intact
        if found.state != "released" or not unmoved:
            return Reattached(None, manifest, head, False, sent)
    if chosen is not None and await asyncio.to_thread(choice, index, plan.me.instance) is not None:
        manifest, intact = await read_manifest(store, chosen[1], plan.state_dir), True
    else:
        chosen = None
    least = manifest.snapshot.epoch if manifest else 0
    taken = await claim(store, head, found, plan.me, least, Waiting(0.0), lambda: None)
    return Reattached(
        taken if isinstance(taken, Claimed) else None, manifest, head, intact, sent, chosen and chosen[:2]
    )
