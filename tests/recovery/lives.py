"""Containers over one store, in a model: every decision is the real one, only stores, disks and clocks are made up.

The shells around the decisions (``claim``, ``Line``, ``Engine``, ``Syncing``) are told again here as generators that
stop before each call to the store: there others may act, an answer may get lost, or the container may be gone.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Literal

from sidecar.recovery.lease import Lease, Me, Refuse, Take, Tenure, Wait, decide, decode, encode
from sidecar.recovery.turns import Left, Waiting, goes_on, last_claim, lets_go, reclaims
from sidecar.snapshot.manifest import ASKS, HANDS, SnapshotId, title
from sidecar.sync.rights import about_the_lease, weigh

WAIT_S = 30.0
PATIENCE_S = 60.0

Outcome = Literal["ok", "lost", "never", "late"]
"""Of a commit that is sent: answered; landed, and its answer lost; lost itself; or on its way for a while yet."""

Answer = Literal["ok", "conflict", "unclear"]
Came = Literal["ok", "fenced", "edited", "withdrawn", "failed"]
Steps = Generator[str, str, None]
"""Stops before each call to the store, and says at what; is sent what comes of it (an Outcome, or what main does)."""


@dataclass(frozen=True)
class Commit:
    """``holds`` is what main's files are in the snapshot ``stands``, ``writer``'s, the newest one up to here."""

    number: int
    title: str
    by: str
    lease: bytes | None
    stands: SnapshotId | None = None
    holds: frozenset[int] = frozenset()
    writer: str = ""


@dataclass
class Store:
    """A main line that compares and swaps, and commits that are still on their way to it."""

    main: list[Commit] = field(default_factory=lambda: [Commit(0, "initial commit", "", None)])
    underway: list[tuple[int, Commit]] = field(default_factory=list)
    written: list[tuple[Commit, Lease | None]] = field(default_factory=list)
    """Every commit that ever landed, a squash takes none away, and the lease that it landed on."""
    numbers: int = 0
    now: float = 0.0
    lease_since: float = 0.0  # when the lease at the head was last written

    @property
    def head(self) -> Commit:
        return self.main[-1]

    @property
    def lease(self) -> Lease | None:
        return decode(self.head.lease) if self.head.lease is not None else None

    def land(self, parent: int, commit: Commit) -> bool:
        if parent != self.head.number:
            return False
        self.numbers += 1
        commit = replace(commit, number=self.numbers)
        if commit.lease != self.head.lease:
            self.lease_since = self.now
        self.written.append((commit, self.lease))
        self.main.append(commit)
        return True

    def send(self, outcome: str, parent: int, commit: Commit) -> Answer:
        if outcome in ("never", "late"):
            if outcome == "late":
                self.underway.append((parent, commit))
            return "unclear"
        landed = self.land(parent, commit)
        if outcome == "lost":
            return "unclear"
        return "ok" if landed else "conflict"

    def squash(self) -> None:
        """As a Hub does it: one commit with another name, the newest snapshot's title, and no parent check."""
        self.numbers += 1
        words = title(self.head.stands) if self.head.stands is not None else self.head.title
        self.main = [replace(self.head, number=self.numbers, title=words)]

    def since(self, number: int) -> list[str] | None:
        """The titles of the commits after ``number``; None where that is not in the history any more."""
        at = next((n for n, commit in enumerate(self.main) if commit.number == number), None)
        return None if at is None else [commit.title for commit in self.main[at + 1 :]]


