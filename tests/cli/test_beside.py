"""Every command beside a real `sidecar run`: what asks the agent is answered, what reads disturbs nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.cli.desk import Answer, Desk
from tests.journeys.space import Space, living


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A container whose app has written `data/x` and idles; nothing but a checkpoint makes it durable."""
    home = tmp_path_factory.mktemp("space")
    with living(Space(home, f"file://{home}/store", SIDECAR_MAX_DELAY="1h")) as space:
        space.env["SIDECAR_QUIET"] = "1h"
        space.start("sh", "-c", f"mkdir -p {space.disk}/data; echo one > {space.disk}/data/x; exec sleep 1000")
        space.running()
        yield space


@pytest.fixture
def beside(desk: Desk, running: Space) -> Desk:
    desk.set(**{k: v for k, v in running.env.items() if k.startswith("SIDECAR_")})
    return desk


def test_a_checkpoint_is_durable_when_it_returns(beside: Desk, running: Space) -> None:
    (running.disk / "data" / "x").write_text("two\n")
    answer = beside("checkpoint", "data", "--json")
    assert answer.code == 0, answer.err
    assert beside("cat", f"{running.disk}/data/x").out == "two\n"
    listed = beside("snapshots", "--json").json
    assert listed[0]["snapshot"] == answer.json["snapshot"]
    assert beside("cat", "data/x", "--revision", answer.json["revision"]).out == "two\n"
    assert beside("checkpoint", "nosuch").code == 2


def test_sync_goes_through_the_agent(beside: Desk, running: Space) -> None:
    (running.disk / "data" / "y").write_text("y")
    foreseen = beside("sync", "--dry-run")
    assert (foreseen.code, foreseen.lines) == (0, ["+ data/y"]), foreseen.err
    answer = beside("sync", "--json")
    assert answer.code == 0, answer.err
    assert beside("cat", "data/y").out == "y"
    assert beside("sync", "--dry-run").lines == []
    assert answer.json["snapshot"] == running.get("/status")["sync"]["snapshot"]


def test_the_status_in_words_and_as_served(beside: Desk, running: Space) -> None:
    answer = beside("status")
    assert answer.code == 0
    assert answer.lines[0].startswith("running: ")
    assert f"running, pid {running.get()['main']['pid']}" in answer.out
    assert "held, epoch 1" in answer.out
    served = beside("status", "--json").json
    assert served["main"]["state"] == "running"
    assert "files" in served["sync"], "the owner sees names"
    remote = beside("status", f"http://127.0.0.1:{running.port}", "--json").json
    assert remote["instance"] == served["instance"]
    assert "files" not in remote["sync"]


def test_a_restore_under_a_living_main_is_refused(beside: Desk, running: Space) -> None:
    beside("checkpoint")
    (running.disk / "data" / "x").write_text("being written")
    answer = beside("restore")
    assert (answer.code, answer.out) == (75, "")
    assert str(running.disk) in answer.err
    foreseen = beside("restore", "--dry-run")
    assert foreseen.code == 0
    assert "set aside" in next(line for line in foreseen.lines if line.startswith("~ data/x"))
    assert beside("restore", "--to", running.home / f"out-{os.getpid()}").code == 0
    assert (running.disk / "data" / "x").read_text() == "being written"


def test_reading_commands_leave_the_agent_and_its_lease_alone(beside: Desk, running: Space) -> None:
    beside("checkpoint")
    before = running.get()
    told: list[Answer] = [beside(*words) for words in (["ls"], ["diff", "1.1"], ["verify", "--full"], ["snapshots"])]
    assert [answer.code for answer in told] == [0, 0, 0, 0], told
    after = running.get()
    for key in ("lease", "commits", "health"):
        assert after[key] == before[key]
    assert after["sync"]["revision"] == before["sync"]["revision"]
    assert running.process is not None
    assert running.process.poll() is None
    assert json.loads((running.home / "store" / "sidecar-store.json").read_text())
