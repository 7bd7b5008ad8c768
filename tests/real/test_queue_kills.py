"""Fifty deaths of the queue in `examples/queue`: the short version is in tests/journeys."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journeys.queue import campaign, require_kept

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


def test_fifty_kills_lose_no_accepted_job(tmp_path: Path) -> None:
    tale = campaign(tmp_path, kills=50, seed=50)
    require_kept(tale)
    repeats = sum(count - 1 for count in tale.effects.values())
    print(
        f"{tale.kills} kills, {len(tale.accepted)} accepted, 0 lost, {repeats} effects asked for again under their key"
    )
    assert len(tale.accepted) > 100
