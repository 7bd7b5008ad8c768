"""SIDECAR_VERIFY as its owner meets it: a start that is stopped, one that is warned of, checks while main runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.past import SNAPSHOT
from tests.journeys.space import Space, descendants, free_port, living
from tests.journeys.test_failed_starts import shelf, shelf_commits
from tests.recovery.logins import SECRET, storage_state

DAY = 86400.0


def lived(tmp: Path, left: float, **settings: str) -> Space:
    """A Space whose disk was lost, with a login in its store that ends in ``left`` seconds."""
    space = Space(tmp / "space", f"file://{tmp}/store", **settings)
    with living(space):
        (space.disk / "data").mkdir()
        storage_state(space.disk / "data/state.json", [("sid", ".example.com", left, True)])
        (space.disk / "data/kept").write_text("kept")
        space.start()
        space.running()
        space.checkpoint()
        assert space.end() == 143, space.said()
    space.lose_disk()
    space.log.unlink()
    return space


def stops(tmp: Path) -> None:
    """An expired login with ``!``: main isn't started, nothing is uploaded, the lease is free again."""
    space = lived(tmp, -2 * DAY)
    store, check = tmp / "store", f"!cookies: {space.disk}/data/state.json"
    before = shelf_commits(store)
    with living(space):
        began = time.monotonic()
        space.start("touch", "ran", SIDECAR_VERIFY=check, SIDECAR_ON_RESTORE_FAILURE="exit")
        assert space.process is not None
        assert space.process.wait(20) == 75, space.said()
        assert time.monotonic() - began < 15, "asked again though nothing could mend it"
        assert not (space.home / "ran").exists()
        assert f"{check}: expired: 'sid' of example.com, 2 days ago" in space.said()
        assert "main was not started" in space.said()
        assert SECRET not in space.said()
        assert "Traceback" not in space.said()
        since = [c.title for c in shelf_commits(store)][: -len(before)]
        assert [title for title in since if title.startswith(SNAPSHOT)] == []
        assert json.loads(shelf(store, ".sidecar/lease.json"))["state"] == "released"
        assert shelf(store, "data/kept") == b"kept"
        # The same without the `!`: main runs, with its files, and health says what is wrong.
        space.start(SIDECAR_VERIFY=check[1:])
        status = space.running()
        assert (space.disk / "data/kept").read_text() == "kept"
        assert status["notes"].keys() == {"verify-failed"}
        assert space.get("/health")["status"] == "warn"
        assert space.end() == 143, space.said()
        record = json.loads(shelf(store, ".sidecar/recovery.jsonl").splitlines()[-1])
        assert [step["step"] for step in record["steps"]][:3] == ["claim", "restore", "verify"]
        assert [(c["kind"], c["result"]) for c in record["checks"]] == [("cookies", "fail")]
        assert SECRET not in json.dumps(record)


def waits(tmp: Path) -> None:
    """With ``wait`` it is looked at again until it passes, and health says all the time what is wrong."""
    space = lived(tmp, -2 * DAY)
    with living(space):
        check = f"!cookies: {space.disk}/data/state.json"
        space.start("sh", "-c", "touch ran; exec sleep 1000", SIDECAR_VERIFY=check, SIDECAR_ON_RESTORE_FAILURE="wait")
        space.wait(lambda s: s["phase"] == "waiting")
        assert space.get("/health")["status"] == "fail"
        assert "check-failed" in space.get("/health")["notes"]
        assert not (space.home / "ran").exists()
        storage_state(space.disk / "data/state.json", [("sid", ".example.com", 40 * DAY, True)])
        space.running()
        space.wait(lambda s: s["notes"] == {})
        assert space.end() == 143, space.said()
    assert b'"name": "sid"' in shelf(tmp / "store", "data/state.json")


def goes_on(tmp: Path) -> None:
    """With ``continue`` main runs, and what it writes goes to a branch of its own."""
    space = lived(tmp, -2 * DAY)
    before = shelf_commits(tmp / "store")
    with living(space):
        check = f"!cookies: {space.disk}/data/state.json"
        command = "echo new > disk/data/new; exec sleep 1000"
        space.start("sh", "-c", command, SIDECAR_VERIFY=check, SIDECAR_ON_RESTORE_FAILURE="continue")
        instance = space.running()["instance"]
        space.wait(lambda s: s["sync"]["snapshot"] is not None)
        assert space.end() == 143, space.said()
        since = [c.title for c in shelf_commits(tmp / "store")][: -len(before)]
        assert [title for title in since if title.startswith(SNAPSHOT)] == []
        assert shelf(tmp / "store", "data/new", branch=f"orphan/{instance}") == b"new\n"
        assert shelf(tmp / "store", "data/kept", branch=f"orphan/{instance}") == b"kept"


def while_it_runs(tmp: Path) -> None:
    """HTTP is asked once main answers; who may see names of files sees why, others only that."""
    port = free_port()
    space = Space(tmp / "space", f"file://{tmp}/store")
    # A first start: main makes the file that the check wants.
    lines = [f"!http: http://127.0.0.1:{port}/", f"!json: {space.disk}/data/made.json", "command: echo hello"]
    space.env["SIDECAR_VERIFY"] = "\n".join(lines)
    serve = f"import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={port}, bind='127.0.0.1')"
    with living(space):
        command = f"sleep 1; mkdir -p disk/data; echo '[1]' > disk/data/made.json; exec '{space.python}' -c \"{serve}\""
        space.start("sh", "-c", command)

        def results(status: dict[str, Any]) -> dict[str, str]:
            return {row["kind"]: row["result"] for row in status["checks"]}

        status = space.wait(lambda s: results(s)["http"] == "pass")
        assert results(status) == {"http": "pass", "json": "warn", "command": "pass"}
        assert "check-warns" in space.get("/health")["notes"]
        assert "sidecar check 3: hello" in space.said()
        plain = json.dumps(space.get())
        told = json.loads(space.sidecar("status", "--json").stdout)
        assert "made.json" not in plain
        assert told["checks"][1]["check"] == f"!json: {space.disk}/data/made.json"
        assert "first start" in told["checks"][1]["reason"]
        assert space.end() == 143, space.said()
        assert "Traceback" not in space.said()


def stopped_while_it_checks(tmp: Path) -> None:
    """SIGTERM in the middle of a check: out at once, and the check's processes are gone."""
    space = Space(tmp / "space", f"file://{tmp}/store", SIDECAR_VERIFY="command: sleep 1001 & sleep 1002; true")
    with living(space):
        space.start("touch", "ran")
        space.wait(lambda s: s["phase"] == "verifying")
        assert space.process is not None
        until = time.monotonic() + 10
        while not (sleeping := commands(space.process.pid, "sleep")) and time.monotonic() < until:
            time.sleep(0.02)
        began = time.monotonic()
        assert space.end() == 143, space.said()
        assert time.monotonic() - began < 8
        assert sleeping
        for pid in sleeping:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert not (space.home / "ran").exists()
        assert "Traceback" not in space.said()


def commands(pid: int, name: str) -> list[int]:
    found = []
    for each in descendants(pid):
        try:
            if Path(f"/proc/{each}/comm").read_text().strip() == name:
                found.append(each)
        except OSError:
            continue
    return found


JOBS: dict[str, Callable[[Path], None]] = {
    "stops": stops,
    "waits": waits,
    "goes-on": goes_on,
    "while-it-runs": while_it_runs,
    "stopped-while-it-checks": stopped_while_it_checks,
}


@pytest.mark.parametrize("job", JOBS)
def test_checks(job: str, outcomes: dict[str, Future[None]]) -> None:
    outcomes[job].result()
