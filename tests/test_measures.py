"""What is counted and sampled stays bounded and adds up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar import company
from sidecar.measures import SAMPLES, SNAPSHOTS, Measures, Seen
from sidecar.state import State
from sidecar.stores.base import Commit
from sidecar.sync.history import past
from sidecar.sync.pace import Budget


def seen(number: int, changed: int = 1) -> Seen:
    return Seen(f"7.{number}", None, 3, 100, changed)


def test_a_sample_holds_the_worst_lag_of_its_minute() -> None:
    measures = Measures()
    measures.durable(seen(1), 10, 4.0)
    measures.durable(seen(2), 20, 2.0)
    measures.sample(60.0, 0.5, 3, 2)
    measures.sample(120.0, 0.5, 3, 2)
    assert [each.lag_s for each in measures.samples] == [4.0, 0.5]
    assert (measures.snapshots_made, measures.sent_bytes, measures.changed_entries) == (2, 30, 2)


def test_samples_and_snapshots_are_bounded_and_the_newest_stay() -> None:
    measures = Measures()
    for n in range(2 * SAMPLES):
        measures.sample(float(n), 0.0, 0, 0)
        measures.durable(seen(n), 1, 0.0)
    assert [each.at for each in measures.samples] == list(map(float, range(SAMPLES, 2 * SAMPLES)))
    assert [each.snapshot for each in measures.snapshots][-1] == f"7.{2 * SAMPLES - 1}"
    assert len(measures.snapshots) == SNAPSHOTS
    measures.seen(measures.snapshots[-1])
    assert len({each.snapshot for each in measures.snapshots}) == SNAPSHOTS, "one that is known is not another"


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(100, 599)), max_size=300))
def test_whatever_a_stranger_calls_his_method_the_table_stays_small(answers: list[tuple[str, int]]) -> None:
    measures = Measures()
    for method, status in answers:
        measures.proxied(method, status)
    assert sum(measures.requests.values()) == len(answers)
    assert len(measures.requests) <= 50


def test_failures_are_counted_by_kind() -> None:
    measures = Measures()
    for code in ("denied", "", "denied"):
        measures.failed(code)
    for n in range(200):
        measures.failed(f"odd-{n}")
    assert measures.failures["denied"] == 2
    assert measures.failures["unavailable"] == 1
    assert sum(measures.failures.values()) == 203
    assert len(measures.failures) <= 65


def test_the_company_notes_what_waits_and_what_the_hour_saw() -> None:
    state = State(instance="i", version="0", space="s", store="hf://x", persistent=True)
    budget = Budget(30, tell=state.measures.committed)
    budget.note(100.0, automatic=True)
    budget.note(3000.0, automatic=False)

    class Engine:
        pass

    engine = Engine()
    engine.budget = budget  # type: ignore[attr-defined]
    state.sync.pending_since_mono = 3590.0
    company.note(state, engine, 3600.0)  # type: ignore[arg-type]
    state.sync.pending_since_mono = None
    company.note(state, engine, 3800.0)  # type: ignore[arg-type]
    company.note(state, None, 9000.0)
    found = [(each.lag_s, each.commits, each.paced) for each in state.measures.samples]
    assert found == [(10.0, 2, 1), (0.0, 1, 0), (0.0, 1, 0)]
    assert (state.commits_hour, state.commits_paced) == (1, 0)
    assert state.measures.commits == {"automatic": 1, "other": 1}


def test_a_history_tells_the_sizes_of_its_snapshots() -> None:
    body = "files: 3\nbytes: 1234\nchanged: 2"
    history = [Commit("b", "sidecar: snapshot 7.2", 2.0), Commit("a", "sidecar: snapshot 7.1", 1.0, body)]
    assert [one.seen for one in past(history, {})] == [
        Seen("7.2", 2.0, None, None, None),
        Seen("7.1", 1.0, 3, 1234, 2),
    ]
