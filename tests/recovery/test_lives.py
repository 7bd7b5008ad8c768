"""Two and three containers over one store: any order, any delay, crashes at every step, answers that never arrive.

The invariants are those that the design gives the lease (section 6); each is an assertion with its own words here or
in ``lives``.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.recovery.lease import Lease, Me, encode
from tests.recovery.lives import WAIT_S, Commit, Container, Steps, Store

ACTS = st.sampled_from(["write", "sync", "checkpoint", "heed", "heed", "checkpoint", "squash", "stop", "renew"])
OUTCOMES = st.sampled_from(["ok"] * 6 + ["lost", "never", "late"])
MAIN = ("live", "fenced", "hand over")


class Lives(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.count = self.seen = 0
        self.running: list[tuple[Container, Steps, str]] = []
        self.everybody: list[Container] = []
        self.acknowledged: frozenset[int] = frozenset()

    @initialize(count=st.integers(2, 3))
    def begin(self, count: int) -> None:
        for _ in range(count):
            self.running.append(self.begun(frozenset(), fails=False))

    def begun(self, disk: frozenset[int], fails: bool, space: str = "local") -> tuple[Container, Steps, str]:
        self.count += 1
        one = Container(Me(f"i{self.count}", space), self.store, disk)
        self.everybody.append(one)
        steps = one.start(fails)
        return one, steps, next(steps)

    def advance(self, n: int, outcome: str, act: str) -> None:
        """Let container ``n`` go on to its next question to the store; where it is over, the next one starts."""
        one, steps, at = self.running[n]
        known = len(one.acknowledged)
        sent = act if at in MAIN else "stop" if act == "stop" and at in ("ask", "pause", "claim") else outcome
        try:
            self.running[n] = (one, steps, steps.send(sent))
        except StopIteration:
            self.left_nothing(one)
            self.running[n] = self.begun(frozenset(), fails=act == "squash")
        for files in one.acknowledged[known:]:
            assert files <= self.store.head.holds, "acknowledged means that it is there"
            self.acknowledged |= files

    def left_nothing(self, one: Container) -> None:
        """Who ended in order holds nothing, and asks for nothing, unless a commit of its is still on its way."""
        lease, name = self.store.lease, one.me.instance
        if lease is None or one.state != "gone" or one.unclear or any(c.by == name for _, c in self.store.underway):
            return
        assert lease.instance != name or lease.state == "released" or one.snapshot is not None, lease
        assert lease.requester != name or lease.state == "held", lease

    @rule(n=st.integers(0, 2), outcome=OUTCOMES, act=ACTS)
    def goes_on(self, n: int, outcome: str, act: str) -> None:
        self.advance(n % len(self.running), outcome, act)

    @rule(n=st.integers(0, 2), acts=st.lists(ACTS, min_size=2, max_size=8))
    def has_time(self, n: int, acts: list[str]) -> None:
        """A while in which it is not disturbed: without that no container would ever come far."""
        for act in acts:
            self.advance(n % len(self.running), "ok", act)

    @rule(n=st.integers(0, 2), acts=st.lists(ACTS, max_size=4))
    def comes_all_the_way(self, n: int, acts: list[str]) -> None:
        """All others stand still until this one writes: it waits for them as long as it must."""
        n %= len(self.running)
        for _ in range(40):
            one, _, at = self.running[n]
            if one.state == "held":
                break
            self.store.now += 10 if at in ("pause", "ask", "fenced") else 0
            self.advance(n, "ok", "renew")
        for act in acts:
            self.advance(n, "ok", act)

    @rule(n=st.integers(0, 2), survives=st.booleans(), fails=st.booleans())
    def is_gone(self, n: int, survives: bool, fails: bool) -> None:
        """SIGKILL wherever it is; the next container has its disk, or not."""
        n %= len(self.running)
        self.running[n] = self.begun(self.running[n][0].disk if survives else frozenset(), fails)

    @rule(n=st.integers(0, 2))
    def loses_its_agent(self, n: int) -> None:
        n %= len(self.running)
        one = self.running[n][0]
        if one.state in ("held", "fenced"):
            steps = one.reattach()
            self.running[n] = (one, steps, next(steps))

    @rule(seconds=st.sampled_from([1, 5, 12, 19, 31, 70]))
    def time_passes(self, seconds: int) -> None:
        self.store.now += seconds

    @rule(k=st.integers(0, 5))
    def arrives(self, k: int) -> None:
        """A commit that was on its way for long is there, and maybe too late."""
        if self.store.underway:
            parent, commit = self.store.underway.pop(k % len(self.store.underway))
            self.store.land(parent, commit)

    @rule(lease=st.booleans())
    def somebody_edits(self, lease: bool) -> None:
        """By hand, without any parent check but the store's; ``lease``: its file is deleted."""
        head = self.store.head
        edit = replace(head, title="by hand", by="", lease=None if lease else head.lease)
        assert self.store.land(head.number, edit)

    @rule()
    def a_stranger_comes(self) -> None:
        before = self.store.head
        if before.lease is None:
            return  # whose the snapshots are is told by the manifest then (Start)
        one = Container(Me("stranger", "another"), self.store)
        assert list(one.start(fails=False)) == ["look"]
        assert self.store.head is before, "nothing is written"

    @invariant()
    def what_landed_is_right(self) -> None:
        snapshots = [c for c, _ in self.store.written if c.title.startswith("sidecar: snapshot ")]
        for commit, lease in self.store.written[self.seen :]:
            if commit not in snapshots:
                continue
            assert commit.stands is not None
            assert lease is None or (lease.instance, lease.state != "released") == (commit.by, True), lease
            earlier = snapshots[: snapshots.index(commit)]
            assert all(c.stands < commit.stands for c in earlier if c.stands), "numbers only grow"
            assert all(c.by == commit.by for c in earlier if c.stands and c.stands.epoch == commit.stands.epoch)
            lost = {n for c in earlier for n in c.holds if n in self.acknowledged} - commit.holds
            assert not lost, "what was acknowledged is in every later snapshot"
        self.seen = len(self.store.written)

    @invariant()
    def at_most_one_may_write(self) -> None:
        able = {
            one.me.instance
            for one, _, _ in self.running
            if one.state == "held" and one.tenure is not None and self.could_write(one)
        }
        assert len(able) <= 1, able

    def could_write(self, one: Container) -> bool:
        """Whether the lease at the head still is this one's. It may not know yet that it isn't."""
        lease = self.store.lease
        return (
            lease is not None
            and one.tenure is not None
            and (lease.instance, lease.epoch)
            == (
                one.me.instance,
                one.tenure.epoch,
            )
        )

    def teardown(self) -> None:
        """All are gone, whatever they were at. The next start waits once at most, and has all that was acknowledged."""
        if not self.running:
            return
        lease, began = self.store.lease, self.store.now
        one, steps, at = self.begun(frozenset(), fails=False)
        while one.state != "held":
            self.store.now += 2 if at in ("pause", "ask") else 0
            at = steps.send("ok")
        waited = self.store.now - began
        assert waited <= (0 if lease is None or lease.state == "released" else WAIT_S + 4), (lease, waited)
        assert one.disk >= self.acknowledged


