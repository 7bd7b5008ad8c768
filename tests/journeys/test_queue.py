"""Jobs acknowledged after a checkpoint survive every death: `examples/queue`, a few kills of many (tests/real)."""

from __future__ import annotations

from pathlib import Path

from tests.journeys.queue import campaign, require_kept


def test_no_accepted_job_is_lost_and_none_is_done_after_it_was_reported(tmp_path: Path) -> None:
    tale = campaign(tmp_path, kills=3, seed=4)
    require_kept(tale)
    assert len(tale.accepted) > 3
