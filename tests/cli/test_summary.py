"""`sidecar status` in words, from whatever JSON it gets."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some

from sidecar.commands.summary import summary
from sidecar.state import RootState, State
from sidecar.web.status import status


def lines(body: dict[str, Any], now: float = 0.0) -> list[str]:
    return list(summary(body, now))


def running() -> dict[str, Any]:
    state = State("abc", "0.1.0", "alice/app", "hf://datasets/alice/app-state", True)
    state.phase, state.main_state, state.main_pid, state.recovered = "running", "running", 17, True
    state.lease, state.epoch = "held", 3
    state.roots = {"data": RootState("data", 1204, 38_000_000, "durable", excluded=2)}
    state.sync.snapshot, state.sync.revision = "3.7", "f" * 40
    state.sync.last_durable, state.sync.lag_s, state.sync.watcher = 1_000_000.0, 2.4, "inotify"
    state.commits_total, state.commits_hour, state.stored_bytes = 1520, 7, 412_000_000
    state.recovery = {
        "at": "2026-11-24T10:00:00Z",
        "result": "ok",
        "clean": False,
        "snapshot": "2.9",
        "files": 1204,
        "bytes": 38_000_000,
        "steps": [{"step": "claim", "ok": True, "ms": 25}, {"step": "restore", "ok": True, "ms": 2100}],
    }
    return status(state, time.monotonic(), names=True)


def test_a_running_agent_in_words() -> None:
    shown = "\n".join(lines(running(), 1_000_012.0))
    for part in (
        "running: all is well",
        "running, pid 17",
        "3.7 (revision ffffffffffff), 12 s ago, lag 2.4 s",
        "held, epoch 3",
        "1,520 commits, 7 in the last hour, 412 MB stored",
        "1,204 files, 38 MB from 2.9; ended uncleanly; claim 25 ms, restore 2,100 ms",
        "data  1,204 files  38 MB  durable  2 excluded",
        "ok  health-endpoint: /health answers",
        "--  poller-seen",
    ):
        assert part in shown, shown


def test_trouble_is_in_the_summary() -> None:
    body = running()
    body |= {"health": "warn", "notes": {"store-denied": "The store refuses access."}}
    body["sync"] |= {"pending": 4, "lag_s": 61.0, "stale": 2, "error": "Hub answers 401", "last_durable": None}
    shown = "\n".join(lines(body))
    assert "with warnings" in shown
    assert "4 changes wait, the first for 61.0 s, 2 stale" in shown
    assert "Hub answers 401" in shown
    assert "store-denied: The store refuses access." in shown
    assert "nothing by this one yet" in shown


def test_changes_that_the_pace_holds_back_say_how_long() -> None:
    body = running()
    body["sync"] |= {"pending": 4, "lag_s": 61.0, "waits_s": 52.4}
    assert "4 changes wait, the first for 61.0 s; the pace of commits lets them go in 52 s" in "\n".join(lines(body))
    body["sync"] |= {"pending": 0}
    assert "the pace" not in "\n".join(lines(body))


def test_a_restore_under_way_shows_how_far_it_is() -> None:
    body = running() | {"phase": "restoring", "recovery": None}
    body["restore"] = {"files_done": 3, "files_total": 9, "bytes_done": 1_500_000, "bytes_total": 4_000_000}
    assert any("3 of 9 files, 1.5 MB of 4.0 MB" in line for line in lines(body))


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(some.data())
def test_nothing_that_somebody_serves_breaks_it_or_reaches_the_terminal(data: some.DataObject) -> None:
    body = running()
    for key in data.draw(some.lists(some.sampled_from(sorted(body)), max_size=5)):
        inner = body[key]
        if isinstance(inner, dict) and inner and data.draw(some.booleans()):
            inner[data.draw(some.sampled_from(sorted(inner)))] = data.draw(JSON)
        else:
            body[key] = data.draw(JSON)
    body["detail"] = "\x1b]0;owned\x07\u202e" + str(body["detail"])
    shown = lines(body)
    assert shown
    assert all(line.isprintable() for line in shown)
