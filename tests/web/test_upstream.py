"""The front door before apps that misbehave: each is a script of bytes on real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.web import connection, protocol, proxy, server
from tests.web.serving import Served, serving, state_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Script = Callable[[int, socket.socket], None]


class App:
    """Listens, and plays ``script`` (which connection it is, its socket) on each connection, in a thread each."""

    def __init__(self, script: Script) -> None:
        self.heads: list[bytes] = []
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self._open: list[socket.socket] = []
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def head(self, sock: socket.socket) -> bytes:
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            more = sock.recv(1)
            if not more:
                raise OSError("gone")
            got += more
        self.heads.append(got)
        return got

    def close(self) -> None:
        self._listener.close()
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(10)
                self._open.append(sock)
                number = self.connections
                self.connections += 1  # before it plays: whoever has its answer may look at once
                threading.Thread(target=self._play, args=(number, sock), daemon=True).start()

    def _play(self, number: int, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            self._script(number, sock)


@contextlib.contextmanager
def before(folder: Path, script: Callable[[App, int, socket.socket], None]) -> Iterator[tuple[Served, App]]:
    app: App
    app = App(lambda number, sock: script(app, number, sock))
    try:
        with serving(folder, app_url=app.url) as one:
            yield one, app
    finally:
        app.close()


def answers(*said: bytes) -> Callable[[App, int, socket.socket], None]:
    """An app that answers each request on a connection with the next of ``said``, and then closes it."""

    def script(app: App, number: int, sock: socket.socket) -> None:
        for each in said:
            app.head(sock)
            sock.sendall(each)

    return script


def test_connections_are_kept_for_the_next_request(tmp_path):
    with before(tmp_path, answers(OK, OK, OK)) as (one, app):
        assert [one.ask("/").body for _ in range(3)] == [b"ok"] * 3
        assert app.connections == 1


def test_an_app_that_closes_a_kept_connection_costs_nobody_an_answer(tmp_path):
    """It closes just when the next request is there: what may be sent again is, on a fresh connection."""

    def script(app: App, number: int, sock: socket.socket) -> None:
        app.head(sock)
        sock.sendall(OK)
        app.head(sock)  # read, and closed unanswered

    with before(tmp_path, script) as (one, app):
        for number in range(6):
            assert one.ask("/", "HEAD" if number % 2 else "GET").status == 200
        assert one.state.door.failed == 0
        assert app.connections > 3


def test_what_must_not_be_sent_twice_never_takes_a_used_connection(tmp_path):
    def script(app: App, number: int, sock: socket.socket) -> None:
        app.head(sock)
        sock.sendall(OK)
        assert app.head(sock).startswith(b"GET"), "a POST on a kept connection could be lost with it"
        sock.sendall(OK)

    with before(tmp_path, script) as (one, app):
        for method in ("POST", "PATCH", "GET", "POST"):
            assert one.ask("/", method).status == 200
        assert [head.split()[0] for head in app.heads] == [b"POST", b"PATCH", b"GET", b"POST"]
        assert app.connections == 3


def test_a_request_is_sent_again_once_and_never_where_it_may_count_twice(tmp_path):
    def script(app: App, number: int, sock: socket.socket) -> None:
        app.head(sock)

    with before(tmp_path, script) as (one, app):
        assert (one.ask("/").status, app.connections) == (502, 1)
        assert (one.ask("/", "POST").status, app.connections) == (502, 2)


def test_idle_connections_are_closed_by_us_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "IDLE_S", 0.2)
    closed = threading.Event()

    def script(app: App, number: int, sock: socket.socket) -> None:
        app.head(sock)
        sock.sendall(OK)
        assert sock.recv(1) == b""
        closed.set()

    with before(tmp_path, script) as (one, _):
        assert one.ask("/").body == b"ok"
        assert closed.wait(5)


def test_what_nobody_asked_for_is_nobodys_answer(tmp_path):
    def script(app: App, number: int, sock: socket.socket) -> None:
        app.head(sock)
        sock.sendall(OK)
        time.sleep(0.05)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        time.sleep(1)

    with before(tmp_path, script) as (one, _):
        for _ in range(3):
            assert one.ask("/").body == b"ok"
            time.sleep(0.1)

    with before(tmp_path, answers(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")) as (one, _):
        assert [one.ask("/").body for _ in range(3)] == [b"ok"] * 3


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_no_answer_and_no_http_are_a_502(tmp_path, said):
    with before(tmp_path, answers(said)) as (one, _):
        answer = one.ask("/")
        assert (answer.status, answer.json["error"]) == (502, "gone")
        page = one.ask("/", headers={"Accept": "text/html"})
        assert (page.status, page.headers["content-type"]) == (502, "text/html; charset=utf-8")
        assert one.ask("/health").status == 200
        assert one.state.door.failed == 2
        assert one.state.measures.requests == {("GET", "5xx"): 2}


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nodd\r\n",
    ],
)
def test_half_an_answer_is_never_passed_on_as_a_whole(tmp_path, said):
    with before(tmp_path, answers(said)) as (one, _):
        with pytest.raises(http.client.IncompleteRead):
            one.ask("/")
        assert one.state.door.open == 0
        with pytest.raises(ConnectionResetError):  # a clean end would mean the whole, to HTTP/1.0
            one.raw(b"GET / HTTP/1.0\r\n\r\n")


def test_an_answer_that_ends_with_its_connection(tmp_path):
    with before(tmp_path, answers(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nall of it")) as (one, _):
        answer = one.ask("/")
        assert (answer.body, answer.headers["transfer-encoding"]) == (b"all of it", "chunked")
        assert one.raw(b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nall of it")


def test_trailers_and_early_hints_are_dropped_and_the_rest_is_whole(tmp_path):
    said = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nTrailer: X-Sum\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    with before(tmp_path, answers(said, OK)) as (one, app):
        raw = one.raw(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert raw.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert b"X-Sum" not in raw
        assert (one.ask("/").body, app.connections) == (b"ok", 1)


def test_an_answer_before_the_bodys_end_is_passed_on_at_once(tmp_path):
    refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmuch"
    with before(tmp_path, answers(refused)) as (one, _):
        with socket.create_connection(("127.0.0.1", one.port), timeout=10) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc")
            assert sock.recv(1000).startswith(b"HTTP/1.1 413")
        assert one.ask("/livez").status == 200
        until = time.monotonic() + 5
        while one.state.door.open:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_an_upload_that_breaks_is_no_upload(tmp_path):
    got: list[bytes] = []
    done = threading.Event()

    def script(app: App, number: int, sock: socket.socket) -> None:
        app.head(sock)
        while more := sock.recv(1000):
            got.append(more)
        done.set()

    for length in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"):
        done.clear()
        with before(tmp_path, script) as (one, _):
            with socket.create_connection(("127.0.0.1", one.port), timeout=10) as sock:
                sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + length)
                time.sleep(0.1)
            assert done.wait(5)
        assert b"".join(got) in (b"abc", b"abc3\r\nabc\r\n"), "no end was made up"


def test_an_app_that_does_not_ask_for_the_body_gets_it_after_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(proxy, "CONTINUE_S", 0.2)

    def script(app: App, number: int, sock: socket.socket) -> None:
        app.head(sock)
        assert sock.recv(3) == b"abc"
        sock.sendall(OK)

    with before(tmp_path, script) as (one, app):
        answer = one.raw(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nabc"
        )
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
        assert b"expect: 100-continue" in app.heads[0].lower()


def test_an_app_that_is_not_there_yet_starts_and_one_that_was_is_gone(tmp_path):
    state = state_of(upstream_seen=False)
    with serving(tmp_path, state, app_url="http://127.0.0.1:1") as one:
        starting = one.ask("/")
        assert (starting.status, starting.headers["retry-after"]) == (503, "2")
        assert starting.json["error"] == "starting"
        assert one.ask("/readyz").json["waits_for"] == "the main program has not accepted a connection yet"
        state.upstream_seen = True
        assert one.ask("/readyz").status == 200
        assert (one.ask("/").status, one.ask("/").json["error"]) == (502, "gone")
        assert "upstream-down" in one.ask("/health").json["notes"]
        state.main_state, state.main_exit = "exited", 1
        assert "has ended" in one.ask("/").json["detail"]


def test_an_apps_return_is_noticed(tmp_path):
    with before(tmp_path, answers(OK)) as (one, _):
        one.state.note("upstream-down", "away")
        assert one.ask("/").status == 200
        assert one.ask("/health").json["notes"] == []


def test_a_reset_is_no_end(tmp_path):
    def script(app: App, number: int, sock: socket.socket) -> None:
        app.head(sock)
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        time.sleep(0.1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with before(tmp_path, script) as (one, _):
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            one.ask("/")
        assert json.loads(one.ask("/livez").body) == {"ok": True}


def test_a_visitor_that_leaves_just_as_a_websocket_is_agreed_on_leaves_nothing_behind(tmp_path):
    asked, agree = threading.Event(), threading.Event()

    def script(app: App, number: int, sock: socket.socket) -> None:
        app.head(sock)
        asked.set()
        assert agree.wait(10)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        sock.recv(1)

    with before(tmp_path, script) as (one, _):
        with socket.create_connection(("127.0.0.1", one.port)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert asked.wait(10)
            # While the door is busy both happen, so that it sees them in one turn, the visitor's end first.
            busy, over = threading.Event(), threading.Event()
            one.loop.call_soon_threadsafe(busy.set)
            one.loop.call_soon_threadsafe(over.wait, 10)
            assert busy.wait(10)
        agree.set()
        time.sleep(0.1)
        over.set()
        until = time.monotonic() + 5
        while one.state.door.open:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert one.state.door.websockets == 0


HUNG = b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n"
OWED = b"POST /hang HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"


def hangs(app: App, number: int, sock: socket.socket) -> None:
    """Answers whatever but /hang."""
    if b"/hang" in app.head(sock):
        sock.recv(1)
        app.head(sock)
    sock.sendall(OK)


@contextlib.contextmanager
def crowded(one: Served, app: App, said: bytes) -> Iterator[None]:
    """All places of ``one`` taken by requests that hang."""
    with contextlib.ExitStack() as crowd:
        for number in range(4):
            sock = crowd.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=5))
            sock.sendall(said)
            until = time.monotonic() + 10
            while len(app.heads) <= number:
                assert time.monotonic() < until
                time.sleep(0.01)
        yield


def test_with_all_places_at_work_our_own_paths_still_answer(tmp_path, monkeypatch):
    """A platform that gets no answer from /health restarts the container."""
    monkeypatch.setattr(server, "_DOOR_CONNECTIONS", 4)
    with before(tmp_path, hangs) as (one, app):
        with crowded(one, app, HUNG):
            for _ in range(3):
                health, visitor = one.ask("/health"), one.ask("/")
                assert (health.status, health.headers["connection"]) == (200, "close")
                assert (visitor.status, visitor.json["error"], visitor.headers["connection"]) == (503, "busy", "close")
            assert len(app.heads) == 4
        until = time.monotonic() + 5
        while one.ask("/").status != 200:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_who_owes_a_body_and_falls_silent_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_DOOR_CONNECTIONS", 4)
    with before(tmp_path, hangs) as (one, app), crowded(one, app, OWED):
        assert one.ask("/").status == 503, "they may yet send it"
        monkeypatch.setattr(protocol, "_BODY_SILENCE_S", 0.05)
        time.sleep(0.1)
        assert one.ask("/").status == 200
        assert one.state.measures.turned_away >= 1


def test_who_reads_slowly_costs_little_memory(tmp_path):
    """Bytes that Python holds for each, measured; the kernel's buffers are full long before."""
    readers = 8

    def script(app: App, number: int, sock: socket.socket) -> None:
        app.head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(20):
            sock.sendall(bytes(1_000_000))

    with before(tmp_path, script) as (one, _), contextlib.ExitStack() as crowd:
        tracemalloc.start()
        crowd.callback(tracemalloc.stop)
        for _ in range(readers):
            sock = crowd.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=5))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1.5)
        ours = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(False, __file__), tracemalloc.Filter(False, threading.__file__)]
        )
        assert sum(trace.size for trace in ours.traces) / readers < 700_000
        # Then it goes on as before, stop after stop.
        whole = 0
        while whole < 20_000_000 and (got := len(sock.recv(1 << 20))):
            whole += got
        assert whole >= 20_000_000
