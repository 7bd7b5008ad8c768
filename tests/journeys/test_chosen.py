"""Journey: what a start without a clean way to its first commit may never do to a good head."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys.space import Space, agent_of, living

REPO = "alice/state"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as made:
        yield made


@pytest.fixture
def space(tmp_path: Path, hub: LocalHub) -> Iterator[Space]:
    made = Space(tmp_path / "space", f"hf://datasets/{REPO}", HF_ENDPOINT=hub.url, HF_TOKEN=DEFAULT_TOKEN)
    made.hurry(REGAIN_S=0.5)
    with living(made):
        for content in ("one", "two"):
            (made.disk / "data").mkdir(exist_ok=True)
            for name in ("f1", "f2", "f3"):
                (made.disk / "data" / name).write_text(f"{content} {name}")
            made.start("true")
            assert made.process is not None
            assert made.process.wait(30) == 0, made.said()
        yield made


def goes_on_from_the_first(space: Space, hub: LocalHub) -> None:
    """What came of it is all of 1.1 and what main wrote, and the head before it is kept."""
    space.wait(lambda s: s["lease"]["state"] == "held")
    space.wait(lambda s: space.post("/checkpoint")[0] == 200)
    assert space.end() == 143
    assert space.sidecar("verify").returncode == 0, space.sidecar("verify").stderr
    found = hub.files(REPO)
    assert {p: b for p, b in found.items() if p.startswith("data/")} == {
        "data/f1": b"one f1",
        "data/f2": b"one f2",
        "data/f3": b"one f3",
        "data/inlife": b"inlife\n",
    }
    assert any("(from 1.1)" in commit["title"] for commit in hub.commits(REPO)), hub.commits(REPO)
    assert "damaged/2.1" in hub.branches(REPO), hub.branches(REPO)


def life(space: Space) -> None:
    space.lose_disk()
    space.start("sh", "-c", f"echo inlife >{space.disk}/data/inlife; exec sleep 1000", SIDECAR_REVISION="1.1")


def test_a_choice_outlives_a_start_without_a_lease(space: Space, hub: LocalHub) -> None:
    rule = hub.fault(endpoint="commit", status=403, times=None)
    life(space)
    space.wait(lambda s: s["main"]["state"] == "running" and s["lease"]["state"] == "unleased")
    hub.clear_faults(rule)
    goes_on_from_the_first(space, hub)


@pytest.mark.parametrize("claims", [0, 1])
@pytest.mark.parametrize("head", ["good", "broken"])
def test_a_choice_outlives_an_agent(space: Space, hub: LocalHub, head: str, claims: int) -> None:
    if head == "broken":
        hub.edit(REPO, put={".sidecar/manifest.json": b"{}"})
    rule = hub.fault(endpoint="commit", status=500, skip=claims, times=None)
    life(space)
    space.running()
    os.kill(agent_of(space), signal.SIGKILL)
    time.sleep(0.5)
    hub.clear_faults(rule)
    space.running()
    goes_on_from_the_first(space, hub)


def test_a_token_that_only_reads_is_said_and_ends_at_once(space: Space, hub: LocalHub) -> None:
    token = "hf_reads"
    hub.add_token(token, "alice", "read")
    space.start("sleep", "1000", HF_TOKEN=token)
    space.wait(lambda s: s["main"]["state"] == "running" and s["lease"]["state"] == "unleased")
    began = time.monotonic()
    assert space.end() == 143
    assert time.monotonic() - began < 10
    assert "could not be written to" in space.said()
    done = space.sidecar("sync", HF_TOKEN=token)
    assert done.returncode == 69, done.stderr


def test_an_agent_alone_restores_nothing_over_a_live_main(space: Space) -> None:
    (space.disk / "data" / "f2").unlink()
    (space.disk / "data" / "f1").write_text("live")
    settings: tuple[dict[str, str], ...] = ({}, {"SIDECAR_REVISION": "1.1"})
    for extra in settings:
        with open(space.log, "ab") as out:
            space.process = subprocess.Popen(
                [sys.executable, "-m", "sidecar", "agent"], env={**space.env, **extra}, stdout=out, stderr=out
            )
        space.running()
        space.checkpoint()
        space.process.send_signal(signal.SIGTERM)
        assert space.process.wait(30) == 0, space.said()
        assert not (space.disk / "data" / "f2").exists(), space.said()
        assert (space.disk / "data" / "f1").read_text() == "live"
        assert (space.disk / "data" / "f3").read_text() == "two f3"
