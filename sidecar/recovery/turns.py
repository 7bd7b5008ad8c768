"""Whose turn it is, values in, values out: how long a holder is waited for, what is given back, who may come again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sidecar.recovery.lease import Lease, Me
from sidecar.snapshot.manifest import CLAIM, SnapshotId


@dataclass(slots=True)
class Waiting:
    """How long a silent holder has been waited for, over several looks at the head. Times are the caller's clock's."""

    handoff_wait_s: float
    seen: tuple[str, int, str, int, str] | None = None
    since: float = 0.0
    first: float = 0.0
    asked: str = ""  # which instance, for people

    def silent(self, holder: Lease, now: float) -> bool:
        """Whether ``holder`` has been as it is for too long: held without our being able to ask, or asked in vain.

        A hand-over that is renewed starts the clock again, at most ten times over. Another holder was never asked, nor
        is it what we found silent.
        """
        sight = (holder.instance, holder.epoch, holder.state, holder.turn, holder.requester)
        if self.seen is None or sight[:2] != self.seen[:2]:
            self.first = self.since = now
        elif sight != self.seen:
            self.since = now
        self.seen = sight
        return now - self.since >= self.handoff_wait_s or now - self.first >= 10 * self.handoff_wait_s

    def left(self, now: float) -> float:
        """Seconds until the holder that was seen last is taken for dead, if it stays as it is."""
        return min(self.since + self.handoff_wait_s, self.first + 10 * self.handoff_wait_s) - now


def lets_go(found: Lease | None, me: Me, clean: bool, resuming: bool | None = None) -> Lease | None:
    """What a start that comes to nothing writes in the place of the lease that it ``found``; None: nothing is ours.

    What it holds it releases, as ``clean`` as it was before it, and ``resuming`` where that is known better than by
    what was found. What it only asked for its holder keeps, also one that
    has begun to hand over.
    """
    if found is None or found.state == "released":
        return None
    if found.instance == me.instance:
        going_on = found.resuming if resuming is None else resuming
        gone = replace(found, state="released", requester="", clean=clean, since=time.time())
        return replace(gone, resuming=going_on)
    if found.requester == me.instance and found.state in ("requested", "handing_over"):
        return replace(found, state="held", requester="", turn=found.turn + 1)
    return None


def last_claim(titles: Iterable[str]) -> int:
    """The latest epoch that a commit's title claims, 0 where none does: a lease that was deleted doesn't tell."""
    return max((int(found[1]) for title in titles if (found := CLAIM.match(title))), default=0)


@dataclass(frozen=True, slots=True)
class Left:
    """What a fenced instance left on the main line: it held ``epoch``, and sent one of ``snapshots`` last."""

    epoch: int
    snapshots: frozenset[SnapshotId]


def reclaims(
    found: Lease, stands: SnapshotId | None, me: Me, left: Left, *, waited_s: float, patience_s: float
) -> bool:
    """Whether a fenced instance takes the lease again: nobody has it, and the main line is as it was left.

    ``stands`` is the snapshot at the head. Our own release is for who asked: it has ``patience_s`` to come, of which
    ``waited_s`` are over. A successor that has released without a snapshot never began.
    """
    if found.space != me.space or stands is None or stands not in left.snapshots:
        return False
    if found.instance == me.instance and found.epoch == left.epoch:
        return found.state == "released" and waited_s >= patience_s
    if found.epoch <= left.epoch:
        return False  # put back by hand
    if found.instance == me.instance:
        return found.state == "held"  # our own claim, whose answer never came
    return found.state == "released"


def goes_on(found: Lease | None, stands: SnapshotId | None, writer: str, me: Me, *, unmoved: bool) -> bool:
    """Whether an agent that comes after another one, beside a main that runs, may go on with the main line.

    ``stands`` is the snapshot at the head, and ``writer`` the instance that made it; ``unmoved``: it is what this
    disk is known to hold. A lease that was deleted, or put back, by hand says nothing of who has written since.
    """
    if found is not None and found.instance == me.instance:
        return stands is None or stands.epoch <= found.epoch
    if found is None:
        return stands is None or unmoved or writer == me.instance
    return found.state == "released" and unmoved
