"""`doctor`: the checklist with and without an agent, each item judged by what really is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidecar.recovery.record import append
from sidecar.snapshot.manifest import RECOVERY
from tests.cli.conftest import Kept
from tests.cli.desk import Answer, Desk
from tests.cli.fake import Script, agent, handler
from tests.hub.identity import DEFAULT_TOKEN, READ_TOKEN
from tests.hub.server import LocalHub
from tests.journeys.space import free_port
from tests.snapshot.test_uncovered import database

FINE: list[dict[str, Any]] = [
    {"id": "health-endpoint", "state": "pass", "text": "/health answers", "fix": None},
    {"id": "poller-seen", "state": "unknown", "text": "none yet", "fix": "ping it"},
    {"id": "restore-drill", "state": "pass", "text": "7.1 came back", "fix": None},
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working directory with nothing in it."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def states(answer: Answer) -> dict[str, str]:
    return {item["id"]: item["state"] for item in answer.json}


def item(answer: Answer, name: str) -> dict[str, Any]:
    (found,) = (each for each in answer.json if each["id"] == name)
    return dict(found)


def test_without_an_agent_store_and_state_dir_tell(desk: Desk, world: Kept) -> None:
    answer = desk("doctor", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert all(each.keys() == {"id", "state", "text", "fix"} for each in answer.json)
    assert states(answer) == {
        "health-endpoint": "unknown",
        "poller-seen": "unknown",
        "remote-persistence": "pass",
        "restore-on-restart": "unknown",
        "restore-drill": "warn",
        "observable-recovery": "unknown",
        "token-scope": "pass",
        "store-private": "pass",
        "commit-count": "pass",
        "single-writer": "pass",
        "local-only": "pass",
    }
    assert "data, conf durable as of 1.2" in item(answer, "remote-persistence")["text"]
    assert "2 commits" in item(answer, "commit-count")["text"]
    people = desk("doctor")
    assert len(people.lines) == 11, "one line an item"
    assert [line.split()[:2] for line in people.lines] == [[each["state"], each["id"]] for each in answer.json]
    assert all(("Fix: " in line) == (not line.startswith("pass")) for line in people.lines)


def test_what_an_agent_left_in_the_state_dir_is_told(desk: Desk, world: Kept) -> None:
    (world.state / "keepalive.json").write_text(json.dumps({"last": time.time() - 60, "agent": "n8n\x1b[31m"}))
    url = f"file://{world.base}/store"
    drilled = {"result": "pass", "at": time.time(), "snapshot": "1.2", "files": 7, "store": url}
    (world.state / "drill.json").write_text(json.dumps(drilled))
    assert {"poller-seen": "pass", "restore-drill": "pass"}.items() <= states(desk("doctor", "--json")).items()
    assert "\x1b" not in desk("doctor").out
    (world.state / "keepalive.json").write_text(json.dumps({"last": time.time() - 90 * 60 - 1, "agent": "n8n"}))
    (world.state / "drill.json").write_text(json.dumps({**drilled, "store": "file:///another"}))
    assert {"poller-seen": "warn", "restore-drill": "warn"}.items() <= states(desk("doctor", "--json")).items()


def test_the_newest_start_that_came_to_an_end_tells_of_restores(desk: Desk, world: Kept) -> None:
    def recorded(*documents: dict[str, Any]) -> dict[str, Any]:
        world.commit({RECOVERY: append(None, *documents)})
        return item(desk("doctor", "--json"), "restore-on-restart")

    ok, failed, stopped, late = (
        {"at": f"2026-11-29T0{n}:00:00Z", "instance": f"i{n}", "result": result, "snapshot": "1.2"}
        for n, result in ((2, "ok"), (1, "failed"), (3, "stopped"), (4, "failed"))
    )
    assert recorded(ok, stopped)["state"] == "pass", "SIGTERM in the middle of a start is no failure"
    assert recorded(stopped)["state"] == "unknown"
    assert recorded(ok, failed)["state"] == "pass", "one that waited on a disk comes late and isn't the newest"
    assert recorded(ok, late)["state"] == "fail"


def test_a_root_that_is_not_in_the_store_fails(desk: Desk, world: Kept) -> None:
    desk.set(SIDECAR_PATHS=f"data={world.root}\nextra={world.base}/extra\n")
    assert desk("doctor").code == 0, "what isn't there has nothing to lose"
    (world.base / "extra").mkdir()
    answer = desk("doctor", "--json")
    assert answer.code == 1
    assert item(answer, "remote-persistence")["state"] == "fail"
    assert "extra" in item(answer, "remote-persistence")["text"]
    desk.set(SIDECAR_STORE=f"file://{world.base}/nowhere")
    answer = desk("doctor", "--json")
    assert (answer.code, item(answer, "remote-persistence")["state"]) == (1, "fail")
    assert "no store at" in item(answer, "remote-persistence")["text"]
    desk.set(SIDECAR_STORE=None)
    assert item(desk("doctor", "--json"), "remote-persistence")["state"] == "fail"


def test_databases_that_no_root_covers_are_named_with_the_variable_to_set(
    desk: Desk, world: Kept, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = database(home / ".n8n/database.sqlite")
    answer = desk("doctor", "--json")
    assert answer.code == 0
    local = item(answer, "local-only")
    assert local["state"] == "warn"
    assert str(found) in local["text"]
    paths = local["fix"].removeprefix("set SIDECAR_PATHS=")
    desk.set(SIDECAR_PATHS=paths)
    assert item(desk("doctor", "--json"), "local-only")["state"] == "pass", "what is said to be set settles it"
    database(home / "a:b/x.db")
    fix = item(desk("doctor", "--json"), "local-only")["fix"]
    assert fix.endswith("a:b\\n'"), "the form that a shell makes lines of"


def test_a_setting_that_is_missing_or_misspelt_is_an_error(desk: Desk, world: Kept) -> None:
    desk.set(SIDECAR_PATHS=None)
    assert desk("doctor").code == 78
    desk.set(SIDECAR_PATHS="/data", SIDECAR_DRIL="24h")
    answer = desk("doctor", "--json")
    assert (answer.code, answer.out) == (78, "")
    assert "SIDECAR_DRILL" in answer.err


@pytest.fixture
def script(desk: Desk, world: Kept) -> Iterator[Script]:
    with agent(world.state / "agent.sock", Script(body={"phase": "running", "checklist": FINE})) as served:
        desk.set(SIDECAR_PORT="0")
        yield served


def test_the_agent_is_asked_and_the_rest_is_looked_up(desk: Desk, script: Script) -> None:
    answer = desk("doctor", "--json")
    assert answer.code == 0
    assert [(how, path) for how, path, _ in script.asked] == [("GET", "/_sidecar/status")]
    found = states(answer)
    assert {"poller-seen": "unknown", "restore-drill": "pass", "local-only": "pass"}.items() <= found.items()
    odd: list[Any] = [
        {**FINE[0], "state": "fail", "fix": "free it"},
        {"id": "local-only", "state": "warn", "text": "/elsewhere/x.db", "fix": "cover it"},
        {"id": 7, "state": "odd\x1b"},
        "nonsense",
    ]
    script.body["checklist"] = odd
    answer = desk("doctor", "--json")
    assert answer.code == 1
    assert states(answer)["local-only"] == "warn", "the agent has another home in view"
    assert states(answer)["7"] == "unknown"


def test_an_agent_that_gives_no_checklist_is_no_reason_to_guess(desk: Desk, script: Script) -> None:
    script.body = {"error": "bug", "detail": "out of order"}
    script.status = 500
    answer = desk("doctor")
    assert (answer.code, answer.out) == (1, "")
    assert "out of order" in answer.err


def test_the_endpoint_is_asked_over_tcp_as_a_poller_would(desk: Desk, script: Script) -> None:
    desk.set(SIDECAR_PORT=str(free_port()))
    answer = desk("doctor", "--json")
    assert (answer.code, item(answer, "health-endpoint")["state"]) == (1, "fail")


def test_another_sidecar_on_the_port_does_not_pass_for_this_one(desk: Desk, script: Script) -> None:
    script.body = {"phase": "running", "checklist": [{**FINE[0], "state": "fail", "text": "could not be had"}]}
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(Script(body={"status": "pass", "notes": []}))) as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        desk.set(SIDECAR_PORT=str(other.server_port))
        answer = desk("doctor", "--json")
        assert (answer.code, item(answer, "health-endpoint")["text"]) == (1, "could not be had")
        script.body = {"phase": "running", "checklist": FINE}
        assert item(desk("doctor", "--json"), "health-endpoint")["state"] == "pass"
        other.shutdown()


# --- a Hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(desk: Desk, tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as local:
        (tmp_path / "data").mkdir()
        (tmp_path / "data/a").write_text("a")
        desk.set(
            HF_ENDPOINT=local.url,
            HF_TOKEN=DEFAULT_TOKEN,
            SIDECAR_STORE="hf://datasets/alice/state",
            SIDECAR_PATHS=f"data={tmp_path}/data",
            SIDECAR_STATE_DIR=str(tmp_path / "state"),
        )
        yield local


def test_a_token_as_narrow_as_it_should_be_and_a_private_dataset(desk: Desk, hub: LocalHub) -> None:
    assert desk("sync").code == 0
    answer = desk("doctor", "--json")
    assert answer.code == 0
    assert item(answer, "token-scope")["state"] == "warn"
    assert "role write" in item(answer, "token-scope")["text"]
    good = {"store-private": "pass", "commit-count": "pass", "remote-persistence": "pass"}
    assert good.items() <= states(answer).items()
    hub.add_token("hf_narrow", "alice", "fineGrained", scopes=[("dataset", "alice/state", ["repo.write"])])
    desk.set(HF_TOKEN="hf_narrow")
    assert item(desk("doctor", "--json"), "token-scope")["state"] == "pass"


def test_a_public_dataset_and_a_token_that_only_reads(desk: Desk, hub: LocalHub) -> None:
    assert desk("sync").code == 0
    hub.set_private("alice/state", False)
    answer = desk("doctor", "--json")
    assert (answer.code, item(answer, "store-private")["state"]) == (1, "fail")
    desk.set(SIDECAR_PUBLIC="allow")
    assert item(desk("doctor", "--json"), "store-private")["state"] == "warn"
    hub.set_private("alice/state", True)
    desk.set(HF_TOKEN=READ_TOKEN)
    answer = desk("doctor", "--json")
    assert (answer.code, item(answer, "token-scope")["state"]) == (1, "fail")
    desk.set(HF_TOKEN="hf_unknown")
    answer = desk("doctor", "--json")
    assert (answer.code, item(answer, "remote-persistence")["state"]) == (1, "fail")
    assert "hf_unknown" not in answer.out + answer.err


def test_a_hub_that_is_away_is_no_failure_of_what_it_keeps(desk: Desk, hub: LocalHub) -> None:
    hub.stop()
    answer = desk("doctor", "--json")
    assert answer.code == 0
    assert item(answer, "remote-persistence")["state"] == "warn"
    assert "out of reach" in item(answer, "remote-persistence")["text"]
    untold = ("restore-on-restart", "observable-recovery", "store-private", "commit-count")
    for name in untold:
        assert {"state": "unknown", "text": "the store could not tell"}.items() <= item(answer, name).items()


def test_two_instances_that_held_the_lease_by_turns_are_told_of(desk: Desk, hub: LocalHub) -> None:
    assert desk("sync").code == 0
    for who in ("aaaa", "bbbb", "aaaa"):
        hub.edit("alice/state", {"x": who.encode()}, title=f"sidecar: lease 9 claimed by {who}")
    found = item(desk("doctor", "--json"), "single-writer")
    assert found["state"] == "warn"
    assert "aaaa, bbbb" in found["text"]
