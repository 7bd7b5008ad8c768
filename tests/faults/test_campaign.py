"""A few kills of the crash campaign that `make soak` makes a thousand of."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from tests.faults.campaign import Found, campaign
from tests.faults.writer import JOURNAL, SHELF_NAME, shelf, wrong
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub

KILLS = 2


@pytest.mark.timeout(300)
def test_what_was_acknowledged_survives_every_kill(tmp_path: Path) -> None:
    """On a folder store with a disk that stays, and on a Hub with one that goes, side by side."""
    with LocalHub(tmp_path / "hub", process=True) as hub, ThreadPoolExecutor(2) as pool:
        there = {"HF_ENDPOINT": hub.url, "HF_TOKEN": DEFAULT_TOKEN}
        rng = [random.Random(n) for n in (1, 2)]
        lanes = [
            pool.submit(campaign, tmp_path / "a", f"file://{tmp_path}/store", KILLS, rng[0], keeps_disk=True),
            pool.submit(campaign, tmp_path / "b", "hf://datasets/alice/b", KILLS, rng[1], keeps_disk=False, **there),
        ]
        found = Found()
        for lane in lanes:
            found.add(lane.result())
    assert found.kills.total() == 2 * KILLS
    assert found.wrong == []
    assert found.left == []
    assert found.acknowledged > 0, "somebody had something to lose"


def test_the_writer_sees_what_is_missing_older_and_torn(tmp_path: Path) -> None:
    """A campaign that can't see a loss proves nothing."""
    data = tmp_path / "disk/data"
    data.mkdir(parents=True)
    for name, version in (("older", 4), ("same", 5), ("newer", 6)):
        body = version.to_bytes(8, "big") + b"content"
        (data / name).write_bytes(sha256(body).digest() + body)
    for name in ("torn", "torn-and-new"):
        (data / name).write_bytes((data / "same").read_bytes()[:-1])
    known = dict.fromkeys(["gone", "older", "same", "newer", "torn"], 5)
    assert list(wrong(tmp_path / "disk", tmp_path, known)) == [
        "gone: version -2 instead of 5 (-1 torn, -2 missing)",
        "older: version 4 instead of 5 (-1 torn, -2 missing)",
        "torn: version -1 instead of 5 (-1 torn, -2 missing)",
        "torn-and-new: torn",
    ]
    for path, content in shelf(tmp_path / "disk"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    known |= {SHELF_NAME: 1}
    assert len(list(wrong(tmp_path / "disk", tmp_path, known))) == 4
    (tmp_path / "disk/conf/3/3").unlink()
    assert "half restored: 299 of 300" in list(wrong(tmp_path / "disk", tmp_path, known))[-1]
    (tmp_path / JOURNAL).touch()
    assert "half in place" in list(wrong(tmp_path / "disk", tmp_path, known))[-1]
