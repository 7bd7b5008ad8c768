"""`status`, `checkpoint`, `sync`: what is asked of an agent, and what its answers mean for the exit code."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidecar.once import HELD
from sidecar.snapshot.index import Index
from tests.cli.conftest import Kept
from tests.cli.desk import Desk
from tests.cli.fake import Script, agent, handler

DONE = {"snapshot": "3.7", "revision": "f" * 40}


@pytest.fixture
def script(desk: Desk, tmp_path: Path) -> Iterator[Script]:
    desk.set(SIDECAR_STATE_DIR=str(tmp_path / "state"), SIDECAR_PATHS=f"data={tmp_path}/data")
    with agent(tmp_path / "state" / "agent.sock", Script()) as served:
        yield served


def test_a_checkpoint_prints_the_revision(desk: Desk, script: Script, tmp_path: Path) -> None:
    script.body = DONE
    answer = desk("checkpoint", "--timeout", "1m", "data", f"{tmp_path}/data/", "two words")
    assert (answer.code, answer.out) == (0, "f" * 40 + "\n")
    assert "durable 3.7" in answer.err
    assert [(how, path) for how, path, _ in script.asked] == [
        ("POST", "/_sidecar/checkpoint?root=data&root=data&root=two%20words&timeout=1m")
    ]
    assert {"origin", "sec-fetch-site", "authorization"}.isdisjoint(script.asked[0][2])
    assert desk("checkpoint", "--json").json == DONE


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (409, {"error": "fenced", "detail": "another instance holds the lease now"}, 1, "another instance"),
        (429, {"error": "budget", "detail": "no commit left"}, 75, "no commit left"),
        (503, {"error": "not-ready", "detail": "the sidecar is restoring"}, 75, "is restoring"),
        (503, {"error": "denied", "detail": "the Hub answers 403"}, 75, "answers 403"),
        (504, {"error": "timeout", "detail": "not durable within 30 s"}, 75, "within 30 s"),
        (500, {"error": "bug"}, 1, "bug"),
        (401, {"error": "token", "detail": "send a token"}, 1, "send a token"),
        (400, {"error": "unknown-root", "detail": "no such root"}, 2, "no such root"),
        (422, {**DONE, "error": "not-good", "roots": {"data": "unsettled"}}, 1, "root 'data': unsettled"),
    ],
)
def test_what_a_checkpoint_comes_to(
    desk: Desk, script: Script, status: int, body: dict[str, Any], code: int, said: str
) -> None:
    script.status, script.body = status, body
    script.headers = {"retry-after": "17"} if code == 75 else {}
    answer = desk("checkpoint")
    assert answer.code == code
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert ("Try again in 17 s" in answer.err) == (code == 75)
    assert answer.out == ("f" * 40 + "\n" if status == 422 else ""), "committed all the same"


def test_without_an_agent_a_checkpoint_is_for_later(desk: Desk, tmp_path: Path) -> None:
    desk.set(SIDECAR_STATE_DIR=str(tmp_path / "state"))
    answer = desk("checkpoint")
    assert (answer.code, answer.out) == (75, "")
    assert f"{tmp_path}/state/agent.sock" in answer.err
    assert "sidecar sync" in answer.err


@pytest.mark.parametrize("text", ["30", "soon", "-1s", "--json"])
def test_a_timeout_that_cannot_be_read_is_usage(desk: Desk, script: Script, text: str) -> None:
    answer = desk("checkpoint", f"--timeout={text}")
    assert answer.code == 2
    assert script.asked == []


def test_an_agent_that_hangs_up_or_talks_nonsense(desk: Desk, script: Script) -> None:
    script.cut = True
    answer = desk("checkpoint")
    assert answer.code == 75
    assert "went away" in answer.err
    script.cut, script.raw = False, b"<html>"
    answer = desk("checkpoint")
    assert answer.code == 1
    assert "not as a sidecar" in answer.err
    script.raw = b"[1]"
    assert desk("status").code == 1


def test_sync_asks_the_agent(desk: Desk, script: Script) -> None:
    script.body = {**DONE, "changed": 3}
    answer = desk("sync")
    assert (answer.code, answer.out) == (0, "f" * 40 + "\n")
    assert "durable 3.7: 3 changed" in answer.err
    assert script.asked[0][:2] == ("POST", "/_sidecar/sync")
    assert desk("sync", "--json").json == script.body
    script.status, script.body = 503, {"error": "denied", "detail": "the Hub answers 403"}
    assert desk("sync").code == 69
    script.body = {"error": "unavailable", "detail": "the Hub answers 500"}
    assert desk("sync").code == 75


def test_sync_without_an_agent_commits_by_itself(desk: Desk, world: Kept) -> None:
    refused = desk("sync")
    assert (refused.code, refused.out) == (1, "")
    assert "sidecar restore" in refused.err
    assert desk("restore").code == 0
    (world.root / "a.txt").write_text("three")
    (world.root / "new").unlink()
    foreseen = desk("sync", "--dry-run")
    assert foreseen.lines == ["~ data/a.txt", "- data/new"]
    assert len(desk("snapshots", "--json").json) == 2, "foreseeing commits nothing"
    made = desk("sync", "--json")
    assert made.code == 0, made.err
    assert made.json["changed"] >= 2
    assert desk("cat", "data/a.txt").out == "three"
    assert desk("sync", "--dry-run").out == ""
    assert desk("diff", "1.2").lines == ["~ data/a.txt  (8 B -> 5 B)", "- data/new  (4 B)"]


def crowd(folder: Path, names: range) -> None:
    for n in names:
        (folder / str(n)).write_text(f"{n}")


@pytest.fixture
def crowded(desk: Desk, tmp_path: Path) -> Path:
    """A root of 30 files, of which nothing was kept yet."""
    data = tmp_path / "data"
    data.mkdir()
    crowd(data, range(30))
    desk.set(SIDECAR_PATHS=f"data={data}", SIDECAR_STORE=f"file://{tmp_path}/store")
    desk.set(SIDECAR_STATE_DIR=f"{tmp_path}/state", SIDECAR_RESCAN="60s")
    return data


def test_a_mass_deletion_without_an_agent_is_confirmed_by_a_later_sync(
    desk: Desk, crowded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by an agent's rescan, `SIDECAR_RESCAN` later; what went since was not seen twice."""
    data, now = crowded, time.time()
    monkeypatch.setattr("sidecar.once.time.time", lambda: now)

    def kept() -> int:
        assert desk("sync").code == 0
        return len(desk("ls", "head", "data").lines) - 1  # the folder itself

    assert kept() == 30
    for n in range(20):
        (data / str(n)).unlink()
    assert kept() == 30
    now += 59
    assert kept() == 30, "too soon"
    (data / "20").unlink()
    now += 2
    assert kept() == 30, "one more went since"
    now += 59
    assert kept() == 30, "that was seen 59 s ago for the first time"
    now += 2
    assert kept() == 9
    crowd(data, range(30))
    assert kept() == 30
    for n in range(20):
        (data / str(n)).unlink()
    now += 3600
    assert kept() == 30, "another one, which nobody has seen before"


