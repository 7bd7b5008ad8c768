"""Taking the lease: the doing behind ``lease.decide``."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sidecar import log
from sidecar.errors import EX_REFUSED, RestoreFailed
from sidecar.recovery import lease as leases
from sidecar.recovery.lease import Lease, Me, Refuse, Take, Tenure, Wait
from sidecar.recovery.turns import Waiting, last_claim, lets_go
from sidecar.snapshot import machine
from sidecar.snapshot.manifest import ASKS, claim_title
from sidecar.stores.base import Conflict, Denied, NotFound, Revision, Store, Unavailable

ALL = 100_000
"""Commits of a history: more than any has."""

POLL_S = 2.0
ALIVE_S = 0.5
TRIES = 3
RETRY_S = 0.5

WITHDRAWALS = 5
"""How often letting go of the lease gives way to other commits."""


ALONG_S = 2.5
"""What goes along with a lease that is given back has so long to be told."""

Along = Callable[[Revision, float], Awaitable[Mapping[str, bytes]]]
"""Files (store path and bytes) to put with a commit onto a revision, told within so many seconds."""


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


@dataclass(frozen=True, slots=True)
class Waits:
    """The holder, whose lease is ``found`` at ``head``, was asked, or can't be: look again in ``pause_s``."""

    head: Revision | None
    found: Lease
    pause_s: float


async def read_lease(store: Store, revision: Revision | None) -> Lease | None:
    """The lease at ``revision``. Raises ManifestError where it is there and can't be read."""
    if revision is None:
        return None
    try:
        with TemporaryDirectory(prefix="sidecar-") as folder:
            await store.fetch(revision, [leases.PATH], Path(folder))
            return leases.decode(await asyncio.to_thread((Path(folder) / leases.PATH).read_bytes))
    except NotFound:
        return None
    except OSError as error:
        raise Unavailable(f"the lease of {store.url} could not be read here: {machine.why(error)}") from error


