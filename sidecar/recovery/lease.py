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

__all__ = [
    "PATH",
    "Lease",
    "Me",
    "Refuse",
    "Take",
    "Tenure",
    "Verdict",
    "Wait",
    "decide",
    "decode",
    "encode",
    "judge",
]

FORMAT = 1
MOST = 10**17
"""The largest epoch or turn: what follows it is still a snapshot's number."""

State = Literal["held", "requested", "handing_over", "released"]
Verdict = Literal["mine", "requested", "withdrawn", "fenced", "older", "lost"]
_STATES = ("held", "requested", "handing_over", "released")


@dataclass(frozen=True, slots=True)
class Lease:
    """``instance`` of ``space`` holds (or held, where released) the right to write as ``epoch``.

    ``clean`` says of a released one whether the holder's last snapshot went through; ``requester`` is who asked.
    ``turn`` grows with each renewal, so that a waiting instance sees that the holder lives. ``since`` is for people.
    ``resuming``: a holder, this one or one before it, had the right to run its resume commands, and has not told yet
    that it is through with them.
    """

    epoch: int
    instance: str
    space: str
    state: State
    requester: str = ""
    clean: bool = False
    turn: int = 0
    since: float = 0.0
    resuming: bool = False


@dataclass(frozen=True, slots=True)
class Me:
    """The claimant: its instance, the space that it is, and the one whose lease it may take over.

    ``resumes``: the claim is at the same time for the right to run the resume commands of its epoch.
    """

    instance: str
    space: str
    adopt: str | None = None
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class Take:
    """Commit ``lease`` and be the holder. ``clean`` is how the one before ended; None where there was none.

    ``interrupted``: a resume before this claim is not known to have come to its end.
    """

    lease: Lease
    clean: bool | None
    interrupted: bool = False


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
        "resuming": lease.resuming,
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
        d["epoch"],
        d["instance"],
        d["space"],
        d["state"],
        d.get("requester", ""),
        bool(d.get("clean")),
        d["turn"],
        resuming=bool(d.get("resuming")),
    )


def decide(current: Lease | None, me: Me, *, least_epoch: int = 0, silent: bool = False) -> Take | Wait | Refuse:
    """What a starting instance does about the lease that it found.

    ``least_epoch`` is the newest snapshot's, or claim's, for a store whose lease was deleted by hand. ``silent`` says
    that the holder was given its time and has not answered.
    """
    if current is None:
        return Take(Lease(least_epoch + 1, me.instance, me.space, "held", resuming=me.resumes), None)
    if current.space != me.space and current.space != me.adopt:
        return Refuse(current)
    if current.instance == me.instance and current.state != "released":
        return Take(replace(current, state="held", requester=""), None, current.resuming)
    # What was never heard to end stays so until a resume does, whoever holds the lease meanwhile.
    resuming = current.resuming or me.resumes
    taken = Lease(max(current.epoch, least_epoch) + 1, me.instance, me.space, "held", resuming=resuming)
    if current.state == "released":
        return Take(taken, current.clean, current.resuming)
    if silent:
        return Take(taken, False, current.resuming)
    if current.state == "held":
        return Wait(current, replace(current, state="requested", requester=me.instance, turn=current.turn + 1))
    return Wait(current, None)


@dataclass(slots=True)
class Tenure:
    """A lease that this instance took: what it writes to keep, hand over and release it.

    ``interrupted`` is what the claim found of resumes before it; ``resume`` is how far that of this epoch is.
    """

    lease: Lease
    interrupted: bool = False
    resume: Literal["none", "begun", "over"] = "none"

    @property
    def epoch(self) -> int:
        return self.lease.epoch

    def released(self, clean: bool) -> bytes:
        """The document that lets go of the lease; ``clean`` where it rides on a last snapshot."""
        gone = replace(self.lease, state="released", requester="", clean=clean, since=time.time())
        return encode(replace(gone, resuming=self.leaves_resuming))

    @property
    def leaves_resuming(self) -> bool:
        """What the next claim is to find of resumes, if the lease is let go of now."""
        return {"none": self.interrupted, "begun": True, "over": False}[self.resume]

    def begin_resume(self) -> None:
        """From here on the store must not hear that no resume is open before this one is over."""
        self.resume, self.lease = "begun", replace(self.lease, resuming=True)

    def end_resume(self) -> None:
        """All of its commands have come to an end, whatever that was. True in the store from the next commit on."""
        self.resume, self.lease = "over", replace(self.lease, resuming=False)

    def held(self) -> bytes:
        return encode(self.lease)

    def handing_over(self) -> bytes:
        """The answer to whoever asks, and each time another one: who waits sees that we live."""
        self.lease = replace(self.lease, state="handing_over", turn=self.lease.turn + 1, since=time.time())
        return encode(self.lease)

    @property
    def handing(self) -> bool:
        """Whether we have answered somebody who asks, and go on handing over."""
        return self.lease.state == "handing_over"

    def judge(self, raw: bytes | None) -> Verdict:
        """What the lease at the head says of us; what it says of who asks is taken over."""
        verdict, self.lease = judge(self.lease, raw)
        return verdict


def judge(mine: Lease, raw: bytes | None) -> tuple[Verdict, Lease]:
    """What the lease at the head says to the holder of ``mine``, and how that stands from then on.

    ``lost``: it was deleted or broken by hand, nobody else has it. ``older``: another has it by an epoch before ours,
    put back by hand, or claimed after ours was deleted. ``withdrawn``: we hand over, and who asked asks no
    more.
    """
    if raw is None:
        return "lost", mine
    try:
        found = decode(raw)
    except ManifestError as error:
        return ("lost" if error.damage else "fenced"), mine
    if found.instance != mine.instance or found.epoch != mine.epoch:
        if found.epoch >= mine.epoch:
            return "fenced", mine
        return ("lost" if found.instance == mine.instance else "older"), mine
    if found.state == "released":
        return "fenced", mine
    turn = max(mine.turn, found.turn)
    if found.state == "requested":
        return "requested", replace(mine, requester=found.requester, turn=turn)
    if found.state == "held" and mine.state == "handing_over":
        return "withdrawn", replace(mine, state="held", requester="", turn=turn)
    return "mine", mine
