"""Taking the lease: the doing behind ``lease.decide``."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sidecar import log
from sidecar.errors import EX_REFUSED, RestoreFailed
from sidecar.recovery import lease as leases
from sidecar.recovery.lease import Lease, Me, Refuse, Take, Tenure, Wait
from sidecar.snapshot.manifest import ASKS
from sidecar.stores.base import Conflict, Denied, NotFound, Revision, Store, Unavailable

POLL_S = 2.0
TRIES = 3
RETRY_S = 0.5


class Moved(Exception):
    """The head changed under us: read it again."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The lease is ours as of ``revision``; ``clean`` tells how the one before ended (None: there was none)."""

    revision: Revision
    tenure: Tenure
    clean: bool | None


@dataclass(frozen=True, slots=True)
class Unleased:
    """Reads work, writing doesn't: a start without the right to write. ``why`` is for people."""

    why: str


async def read_lease(store: Store, revision: Revision | None) -> Lease | None:
    """The lease at ``revision``. Raises ManifestError where it is there and can't be read."""
    if revision is None:
        return None
    with TemporaryDirectory(prefix="sidecar-") as folder:
        try:
            await store.fetch(revision, [leases.PATH], Path(folder))
        except NotFound:
            return None
        return leases.decode(await asyncio.to_thread((Path(folder) / leases.PATH).read_bytes))


@dataclass(slots=True)
class Waiting:
    """How long a silent holder has been waited for, over several reads of the head."""

    handoff_wait_s: float
    seen: tuple[str, int, str, int] | None = None
    since: float = 0.0
    first: float = 0.0
    asked: str = ""  # which instance, for people

    def silent(self, holder: Lease, now: float) -> bool:
        """Whether ``holder`` had its time. A renewed hand-over starts the clock again, at most ten times over.

        So does another holder: it was never asked, nor is it what we found silent.
        """
        sight = (holder.instance, holder.epoch, holder.state, holder.turn)
        if self.seen is None or sight[:2] != self.seen[:2]:
            self.first = self.since = now
        elif holder.state == "handing_over" and sight != self.seen:
            self.since = now
        self.seen = sight
        return now - self.since >= self.handoff_wait_s or now - self.first >= 10 * self.handoff_wait_s


async def claim(
    store: Store,
    head: Revision | None,
    found: Lease | None,
    me: Me,
    least_epoch: int,
    waiting: Waiting,
    alive: Callable[[], None],
) -> Claimed | Unleased:
    """Take the lease that was ``found`` at ``head``, or ask for it. Raises Moved where the head must be read again.

    Another identity's lease raises RestoreFailed (69) and writes nothing.
    """
    if head is not None and found is not None and (found.instance, found.state) == (me.instance, "held"):
        return Claimed(head, Tenure(found), None)  # an earlier attempt, or agent, of ours has taken it
    now = time.monotonic()
    decision = leases.decide(found, me, least_epoch=least_epoch)
    if isinstance(decision, Wait) and waiting.silent(decision.holder, now):
        decision = leases.decide(found, me, least_epoch=least_epoch, silent=True)
        log.warning(f"the holder before us ({decision_holder(found)}) gave no answer: it is taken for dead")
    if isinstance(decision, Refuse):
        raise RestoreFailed(refusal(store, decision.holder, me), final=True, code=EX_REFUSED)
    if isinstance(decision, Wait):
        alive()
        if decision.request is not None:
            try:
                await _ask(store, head, decision, me, waiting)
            except Denied as error:
                return Unleased(error.message)
        left = waiting.since + waiting.handoff_wait_s - now
        await asyncio.sleep(max(0.05, min(POLL_S * (0.75 + random.random() / 2), left)))
        raise Moved
    return await _take(store, head, decision, me)


async def _ask(store: Store, head: Revision | None, decision: Wait, me: Me, waiting: Waiting) -> None:
    """Write down that we want the lease. Raises Moved, Denied, and what keeps us from reading."""
    assert decision.request is not None
    if waiting.asked != decision.holder.instance:
        log.info(
            f"instance {decision.holder.instance} holds the lease: asking it to hand over,"
            f" waiting up to {waiting.handoff_wait_s:g} s"
        )
        waiting.asked = decision.holder.instance
    try:
        await _commit(store, head, decision.request, f"{ASKS}{me.instance}")
    except Unavailable:
        await store.head()  # while that works, the holder gets its time all the same


def decision_holder(found: Lease | None) -> str:
    return found.instance if found else "nobody"


async def _take(store: Store, head: Revision | None, decision: Take, me: Me) -> Claimed | Unleased:
    message = f"sidecar: lease {decision.lease.epoch} claimed by {me.instance}"
    for attempt in range(1, TRIES + 1):
        try:
            revision = await _commit(store, head, decision.lease, message)
        except Denied as error:
            return Unleased(error.message)
        except Unavailable as error:
            if error.unclear:
                current = await store.head()
                if current != head:
                    raise Moved from None
            if attempt == TRIES:
                await store.head()  # an outage is no reason to go on without a lease: this raises then
                return Unleased(error.message)
            await asyncio.sleep(attempt * RETRY_S * (1 + random.random()))
            continue
        return Claimed(revision, Tenure(decision.lease), decision.clean)
    raise AssertionError("unreachable")


async def _commit(store: Store, head: Revision | None, lease: Lease, message: str) -> Revision:
    try:
        return await store.commit(head, {leases.PATH: leases.encode(lease)}, [], message)
    except Conflict:
        raise Moved from None


async def withdraw(store: Store, claimed: Claimed, along: Mapping[str, bytes]) -> None:
    """Give a lease back that was taken for nothing, and put ``along`` with it. Raises StoreError."""
    document = claimed.tenure.released(clean=bool(claimed.clean))
    message = f"sidecar: lease {claimed.tenure.epoch} withdrawn by {claimed.tenure.lease.instance}"
    await store.commit(claimed.revision, {**along, leases.PATH: document}, [], message)


async def unask(store: Store, head: Revision, found: Lease) -> None:
    """Take back the request that was ``found`` at ``head``: its holder goes on. Raises StoreError.

    The title is that of a request, so the holder takes the commit for no edit of the store.
    """
    held = replace(found, state="held", requester="", turn=found.turn + 1)
    message = f"{ASKS}{found.requester}, who asks no more"
    await store.commit(head, {leases.PATH: leases.encode(held)}, [], message)


def refusal(store: Store, holder: Lease, me: Me) -> str:
    """Why the lease of another identity's is left alone, and what to do."""
    return (
        f"the snapshots in {store.url} belong to {holder.space!r}, and this is {me.space!r}: nothing was written."
        f" If this is meant to take over for it, set SIDECAR_ADOPT={holder.space}; else give this one a store of"
        " its own with SIDECAR_STORE"
    )
