"""When the next snapshot may go, in virtual time: nothing here waits."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.sync.pace import BURST, CEILING, HOUR, Budget, backoff, due

RATES = [1, 2, 5, 10, 11, 15, 20, 30, 100, 200]


def most_in_an_hour(times: list[float]) -> int:
    """The most of ``times`` (sorted) in any sliding hour."""
    most = first = 0
    for last, t in enumerate(times):
        while times[first] <= t - HOUR + 1e-6:  # but for rounding
            first += 1
        most = max(most, last - first + 1)
    return most


def continuous(budget: Budget, hours: float, start: float = 0.0) -> list[float]:
    """Writing without a pause: a snapshot goes whenever it may."""
    sent, now = [], start
    while now < start + hours * HOUR:
        at = budget.automatic_at(now)
        if at > now:
            now = at
            continue
        budget.note(now, automatic=True)
        sent.append(now)
        now += 0.5  # a commit takes a moment
    return sent


# Debounce


def test_changes_go_once_it_is_quiet_or_the_delay_is_up() -> None:
    assert due(first=100, last=100, quiet_s=2, max_delay_s=30) == 102
    assert due(first=100, last=115, quiet_s=2, max_delay_s=30) == 117
    assert due(first=100, last=129.9, quiet_s=2, max_delay_s=30) == 130


@given(st.floats(0, 1e6), st.floats(0, 1e4), st.floats(0, 100), st.floats(0, 100))
def test_no_change_waits_longer_than_the_delay(first: float, later: float, quiet: float, delay: float) -> None:
    at = due(first, first + later, quiet, delay)
    assert at <= first + delay
    assert at <= first + later + quiet


# Backoff


@given(st.integers(1, 10_000))
def test_a_backoff_doubles_within_its_bounds(failures: int) -> None:
    full = min(60.0, 2.0 ** min(failures - 1, 16))
    assert full / 2 <= backoff(failures) <= full


def test_backoffs_differ() -> None:
    assert len({backoff(5) for _ in range(20)}) > 10


@given(st.integers(1, 30), st.floats(0, 1e9))
def test_a_stores_own_wait_is_believed_up_to_five_minutes(failures: int, retry_after: float) -> None:
    wait = backoff(failures, retry_after=retry_after)
    assert min(retry_after, 300) <= wait <= 375


def test_other_bounds() -> None:
    assert 0.15 <= backoff(1, 0.3, 2.0) <= 0.3
    assert 1.0 <= backoff(9, 0.3, 2.0) <= 2.0


# The budget


@pytest.mark.parametrize("per_hour", RATES)
def test_continuous_writing_never_exceeds_the_pace_and_uses_it(per_hour: int) -> None:
    sent = continuous(Budget(per_hour), 6)
    assert most_in_an_hour(sent) <= per_hour
    later = [t for t in sent if t >= 2 * HOUR]
    assert len(later) >= 4 * max(per_hour - BURST, per_hour // 2) - 1, "no rate starves"


@pytest.mark.parametrize("per_hour", [30, 100, 200])
def test_what_the_burst_leaves_is_spread_evenly(per_hour: int) -> None:
    sent = continuous(Budget(per_hour), 3)
    assert sent[BURST - 1] < 10, "the burst goes at once"
    gaps = [b - a for a, b in zip(sent[BURST:], sent[BURST + 1 :], strict=False)]
    assert max(gaps) == pytest.approx(HOUR / (per_hour - BURST), rel=0.05)


@pytest.mark.parametrize("per_hour", RATES)
def test_a_burst_goes_at_once_after_quiet(per_hour: int) -> None:
    budget = Budget(per_hour)
    continuous(budget, 2.3)
    now = 10 * HOUR
    for _ in range(min(BURST, per_hour)):
        assert budget.automatic_at(now) <= now
        budget.note(now, automatic=True)
        now += 0.1
    assert budget.automatic_at(now) > now


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(RATES),
    st.lists(st.tuples(st.floats(0, 4000), st.sampled_from(["change", "change", "checkpoint", "lease"])), max_size=120),
)
def test_whatever_is_asked_no_hour_holds_more(per_hour: int, events: list[tuple[float, str]]) -> None:
    ceiling = max(CEILING, per_hour)
    budget = Budget(per_hour, ceiling)
    automatic: list[float] = []
    held_back: list[float] = []
    now = 0.0
    for pause, kind in events:
        now += pause
        if kind == "change":
            now = max(now, budget.automatic_at(now))
            automatic.append(now)
        elif kind == "checkpoint":
            now = max(now, budget.checkpoint_at(now))
        if kind != "lease":
            held_back.append(now)
        budget.note(now, automatic=kind == "change")
    assert most_in_an_hour(automatic) <= per_hour
    assert most_in_an_hour(held_back) <= ceiling


@pytest.mark.parametrize("per_hour", [1, 30, 100, 120, 200])
def test_the_ceiling_is_never_reached_by_what_can_wait(per_hour: int) -> None:
    """Checkpoints without a pause beside continuous writing; two places stay for a claim and a last sync."""
    ceiling = max(CEILING, per_hour)
    budget = Budget(per_hour, ceiling)
    sent: list[float] = []
    now = 0.0
    for turn in count():
        at = min(budget.checkpoint_at(now), budget.automatic_at(now))
        now = max(now, at) + 0.01
        if now > 4 * HOUR:
            break
        automatic = budget.automatic_at(now) <= now and turn % 3 == 0
        if not automatic and budget.checkpoint_at(now) > now:
            now += 1
            continue
        budget.note(now, automatic=automatic)
        sent.append(now)
    assert most_in_an_hour(sent) == ceiling - 2


def test_near_the_ceiling_automatic_snapshots_wait_first() -> None:
    budget = Budget(30, CEILING)
    for n in range(CEILING - 12):
        budget.note(float(n), automatic=False)
    now = 200.0
    assert budget.automatic_at(now) > now + HOUR / 2
    assert budget.checkpoint_at(now) <= now
    for _ in range(10):
        assert budget.checkpoint_at(now) <= now
        budget.note(now, automatic=False)
    assert budget.checkpoint_at(now) > now


def test_without_a_ceiling_checkpoints_never_wait() -> None:
    budget = Budget(1)
    for n in range(500):
        budget.note(float(n), automatic=False)
    assert budget.checkpoint_at(500.0) <= 500.0
    assert budget.automatic_at(500.0) <= 500.0, "nor do they take an automatic snapshot's turn"


def test_what_other_lives_committed_counts() -> None:
    budget = Budget(30, CEILING)
    ages = [0, 10, 3599, 3600, 3601, 7200, -0.7]
    budget.seed(1000.0, ages, ages[1:3])
    assert (len(budget.every), len(budget.automatic)) == (5, 2)
    assert max(budget.every) == 1000.0, "a clock that tells whole seconds may be ahead of its own commit"
    fresh = Budget(5)
    fresh.seed(0.0, [10.0] * 9, [10.0] * 5)
    assert fresh.automatic_at(0.0) == pytest.approx(HOUR - 9), "an age in whole seconds may be one too many"
    sent = continuous(fresh, 3)
    assert most_in_an_hour(sorted([*sent, *[-10.0] * 5])) <= 5


def test_times_of_more_than_an_hour_ago_are_forgotten() -> None:
    budget = Budget(30, CEILING)
    continuous(budget, 20)
    assert len(budget.every) <= 30
