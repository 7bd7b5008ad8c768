"""When a restore drill is due."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sidecar.drills import again_s, wait_s

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