@dataclass
class Container:
    """One instance: its disk, and what it believes."""

    me: Me
    store: Store
    disk: frozenset[int] = frozenset()
    acknowledged: list[frozenset[int]] = field(default_factory=list)
    state: str = "starting"  # waiting, held, fenced, unleased, gone
    tenure: Tenure | None = None
    head: int = 0
    snapshot: SnapshotId | None = None
    sent: SnapshotId | None = None
    unclear: Commit | None = None
    requested: bool = False
    lost: bool = False
    tokens: int = 0
    started_at: float = 0.0

    # What a start does (claim.attempt, Start)

    def start(self, fails: bool) -> Steps:
        """Look, download, ask, wait, claim, restore; ``fails``: it can't restore, and gives the lease back."""
        waiting = Waiting(WAIT_S)
        self.started_at, clean = self.store.now, False
        while True:
            yield "look"
            found, head = self.store.lease, self.store.head
            if found is not None and (found.instance, found.state) == (self.me.instance, "held"):
                self.tenure, claimed = Tenure(found), head
                break
            decision = decide(found, self.me, least_epoch=self.least())
            silent = isinstance(decision, Wait) and waiting.silent(decision.holder, self.store.now)
            if isinstance(decision, Wait) and silent and decision.request is None:
                waited = self.store.now - self.store.lease_since
                assert waited >= WAIT_S or self.store.now - self.started_at >= 10 * WAIT_S, "it had its time"
                decision = decide(found, self.me, least_epoch=self.least(), silent=True)
            if isinstance(decision, Refuse):
                self.state = "gone"
                return
            if isinstance(decision, Wait):
                assert found is not None
                assert found.state != "released", "a released lease costs no wait"
                self.state = "waiting"
                outcome = yield "ask" if decision.request is not None else "pause"
                if outcome == "stop":
                    yield from self.give_back(clean=False)
                    return
                if decision.request is not None:
                    self.send(outcome, head.number, f"{ASKS}{self.me.instance}", encode(decision.request))
                continue
            clean = found is not None and found.state == "released" and found.clean
            words = f"sidecar: lease {decision.lease.epoch} claimed by {self.me.instance}"
            outcome = yield "claim"
            if outcome == "stop":
                yield from self.give_back(clean=clean)
                return
            if self.send(outcome, head.number, words, encode(decision.lease)) == "ok":
                self.tenure, claimed = Tenure(decision.lease), self.store.head
                break
        if fails:
            yield from self.give_back(clean)
            return
        self.began_on(claimed)
        self.disk |= claimed.holds
        yield from self.live()

    def least(self) -> int:
        """The latest epoch that somebody is known to have had (claim.attempt)."""
        stands = self.store.head.stands
        claimed = last_claim(c.title for c in self.store.main) if self.store.lease is None else 0
        return max(claimed, stands.epoch if stands else 0)

    def began_on(self, head: Commit, sent: SnapshotId | None = None) -> None:
        self.head, self.snapshot, self.sent, self.unclear = head.number, head.stands, sent, None
        self.requested = self.lost = False

    def reattach(self) -> Steps:
        """Another agent beside the same main: what it knows is the index (recovery.reattach)."""
        while True:
            yield "look"
            found, head = self.store.lease, self.store.head
            mine = head.stands == self.sent and head.writer == self.me.instance  # ``settle``
            unmoved = head.stands is not None and (head.stands == self.snapshot or mine)
            if not goes_on(found, head.stands, head.writer, self.me, unmoved=unmoved):
                self.state, self.tenure = "fenced", None  # for good
                return
            if found is not None and (found.instance, found.state) == (self.me.instance, "held"):
                self.tenure = Tenure(found)
                break
            decision = decide(found, self.me, least_epoch=self.least())
            assert isinstance(decision, Take)
            words = f"sidecar: lease {decision.lease.epoch} claimed by {self.me.instance}"
            if self.send((yield "claim"), head.number, words, encode(decision.lease)) == "ok":
                self.tenure, head = Tenure(decision.lease), self.store.head
                break
        self.began_on(head, self.sent)
        yield from self.live()

    def give_back(self, clean: bool) -> Steps:
        """What a start that comes to nothing does (claim.give_back)."""
        self.state, self.tenure = "giving back", None
        for _ in range(5):
            yield "look"
            head, given = self.store.head.number, lets_go(self.store.lease, self.me, clean)
            if given is None:
                break
            ours = given.instance == self.me.instance
            words = f"sidecar: lease {given.epoch} withdrawn by {self.me.instance}"
            answer = self.send((yield "withdraw"), head, words if ours else f"{ASKS}{self.me.instance}", encode(given))
            if answer == "ok":
                break
        else:
            self.state = "gone without a word"
            return
        self.state = "gone"

    def send(self, outcome: str, parent: int, words: str, lease: bytes | None) -> Answer:
        """A commit that changes the lease alone."""
        here = self.store.head
        return self.store.send(outcome, parent, replace(here, title=words, by=self.me.instance, lease=lease))

    # What a holder does (Line, Engine)

    def live(self) -> Steps:
        """Main runs: what it does next is sent to us."""
        self.state = "held"
        while self.state == "held":
            assert self.tenure is not None
            act = yield "live"
            if act == "write":
                self.tokens += 1
                self.disk |= {hash((self.me.instance, self.tokens))}
            elif act in ("sync", "checkpoint"):
                saved = self.disk
                if (yield from self.snap()) == "ok" and act == "checkpoint":
                    self.acknowledged.append(saved)
            elif act == "heed":
                yield from self.heeds()
            elif act == "squash":
                yield from self.squashes()
            elif act == "stop":
                yield from self.snap(release=True)
                self.state = "gone"
        if self.state == "fenced":
            yield from self.fenced()

    def snap(self, release: bool = False) -> Generator[str, str, Came]:
        """One sync: planned anew after an edit, at most four times; no release where a hand-over was taken back."""
        for _ in range(4):
            assert self.tenure is not None
            self.resolve()
            number = self.next_id()
            self.sent = number
            lease = self.tenure.released(clean=True) if release else self.tenure.held() if self.lost else None
            name = self.me.instance
            came = yield from self.commit(Commit(0, title(number), name, lease, number, self.disk, name))
            if came == "withdrawn":
                release = False
            elif came != "edited":
                if came == "fenced":
                    self.state = "fenced"
                return came
        return "failed"

    def next_id(self) -> SnapshotId:
        assert self.tenure is not None
        last = max((n for n in (self.snapshot, self.sent) if n is not None), default=None)
        if last is None or last.epoch < self.tenure.epoch:
            return SnapshotId(self.tenure.epoch, 1)
        return SnapshotId(last.epoch, last.sequence + 1)

    def commit(self, commit: Commit) -> Generator[str, str, Came]:
        """Send it, and tell conflicts and unclear answers apart (Line.commit)."""
        failures, turns = 0, 0
        while True:
            outcome = yield "commit"
            answer = self.store.send(outcome, self.head, self.on_top(commit))
            if answer == "ok" or self.landed(commit):
                self.done(commit)
                return "ok"
            if answer == "unclear":
                failures += 1
                if failures >= 3:
                    self.unclear = commit
                    return "failed"
                continue
            came = self.heed()
            turns += 1
            if came == "fenced" or came == "edited" or came == "withdrawn":
                return came
            if turns > 5:
                return "failed"

    def on_top(self, commit: Commit) -> Commit:
        """``commit`` as a store makes it: what it doesn't put stays as it is at its parent."""
        parent = next((c for c in reversed(self.store.main) if c.number == self.head), self.store.head)
        lease = commit.lease if commit.lease is not None else parent.lease
        if commit.title == HANDS:
            return replace(commit, lease=lease, stands=parent.stands, holds=parent.holds, writer=parent.writer)
        return replace(commit, lease=lease)

    def landed(self, commit: Commit) -> bool:
        """Whether it is the head, on top of ours: what the history tells."""
        line = self.store.main
        if line[-1].title != commit.title:
            return False
        if len(line) < 2:
            assert self.tenure is not None
            return self.tenure.judge(line[-1].lease) != "fenced"
        return line[-2].number == self.head

    def done(self, commit: Commit) -> None:
        self.head, self.lost = self.store.head.number, False
        self.snapshot = commit.stands if commit.title != HANDS else self.snapshot

    def resolve(self) -> None:
        """What became of a commit whose answer never came."""
        if self.unclear is not None and self.landed(self.unclear):
            self.done(self.unclear)
        self.unclear = None

    def heed(self) -> Literal["mine", "requested", "withdrawn", "fenced", "edited", "older", "lost"]:
        """What the head says of us (Line.heed)."""
        assert self.tenure is not None
        head = self.store.head
        if head.number == self.head:
            return "requested" if self.requested else "mine"
        verdict = self.tenure.judge(head.lease)
        since = self.store.since(self.head)
        titles = [c.title for c in self.store.main] if since is None else since
        alone = sum(not about_the_lease(words) for words in titles) == 1  # Line._same
        same = since is None and head.stands == self.snapshot and alone
        footing = weigh(verdict, self.tenure.epoch, titles, gone=since is None, same=same)
        if footing == "fenced":
            return "fenced"
        self.requested, self.lost, self.head = verdict == "requested", verdict in ("lost", "older"), head.number
        return "edited" if footing == "edited" else verdict

    def heeds(self) -> Steps:
        """Look whether somebody asks (handover.heed_lease): answer, last snapshot, release."""
        assert self.tenure is not None
        yield "look"
        verdict = self.heed()
        if verdict == "fenced":
            self.state = "fenced"
        if verdict in ("fenced", "edited", "withdrawn") or (verdict != "requested" and not self.tenure.handing):
            return
        answer = self.tenure.handing_over()
        came = yield from self.commit(Commit(0, HANDS, self.me.instance, answer))
        if came == "ok":
            self.requested = False
            for _ in range(2):  # the last look takes long: they are told that it goes on
                if (yield "hand over") == "renew":
                    renewal = self.on_top(Commit(0, HANDS, self.me.instance, self.tenure.handing_over()))
                    if self.store.send((yield "renew"), self.head, renewal) == "ok" or self.landed(renewal):
                        self.head = self.store.head.number
            came = yield from self.snap(release=True)
            if came == "ok" and self.tenure.handing:
                self.state = "fenced"
        if came == "fenced":
            self.state = "fenced"

    def squashes(self) -> Steps:
        yield "look"
        verdict = self.heed()
        if verdict == "fenced":
            self.state = "fenced"
        assert self.tenure is not None
        if verdict == "mine" and not self.tenure.handing and not self.lost and self.head == self.store.head.number:
            self.store.squash()
            self.heed()

    # What a fenced one does (Syncing._reclaim)

    def fenced(self) -> Steps:
        """Writes to a branch of its own, and takes the lease again only where nobody came for it, or in vain."""
        assert self.tenure is not None
        snapshots = frozenset(n for n in (self.snapshot, self.sent) if n is not None)
        left, since = Left(self.tenure.epoch, snapshots), self.store.now
        while True:
            act = yield "fenced"
            if act == "write":
                self.tokens += 1
                self.disk |= {hash((self.me.instance, self.tokens))}
            if act == "stop":
                self.state = "gone"
                return
            found, head = self.store.lease, self.store.head
            waited = self.store.now - since
            if found is None or not reclaims(found, head.stands, self.me, left, waited_s=waited, patience_s=PATIENCE_S):
                continue
            decision = decide(found, self.me, least_epoch=self.least())
            if (found.instance, found.state) == (self.me.instance, "held"):
                self.tenure = Tenure(found)
            elif isinstance(decision, Take):
                words = f"sidecar: lease {decision.lease.epoch} claimed by {self.me.instance}"
                if self.send((yield "claim"), head.number, words, encode(decision.lease)) != "ok":
                    continue
                self.tenure = Tenure(decision.lease)
                head = self.store.head
            else:
                continue
            self.began_on(head)
            yield from self.live()
            return
