"""The workflow that `sidecar fleet n8n` prints, in a real n8n: imported as it is, then run by its own schedule."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.spaces import Served, serving
from tests.journeys.space import REPO, Space, free_port, living

INSTALLED = Path(__file__).with_name("n8n")
PROGRAM = INSTALLED / "node_modules/.bin/n8n"
COMMAND_S, START_S = 120, 120
FIRED_S = 60 + 60
"""The schedule's minute, and then three tries with their pauses at what doesn't answer."""


def _why_not() -> str:
    log = INSTALLED / "install.log"
    said = [line for line in log.read_text().splitlines() if "error" in line] if log.exists() else []
    return f"n8n is not installed: {said[0] if said else 'scripts/real does it'}"


pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (INSTALLED / "node_modules/.stamp").exists(), reason=_why_not()),
]


@dataclass
class N8n:
    """One n8n with a folder of its own, as somebody has it who runs it from npm."""

    home: Path
    env: dict[str, str]
    port: int

    @property
    def log(self) -> Path:
        return self.home / "log"

    def __call__(self, *argv: str) -> str:
        done = subprocess.run([PROGRAM, *argv], env=self.env, capture_output=True, text=True, timeout=COMMAND_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with open(self.log, "ab") as out:
            process = subprocess.Popen([PROGRAM, "start"], env=self.env, stdout=out, stderr=out, start_new_session=True)
        try:
            yield
            assert process.poll() is None, self.log.read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)

    def executions(self) -> list[dict[str, Any]]:
        """What each node gave in each finished execution: {node: [[items of output 0, of output 1], …runs]}."""
        base = self.home / ".n8n/database.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{base}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "select d.data from execution_data d join execution_entity e on e.id = d.executionId "
                "where e.status = 'success' order by e.id"
            ).fetchall()
        return [_outputs(unflatted(text)["resultData"]["runData"]) for (text,) in rows]


def unflatted(text: str) -> Any:
    """Read n8n's format (npm's `flatted`): a list whose strings inside containers are places in that list."""
    values = json.loads(text)

    def read(value: Any) -> Any:
        if isinstance(value, str):
            found = values[int(value)]
            return found if isinstance(found, str) else read(found)
        if isinstance(value, list):
            return [read(each) for each in value]
        return {key: read(each) for key, each in value.items()} if isinstance(value, dict) else value

    return read(values[0])


def _outputs(runs: dict[str, Any]) -> dict[str, list[list[list[Any]]]]:
    return {
        node: [[[item["json"] for item in out or []] for out in one["data"]["main"]] for one in of_node]
        for node, of_node in runs.items()
    }


@pytest.fixture
def n8n(tmp_path: Path) -> N8n:
    home, port = tmp_path / "n8n", free_port()
    home.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SIDECAR_", "N8N_"))}
    env |= {
        "N8N_USER_FOLDER": str(home),
        "N8N_PORT": str(port),
        "N8N_LISTEN_ADDRESS": "127.0.0.1",
        "N8N_BLOCK_ENV_ACCESS_IN_NODE": "false",
        "N8N_ENFORCE_SETTINGS_FILE_PERMISSIONS": "true",
        "N8N_EXPRESSION_ENGINE": "legacy",  # the other needs isolated-vm, which comes built for newer Nodes only
        "N8N_RUNNERS_ENABLED": "false",
        "N8N_DIAGNOSTICS_ENABLED": "false",
        "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
        "N8N_TEMPLATES_ENABLED": "false",
        "NO_PROXY": "127.0.0.1,localhost",
        "BOT_TOKEN": "s3cret",
    }
    return N8n(home, env, port)


def printed(folder: Path, roster: str) -> Path:
    """What the command prints for such a fleet.yaml, in a file as a user makes it."""
    (folder / "fleet.yaml").write_text(roster)
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "fleet", "n8n"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    (folder / "spaces.json").write_bytes(done.stdout)
    return folder / "spaces.json"


def test_what_is_imported_is_what_was_printed(tmp_path: Path, n8n: N8n) -> None:
    roster = (
        "webhook: https://n8n.example.org/webhook/spaces\n"
        "spaces:\n  - id: me/bot\n  - {id: shop, url: https://shop.example.org/_sidecar, token: BOT_TOKEN}\n"
    )
    ours = printed(tmp_path, roster)
    assert "1 workflow" in n8n("import:workflow", f"--input={ours}")
    n8n("export:workflow", "--all", f"--output={tmp_path}/theirs.json")
    wanted = json.loads(ours.read_text())
    (theirs,) = json.loads((tmp_path / "theirs.json").read_text())
    assert {key: theirs[key] for key in wanted} == wanted


def test_its_own_schedule_pings_all_and_tells_of_those_that_are_not_well(tmp_path: Path, n8n: N8n) -> None:
    up = Space(tmp_path / "up", f"file://{tmp_path}/store")
    failing = Space(
        tmp_path / "failing",
        f"file://{tmp_path}/empty",
        SIDECAR_COLD_START="refuse",
        SIDECAR_ON_RESTORE_FAILURE="wait",
    )
    down = Space(tmp_path / "down", f"file://{tmp_path}/other")
    private, hook = Served(), Served([(200, {})])
    with living(up), living(failing), living(down), serving(private, hook):
        for space in (up, failing, down):
            space.start()
        up.running()
        down.running()
        failing.wait(lambda s: s["health"] == "fail")
        down.kill()
        roster = f"interval: 1m\nwebhook: {hook.url}/hook\nspaces:\n"
        roster += f"  - {{id: me/private, url: {private.url}, token: BOT_TOKEN}}\n"
        names = {"up": up, "failing": failing, "down": down}
        for name, space in names.items():
            roster += f"  - {{id: me/{name}, url: http://127.0.0.1:{space.port}}}\n"
        n8n("import:workflow", f"--input={printed(tmp_path, roster)}")
        n8n("update:workflow", "--all", "--active=true")
        with n8n.running():
            end = time.monotonic() + START_S + FIRED_S
            while not n8n.executions():
                assert time.monotonic() < end, (hook.asked, n8n.log.read_text())
                time.sleep(0.5)
    ran = n8n.executions()[0]
    assert {each for each in ran if each.startswith("Ping ")} == {f"Ping me/{n}" for n in ("private", *names)}
    well = [item for outputs in ran["Well"] for item in outputs[0]]
    assert [(item["statusCode"], json.loads(item["data"])["status"]) for item in well] == [(200, "pass")] * 2
    assert [(path, headers["authorization"]) for _, path, headers, _ in private.asked] == [("/health", "Bearer s3cret")]
    told = [json.loads(body) for *_, body in hook.asked]
    assert [each["node"] for each in told] == ["Ping me/failing", "Ping me/down"], "which Space it is can be read"
    assert "503" in json.dumps(told[0]["error"])
    assert "ECONNREFUSED" in json.dumps(told[1]["error"])
