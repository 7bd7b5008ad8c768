"""`/metrics`: the state in Prometheus' text format (or OpenMetrics, where that is asked for), by its official client.

Values are read when they are asked for: nothing is counted twice, and an agent that nobody scrapes never loads the
client. No label holds anything but our own words: neither a name of a file nor of a root.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sidecar.state import State
from sidecar.web.health import judge, lag_s

_KINDS = ("unavailable", "denied", "fenced", "no-room", "timeout", "failed")
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,40}")


def exposition(state: State, now_mono: float, accept: str) -> tuple[bytes, str]:
    """The body, and its content type; ``accept`` is the request's header, ``now_mono`` is ``time.monotonic()``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reader(state, now_mono))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Reader(Collector):
    def __init__(self, state: State, now_mono: float) -> None:
        self._state, self._now = state, now_mono

    def collect(self) -> Iterator[Metric]:
        state = self._state
        yield InfoMetricFamily("sidecar", "The sidecar itself.", {"version": state.version})
        yield from _health(state, self._now)
        yield from _syncing(state, self._now)
        yield from _recovery(state)
        yield from _web(state)


def _health(state: State, now: float) -> Iterator[Metric]:
    status, codes = judge(state, now)
    states = {each: float(each == status) for each in ("pass", "warn", "fail")}
    yield _gauges("sidecar_health_status", "1 for what /health says now.", "status", states)
    yield _gauges("sidecar_note", "1 for each thing that is not well.", "code", dict.fromkeys(filter(_word, codes), 1))
    yield _gauge("sidecar_main_running", "Whether the main program runs.", state.main_state == "running")
    yield _gauge("sidecar_lease_held", "Whether this instance may write to the main line.", state.lease == "held")
    yield _gauge("sidecar_lease_epoch", "Epoch of the lease that this instance took.", state.epoch)
    ping = "When the last ping came from outside."
    yield _gauge("sidecar_keepalive_last_timestamp_seconds", ping, state.keepalive.last)


def _syncing(state: State, now: float) -> Iterator[Metric]:
    sync, seen, roots = state.sync, state.measures, list(state.roots.values())
    yield _gauge("sidecar_sync_lag_seconds", "How long the oldest change waits that is not durable.", lag_s(state, now))
    yield _gauge("sidecar_last_sync_lag_seconds", "From the first change to durable, at the last sync.", sync.lag_s)
    yield _gauge("sidecar_last_success_timestamp_seconds", "When a snapshot last became durable.", sync.last_durable)
    yield _gauge("sidecar_pending_changes", "Changes that wait to become durable.", sync.pending)
    kinds = {"unsettled": sync.unsettled, "stale": sync.stale, "unreadable": sync.unreadable}
    yield _gauges("sidecar_troubled_entries", "Entries not in the snapshot as they are on disk.", "kind", kinds)
    yield _gauge("sidecar_snapshot_files", "Files in the newest snapshot.", sum(each.files for each in roots))
    yield _gauge("sidecar_snapshot_bytes", "Bytes of the files in it.", sum(each.bytes for each in roots))
    yield _gauge("sidecar_store_bytes", "All that the store keeps, where it tells.", state.stored_bytes)
    yield _gauge("sidecar_store_commits", "Commits in the store's history, where it tells.", state.commits_total)
    yield _gauge("sidecar_hour_commits", "Commits in the last hour.", state.commits_hour)
    yield _gauge("sidecar_hour_snapshots", "Automatic snapshots in the last hour.", state.commits_paced)
    yield _gauge("sidecar_hour_snapshots_limit", "SIDECAR_COMMITS_PER_HOUR.", state.commits_per_hour)
    yield _counter("sidecar_snapshots", "Snapshots that this agent made durable.", seen.snapshots_made)
    yield _counter("sidecar_changed_entries", "Entries that they changed.", seen.changed_entries)
    yield _counter("sidecar_sent_bytes", "Bytes of content that went into them.", seen.sent_bytes)
    commits = dict.fromkeys(("automatic", "other"), 0) | seen.commits
    yield _counters("sidecar_commits", "Commits sent to the store.", ("kind",), _by_kind(commits))
    failures = dict.fromkeys(_KINDS, 0) | seen.failures
    yield _counters("sidecar_sync_failures", "Syncs that failed, by why.", ("kind",), _by_kind(failures))


def _recovery(state: State) -> Iterator[Metric]:
    record = state.recovery or {}
    steps = {
        str(each["step"]): each["ms"] / 1000
        for each in record.get("steps", ())
        if isinstance(each, dict) and isinstance(each.get("ms"), int | float) and _word(str(each.get("step")))
    }
    yield _gauge("sidecar_recovered", "Whether this start's recovery is done.", state.recovered)
    yield _gauge("sidecar_restore_seconds", "How long this start's restore took.", steps.get("restore"))
    yield _gauges("sidecar_recovery_step_seconds", "How long each step of the recovery took.", "step", steps)
    yield _gauge("sidecar_restored_files", "Files that the restore saw to.", _number(record.get("files")))
    yield _gauge("sidecar_restored_bytes", "Bytes of them.", _number(record.get("bytes")))


def _web(state: State) -> Iterator[Metric]:
    seen = state.measures
    yield _counters("sidecar_proxy_requests", "Answers of the front door.", ("method", "code"), seen.requests.items())
    door = state.door
    yield _counter("sidecar_proxy_failures", "Requests that the app gave no answer to, or half of one.", door.failed)
    yield _gauge("sidecar_proxy_open_requests", "Requests under way to the app, WebSockets included.", door.open)
    yield _gauge("sidecar_proxy_open_websockets", "WebSockets among them.", door.websockets)
    yield _counter("sidecar_wrong_tokens", "Requests with a wrong API token.", seen.wrong_tokens)
    yield _counter("sidecar_turned_away_connections", "Idle connections closed for newer ones.", seen.turned_away)


def _gauge(name: str, about: str, value: float | None) -> Metric:
    """One value; its name alone where there is none yet."""
    return GaugeMetricFamily(name, about, value=None if value is None else float(value))


def _gauges(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family


def _counter(name: str, about: str, value: int) -> Metric:
    return CounterMetricFamily(name, about, value=value)


def _counters(name: str, about: str, labels: Iterable[str], values: Iterable[tuple[tuple[str, ...], int]]) -> Metric:
    family = CounterMetricFamily(name, about, labels=list(labels))
    for key, value in values:
        family.add_metric(list(key), value)
    return family


def _by_kind(counts: Mapping[str, int]) -> Iterator[tuple[tuple[str, ...], int]]:
    return (((kind,), count) for kind, count in counts.items())


def _word(text: str) -> bool:
    return _WORD.fullmatch(text) is not None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
