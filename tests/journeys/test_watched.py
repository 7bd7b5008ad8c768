"""What watches a Space: pings that outlive the agent, and the checklist beside a real one."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.journeys.space import Space, agent_of, living, not_last_in_line
from tests.snapshot.test_uncovered import database


def ping(space: Space, **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{space.port}/health", headers=named)
    with urllib.request.urlopen(request, timeout=5) as reply:
        assert reply.status == 200


def the_agent_drills_by_itself_and_says_so(tmp_path: Path) -> None:
    with living(Space(tmp_path, f"file://{tmp_path}/store", SIDECAR_DRILL="2s")) as space:
        found = database(space.disk / "data/app.db")
        space.start(SIDECAR_VERIFY=f"sqlite: {found}", PYTHONPATH=not_last_in_line(tmp_path))
        space.running()
        kept = space.checkpoint()
        done = space.wait(lambda s: s["drill"] and s["drill"]["snapshot"] == kept["snapshot"])
        assert done["drill"]["result"] == "pass"
        assert next(i for i in done["checklist"] if i["id"] == "restore-drill")["state"] == "pass"
        assert "why" not in done["drill"], "that could name a file"
        record = json.loads((space.state / "drill.json").read_text())
        assert [check["result"] for check in record["checks"]] == ["pass"]
        # What the store can't give back any more is noticed by the next one.
        for path in (tmp_path / "store/contents").rglob("*"):
            if path.is_file():
                path.chmod(0o600)
                path.write_bytes(path.read_bytes()[:-1] + b"?")
        bad = space.wait(lambda s: s["drill"]["result"] == "fail")
        assert "drill-failed" in bad["notes"]
        assert space.get("/health")["status"] == "warn"
        assert "restore drill FAILED" in space.said()
        assert "came back whole" in space.said()
        space.end()
    assert not list(space.state.glob("drill-*")), "also of one that was under way"


def pings_outlive_the_agent_and_doctor_sees_them(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    found = database(home / "bot.db")
    with living(Space(tmp_path, f"file://{tmp_path}/store", HOME=str(home))) as space:
        space.cwd = home
        (space.disk / "data").mkdir()
        (space.disk / "data/a").write_text("a")
        space.start(SIDECAR_KEEPALIVE_EVERY="1h")
        space.running()
        space.checkpoint()
        before = json.loads(space.sidecar("doctor", "--json").stdout)
        assert next(i["state"] for i in before if i["id"] == "poller-seen") == "unknown", "our own look is no ping"
        ping(space, X_Forwarded_For="203.0.113.9, 10.0.0.1", User_Agent="n8n\x9b<b>")
        seen = space.wait(lambda s: s["keepalive"]["state"] == "ok")["keepalive"]
        assert (seen["agent"], seen["every_s"]) == ("n8n?<b>", 3600.0)
        space.wait(lambda _: (space.state / "keepalive.json").exists())
        os.kill(agent_of(space), signal.SIGKILL)
        again = space.wait(lambda s: s["uptime_s"] < 10 and s["main"]["state"] == "running" and s["lease"]["epoch"])
        assert again["keepalive"] == seen
        told = space.sidecar("doctor", "--json")
        items = {item["id"]: item for item in json.loads(told.stdout)}
        assert told.returncode == 0, told
        assert {name for name, item in items.items() if item["state"] not in ("pass", "unknown")} == {
            "restore-drill",
            "local-only",
        }
        assert str(found) in items["local-only"]["text"]
        assert f"{space.port}/health answers 200" in items["health-endpoint"]["text"]
        assert "n8n?<b>" in items["poller-seen"]["text"]
        public = space.get("/status")["checklist"]
        assert {item["id"] for item in public} == items.keys()
        assert space.end() == 143
        alone = {item["id"]: item for item in json.loads(space.sidecar("doctor", "--json").stdout)}
        assert alone["health-endpoint"]["state"] == "unknown"
        assert alone["poller-seen"]["state"] == "pass"
        assert alone["remote-persistence"]["state"] == "pass", alone
        assert alone["observable-recovery"]["state"] == "pass"


JOBS: dict[str, Callable[[Path], None]] = {
    j.__name__: j for j in (the_agent_drills_by_itself_and_says_so, pings_outlive_the_agent_and_doctor_sees_them)
}


@pytest.mark.parametrize("job", list(JOBS))
def test_what_watches_a_space(job: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[job].result()
