"""The front door before a real app (Starlette under uvicorn, another process), asked over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import resource
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.journeys.space import free_port
from tests.web import main_app
from tests.web.serving import Served, serving, state_of


@pytest.fixture(scope="module")
def app_url() -> Iterator[str]:
    port = free_port()
    process = main_app.start(port)
    try:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def door(app_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("door"), app_url=app_url, api_token="secret") as one:
        yield one


@contextlib.contextmanager
def client(door: Served) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", door.port, timeout=20)) as connection:
        yield connection


def seen(door: Served, what: str) -> None:
    """Wait until the app has noticed ``what``."""
    until = time.monotonic() + 5
    while what not in (noticed := door.ask("/seen").json):
        assert time.monotonic() < until, noticed
        time.sleep(0.02)


def echoed(door: Served, head: bytes) -> dict[str, Any]:
    answer = door.raw(head + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return dict(json.loads(answer.partition(b"\r\n\r\n")[2]))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_every_method_and_its_body_get_through(door, method):
    with client(door) as connection:
        connection.request(method, "/x", body=b"some\0bytes\xff")
        told = json.load(connection.getresponse())
    assert (told["method"], told["body"]) == (method, "some\0bytes\xff")


@pytest.mark.parametrize(
    "target", ["/a%2Fb//c/../d/%7Ee", "//x//", "/%e2%82%ac?q=%2F&&x=a+b%20c&q=", "/./health", "/a?b?c", "/~%2e%2e/"]
)
def test_path_and_query_arrive_as_they_came(door, target):
    told = echoed(door, b"GET %b HTTP/1.1\r\nHost: x\r\n" % target.encode())
    path, _, query = target.partition("?")
    assert (told["raw_path"], told["query"]) == (path, query)


def test_an_absolute_target_names_the_host_and_no_other_server(door):
    told = echoed(door, b"GET HTTP://named.example:81/a?b HTTP/1.1\r\nHost: other\r\n")
    assert (told["raw_path"], told["query"]) == ("/a", "b")
    assert [value for name, value in told["headers"] if name == "host"] == ["named.example:81"]
    assert door.raw(b"GET http://x/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(b'{"ok":true}')
    for said in (
        b"CONNECT example.com:443", b"CONNECT /a", b"CONNECT http://x/a", b"GET ftp://x/y", b"GET nothing", b"GET *",
        b"GET http://u@x/a", b"GET http://x#/a",
    ):  # fmt: skip
        answer = door.raw(said + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400"), answer


def test_headers_arrive_whole_and_those_of_the_hop_stay_behind(door):
    told = echoed(
        door,
        b"GET /x HTTP/1.1\r\nHost: app.example\r\nX-Many: 1\r\nX-Many: 2\r\nX-Bytes: caf\xe9\r\nKeep-Alive: 5\r\n"
        b"X-Private: 1\r\nTE: trailers\r\nUpgrade: h2c\r\nCookie: a=b\r\nConnection: X-Private, cookie, upgrade\r\n"
        b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n",
    )
    assert told["headers"] == [
        ["host", "app.example"],
        ["x-many", "1"],
        ["x-many", "2"],
        ["x-bytes", "caf\xe9"],
        ["cookie", "a=b"],
        ["x-forwarded-proto", "https"],
        ["x-forwarded-for", "192.0.2.1, 10.0.0.1, 127.0.0.1"],
        ["x-forwarded-host", "app.example"],
    ]


@pytest.mark.parametrize("code", [200, 201, 204, 206, 301, 304, 404, 418, 500, 503])
def test_answers_come_back_as_they_were(door, code):
    with client(door) as connection:
        for method in ("GET", "HEAD", "GET"):
            connection.request(method, f"/status/{code}")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == code
            assert body == (b"" if method == "HEAD" or code in (204, 304) else b"body")
            assert answer.headers.get_all("set-cookie") == ["a=1; Path=/", "b=2; Path=/"]
            assert answer.headers["location"] == "http://elsewhere.example/x?y#z"
            assert answer.headers["x-hop"] is None
            assert len(answer.headers.get_all("date") or ()) == 1
            if method == "HEAD" and code not in (204, 304):
                assert answer.headers["content-length"] == "4"


def test_ranges_are_the_apps_business(door):
    whole = door.ask("/file").body
    part = door.ask("/file", headers={"Range": "bytes=10-19"})
    assert (part.status, part.body) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    etag = door.ask("/file", "HEAD").headers["etag"]
    assert door.ask("/file", headers={"Range": "bytes=10-19", "If-Range": etag}).status == 206


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_of_64_mb_pass_through_little_memory(door, chunked):
    size, digest, want = 64, hashlib.sha256(), hashlib.sha256()
    for _ in range(size):
        want.update(main_app.MB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with client(door) as connection:
        connection.request("GET", f"/download?mb={size}{'&chunked=1' if chunked else ''}")
        answer = connection.getresponse()
        assert answer.headers["content-length"] == (None if chunked else str(size * len(main_app.MB)))
        time.sleep(0.2)  # whoever doesn't hold the app back fills its memory now
        while chunk := answer.read(1 << 16):
            digest.update(chunk)
        length = {} if chunked else {"Content-Length": str(size * len(main_app.MB))}
        body = (main_app.MB for _ in range(size))
        connection.request("PUT", "/upload", body=body, headers=length, encode_chunked=chunked)
        told = json.load(connection.getresponse())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000
    sent = {"sha256": want.hexdigest(), "size": size * len(main_app.MB)}
    assert (digest.hexdigest(), told) == (want.hexdigest(), sent)


def test_a_slow_reader_holds_the_app_back(door):
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(b"GET /download?mb=256 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.5)
        assert door.ask("/x").status == 200, "others are served meanwhile"


def test_events_come_when_they_happen(door):
    with client(door) as connection:
        connection.request("GET", "/events?n=4")
        answer = connection.getresponse()
        times = []
        for number in range(4):
            assert answer.readline() + answer.readline() == b"data: %d\n\n" % number
            times.append(time.monotonic())
        assert answer.read() == b""
    assert times[-1] - times[0] > 0.35, "they came in one piece"


def test_a_visitor_who_leaves_ends_the_apps_work(door):
    for what, said in (
        ("events", b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("hang", b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n"),
    ):
        with socket.create_connection(("127.0.0.1", door.port), timeout=10) as sock:
            sock.sendall(said)
            time.sleep(0.1)
        seen(door, what)
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        time.sleep(0.1)
    until = time.monotonic() + 5
    while door.state.door.open > 0:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_body_is_asked_for_before_it_is_sent(door):
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as sock:
        sock.sendall(
            b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert hashlib.sha256(b"abc").hexdigest().encode() in answer


def test_a_refusal_comes_instead_of_the_invitation_to_send(door):
    head = b"POST /status/403 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as sock:
        sock.sendall(head)
        assert sock.recv(1000).startswith(b"HTTP/1.1 403")


def test_our_paths_stay_ours_and_ask_for_the_token(door):
    assert door.ask("/health").json["status"] == "pass"
    assert door.ask("/livez").headers["date"]
    for path in ("/_sidecar/nothing", "/_sidecar", "/_sidecar%2Fnothing", "/_%73idecar/x"):
        assert door.ask(path).json["error"] == "not-found"
    for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"Host": "localhost"}, {"Authorization": "Bearer wrong"}):
        for path in ("/checkpoint", "/sync", "/_sidecar/checkpoint", "/%73ync"):
            assert door.ask(path, "POST", headers).status == 401
    assert door.ask("/sync", "POST", {"Authorization": "Bearer secret"}).status == 200
    assert door.ask("/checkpoint", "GET").status == 405
    assert door.ask("/health/").json["raw_path"] == "/health/"
    assert door.ask_unix("/x").status == 404, "the commands' socket is no way to the app"


def test_a_prefix_gives_the_short_paths_to_the_app(app_url, tmp_path):
    with serving(tmp_path, app_url=app_url, prefix="/ops") as one:
        assert one.ask("/health").json["raw_path"] == "/health"
        assert one.ask("/ops/health").json["status"] == "pass"
        assert one.ask("/ops/else").json["raw_path"] == "/ops/else"
        assert one.ask("/_sidecar/health").json["status"] == "pass"


def socket_to(door: Served, path: str = "/socket", **options: Any) -> Any:
    return connect(f"ws://127.0.0.1:{door.port}{path}", max_size=None, open_timeout=10, **options)


@pytest.mark.parametrize("compression", ["deflate", None])
def test_a_websocket_carries_text_bytes_pings_and_large_messages(door, compression):
    with socket_to(door, subprotocols=["graphql-ws", "other"], compression=compression) as ws:
        assert ws.subprotocol == "graphql-ws"
        assert ws.response.headers["x-app"] == "yes"
        assert ws.ping().wait(5)
        for message in ("grüße", b"\0\xff", "", b"", "x" * (1 << 20), bytes(range(256)) * (1 << 13)):
            ws.send(message)
            assert ws.recv(10) == message
        ws.send(["frag", "ments"])
        assert ws.recv(10) == "fragments"
        assert door.state.door.websockets == 1


def test_close_codes_pass_both_ways(door):
    with socket_to(door) as ws:
        ws.send("close 4321")
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(5)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "as you wish")
    with socket_to(door) as ws:
        ws.close(4001, "enough")
    seen(door, "socket 4001")
    with socket.create_connection(("127.0.0.1", door.port), timeout=5) as sock:
        sock.sendall(
            b"GET /socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert sock.recv(1000).startswith(b"HTTP/1.1 101")
    seen(door, "socket 1005")  # "no status", as the app's library has it for a connection that just ends
    until = time.monotonic() + 5
    while door.state.door.websockets or door.state.door.open:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_refused_websocket_is_refused_in_the_apps_words(door):
    with pytest.raises(InvalidStatus) as refused:
        socket_to(door, "/refuse")
    assert refused.value.response.status_code == 403


def test_many_at_once_share_what_is_kept(door):
    async def ask(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        for turn in range(5):
            writer.write(b"GET /%d-%d HTTP/1.1\r\nHost: x\r\n\r\n" % (number, turn))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            assert json.loads(await reader.readexactly(length))["raw_path"] == f"/{number}-{turn}"
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(number) for number in range(40)))

    asyncio.run(asyncio.wait_for(all_of_them(), 20))


def test_a_stop_ends_open_sockets_and_streams(app_url, tmp_path):
    with contextlib.ExitStack() as stack:
        with serving(tmp_path, app_url=app_url) as one:
            ws = stack.enter_context(socket_to(one))
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=5))
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(100)
            began = time.monotonic()
        assert time.monotonic() - began < 3
        with pytest.raises(ConnectionClosed):
            ws.recv(5)
        with contextlib.suppress(ConnectionResetError):
            assert not b"".join(iter(lambda: sock.recv(65536), b"")).endswith(b"0\r\n\r\n"), "no clean end"


def test_nothing_is_passed_on_before_the_files_are_back(app_url, tmp_path):
    state = state_of(recovered=False, phase="restoring", main_state="waiting")
    state.restore.bytes_done, state.restore.bytes_total = 25, 100
    with serving(tmp_path, state, app_url=app_url) as one:
        program = one.ask("/x")
        assert (program.status, program.headers["retry-after"]) == (503, "5")
        assert program.json["error"] == "recovering"
        assert program.json["restore"] == {"bytes_done": 25, "bytes_total": 100}
        page = one.ask("/x", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert (page.status, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
        assert b'max="100" value="25"' in page.body
        with pytest.raises(InvalidStatus) as refused:
            socket_to(one)
        assert refused.value.response.status_code == 503
        assert one.ask("/readyz").status == 503
        state.recovered, state.phase, state.main_state = True, "running", "running"
        assert one.ask("/x").status == 200
