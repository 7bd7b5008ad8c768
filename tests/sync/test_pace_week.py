"""Weeks of pacing in virtual time: what the store sees of agents that write, crash and come back. Nothing waits."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.sync.pace import BURST, CEILING, HOUR, Budget, backoff, due, spread
from tests.sync.test_pace import most_in_an_hour

QUIET_S, MAX_DELAY_S = 2.0, 30.0
DAY = 24 * HOUR


@dataclass
class Hub:
    """When each commit landed, by the store's own clock, which tells whole seconds."""

    commits: list[tuple[float, str]] = field(default_factory=list)

    def landed(self, *kinds: str) -> list[float]:
        return [at for at, kind in self.commits if not kinds or kind in kinds]

    def history(self) -> list[tuple[float, bool]]:
        """As an agent that starts reads it."""
        return [(floor(at), kind != "lease") for at, kind in self.commits[-150:]]


@dataclass
class Agent:
    """One life, from its claim on; ``now`` is the store's time, and the agent's own clock is another."""

    hub: Hub
    now: float
    per_hour: int
    rng: random.Random

    def __post_init__(self) -> None:
        self.skew = self.rng.uniform(-1e6, 1e6)
        self.commit("lease", None)
        self.budget = Budget(self.per_hour, max(CEILING, self.per_hour))
        self.budget.seed_from(self.hub.history(), floor(self.now), self.clock())

    def clock(self) -> float:
        return self.now + self.skew

    def commit(self, kind: str, budget: Budget | None) -> None:
        """It lands somewhere between being sent and being answered."""
        seconds = self.rng.choice([0.2, 1.0, 1.0, 8.0, 40.0]) * self.rng.random()
        self.hub.commits.append((self.now + seconds * self.rng.random(), kind))
        self.now += seconds
        if budget is not None:
            budget.note(self.clock(), automatic=kind == "automatic")

    def write_until(self, end: float, otherwise: Callable[[], str | None] = lambda: None) -> None:
        """Somebody writes without a pause, and each sync goes when it may; now and then ``otherwise``."""
        while self.now < end:
            kind = otherwise()
            if kind is not None:
                self.commit(kind, self.budget)
            first = self.clock()
            at = max(due(first, first + MAX_DELAY_S, QUIET_S, MAX_DELAY_S), self.budget.automatic_at(first))
            while at > self.clock() and self.now < end:
                self.now = min(max(at - self.skew, self.now) + 1e-3, end)  # as a loop wakes: a little late
                at = max(at, self.budget.automatic_at(self.clock()))
            if self.now < end:
                self.commit("automatic", self.budget)


@pytest.mark.parametrize("per_hour", [1, 30, 100])
def test_a_week_of_continuous_writing_keeps_to_the_pace_in_every_hour(per_hour: int) -> None:
    hub, rng = Hub(), random.Random(per_hour)
    agent = Agent(hub, 0.0, per_hour, rng)
    agent.write_until(7 * DAY)
    automatic = hub.landed("automatic")
    assert most_in_an_hour(automatic) <= per_hour, "the burst included, at the store's own clock"
    assert most_in_an_hour(hub.landed()) <= CEILING
    assert len(automatic) >= 7 * 24 * max(per_hour - BURST, per_hour // 2) * 0.9, "and uses what it has"


@pytest.mark.parametrize("per_hour", [10, 30])
def test_a_week_with_restarts_and_checkpoints_keeps_to_it_too(per_hour: int) -> None:
    hub, rng = Hub(), random.Random(per_hour)
    now = 0.0
    while now < 7 * DAY:
        agent = Agent(hub, now + rng.uniform(1, 30), per_hour, rng)
        agent.write_until(agent.now + rng.expovariate(1 / HOUR), lambda: rng.choice(["checkpoint", *[None] * 9]))
        now = agent.now
    # A life that starts can't tell which snapshots of earlier ones were automatic: all of them count for it.
    assert most_in_an_hour(hub.landed("automatic")) <= per_hour
    assert most_in_an_hour(hub.landed()) <= CEILING


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 100), st.floats(0.5, 600), st.integers(0, 1 << 32))
def test_a_crash_loop_of_a_hundred_starts_gets_no_second_budget(per_hour: int, life_s: float, seed: int) -> None:
    hub, rng = Hub(), random.Random(seed)
    now = 0.0
    for _ in range(100):
        agent = Agent(hub, now, per_hour, rng)
        agent.write_until(agent.now + rng.random() * 2 * life_s)
        now = agent.now + 1.0  # killed: what it knew is gone
    assert most_in_an_hour(hub.landed("automatic")) <= per_hour
    for n, (at, kind) in enumerate(hub.commits):
        # A hundred claims in an hour are made all the same; what can wait does, where they leave no room.
        before = sum(at - HOUR < t <= at for t, _ in hub.commits[max(0, n - CEILING - 1) : n + 1])
        assert kind == "lease" or before <= CEILING - 10


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 100), st.lists(st.floats(0, 400), max_size=60), st.integers(0, 1 << 32))
def test_the_pace_never_holds_a_checkpoint_back(per_hour: int, pauses: list[float], seed: int) -> None:
    """However many automatic snapshots went before: up to the ceiling each goes at once."""
    hub, rng = Hub(), random.Random(seed)
    agent = Agent(hub, 0.0, per_hour, rng)
    for pause in pauses:
        agent.write_until(agent.now + pause)
        if len([t for t in agent.budget.every if t > agent.clock() - HOUR]) < CEILING - 2:
            assert agent.budget.checkpoint_at(agent.clock()) <= agent.clock()
        agent.commit("checkpoint", agent.budget)
    assert most_in_an_hour(hub.landed("automatic")) <= per_hour


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 100), st.floats(HOUR, 7 * DAY), st.floats(0, 60))
def test_the_first_change_after_quiet_goes_at_once(per_hour: int, quiet: float, change: float) -> None:
    hub, rng = Hub(), random.Random(per_hour)
    agent = Agent(hub, 0.0, per_hour, rng)
    agent.write_until(2 * HOUR)
    now = agent.clock() + quiet
    first = now + change
    assert max(due(first, first, QUIET_S, MAX_DELAY_S), agent.budget.automatic_at(first)) == first + QUIET_S


# A fleet


@pytest.fixture(autouse=True)
def _same_dice() -> None:
    random.seed(200)


def busiest_share(times: list[float]) -> float:
    """The share of ``times`` in the busiest second."""
    return max(Counter(map(floor, times)).values()) / len(times)


@pytest.mark.parametrize("hint", [None, 0.0, 30.0, 3600.0])
def test_two_hundred_agents_that_fail_together_come_back_one_by_one(hint: float | None) -> None:
    """All of them meet the same outage at the same moment, and are told the same Retry-After."""
    at = [0.0] * 200
    shares = []
    for failures in range(1, 7):
        at = [t + backoff(failures, retry_after=hint) for t in at]
        shares.append(busiest_share(at))
    assert shares[-1] <= 0.1, "whoever was restarted together is soon spread"
    if hint is not None and hint >= 30:
        assert max(shares) <= 0.35, "though it told all of them the same"


def test_two_hundred_agents_started_together_look_at_the_lease_at_different_times() -> None:
    at = [0.0] * 200
    for look in range(60):
        step = [spread(10.0) for _ in at]
        assert max(step) <= 10.0, "a request for the lease is never seen later than promised"
        at = [t + s for t, s in zip(at, step, strict=True)]
        if look >= 2:
            assert busiest_share(at) <= 0.3
    assert busiest_share(at) <= 0.12
