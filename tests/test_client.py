"""`sidecar.client`: what the main app is told for each answer of the agent, and how long it waits for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar import client
from tests.cli.fake import Script, agent

DONE = {"snapshot": "3.7", "revision": "f" * 40}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setenv("SIDECAR_STATE_DIR", str(tmp_path / "state"))
    with agent(tmp_path / "state" / "agent.sock", Script(body=DONE)) as served:
        yield served


def test_what_is_durable_comes_back(script: Script) -> None:
    assert client.checkpoint("data", "a root", timeout=7) == client.Checkpoint("3.7", "f" * 40)
    assert asyncio.run(client.checkpoint_async()) == client.Checkpoint("3.7", "f" * 40)
    method, target, headers = script.asked[0]
    assert method == "POST"
    assert target.startswith("/_sidecar/checkpoint?root=data&root=a%20root&timeout=")
    assert 6.5 < float(target.rpartition("=")[2].removesuffix("s")) <= 7
    assert {"origin", "sec-fetch-site", "authorization"}.isdisjoint(headers)


def test_the_default_state_dir_is_the_agents(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIDECAR_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "sidecar").symlink_to("state")
    assert client.checkpoint().snapshot == "3.7"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (409, {"error": "fenced", "detail": "another instance holds the lease"}, client.Fenced, "fenced"),
        (401, {"error": "unauthorized", "detail": "send a token"}, client.NotDurable, "unauthorized"),
        (500, {"error": "bug", "detail": "its log says more"}, client.NotDurable, "bug"),
        (429, {"error": "budget", "detail": "the next goes in 60 s"}, client.NotDurable, "budget"),
        (422, {"error": "not-good", "roots": {}, "detail": "x"}, client.NotGood, "not-good"),
    ],
)
def test_a_failure_is_an_error_that_says_why(
    script: Script, status: int, body: dict[str, Any], kind: type[client.NotDurable], code: str
) -> None:
    script.status, script.body, script.headers = status, body, {"retry-after": "60"}
    with pytest.raises(client.NotDurable) as caught:
        client.checkpoint(timeout=2)
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert str(caught.value) == body["detail"]
    assert caught.value.retry_after == (None if status in (409, 422) else 60)
    assert len(script.asked) == 1, "nothing that waiting would mend"


def test_what_was_committed_though_a_root_is_not_good(script: Script) -> None:
    script.status, script.body = 422, {**DONE, "error": "not-good", "roots": {"data": "unsettled"}}
    with pytest.raises(client.NotGood, match="data: unsettled") as caught:
        client.checkpoint()
    assert caught.value.roots == {"data": "unsettled"}
    assert caught.value.committed == client.Checkpoint("3.7", "f" * 40)


def test_a_root_that_the_sidecar_does_not_have_is_the_callers_mistake(script: Script) -> None:
    script.status, script.body = 400, {"error": "unknown-root", "detail": "this sidecar keeps: data"}
    with pytest.raises(ValueError, match="keeps: data"):
        client.checkpoint("dta")


def test_what_passes_is_tried_again_within_the_time_limit(script: Script) -> None:
    script.status, script.body = 503, {"error": "not-ready", "detail": "the sidecar is restoring"}

    async def both() -> client.Checkpoint:
        waiting = asyncio.create_task(client.checkpoint_async(timeout=10))
        while not script.asked:
            await asyncio.sleep(0.01)
        script.status, script.body = 200, DONE
        return await waiting

    assert asyncio.run(both()).snapshot == "3.7"
    assert len(script.asked) == 2


def test_without_an_agent_it_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_STATE_DIR", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(client.NotDurable, match=r"no agent answers at .*agent\.sock") as caught:
        client.checkpoint(timeout=1.2)
    assert caught.value.code == "no-agent"
    assert time.monotonic() - began < 1.3


def test_it_needs_the_standard_library_alone() -> None:
    # Debian's Python, and a virtualenv, bring modules of their own: what counts is what this import adds.
    code = "import sys; was = set(sys.modules); import sidecar.client; print(*(set(sys.modules) - was))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "sidecar.client" in loaded
    assert {top for m in loaded if (top := m.partition(".")[0]) not in sys.stdlib_module_names} == {"sidecar"}
