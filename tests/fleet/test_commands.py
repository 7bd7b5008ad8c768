"""`sidecar fleet …` as it is typed, against servers that answer over real HTTP."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.desk import Desk
from tests.fleet.spaces import WELL, Served, serving
from tests.journeys.space import free_port

STATUS = {
    "health": "pass",
    "phase": "running",
    "version": "0.1.0",
    "uptime_s": 1e6,
    "sync": {"snapshot": "7.113", "last_durable": "2027-01-15T07:59:00.000Z"},
    "lease": {"epoch": 7},
    "keepalive": {"state": "overdue", "last": "2020-01-01T00:00:00Z"},
    "checklist": [],
}


@pytest.fixture
def desk(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(capsysbinary, monkeypatch)


@pytest.fixture
def spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, ...]]:
    """Two Spaces and a webhook, in the fleet.yaml of the working directory."""
    monkeypatch.chdir(tmp_path)
    well, other, hook = Served(paths={"/status": (200, STATUS)}), Served(), Served([(200, {})])
    with ExitStack() as stack:
        stack.enter_context(serving(well, other, hook))
        Path("fleet.yaml").write_text(
            f"webhook: {hook.url}/hook\ninterval: 1s\n"
            f"spaces:\n  - {{id: me/well, url: {well.url}}}\n  - {{id: me/other, url: {other.url}/}}\n"
        )
        yield well, other, hook


def test_ping_exits_with_1_unless_all_pass(desk: Desk, spaces: tuple[Served, ...]) -> None:
    answer = desk("fleet", "ping", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert [(line["id"], line["state"]) for line in answer.json] == [("me/well", "pass"), ("me/other", "pass")]
    spaces[1].answers = [(200, {**WELL, "status": "warn", "notes": ["not-durable"]})]
    answer = desk("fleet", "ping")
    assert answer.code == 1
    assert [line.split()[:2] for line in answer.lines] == [["pass", "me/well"], ["warn", "me/other"]]
    assert "not-durable" in answer.lines[1]


def test_status_is_a_table_and_asks_no_health(desk: Desk, spaces: tuple[Served, ...]) -> None:
    answer = desk("fleet", "status", "--tries", "1")
    assert answer.code == 0
    assert answer.lines[0].split()[:3] == ["STATE", "ID", "PHASE"]
    assert answer.lines[1].split()[:5] == ["pass", "me/well", "running", "0.1.0", "7.113"]
    assert {path for _, path, _, _ in spaces[0].asked} == {"/status"}, "looking is no ping"
    assert [line["last_ping"] for line in desk("fleet", "status", "--json").json] == ["2020-01-01T00:00:00Z", None]


def test_doctor_finds_who_is_not_pinged(desk: Desk, spaces: tuple[Served, ...]) -> None:
    answer = desk("fleet", "doctor", "--json")
    assert answer.code == 1
    assert [(line["id"], line["state"]) for line in answer.json] == [("me/well", "fail"), ("me/other", "fail")]
    assert "last pinged" in answer.json[0]["text"]
    fresh = {**STATUS, "keepalive": {"state": "ok", "last": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}}
    for space in spaces[:2]:
        space.paths["/status"] = (200, fresh)
    assert desk("fleet", "doctor").code == 0


def test_watch_pings_on_schedule_and_tells_a_webhook_of_changes(
    desk: Desk, spaces: tuple[Served, ...], tmp_path: Path
) -> None:
    _well, other, hook = spaces
    down = (503, {**WELL, "status": "fail", "notes": ["main-not-running"]})
    other.answers = [(200, WELL), down, down, (200, WELL)]
    hook.answers = [(500, b""), (200, {})]
    process = desk.start("fleet", "watch", "--json")
    until = time.monotonic() + 20
    while len(hook.asked) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    changes = [(c["id"], c["before"], c["state"]) for c in map(json.loads, out.splitlines())]
    assert [c for c in changes if c[0] == "me/other"][:3] == [
        ("me/other", None, "pass"),
        ("me/other", "pass", "fail"),
        ("me/other", "fail", "pass"),
    ]
    told = [json.loads(body) for _, _, _, body in hook.asked]
    assert [(t["id"], t["state"]) for t in told[:3]] == [
        ("me/other", "fail"),
        ("me/other", "fail"),
        ("me/other", "pass"),
    ]
    assert hook.asked[0][2]["content-type"] == "application/json"


def test_n8n_prints_a_workflow(desk: Desk, spaces: tuple[Served, ...]) -> None:
    answer = desk("fleet", "n8n")
    assert answer.code == 0
    assert {node["name"] for node in answer.json["nodes"]} >= {"Ping me/well", "Ping me/other"}


def test_mistakes(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = desk("fleet", "ping")
    assert (answer.code, answer.out) == (78, "")
    assert "fleet.yaml" in answer.err
    assert desk("fleet").code == 2
    assert desk("fleet", "pong").code == 2
    Path("f.yaml").write_text(f"[{{id: me/a, url: 'http://127.0.0.1:{free_port()}'}}]")
    assert desk("fleet", "ping", "-f", "f.yaml", "--timeout", "soon").code == 2
    answer = desk("fleet", "ping", "-f", "f.yaml", "--tries", "1", "--json")
    assert (answer.code, answer.json[0]["state"]) == (1, "unreachable")