Lives.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLives = Lives.TestCase


def test_a_lease_that_is_deleted_twice_gives_no_epoch_away_again() -> None:
    """Found by the search: a claim without a snapshot was forgotten with its lease; two snapshots had one number."""
    state = Lives()
    state.begin(3)
    state.comes_all_the_way(2, ["sync"])
    state.loses_its_agent(2)
    state.somebody_edits(lease=True)
    state.has_time(0, ["write", "write", "write", "checkpoint", "write"])
    state.somebody_edits(lease=True)
    state.comes_all_the_way(2, ["write", "write", "sync", "write"])
    state.what_landed_is_right()
    state.teardown()


def test_the_model_hands_over_as_the_real_ones_do() -> None:
    """So that the machine above is known to come that far."""
    store = Store()
    old, new = Container(Me("old", "local"), store), Container(Me("new", "local"), store)
    at: dict[str, str] = {}
    steps = {"old": old.start(fails=False), "new": new.start(fails=False)}

    def until(who: str, where: str, *acts: str) -> None:
        """Go on to ``where``, with ``acts`` for main on the way."""
        left = list(acts)
        at[who] = at.get(who) or next(steps[who])
        while at[who] != where or left:
            at[who] = steps[who].send(left.pop(0) if at[who] in MAIN and left else "ok")

    until("old", "live", "write", "checkpoint")
    until("new", "ask")
    at["new"] = steps["new"].send("ok")
    assert store.lease is not None
    assert (store.lease.state, store.lease.requester) == ("requested", "new")
    until("old", "fenced", "write", "heed", "renew", "look")
    assert store.lease is not None
    assert (store.lease.state, store.lease.clean) == ("released", True)
    until("new", "live")
    assert store.lease is not None
    assert (store.lease.instance, store.lease.epoch) == ("new", 2)
    assert new.disk == old.disk
    assert len(new.disk) == 2
    assert [c.title for c in store.main[1:]] == [
        "sidecar: lease 1 claimed by old",
        "sidecar: snapshot 1.1",
        "sidecar: lease requested by new",
        "sidecar: lease handing over",
        "sidecar: lease handing over",
        "sidecar: snapshot 1.2",
        "sidecar: lease 2 claimed by new",
    ]


def test_a_squash_keeps_what_was_acknowledged() -> None:
    store = Store()
    store.land(0, Commit(0, "sidecar: snapshot 1.1", "x", encode(Lease(1, "x", "local", "held")), holds=frozenset({1})))
    before = store.head
    store.squash()
    assert (store.head.holds, store.head.lease) == (before.holds, before.lease)
    assert store.head.number != before.number