async def claim(
    store: Store,
    head: Revision | None,
    found: Lease | None,
    me: Me,
    least_epoch: int,
    waiting: Waiting,
    alive: Callable[[], None] = lambda: None,
    bounded: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Claimed | Unleased:
    """Take the lease that was ``found`` at ``head``; ask for it, and wait, where somebody may hold it.

    Raises Moved where somebody else moves the head: what is there may be another snapshot. Each round of questions to
    the store goes within ``bounded``, which the waiting between them doesn't. Another identity's lease raises
    RestoreFailed (69) and writes nothing.
    """
    while True:
        with bounded():
            taken = await attempt(store, head, found, me, least_epoch, waiting, alive)
        if not isinstance(taken, Waits):
            return taken
        until = time.monotonic() + taken.pause_s
        while (left := until - time.monotonic()) > 0:
            alive()  # to wait for a holder is no standstill, however short the restore timeout is
            await asyncio.sleep(min(left, ALIVE_S))
        head, found = taken.head, taken.found
        with bounded():
            if await store.head() != head:
                raise Moved


async def attempt(
    store: Store,
    head: Revision | None,
    found: Lease | None,
    me: Me,
    least_epoch: int,
    waiting: Waiting,
    alive: Callable[[], None] = lambda: None,
) -> Claimed | Unleased | Waits:
    """What can be done at once about the lease that was ``found`` at ``head``. Raises as ``claim`` does."""
    if head is not None and found is not None and (found.instance, found.state) == (me.instance, "held"):
        return Claimed(head, Tenure(found, found.resuming), None)  # an earlier attempt, or agent, of ours has taken it
    if head is not None and found is None:
        # Deleted by hand, or never there. Whoever claimed it since the newest snapshot has had that epoch.
        least_epoch = max(least_epoch, last_claim([commit.title for commit in await store.history(ALL)]))
    now = time.monotonic()
    decision = leases.decide(found, me, least_epoch=least_epoch)
    silent = isinstance(decision, Wait) and waiting.silent(decision.holder, now)
    if isinstance(decision, Wait) and silent and (decision.request is None or not waiting.handoff_wait_s):
        log.warning(f"the holder before us ({decision.holder.instance}) gave no answer: it is taken for dead")
        decision = leases.decide(found, me, least_epoch=least_epoch, silent=True)
    if isinstance(decision, Refuse):
        raise RestoreFailed(refusal(store, decision.holder, me), final=True, code=EX_REFUSED)
    if isinstance(decision, Take):
        return await _take(store, head, decision, me)
    alive()
    pause = max(0.05, min(POLL_S * (0.75 + random.random() / 2), waiting.left(now)))
    if decision.request is None:
        return Waits(head, decision.holder, pause)
    if waiting.asked != decision.holder.instance:
        log.info(
            f"instance {decision.holder.instance} holds the lease: asking it to hand over,"
            f" waiting up to {waiting.handoff_wait_s:g} s"
        )
        waiting.asked = decision.holder.instance
    try:
        asked = await _commit(store, head, decision.request, f"{ASKS}{me.instance}")
        return Waits(asked, decision.request, pause)
    except Denied as error:
        return Unleased(error.message)
    except Unavailable as error:
        if await store.head() != head:
            raise Moved from None
        # Reading works. Nobody is taken for dead who was never asked.
        return Unleased(error.message) if silent else Waits(head, decision.holder, pause)


async def _take(store: Store, head: Revision | None, decision: Take, me: Me) -> Claimed | Unleased:
    message = claim_title(decision.lease.epoch, me.instance)
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
        return Claimed(revision, Tenure(decision.lease, decision.interrupted), decision.clean)
    raise AssertionError("unreachable")


async def _commit(store: Store, head: Revision | None, lease: Lease, message: str) -> Revision:
    try:
        return await store.commit(head, {leases.PATH: leases.encode(lease)}, [], message)
    except Conflict:
        if await store.head() == head:
            # Not by anybody's commit: to look again at once would find the same, for ever.
            raise Unavailable(f"{store.url} refuses a commit on its own head as if that had moved") from None
        raise Moved from None


async def renew(store: Store, head: Revision, tenure: Tenure) -> Claimed:
    """The next epoch, for the holder itself: in this one its resume has begun once, and must not again.

    Raises Moved, StoreErrors.
    """
    interrupted = tenure.resume == "begun" or (tenure.resume == "none" and tenure.interrupted)
    lease = replace(tenure.lease, epoch=tenure.epoch + 1, turn=0, resuming=True)
    revision = await _commit(store, head, lease, claim_title(lease.epoch, lease.instance))
    return Claimed(revision, Tenure(lease, interrupted), None)


async def give_back(
    store: Store,
    me: Me,
    claimed: Claimed | None,
    clean: bool,
    along: Along | None = None,
    resuming: bool | None = None,
) -> None:
    """Let go of what is ours at the head, ``claimed`` or not: a claim or a request may have landed without an answer.

    ``clean`` is how the lease was released before, and ``resuming`` what it said of resumes, where ``claimed`` doesn't
    tell; ``along`` is asked what to put with it. Again where the head moves meanwhile. Raises SidecarErrors.
    """
    for attempt in range(1, WITHDRAWALS + 1):
        head: Revision | None
        found: Lease | None
        if claimed is not None:
            head, found, clean = claimed.revision, claimed.tenure.lease, bool(claimed.clean)
            resuming = claimed.tenure.leaves_resuming
        else:
            head = await store.head()
            found = await read_lease(store, head)
        given = lets_go(found, me, clean, resuming)
        if head is None or given is None:
            return
        mine = given.instance == me.instance
        more = await along(head, ALONG_S) if along is not None and mine else {}
        try:
            await withdraw(store, head, given, me, more)
            return
        except Conflict:
            claimed = None
            if attempt == WITHDRAWALS:
                raise


async def withdraw(store: Store, head: Revision, given: Lease, me: Me, along: Mapping[str, bytes]) -> None:
    """Write ``given``, what ``lease.lets_go`` says, and ``along``, on top of ``head``. Raises StoreError.

    The title of a request that is taken back is that of a request: its holder takes the commit for no edit.
    """
    message = f"sidecar: lease {given.epoch} withdrawn by {me.instance}"
    if given.instance != me.instance:
        message = f"{ASKS}{me.instance}, who asks no more"
    await store.commit(head, {**along, leases.PATH: leases.encode(given)}, [], message)
    if given.instance != me.instance:
        log.info(f"instance {given.instance} need not hand over any more: the request is withdrawn")


def refusal(store: Store, holder: Lease, me: Me) -> str:
    """Why the lease of another identity's is left alone, and what to do."""
    return (
        f"the snapshots in {store.url} belong to {holder.space!r}, and this is {me.space!r}: nothing was written."
        f" If this is meant to take over for it, set SIDECAR_ADOPT={holder.space}; else give this one a store of"
        " its own with SIDECAR_STORE"
    )
