"""All checks of a life: side by side, within their limits, told to state, record, log and health."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar import log
from sidecar.errors import EX_TEMPFAIL, RestoreFailed
from sidecar.recovery import checks
from sidecar.recovery.checks import Check, Checks, pause_s, read, softened
from sidecar.recovery.record import Record
from sidecar.recovery.verdict import Verdict, span, when
from sidecar.settings import load
from sidecar.state import State
from sidecar.web.health import judge
from sidecar.web.status import status
from tests.recovery.logins import SECRET

TOKEN = "hf_" + "s" * 30


class Life:
    """What an agent has when it checks: settings, state, record."""

    def __init__(self, tmp: Path, *lines: str, **more: str) -> None:
        self.tmp = tmp
        environ = {
            "SIDECAR_PATHS": str(tmp / "data"),
            "SIDECAR_STORE": f"file://{tmp}/store",
            "SIDECAR_STATE_DIR": str(tmp / "state"),
            "SIDECAR_VERIFY": "\n".join(lines),
            **more,
        }
        self.state = State("me", "0", "local", "file:///store", True, recovered=True, main_state="running")
        self.state.phase = "running"
        self.record = Record("me")
        self.checks = Checks(load(environ, need_paths=True), self.state, self.record)

    def verify(self, cold: bool = False) -> dict[str, Any]:
        asyncio.run(self.checks.before_main(cold))
        self.state.phase = "running"
        return self.result()

    def result(self) -> dict[str, Any]:
        return {row["check"]: row["result"] for row in self.state.checks}

    def watch(self) -> dict[str, Any]:
        """Until each was made once."""

        async def main() -> None:
            started = asyncio.Event()
            task = asyncio.create_task(self.checks.watch(started))
            await asyncio.sleep(0.05)
            started.set()
            until = time.monotonic() + 10
            while "pending" in self.result().values() and time.monotonic() < until:
                await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(main())
        return self.result()

    @property
    def health(self) -> tuple[str, list[str]]:
        self.state.loop_beat_mono = time.monotonic()
        return judge(self.state, time.monotonic())


@pytest.fixture(autouse=True)
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    log.logger.propagate = True
    with caplog.at_level(logging.INFO, logger="sidecar"):
        yield caplog


def test_without_checks_nothing_is_recorded(tmp_path: Path) -> None:
    life = Life(tmp_path)
    assert life.verify() == {}
    assert life.record.steps == []
    assert life.health == ("pass", [])


def test_what_they_come_to_stands_in_state_record_log_and_health(tmp_path: Path, heard: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data/good.json").write_text("{}")
    (tmp_path / "data/bad.json").write_text("{")
    life = Life(tmp_path, "json: ~/data/good.json", f"json: {tmp_path}/data/bad.json", "command: echo out; exit 3")
    assert life.verify() == {
        "json: ~/data/good.json": "pass",
        f"json: {tmp_path}/data/bad.json": "fail",
        "command: echo out; exit 3": "fail",
    }
    assert life.health == ("warn", ["verify-failed"])
    document = life.record.document("ok")
    assert [(row["kind"], row["result"]) for row in document["checks"]] == [
        ("json", "pass"),
        ("json", "fail"),
        ("command", "fail"),
    ]
    assert all(isinstance(row["ms"], int) for row in document["checks"])
    (step,) = document["steps"]
    assert (step["step"], step["ok"], step["detail"]) == ("verify", True, "1 passed, 2 failed")
    json.dumps(document)
    assert "check 3: out" in heard.messages
    assert "check failed: command: echo out; exit 3: exit code 3" in heard.messages


def test_status_tells_names_of_files_to_those_who_may_see_them(tmp_path: Path) -> None:
    life = Life(tmp_path, f"json: {tmp_path}/data/private-name.json")
    life.verify()
    life.state.recovery = life.record.document("ok")
    now = time.monotonic()
    plain, full = status(life.state, now, names=False), status(life.state, now, names=True)
    assert "private-name" not in json.dumps(plain)
    assert plain["checks"][0].keys() == {"kind", "must", "result", "ms", "at"}
    assert plain["recovery"]["checks"][0]["result"] == "fail"
    assert (full["checks"][0]["check"], full["checks"][0]["reason"]) == (
        f"json: {tmp_path}/data/private-name.json",
        "isn't there",
    )
    assert full["notes"]["verify-failed"] == f"json: {tmp_path}/data/private-name.json: isn't there"


def test_one_that_must_pass_stops_the_start(tmp_path: Path) -> None:
    life = Life(tmp_path, "!command: exit 1", "command: exit 0", "command: exit 2")
    with pytest.raises(RestoreFailed) as failure:
        life.verify()
    assert failure.value.final
    assert failure.value.exit_code == EX_TEMPFAIL
    assert "!command: exit 1: exit code 1" in failure.value.message
    assert "exit 2" not in failure.value.message
    assert life.result() == {"!command: exit 1": "fail", "command: exit 0": "pass", "command: exit 2": "fail"}
    assert len(life.record.document("failed")["checks"]) == 3
    assert life.record.steps[0]["ok"] is False
    assert life.health == ("fail", ["check-failed", "verify-failed"])


def test_a_first_start_is_stopped_by_nothing_that_main_will_make(tmp_path: Path) -> None:
    life = Life(tmp_path, f"!sqlite: {tmp_path}/data/app.db", f"!json: {tmp_path}/data/bad.json")
    (tmp_path / "data/bad.json").write_text("{}")
    assert list(life.verify(cold=True).values()) == ["warn", "pass"]
    assert life.health == ("warn", ["check-warns"])
    with pytest.raises(RestoreFailed):
        life.verify(cold=False)
    assert softened(Verdict("fail", "is damaged"), cold=True).result == "fail"


def test_they_run_side_by_side(tmp_path: Path) -> None:
    life = Life(tmp_path, *(f"command: sleep 1; exit {n}" for n in range(6)))
    began = time.monotonic()
    life.verify()
    assert time.monotonic() - began < 4


def test_a_command_that_takes_too_long_is_killed_and_has_failed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(checks.LIMITS_S, "command", 0.3)
    life = Life(tmp_path, "command: sleep 1000")
    began = time.monotonic()
    assert life.verify() == {"command: sleep 1000": "fail"}
    assert time.monotonic() - began < 5
    assert life.state.checks[0]["reason"] == "not done within 0.3 s: killed"


def test_http_is_asked_once_main_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(checks.LIMITS_S, "http", 1.5)
    life = Life(tmp_path, "!http: http://127.0.0.1:9/", "command: true")
    assert life.verify() == {"!http: http://127.0.0.1:9/": "pending", "command: true": "pass"}
    assert life.health == ("pass", [])
    assert life.record.steps[0]["detail"] == "1 passed, 1 once main runs"
    assert life.watch() == {"!http: http://127.0.0.1:9/": "fail", "command: true": "pass"}
    assert life.health == ("fail", ["check-failed"])


def test_beside_a_running_main_all_are_made_at_once(tmp_path: Path) -> None:
    life = Life(tmp_path, "command: true", "command: false")
    assert life.watch() == {"command: true": "pass", "command: false": "fail"}


def test_they_are_made_again_and_what_changes_is_said(tmp_path: Path, heard: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(checks, "EVERY_S", 0.2)
    monkeypatch.setattr(checks, "SOONER_S", 0.2)
    (tmp_path / "data/a.json").write_text("{}")
    life = Life(tmp_path, f"json: {tmp_path}/data/a.json")
    life.verify()

    async def main() -> None:
        started = asyncio.Event()
        started.set()
        task = asyncio.create_task(life.checks.watch(started))
        for text, result in (("{", "fail"), ("{}", "pass"), ("{", "fail")):
            (tmp_path / "data/a.json").write_text(text)
            until = time.monotonic() + 10
            while life.state.checks[0]["result"] != result and time.monotonic() < until:
                await asyncio.sleep(0.02)
            assert life.state.checks[0]["result"] == result
        await asyncio.sleep(0.6)
        life.state.phase = "stopping"
        (tmp_path / "data/a.json").unlink()
        await asyncio.sleep(0.6)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    said = [m.partition(":")[0] for m in heard.messages if m.startswith("check ")]
    assert said == ["check failed", "check passes", "check failed"]
    assert "isn't there" not in life.state.checks[0]["reason"]


def test_a_fault_of_a_check_is_no_fault_of_the_others(tmp_path: Path, monkeypatch: Any) -> None:
    async def broken(*args: object) -> Verdict:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(checks, "examine", broken)
    life = Life(tmp_path, "!json: /a", "command: true")
    assert life.verify() == {"!json: /a": "warn", "command: true": "pass"}
    assert life.state.checks[0]["reason"] == "can't be judged: RuntimeError"


def test_no_secret_is_shown_or_logged(tmp_path: Path, heard: Any) -> None:
    life = Life(
        tmp_path,
        f"command: echo {TOKEN} $HF_TOKEN; exit 1",
        f"http: http://me:{SECRET}@127.0.0.1:9/?token={SECRET}",
        HF_TOKEN=TOKEN,
    )
    life.verify()
    shown = json.dumps(status(life.state, time.monotonic(), names=True)) + "\n".join(heard.messages)
    assert TOKEN not in shown
    assert SECRET not in shown
    assert "***@127.0.0.1:9" in shown


def test_hf_token_without_one_fails(tmp_path: Path) -> None:
    life = Life(tmp_path, "hf-token")
    assert life.verify() == {"hf-token": "fail"}
    assert "HF_TOKEN" in life.state.checks[0]["reason"]


def test_a_line_as_people_see_it() -> None:
    assert read("!sqlite:/a/b.db") == Check(True, "sqlite", "/a/b.db", "!sqlite: /a/b.db")
    assert read("hf-token") == Check(False, "hf-token", "", "hf-token")
    assert read("command: ls ~/x").argument == "ls ~/x"
    assert len(read("command: " + "x" * 999).shown) < 200
    assert read("command: run swordfish", ["swordfish"]).shown == "command: run ***"


def test_what_does_not_pass_is_looked_at_sooner() -> None:
    assert [pause_s(n) for n in range(6)] == [3600, 60, 300, 1500, 3600, 3600]
    assert pause_s(10_000) == 3600


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 minute"), (7199, "1 hour"), (7200, "2 hours"), (86400 * 400, "400 days")],
)
def test_times_are_said_in_their_largest_unit(seconds: float, says: str) -> None:
    assert span(seconds) == says
    assert when(1000 - seconds, 1000) == f"{says} ago"
