"""Who asks for the lease in one start: what was found before the claim, what was taken, and how that is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from sidecar import log
from sidecar.errors import EX_REFUSED, RestoreFailed, SidecarError
from sidecar.recovery.claim import Along, Claimed, Unleased, claim, give_back, refusal
from sidecar.recovery.lease import Lease
from sidecar.recovery.origin import Origin
from sidecar.recovery.patience import LATE_S, Patience, Progress
from sidecar.recovery.restore import Restored
from sidecar.recovery.terms import Plan, Recovered
from sidecar.recovery.turns import Waiting
from sidecar.state import State
from sidecar.stores.base import Access, Revision, Store


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the store: what there is to start from, and who may write."""

    access: Access
    head: Revision | None
    origin: Origin
    lease: Lease | None

    @property
    def least_epoch(self) -> int:
        return self.origin.manifest.snapshot.epoch if self.origin.manifest else 0


class Claimant:
    """The claims of one start. ``claimed`` is the lease that it took; ``give_back`` where nothing comes of it."""

    def __init__(self, store: Store, plan: Plan, state: State, progress: Progress, patience: Patience) -> None:
        self.store, self.me, self.state = store, plan.me, state
        self.claimed: Claimed | None = None
        self.knew: bool | None = None  # by an agent before this one: how the life before this ended
        self.took: Callable[[Claimed], None] = lambda claimed: None
        self.why_unleased = ""
        self._waiting = Waiting(plan.handoff_wait_s)
        self._progress, self._patience = progress, patience
        self._asked_for: Lease | Literal["nothing"] | None = "nothing"  # the lease that we found before we claimed

    async def claim(self, seen: Seen, *, resumes: bool) -> Recovered:
        """What was ``seen``, under the lease where it can be had. Raises Moved, SidecarErrors.

        ``resumes``: the claim is at the same time for the right to run the resume commands of its epoch.
        """
        taken = await self._take(seen, resumes)
        self._progress.reached(3)
        if isinstance(taken, Claimed):
            if self.claimed is not None and self.claimed.tenure.epoch == taken.tenure.epoch:
                # An earlier attempt took it, and knows.
                taken = replace(taken, clean=self.claimed.clean, tenure=self.claimed.tenure)
            elif taken.clean is None and self._before()[1] is not None:
                # It landed without an answer.
                clean, resuming = self._before()
                taken = replace(taken, clean=clean if self._asked_for is not None else None)
                taken.tenure.interrupted = bool(resuming)
            elif taken.clean is None:
                taken = replace(taken, clean=self.knew)
            self.claimed = taken
            self.took(taken)
            self.state.epoch, self.state.lease = taken.tenure.epoch, "held"
            return Recovered(taken.revision, seen.origin, taken.tenure, taken.clean, Restored(), seen.access)
        self.state.lease, self.why_unleased = "unleased", taken.why
        return Recovered(seen.head, seen.origin, None, None, Restored(), seen.access, taken.why)

    async def _take(self, seen: Seen, resumes: bool) -> Claimed | Unleased:
        if not seen.access.writable:
            return Unleased(seen.access.detail or "the store doesn't let us write")
        me, found, manifest = self.me, seen.lease, seen.origin.manifest
        if found is None and manifest is not None and manifest.space not in (me.space, me.adopt):
            # Somebody deleted the lease: whose the snapshots are is told by their manifest too.
            holder = Lease(seen.least_epoch, manifest.instance, manifest.space, "released")
            raise RestoreFailed(refusal(self.store, holder, me), final=True, code=EX_REFUSED)
        if found is None or found.instance != me.instance or self._asked_for == "nothing":
            self._asked_for = found
        return await claim(
            self.store,
            seen.head,
            found,
            replace(me, resumes=resumes),
            seen.least_epoch,
            self._waiting,
            self._progress.waited,
            lambda: self._patience.bounded(self.store),
        )

    async def give_back(self, along: Along | None = None, *, unleased: bool = False) -> None:
        """Withdraw the claim, or the request, of a start that comes to nothing, also one whose answer never came.

        So does one that runs ``unleased``, and has asked since. ``along`` is asked what to put with that commit. Never
        raises.
        """
        claimed, before = self.claimed, self._asked_for
        if before == "nothing" and not unleased:
            return
        self.claimed = None
        clean, resuming = self._before()
        try:
            work = give_back(self.store, self.me, claimed, clean, along, resuming)
            await asyncio.wait_for(work, LATE_S)
            self.state.lease, self._asked_for = "none", "nothing"
        except (SidecarError, TimeoutError) as error:
            log.warning(f"the lease could not be given back ({said(error)}): the next start waits for us in vain")

    def _before(self) -> tuple[bool, bool | None]:
        """Whether the lease was released cleanly before we asked for it, and what it said of resumes, if we know."""
        before = self._asked_for
        if before is None:
            return False, False
        if before == "nothing" or before.instance == self.me.instance:
            return False, None
        return before.state == "released" and before.clean, before.resuming


def said(error: SidecarError | TimeoutError) -> str:
    return error.message.rstrip(".") if isinstance(error, SidecarError) else "the store gave no answer in time"
