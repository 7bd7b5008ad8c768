from __future__ import annotations

import math
import re
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from sidecar.measures import Seen
from sidecar.state import State, SyncState
from sidecar.web.metrics import exposition
from tests.web.serving import serving, state_of

SECRET = "salaries.xlsx"


def busy() -> State:
    """A state in which everything has a value, and whatever can name a file does."""
    state = state_of(
        commits_hour=9,
        commits_paced=7,
        commits_per_hour=30,
        commits_total=388,
        stored_bytes=412,
        notes={"held-deletion": SECRET, SECRET: SECRET},
        failed_checks=[f"json: {SECRET}"],
        recovery={
            "files": 12,
            "bytes": 345,
            "result": "ok",
            "steps": [{"step": "restore", "ok": True, "ms": 2100, SECRET: SECRET}, {"step": SECRET, "ms": 1}, SECRET],
        },
        sync=SyncState(
            last_durable=1_700_000_000.5, pending=3, pending_since_mono=time.monotonic() - 60, stale=2, lag_s=2.5,
            files=[{"path": SECRET}], error=SECRET,
        ),
    )  # fmt: skip
    state.keepalive.last = 1_700_000_001.0
    state.measures.durable(Seen("7.1", None, 1, 2, 4), 1000, 2.0)
    state.measures.committed(True)
    for code in ("denied", "denied", "no-room"):
        state.measures.failed(code)
    state.measures.proxied("GET", 200)
    state.measures.proxied(SECRET, 404)
    state.door.open, state.door.failed = 2, 1
    return state


def values(state: State) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text, _ = exposition(state, time.monotonic(), "")
    families = parse(text.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_every_value_is_there_under_the_name_that_is_promised():
    found = values(busy())
    for name, value in {
        "sidecar_last_success_timestamp_seconds": 1_700_000_000.5,
        "sidecar_last_sync_lag_seconds": 2.5,
        "sidecar_pending_changes": 3,
        "sidecar_sent_bytes_total": 1000,
        "sidecar_snapshots_total": 1,
        "sidecar_changed_entries_total": 4,
        "sidecar_snapshot_files": 3,
        "sidecar_snapshot_bytes": 1234,
        "sidecar_restore_seconds": 2.1,
        "sidecar_restored_files": 12,
        "sidecar_lease_epoch": 7,
        "sidecar_lease_held": 1,
        "sidecar_main_running": 1,
        "sidecar_hour_commits": 9,
        "sidecar_hour_snapshots": 7,
        "sidecar_hour_snapshots_limit": 30,
        "sidecar_store_bytes": 412,
        "sidecar_proxy_failures_total": 1,
        "sidecar_proxy_open_requests": 2,
        "sidecar_keepalive_last_timestamp_seconds": 1_700_000_001.0,
    }.items():
        assert found[name, ()] == value, name
    assert 59 < found["sidecar_sync_lag_seconds", ()] < 90
    assert found["sidecar_sync_failures_total", (("kind", "denied"),)] == 2
    assert found["sidecar_sync_failures_total", (("kind", "unavailable"),)] == 0, "there before the first one"
    assert found["sidecar_commits_total", (("kind", "automatic"),)] == 1
    assert found["sidecar_troubled_entries", (("kind", "stale"),)] == 2
    assert found["sidecar_proxy_requests_total", (("code", "2xx"), ("method", "GET"))] == 1
    assert found["sidecar_health_status", (("status", "warn"),)] == 1
    assert found["sidecar_note", (("code", "held-deletion"),)] == 1
    assert found["process_resident_memory_bytes", ()] > 1e6


def test_no_label_names_a_file():
    text, _ = exposition(busy(), time.monotonic(), "")
    assert SECRET not in text.decode()
    assert set(re.findall(r'[{,]([a-z]+)="', text.decode())) == {"version", "status", "code", "kind", "step", "method"}


def test_what_is_not_known_has_no_value_rather_than_a_wrong_one():
    state = State(instance="i", version="0", space="s", store="hf://x", persistent=True)
    found = values(state)
    assert ("sidecar_last_success_timestamp_seconds", ()) not in found
    assert ("sidecar_lease_epoch", ()) not in found
    assert found["sidecar_recovered", ()] == 0
    assert not any(math.isnan(value) for value in found.values())


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "application/openmetrics-text"),
        ("\x00;;=,q", "text/plain"),
    ],
)
def test_over_http_in_the_format_that_is_asked_for(tmp_path, accept, content_type):
    with serving(tmp_path, busy()) as one:
        reply = one.ask("/metrics", headers={"Accept": accept.replace("\x00", "")})
        assert reply.status == 200
        assert reply.headers["content-type"].startswith(content_type)
        assert reply.headers["x-content-type-options"] == "nosniff"
        families = list((openmetrics if "open" in content_type else parse)(reply.body.decode()))
        assert {"sidecar_pending_changes", "sidecar_health_status"} <= {family.name for family in families}
        assert one.ask("/_sidecar/metrics").status == 200
        assert one.ask("/metrics", "POST").status == 405
