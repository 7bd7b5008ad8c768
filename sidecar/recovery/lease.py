"""Who may write, as a state machine: values in, values out (design, section 6).

The lease is ``.sidecar/lease.json`` on the main line; every change of it is a commit that names its parent, so two
instances never both believe that they made the same one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal

import orjson

from sidecar.errors import ManifestError
from sidecar.snapshot.manifest import LEASE as PATH
from sidecar.snapshot.manifest import SnapshotId

__all__ = ["PATH", "Lease", "Left", "Me", "Refuse", "Take", "Tenure", "Wait", "decide", "decode", "encode", "reclaims"]

FORMAT = 1
MOST = 10**17
"""The largest epoch or turn: what follows it is still a snapshot's number."""

State = Literal["held", "requested", "handing_over", "released"]
_STATES = ("held", "requested", "handing_over", "released")


@dataclass(frozen=True, slots=True)
class Lease:
    """``instance`` of ``space`` holds (or held, where released) the right to write as ``epoch``.

    ``clean`` says of a released one whether the holder's last snapshot went through; ``requester`` is who asked.
    ``turn`` grows with each renewal, so that a waiting instance sees that the holder lives. ``since`` is for people.
    """

    epoch: int
    instance: str
    space: str
    state: State
    requester: str = ""
    clean: bool = False
    turn: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Me:
    """The claimant: its instance, the space that it is, and the one whose lease it may take over."""

    instance: str
    space: str
    adopt: str | None = None


@dataclass(frozen=True, slots=True)
class Take:
    """Commit ``lease`` and be the holder. ``clean`` is how the one before ended; None where there was none."""

    lease: Lease
    clean: bool | None


@dataclass(frozen=True, slots=True)
class Wait:
    """``holder`` may live: ask it (``request`` is what to commit, None where that was done) and wait."""

    holder: Lease
    request: Lease | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Another identity's: nothing is written."""

    holder: Lease


def encode(lease: Lease) -> bytes:
    document = {
        "format": FORMAT,
        "epoch": lease.epoch,
        "instance": lease.instance,
        "space": lease.space,
        "state": lease.state,
        "requester": lease.requester,
        "clean": lease.clean,
        "turn": lease.turn,
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(lease.since or time.time())),
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2)


def decode(raw: bytes) -> Lease:
    """Read ``lease.json``. Raises ManifestError where it isn't one: who holds it is then unknown."""
    try:
        d = orjson.loads(raw)
    except orjson.JSONDecodeError:
        d = None
    if not isinstance(d, dict):
        raise ManifestError(f"{PATH} in the store can't be read")
    if d.get("format") != FORMAT:
        raise ManifestError(f"{PATH} has format {d.get('format')!r}: update space-sidecar", damage=False)
    numbers = (d.get("epoch"), d.get("turn"))
    words = (d.get("instance"), d.get("space"), d.get("requester", ""))
    if (
        not all(type(n) is int and 0 <= n <= MOST for n in numbers)
        or not all(isinstance(w, str) for w in words)
        or d.get("state") not in _STATES
    ):
        raise ManifestError(f"{PATH} in the store is malformed")
    return Lease(
        d["epoch"], d["instance"], d["space"], d["state"], d.get("requester", ""), bool(d.get("clean")), d["turn"]
    )


def decide(current: Lease | None, me: Me, *, least_epoch: int = 0, silent: bool = False) -> Take | Wait | Refuse:
    """What a starting instance does about the lease that it found.

    ``least_epoch`` is the newest snapshot's, for a store whose lease was deleted by hand. ``silent`` says that the
    holder was given its time and has not answered.
    """
    if current is None:
        return Take(Lease(least_epoch + 1, me.instance, me.space, "held"), None)
    if current.space != me.space and current.space != me.adopt:
        return Refuse(current)
    if current.instance == me.instance and current.state != "released":
        return Take(replace(current, state="held", requester=""), None)
    taken = Lease(max(current.epoch, least_epoch) + 1, me.instance, me.space, "held")
    if current.state == "released":
        return Take(taken, current.clean)
    if silent:
        return Take(taken, False)
    if current.state == "held":
        return Wait(current, replace(current, state="requested", requester=me.instance, turn=current.turn + 1))
    return Wait(current, None)


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


@dataclass(slots=True)
class Tenure:
    """A lease that this instance took: what it writes to keep, hand over and release it."""

    lease: Lease

    @property
    def epoch(self) -> int:
        return self.lease.epoch

    def released(self, clean: bool) -> bytes:
        """The document that lets go of the lease; ``clean`` where it rides on a last snapshot."""
        return encode(replace(self.lease, state="released", requester="", clean=clean, since=time.time()))

    def held(self) -> bytes:
        return encode(self.lease)

    def handing_over(self) -> bytes:
        self.lease = replace(self.lease, state="handing_over", turn=self.lease.turn + 1, since=time.time())
        return encode(self.lease)

    def judge(self, raw: bytes | None) -> Literal["mine", "requested", "fenced", "lost"]:
        """What the lease at the head says of us. ``lost``: it was deleted or broken by hand, nobody else has it."""
        if raw is None:
            return "lost"
        try:
            found = decode(raw)
        except ManifestError as error:
            return "lost" if error.damage else "fenced"
        if found.instance != self.lease.instance or found.epoch != self.lease.epoch:
            return "fenced" if found.epoch >= self.lease.epoch else "lost"
        if found.state == "released":
            return "fenced"
        return "requested" if found.state == "requested" else "mine"
