"""A made-up life of six hours, for pictures of the page that need no six hours."""

from __future__ import annotations

import math
import random
import time

from sidecar.measures import Sample, Seen
from sidecar.state import Keepalive, RootState, State, SyncState
from tests.web.serving import state_of


def well() -> State:
    """An n8n Space on a good day, with an outage of the store behind it."""
    now, mono, chance = time.time(), time.monotonic(), random.Random(1)
    state = state_of(
        space="alice/n8n",
        store="hf://datasets/alice/n8n-state",
        started_mono=mono - 6 * 3600 - 600,
        commits_hour=14,
        commits_paced=12,
        commits_per_hour=30,
        commits_total=388,
        stored_bytes=412_000_000,
        main_pid=17,
        sync=SyncState(
            last_durable=now - 12,
            last_durable_mono=mono - 12,
            snapshot="7.113",
            revision="5f0c1e9",
            pending=2,
            pending_since_mono=mono - 1,
            lag_s=2.41,
            watcher="inotify",
        ),
        keepalive=Keepalive(last=now - 1300, last_mono=mono - 1300, agent="n8n/1.80", every_s=2700),
        roots={
            "home/node/.n8n": RootState("home/node/.n8n", files=1204, bytes=38_000_000, state="durable", excluded=12),
            "data": RootState("data", files=87, bytes=2_400_000, state="durable"),
        },
        recovery={
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 6 * 3600 - 590)),
            "result": "ok",
            "epoch": 7,
            "clean": True,
            "snapshot": "6.871",
            "snapshot_age_s": 250,
            "files": 1291,
            "bytes": 40_400_000,
            "fetched": 1291,
            "fetched_bytes": 40_400_000,
            "steps": [
                {"step": "claim", "ok": True, "ms": 1210},
                {"step": "restore", "ok": True, "ms": 2104},
                {"step": "verify", "ok": True, "ms": 161},
                {"step": "resume", "ok": True, "ms": 420},
            ],
        },
    )
    for minute in range(360, 0, -1):
        away = 150 < minute < 160
        lag = (160 - minute) * 60.0 if away else 2 + 2 * chance.random()
        paced = round(12 + 7 * math.sin(minute / 45) + chance.random())
        state.measures.samples.append(Sample(now - 60 * minute, lag, paced + 2, paced))
    for n in range(8):
        state.measures.seen(Seen(f"7.{106 + n}", now - 290 * (8 - n) + 270, 1284 + n, 40_400_000 + 9000 * n, 1 + n % 4))
    return state


def restoring() -> State:
    """The same Space while its files come back."""
    state = well()
    state.phase, state.recovered, state.main_state, state.recovery = "restoring", False, "waiting", None
    state.restore.files_done, state.restore.files_total = 812, 1291
    state.restore.bytes_done, state.restore.bytes_total = 22_000_000, 40_400_000
    state.measures.samples.clear()
    state.measures.snapshots.clear()
    state.sync = SyncState()
    state.started_mono = time.monotonic() - 3
    return state


def away() -> State:
    """The same Space while its token is refused, and with names that were meant to do harm."""
    state = well()
    state.sync.pending_since_mono, state.sync.pending = time.monotonic() - 2400, 31
    state.sync.error, state.sync.error_since = "Hub answers 401 for data/x", time.time() - 2390
    state.sync.denied, state.sync.stale = True, 1
    state.sync.trouble_since_mono = time.monotonic() - 2000
    state.sync.files = [{"path": "data/<img src=x onerror=\"document.title='pwned'\">", "state": "stale"}]
    return state
