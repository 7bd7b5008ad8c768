"""The server as a process: it survives a kill, keeps its port, and stops at once with requests pending."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import AdminError, LocalHub


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    hub = LocalHub(tmp_path / "data", process=True)
    hub.start()
    try:
        hub.create_repo("alice/kept")
        head = hub.edit("alice/kept", {"a/b": b"1"})
        hub.settings(commits_page=7)
        hub.add_token("hf_new", "carol", "read")
        url = hub.url
        hub.kill()
        with (hub.data / "repos/datasets/alice/kept/commits.jsonl").open("ab") as log:
            log.write(b'{"sha": "torn')
        with pytest.raises(ConnectionError):
            hub.counters()
        hub.start()
        assert hub.url == url
        assert hub.files("alice/kept") == {"a/b": b"1"}
        assert hub.settings()["commits_page"] == 7
        assert hub.edit("alice/kept", {"c": b"2"}) != head
        hub.stop()
        hub.start()
        assert hub.files("alice/kept") == {"a/b": b"1", "c": b"2"}
        assert hub.commits("alice/kept")[1]["sha"] == head
    finally:
        hub.stop()


def test_a_stop_does_not_wait_for_a_hanging_request() -> None:
    with LocalHub() as hub:
        hub.fault("hang", times=None)
        caller = threading.Thread(target=_ask, args=(hub.port,))
        caller.start()
        while not hub.faults()[0]["fired"]:
            time.sleep(0.01)
        begun = time.monotonic()
        hub.stop()
        assert time.monotonic() - begun < 2
        caller.join(5)
        assert not caller.is_alive()
        hub.start()
        assert hub.faults() == []


def _ask(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/api/whoami-v2")
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            connection.getresponse()
    finally:
        connection.close()


def test_the_command_prints_its_url_and_takes_tokens(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.hub", "--data", str(tmp_path), "--token", "hf_me=dave:read"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline().strip().removeprefix("http://127.0.0.1:"))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/api/whoami-v2", headers={"Authorization": "Bearer hf_me"})
        reply = connection.getresponse()
        assert b'"name":"dave"' in reply.read()
        connection.close()
        child.terminate()
        assert child.wait(5) == 0
    taken = subprocess.run([*command[:-1], "bad"], cwd=root, capture_output=True, text=True, timeout=20)
    assert taken.returncode == 2
    assert "use TOKEN=USER" in taken.stderr


def test_the_side_door_says_what_is_wrong(hub: LocalHub) -> None:
    for call in (
        lambda: hub.settings(nonsense=1),
        lambda: hub.fault("explode"),
        lambda: hub.fault(path="("),
        lambda: hub.fault(nonsense=1),
        lambda: hub.add_token("t", "u", "king"),
        lambda: hub.files("alice/none"),
        lambda: hub.create_repo("alice/twice") + hub.create_repo("alice/twice"),
    ):
        with pytest.raises(AdminError):
            call()


def test_an_unknown_path_is_counted_not_crashed(hub: LocalHub) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=5)
    connection.request("POST", "/api/datasets/a/b/nonsense", headers={"Authorization": f"Bearer {DEFAULT_TOKEN}"})
    reply = connection.getresponse()
    assert (reply.status, bool(reply.read())) == (404, True)
    connection.close()
    assert hub.count("unknown") == 1