def test_what_another_has_committed_since_makes_a_mass_deletion_a_new_one(
    desk: Desk, crowded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, now = crowded, time.time()
    monkeypatch.setattr("sidecar.once.time.time", lambda: now)
    assert desk("sync").code == 0
    for n in range(20):
        (data / str(n)).unlink()
    assert desk("sync").code == 0
    with closing(Index(tmp_path / "state/index.db")) as index:
        note = json.loads(index.note(HELD) or "")
        index.set_note(HELD, json.dumps({**note, "snapshot": "1.1"}))
    now += 61
    assert desk("sync").code == 0
    assert len(desk("ls", "head", "data").lines) == 31


def test_sync_makes_the_first_snapshot(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("x")
    desk.set(
        SIDECAR_PATHS=f"data={tmp_path}/data",
        SIDECAR_STORE=f"file://{tmp_path}/store",
        SIDECAR_STATE_DIR=str(tmp_path / "state"),
    )
    foreseen = desk("sync", "--dry-run", "--json")
    assert foreseen.code == 0, foreseen.err
    assert foreseen.json["base"] is None
    assert {"change": "added", "path": "data/x"} in foreseen.json["changes"]
    assert not (tmp_path / "store").exists()
    answer = desk("sync")
    assert answer.code == 0, answer.err
    assert desk("cat", "data/x").out == "x"


def test_a_mass_deletion_is_foreseen_as_held_back(desk: Desk, world: Kept) -> None:
    desk("restore")
    shutil.rmtree(world.root)
    answer = desk("sync", "--dry-run", "--json")
    assert answer.code == 0
    assert answer.json["held"]["data"] >= 6
    assert "held back" in answer.err


def test_a_foreign_index_is_never_set_aside_by_looking(desk: Desk, world: Kept) -> None:
    desk("restore")
    index = world.state / "index.db"
    for ending in ("-wal", "-shm"):
        Path(f"{index}{ending}").unlink(missing_ok=True)
    index.write_bytes(b"no database at all" * 300)
    answer = desk("sync", "--dry-run")
    assert answer.code == 1
    assert "can't be read" in answer.err
    assert desk("restore", "--dry-run").code == 0
    assert index.read_bytes().startswith(b"no database"), "it may be a running agent's"


# --- status ------------------------------------------------------------------------------------------------------

STATUS = {"phase": "running", "health": "pass", "detail": "All is well.", "sync": {"snapshot": "3.7"}}


@pytest.fixture
def web() -> Iterator[tuple[str, Script]]:
    script = Script(body=STATUS)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(script)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", script
        server.shutdown()
        thread.join(5)


def test_status_asks_the_socket_first(desk: Desk, script: Script) -> None:
    script.body = STATUS
    answer = desk("status")
    assert (answer.code, answer.err) == (0, "")
    assert answer.lines[0] == "running: all is well. All is well."
    assert desk("status", "--json").json == STATUS
    assert script.asked[0][:2] == ("GET", "/_sidecar/status")


def test_status_then_asks_the_port_with_our_token(desk: Desk, web: tuple[str, Script], tmp_path: Path) -> None:
    url, script = web
    port = url.rpartition(":")[2]
    desk.set(SIDECAR_STATE_DIR=str(tmp_path), SIDECAR_PORT=port, SIDECAR_API_TOKEN="api-token-of-ours")
    assert desk("status").code == 0
    assert script.asked[0][2]["authorization"] == "Bearer api-token-of-ours"


def test_status_of_another_sidecar_gets_no_token_of_ours(desk: Desk, web: tuple[str, Script]) -> None:
    url, script = web
    desk.set(SIDECAR_API_TOKEN="api-token-of-ours", HF_TOKEN="hf_token_of_ours")
    for given, asked in (
        (url, "/status"),
        (f"{url}/", "/status"),
        (f"{url}/prefix", "/prefix/status"),
        (f"{url}/status?x=1", "/status?x=1"),
    ):
        script.asked.clear()
        assert desk("status", given).code == 0
        assert script.asked[0][1] == asked
        assert "authorization" not in script.asked[0][2]


def test_status_where_nobody_listens(desk: Desk, tmp_path: Path, web: tuple[str, Script]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        desk.set(SIDECAR_STATE_DIR=str(tmp_path), SIDECAR_PORT=str(port))
        for answer in (desk("status"), desk("status", f"http://127.0.0.1:{port}")):
            assert (answer.code, answer.out) == (75, "")
            assert str(port) in answer.err
        assert "sidecar run" in desk("status").err


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://[", "http://x:port", "unix:///x"])
def test_what_is_no_url_is_usage(desk: Desk, url: str) -> None:
    assert desk("status", url).code == 2


def test_a_page_that_is_no_sidecar(desk: Desk, web: tuple[str, Script]) -> None:
    url, script = web
    script.raw = b"<html>hello</html>"
    answer = desk("status", url)
    assert answer.code == 1
    assert "not as a sidecar" in answer.err
    script.raw, script.status, script.headers = b"", 302, {"location": "https://elsewhere/"}
    answer = desk("status", url)
    assert answer.code == 1
    assert "https://elsewhere/" in answer.err
    script.raw, script.status, script.headers, script.body = None, 404, {}, {"error": "not-found"}
    assert desk("status", url).code == 1


def test_another_users_socket_is_said(desk: Desk, script: Script, tmp_path: Path) -> None:
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    else:
        os.chmod(tmp_path / "state" / "agent.sock", 0)
    try:
        answer = desk("checkpoint")
    finally:
        if root:
            os.seteuid(0)
    assert (answer.code, answer.out) == (1, "")
    assert "another user" in answer.err


def test_the_paths_that_are_asked_for_are_the_agents_own_whatever_its_prefix() -> None:
    from sidecar.commands.agent_client import OWN
    from sidecar.web.app import ALWAYS

    assert OWN == ALWAYS, "not imported: the web app would cost each command its own start"
