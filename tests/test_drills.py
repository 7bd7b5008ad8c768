"""When a restore drill is due, and what it gives way to."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import drills
from sidecar.drills import again_s, wait_s
from sidecar.once import sync_once
from sidecar.settings import load
from sidecar.state import State
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys.space import descendants, not_last_in_line

DAY = 86_400.0
NOW = 1_800_000_000.0
seeds = st.integers(0, 2**32).map(lambda seed: random.Random(seed).uniform)


@given(seeds)
def test_a_fresh_disk_drills_neither_at_once_nor_never(draw):
    wait = wait_s(DAY, None, NOW, draw)
    assert 3600 <= wait <= DAY / 2


@given(seeds, st.floats(-10 * DAY, 10 * DAY))
def test_the_next_one_counts_from_the_last_also_over_restarts(draw, age):
    wait = wait_s(DAY, {"at": NOW - age}, NOW, draw)
    assert wait <= 1.1 * DAY, "also after a clock that went back"
    assert wait >= 0.01 * DAY, "a start has better things to do"
    if 0 <= age <= 0.8 * DAY:
        assert abs(wait - (DAY - age)) <= 0.1 * DAY


@given(seeds, st.sampled_from(["pass", "fail", "no-room", "error"]))
def test_what_came_to_no_end_is_tried_sooner(draw, result):
    wait = again_s(DAY, result, draw)
    assert (0.9 * DAY <= wait <= 1.1 * DAY) if result in ("pass", "fail") else (0.1 * DAY <= wait <= 0.2 * DAY)


def test_a_drill_under_way_gives_way_to_the_last_sync_and_clears_up(tmp_path, monkeypatch):
    """The child is real, and hangs in a download; the agent's part is driven here."""
    with LocalHub(tmp_path / "hub") as hub:
        world(tmp_path, monkeypatch, hub)
        hub.fault("pass", endpoint="resolve", path="data/", delay=30)
        settings = load(os.environ, need_paths=True)
        state = State("i-1", "1", "local", settings.store.url, True, phase="running", recovered=True, drill_s=1.0)
        state.sync.snapshot = "1.1"

        async def live() -> None:
            task = asyncio.create_task(drills.now_and_then(settings, state))
            async with asyncio.timeout(30):
                while not list((tmp_path / "state").glob("drill-*/copy")):
                    await asyncio.sleep(0.05)
            state.phase = "stopping"
            async with asyncio.timeout(10):
                while list((tmp_path / "state").glob("drill-*")) or descendants(os.getpid()):
                    await asyncio.sleep(0.05)
            assert not task.done()
            task.cancel()

        asyncio.run(live())
        assert state.drill is None


def world(folder: Path, monkeypatch: pytest.MonkeyPatch, hub: LocalHub) -> None:
    """A dataset with one snapshot of five files that travel one by one, and the settings of who keeps them."""
    (folder / "data").mkdir()
    for n in range(5):
        (folder / f"data/{n}.bin").write_bytes(os.urandom(5000))
    for name in [n for n in os.environ if n.startswith(("SIDECAR_", "HF_", "SPACE_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": DEFAULT_TOKEN,
        "SIDECAR_STORE": "hf://datasets/alice/state",
        "SIDECAR_PATHS": f"data={folder}/data?layout=mirror",
        "SIDECAR_STATE_DIR": str(folder / "state"),
        "SIDECAR_DRILL": "1s",
        "PYTHONPATH": not_last_in_line(folder),
    }.items():
        monkeypatch.setenv(name, value)
    assert sync_once()["snapshot"] == "1.1"
