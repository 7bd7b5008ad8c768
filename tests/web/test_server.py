from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sidecar.web import protocol, server, unix
from sidecar.web.app import build
from sidecar.web.server import Web
from tests.web.serving import Verbs, serving, state_of

REPO = Path(__file__).parents[2]
AGENT = """
import asyncio, sys, time
from pathlib import Path
from sidecar.state import State
from sidecar.web.app import build
from sidecar.web.server import Web

class Verbs:
    pass

async def main():
    state = State(instance="i", version="0", space="s", store="hf://x", persistent=True)
    app = build(state, Verbs(), prefix=None, api_token=None, upstream=False)
    web = Web(app, host="127.0.0.1", port=0, socket_path=Path(sys.argv[1]) / "agent.sock")
    await web.start()
    print(web.bound_port, time.process_time(), flush=True)
    await asyncio.sleep(0.2)
    began = time.process_time()
    await asyncio.sleep(float(sys.argv[2]))
    print(time.process_time() - began, flush=True)
    await web.stop()

asyncio.run(main())
"""


def agent(folder: Path, idle_s: float, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", AGENT, str(folder), str(idle_s)],
        cwd=REPO,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def whole(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def until(sock: socket.socket, end: bytes) -> bytes:
    got = b""
    while not got.endswith(end):
        more = sock.recv(65536)
        assert more, got
        got += more
    return got


def web_of(folder: Path, *, host: str = "127.0.0.1", port: int = 0) -> Web:
    app = build(state_of(), Verbs(), prefix=None, api_token=None, upstream=False)
    return Web(app, host=host, port=port, socket_path=folder / "agent.sock")


def test_a_taken_port_costs_the_port_and_nothing_else(tmp_path, caplog):
    with socket.create_server(("127.0.0.1", 0)) as other, serving(tmp_path, port=other.getsockname()[1]) as one:
        port = other.getsockname()[1]
        assert one.web.bound_port is None
        assert one.web.problems.keys() == {"port-unavailable"}
        sentence = one.web.problems["port-unavailable"]
        assert f"127.0.0.1:{port}: another program has it" in sentence
        assert "SIDECAR_PORT" in sentence
        assert one.ask_unix("/health").status == 200
        assert one.ask_unix("/sync", "POST").status == 200


def test_an_address_of_another_machine_or_no_address_is_a_warning(tmp_path):
    async def problems(host: str) -> str:
        web = web_of(tmp_path, host=host)
        await web.start()
        await web.stop()
        return web.problems["port-unavailable"]

    assert "no address of this machine" in asyncio.run(problems("192.0.2.1"))
    assert "SIDECAR_HOST" in asyncio.run(problems("host.invalid"))


@pytest.mark.parametrize(
    ("number", "says"), [(errno.EACCES, "from 1024"), (errno.EADDRINUSE, "free port"), (errno.EMFILE, "Too many open")]
)
def test_each_reason_has_its_remedy(number, says):
    assert says in server._no_port("0.0.0.0", 80, OSError(number, os.strerror(number)))


def test_a_socket_that_can_not_be_had_costs_the_socket_and_nothing_else(tmp_path):
    (tmp_path / "agent.sock").mkdir()
    with serving(tmp_path) as one:
        assert one.web.problems.keys() == {"socket-unavailable"}
        assert "SIDECAR_STATE_DIR" in one.web.problems["socket-unavailable"] or "Move it" in str(one.web.problems)
        assert one.ask("/health").status == 200
    assert (tmp_path / "agent.sock").is_dir()


def test_two_agents_on_one_state_dir_leave_the_first_its_socket(tmp_path):
    with serving(tmp_path) as first:
        with serving(tmp_path) as second:
            assert second.web.problems.keys() == {"socket-unavailable"}
            assert "another agent" in second.web.problems["socket-unavailable"]
        assert first.ask_unix("/livez").status == 200


def test_both_ends_are_gone_after_a_stop_and_can_be_had_again(tmp_path):
    with serving(tmp_path) as one:
        port = one.port
        assert stat.S_IMODE(os.stat(one.socket_path).st_mode) == 0o600
    assert not (tmp_path / "agent.sock").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    with serving(tmp_path, port=port) as again:
        assert (again.port, again.ask("/livez").status) == (port, 200)


def test_a_stop_leaves_a_successors_socket(tmp_path):
    with serving(tmp_path):
        os.unlink(tmp_path / "agent.sock")
        successor = unix.listen(tmp_path / "agent.sock")
    with successor:
        assert (tmp_path / "agent.sock").exists()


def test_a_stop_lets_a_request_end_and_cuts_off_what_hangs(tmp_path):
    async def life() -> tuple[bytes, bytes, float]:
        verbs = Verbs(hold=asyncio.Event())
        app = build(state_of(), verbs, prefix=None, api_token=None, upstream=False)
        web = Web(app, host="127.0.0.1", port=0, socket_path=None)
        await web.start()
        ends = [await asyncio.open_connection("127.0.0.1", web.bound_port) for _ in range(3)]
        for _, writer in ends[:2]:
            writer.write(b"POST /sync HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while len(verbs.asked) < 2:
            await asyncio.sleep(0.01)
        ends[2][1].write(b"GET /health HTT")
        assert verbs.hold is not None
        loop = asyncio.get_running_loop()
        if finish:
            loop.call_later(0.1, verbs.hold.set)
        began = time.monotonic()
        await web.stop(grace_s=0.4)
        took = time.monotonic() - began
        verbs.hold.set()
        answers = []
        for reader, writer in ends:
            try:
                answers.append(await reader.read())
            except ConnectionError:
                answers.append(b"")
            writer.close()
        await asyncio.sleep(0.05)
        return answers[0], answers[-1], took

    finish = True
    ended, head_only, took = asyncio.run(life())
    assert ended.startswith(b"HTTP/1.1 200")
    assert head_only == b""
    assert took < 0.4
    finish = False
    hung, _, took = asyncio.run(life())
    assert not hung.startswith(b"HTTP/1.1 200")
    assert 0.3 < took < 1.5


def test_a_connection_that_says_nothing_or_too_little_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "_HEAD_S", 0.3)
    with serving(tmp_path) as one:
        for said in (b"", b"GET /health HTTP/1.1\r\nHos"):
            began = time.monotonic()
            with contextlib.suppress(ConnectionResetError):
                assert one.raw(said) == b""
            assert 0.2 < time.monotonic() - began < 3
        with socket.create_connection(("127.0.0.1", one.port), timeout=3) as drip:
            sent = 0
            with contextlib.suppress(OSError):
                for sent in range(60):  # noqa: B007  a byte now and then buys no time
                    drip.sendall(b"X")
                    time.sleep(0.05)
            assert sent < 59
        with socket.create_connection(("127.0.0.1", one.port), timeout=3) as kept:
            for _ in range(3):
                kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                assert until(kept, b'{"ok":true}').startswith(b"HTTP/1.1 200")
                time.sleep(0.2)
            time.sleep(0.3)
            kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert until(kept, b'{"ok":true}').startswith(b"HTTP/1.1 200"), "idle between requests is no slow head"


def test_a_crowd_on_the_port_does_not_lock_out_our_own_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_CONNECTIONS", 4)
    with serving(tmp_path) as one, contextlib.ExitStack() as crowd:
        one.verbs.hold = asyncio.Event()
        for n in range(4):
            sock = crowd.enter_context(socket.create_connection(("127.0.0.1", one.port)))
            sock.sendall(b"POST /sync HTTP/1.1\r\nHost: localhost\r\n\r\n")
            deadline = time.monotonic() + 5
            while len(one.verbs.asked) <= n:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        reply = one.ask("/livez")
        assert (reply.status, reply.headers["connection"]) == (200, "close"), "all places are at work"
        reply = one.ask("/sync", "POST")
        assert (reply.status, reply.json["error"]) == (503, "busy"), "nobody may hold more than there are"
        assert len(one.verbs.asked) == 4
        assert one.ask_unix("/livez").status == 200
        one.loop.call_soon_threadsafe(one.verbs.hold.set)


@pytest.mark.parametrize("said", [b"", b"GET /hea", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_who_says_nothing_any_more_makes_room_for_who_does(tmp_path, monkeypatch, said):
    """Slowloris: connections that say nothing, half a head, or nothing after a first request."""
    monkeypatch.setattr(server, "_CONNECTIONS", 8)
    with serving(tmp_path) as one, contextlib.ExitStack() as crowd:
        socks = []
        for _ in range(40):
            sock = crowd.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=5))
            socks.append(sock)
            with contextlib.suppress(ConnectionError):
                sock.sendall(said)
                if b"livez" in said:
                    until(sock, b'{"ok":true}')
            if len(socks) % 10 == 0:
                assert one.ask("/livez").status == 200
        for _ in range(3):
            assert one.ask("/health").status == 200
        assert one.state.measures.turned_away >= 32
        with contextlib.suppress(ConnectionResetError):
            while socks[0].recv(65536):  # whatever it was sent before
                pass


def test_a_reset_connection_is_forgotten_at_once(tmp_path):
    """Held for as long as an idle one may be, a thousand resets a second would fill the memory."""
    with serving(tmp_path) as one:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", one.port), timeout=5) as sock:
                sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                until(sock, b'{"ok":true}')
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        deadline = time.monotonic() + 5
        while left := [found for found in gc.get_objects() if isinstance(found, protocol.Protocol)]:
            assert time.monotonic() < deadline, len(left)
            del left
            gc.collect()
            time.sleep(0.05)


def test_who_reads_no_answer_makes_room_only_where_nobody_is_idle(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_CONNECTIONS", 2)
    page = b"GET /status HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n"
    with serving(tmp_path) as one, contextlib.ExitStack() as crowd:
        for _ in range(2):
            sock = crowd.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", one.port))
            sock.sendall(800 * page)  # 48 KB of questions, 20 MB of answers
        deadline = time.monotonic() + 10
        while True:  # each until its buffers are full is at work, and then makes room
            answer = one.ask("/livez")
            assert answer.status == 200, "our own paths answer even where nobody makes room"
            if answer.headers.get("connection") != "close":
                break
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS to a plain port
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"POST /sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_garbage_is_refused_and_no_line_in_the_log(tmp_path, capfd, said):
    with serving(tmp_path) as one:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            assert one.raw(said)[9:12] in (b"400", b"")
        assert one.ask("/livez").status == 200
        assert one.verbs.asked == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_garbage_behind_an_answer_closes_the_connection_and_is_no_bug_in_the_log(tmp_path, caplog, more):
    """The body's sender has its answer before the body is there, which then turns out to be none."""
    with serving(tmp_path) as one, socket.create_connection(("127.0.0.1", one.port), timeout=5) as sock:
        sock.sendall(b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n%b\r\n" % more)
        assert until(sock, b"}")[9:12] == b"405"
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(b"no chunk\r\n")
            assert sock.recv(1) == b""
        assert one.ask("/livez").status == 200
    assert caplog.records == []


def test_an_absolute_target_or_an_upgrade_opens_no_other_way(tmp_path):
    with serving(tmp_path) as one:
        tail = b"HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert one.raw(b"POST http://evil.example/sync " + tail)[9:12] == b"404"
        upgrade = b"GET /sync HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        with socket.create_connection(("127.0.0.1", one.port), timeout=5) as sock:
            sock.sendall(upgrade)
            assert until(sock, b"}")[9:12] == b"405"
        assert one.verbs.asked == []


def test_http_1_0_without_a_host_reads_but_does_nothing(tmp_path):
    with serving(tmp_path) as one:
        assert one.raw(b"GET /health HTTP/1.0\r\n\r\n")[9:12] == b"200"
        assert one.raw(b"POST /sync HTTP/1.0\r\n\r\n")[9:12] == b"401"
        assert one.verbs.asked == []


def test_signals_stay_with_whoever_has_them(tmp_path):
    async def life() -> None:
        web = web_of(tmp_path)
        await web.start()
        assert {signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)} == before
        await web.stop()

    before = {signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    handlers = [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]
    try:
        before = {signal.SIG_IGN}
        asyncio.run(life())
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)


def test_it_answers_within_a_second_of_the_processs_start(tmp_path):
    """Counted in CPU time, as a stopwatch counts on a free core: the start waits for nothing."""
    with agent(tmp_path, 0.0) as process:
        assert process.stdout is not None
        port, cpu_s = process.stdout.readline().split()
        with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert whole(sock).startswith(b"HTTP/1.1 503"), "recovery has not even begun"
        process.communicate(timeout=20)
    assert float(cpu_s) < 0.8


def test_idle_it_uses_no_cpu(tmp_path):
    """uvicorn's own loop would use 0.28 % of a core here; the whole agent may use 0.3 %."""
    with agent(tmp_path, 2.0) as process:
        out, err = process.communicate(timeout=20)
    assert err == ""
    assert float(out.split()[2]) / 2.0 < 0.0005


def test_a_main_apps_settings_for_uvicorn_are_not_ours(tmp_path):
    with agent(tmp_path, 0.0, WEB_CONCURRENCY="many", FORWARDED_ALLOW_IPS="*", UVICORN_PORT="1") as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert int(out.split()[0]) != 1


def test_a_peer_is_who_connected_whatever_its_headers_say(tmp_path):
    async def echo(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{scope['client'][0]} {scope['scheme']}".encode()})

    async def life() -> bytes:
        web = Web(echo, host="127.0.0.1", port=0, socket_path=None)
        await web.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", web.bound_port)
        forged = b"X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=192.0.2.9\r\n"
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + forged + b"\r\n")
        answer = await reader.read()
        writer.close()
        await web.stop()
        return answer

    answer = asyncio.run(life())
    assert b"127.0.0.1 http" in answer
    assert b"https" not in answer
