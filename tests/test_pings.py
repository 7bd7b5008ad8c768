"""What an agent saw of the pings from outside, another one goes on with."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from pathlib import Path

import pytest

from sidecar import pings
from sidecar.state import State


def state(instance: str = "i-1") -> State:
    return State(instance=instance, version="1", space="me/space", store="file:///x", persistent=True)


def pinged(folder: Path, *agents: str) -> State:
    """A life in which ``agents`` ping one after the other."""

    async def live() -> State:
        one = state()
        task = asyncio.create_task(pings.remember(one, str(folder)))
        for agent in agents:
            one.keepalive.ping(agent)
            async with asyncio.timeout(5):
                while json.loads((folder / pings.FILE).read_text())["agent"] != agent if _is(folder) else True:
                    await asyncio.sleep(0.01)
        task.cancel()
        return one

    return asyncio.run(live())


def _is(folder: Path) -> bool:
    return (folder / pings.FILE).exists()


def test_the_next_agent_of_the_same_life_judges_by_the_same_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(pings, "PAUSE_S", 0.01)
    before = pinged(tmp_path, "n8n", "curl/8")
    after = state()
    pings.recall(after, str(tmp_path))
    assert after.keepalive.agent == "curl/8"
    assert after.keepalive.last == before.keepalive.last
    assert after.keepalive.last_mono == before.keepalive.last_mono
    assert after.keepalive.since_mono == before.started_mono
    assert stat.S_IMODE(os.stat(tmp_path / pings.FILE).st_mode) == 0o600
    assert os.listdir(tmp_path) == [pings.FILE]


def test_another_life_knows_of_the_ping_but_not_by_its_own_clock(tmp_path):
    before = pinged(tmp_path, "n8n")
    after = state("i-2")
    pings.recall(after, str(tmp_path))
    assert (after.keepalive.last, after.keepalive.agent) == (before.keepalive.last, "n8n")
    assert after.keepalive.last_mono is None
    assert after.keepalive.since_mono is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"last": "x"}', '{"last": NaN, "agent": "a"}', '{"last": 1, "agent": 2}', "\xff" * 9]
)
def test_a_file_that_is_none_of_ours_is_as_if_there_were_none(tmp_path, text):
    (tmp_path / pings.FILE).write_text(text, encoding="latin-1")
    fresh = state()
    pings.recall(fresh, str(tmp_path))
    assert fresh.keepalive.last is None
    assert fresh.keepalive.agent is None


def test_a_ping_of_the_future_is_taken_for_one_of_now(tmp_path):
    document = {"instance": "i-1", "since_mono": 0.0, "last": 1.0, "last_mono": 1e18, "agent": "a"}
    (tmp_path / pings.FILE).write_text(json.dumps(document))
    fresh = state()
    pings.recall(fresh, str(tmp_path))
    assert fresh.keepalive.last_mono is not None
    assert fresh.keepalive.last_mono <= time.monotonic()


def test_a_disk_that_refuses_ends_nothing(tmp_path):
    async def live() -> None:
        one = state()
        task = asyncio.create_task(pings.remember(one, str(tmp_path / "gone")))
        one.keepalive.ping("n8n")
        await asyncio.sleep(0.1)
        assert not task.done()
        task.cancel()

    asyncio.run(live())
