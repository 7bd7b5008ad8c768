"""What the front door costs: a Starlette app under uvicorn asked directly, through the sidecar, and through nginx.

Each of them is asked in turn, round after round, so that whatever else this machine does hits all alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

from bench.figure import Figure, percentile, pss_mb
from tests.journeys.space import Space, agent_of, free_port, living
from tests.web import main_app

ROUNDS = 7
PACED = 1500
SMALL = 300
"""Requests of 1 KB a round and connection."""
LARGE = 40
"""Requests of 1 MB a round and connection."""
CROWD = 1000
BODY_MB = 2048

NGINX = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error;
events {{ worker_connections 4096; }}
http {{
  access_log off; proxy_buffering off; proxy_request_buffering off; client_max_body_size 0;
  keepalive_requests 1000000; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream app {{ server 127.0.0.1:{app}; keepalive 64; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"""


def measure(folder: Path) -> Iterator[Figure]:
    app = free_port()
    with contextlib.ExitStack() as stack:
        process = main_app.start(app)
        stack.callback(process.wait, 10)
        stack.callback(process.terminate)
        settings = {"SIDECAR_UPSTREAM": f"http://127.0.0.1:{app}"}
        space = stack.enter_context(living(Space(folder / "space", f"file://{folder}/store", **settings)))
        space.start()
        space.running()
        ports = {"direct": app, "door": space.port}
        if nginx := stack.enter_context(_nginx(folder / "nginx", app)):
            ports["nginx"] = nginx
        for port in ports.values():
            _listening(port)
        yield from _latency(ports)
        yield from _large(ports)
        yield from _echo(ports)
        yield _events(ports)
        agent = agent_of(space)
        yield from _memory(space, agent)
        yield from _crowd(space, agent)


@contextlib.contextmanager
def _nginx(folder: Path, app: int) -> Iterator[int | None]:
    """nginx in front of ``app``: its port, None where this machine has none."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        print("     (nginx is not here, `apt-get install nginx-light` brings it: not compared)")
        yield None
        return
    folder.mkdir(mode=0o777)
    port = free_port()
    (folder / "conf").write_text(NGINX.format(folder=folder, app=app, port=port))
    process = subprocess.Popen([found, "-e", f"{folder}/error", "-c", f"{folder}/conf"])
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _listening(port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)


def _get(sock: socket.socket, path: bytes, buffer: bytearray) -> int:
    """Ask for ``path`` on a kept connection and read all of the answer's body; its size."""
    sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: bench\r\n\r\n")
    got = b""
    while (end := got.find(b"\r\n\r\n")) < 0:
        more = sock.recv(65536)
        assert more, "closed"
        got += more
    head = got[:end].lower()
    size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    left = size - (len(got) - end - 4)
    while left > 0:
        count = sock.recv_into(buffer, min(left, len(buffer)))
        assert count, "closed"
        left -= count
    return size


def _ask(port: int, path: bytes, count: int) -> list[float]:
    """Milliseconds of each of ``count`` requests, one after the other on one connection."""
    times, buffer = [], bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _get(sock, path, buffer)
        for _ in range(count):
            began = time.perf_counter()
            _get(sock, path, buffer)
            times.append((time.perf_counter() - began) * 1000)
    return times


def _rates(ports: dict[str, int], path: bytes, count: int, connections: int) -> dict[str, list[float]]:
    """Requests a second of each, a value a round."""
    rates: dict[str, list[float]] = {name: [] for name in ports}
    with ThreadPoolExecutor(connections) as pool:
        for _ in range(ROUNDS):
            for name, port in ports.items():
                began = time.perf_counter()
                list(pool.map(_ask, [port] * connections, [path] * connections, [count] * connections))
                rates[name].append(connections * (count + 1) / (time.perf_counter() - began))
    return rates


def _latency(ports: dict[str, int]) -> Iterator[Figure]:
    buffer = bytearray(1 << 20)
    with contextlib.ExitStack() as stack:
        socks = {
            name: stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for name, port in ports.items()
        }
        times = _paced({name: partial(_get, sock, b"/k", buffer) for name, sock in socks.items()})
    yield from _added("1 KB", times)
    rates = _rates(ports, b"/k", SMALL // 4, 8)
    for name in ports:
        if name != "direct":
            share = statistics.median(rates["direct"]) / statistics.median(rates[name])
            how = f"8 connections, {_middle(rates)} requests/s"
            yield Figure(f"1 KB: how much slower through {name}", share, 10, "x", how)


def _large(ports: dict[str, int]) -> Iterator[Figure]:
    for what, path in (("a file", b"/large"), ("memory", b"/download?mb=1")):
        rates = _rates(ports, path, LARGE, 4)
        lost = {
            # Of each round's own pair, so that a busy moment of this machine counts for both.
            name: 100 * (1 - statistics.median(a / b for a, b in zip(rates[name], rates["direct"], strict=True)))
            for name in ports
            if name != "direct"
        }
        # An app that sends from memory does nothing but copy: there the machine's cores are what is shared, and
        # nginx is the measure of what a proxy can do.
        goal = 40.0 if what == "a file" else lost.get("nginx", 65.0) + 10
        how = f"4 connections, {_middle(rates)} MB/s"
        for name, value in lost.items():
            yield Figure(
                f"1 MB of {what}: throughput lost through {name}", value, 100 if name == "nginx" else goal, "%", how
            )


def _echo(ports: dict[str, int]) -> Iterator[Figure]:
    def echo(ws: ClientConnection) -> None:
        ws.send("x" * 1024)
        ws.recv(10)

    with contextlib.ExitStack() as stack:
        urls = {name: f"ws://127.0.0.1:{port}/socket" for name, port in ports.items()}
        ends = {name: stack.enter_context(connect(url, compression=None)) for name, url in urls.items()}
        times = _paced({name: partial(echo, ws) for name, ws in ends.items()})
    yield from _added("WebSocket echo of 1 KB", times)


def _paced(ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of each way, in turn and with pauses: what one visitor waits, not how much fits through."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(PACED + 20):
        for name, way in ways.items():
            time.sleep(0.003)
            began = time.perf_counter()
            way()
            if number >= 20:
                times[name].append((time.perf_counter() - began) * 1000)
    return times


def _added(what: str, times: dict[str, list[float]]) -> Iterator[Figure]:
    how = f"{PACED} each in turn, one every 3 ms"
    base = {share: percentile(times["direct"], share) for share in (0.5, 0.99)}
    for name, values in times.items():
        if name == "direct":
            continue
        for share, goal in ((0.5, 1.5), (0.99, 30.0)):
            added = percentile(values, share) - base[share]
            told = f"{how}; direct {base[share]:.2f} ms"
            yield Figure(f"{what}: added p{share * 100:.0f} through {name}", max(0.0, added), goal, "ms", told)


def _middle(rates: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {statistics.median(values):,.0f}" for name, values in rates.items())


def _events(ports: dict[str, int]) -> Figure:
    """How long a server-sent event is under way: each says when it was made, by the machine's own clock."""
    late: dict[str, list[float]] = {}
    for name, port in ports.items():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/clock?n=200")
        answer, took = connection.getresponse(), []
        while line := answer.readline():
            if line.startswith(b"data: "):
                took.append((time.monotonic() - float(line[6:])) * 1000)
        connection.close()
        assert len(took) == 200
        late[name] = took
    p50 = {name: percentile(values, 0.5) for name, values in late.items()}
    how = f"200 events, p50 direct {p50['direct']:.2f}, door {p50['door']:.2f} ms"
    return Figure("server-sent event: added through the door, p50", max(0.0, p50["door"] - p50["direct"]), 5, "ms", how)


def _memory(space: Space, agent: int) -> Iterator[Figure]:
    """2 GB each way; what the agent takes more at the worst."""
    want = hashlib.sha256()
    for _ in range(BODY_MB):
        want.update(main_app.MB)

    def download() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", space.port, timeout=60)
        connection.request("GET", f"/download?mb={BODY_MB}")
        answer, digest, buffer = connection.getresponse(), hashlib.sha256(), bytearray(1 << 18)
        while count := answer.readinto(buffer):
            digest.update(buffer[:count])
        assert digest.digest() == want.digest()
        connection.close()

    def upload() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", space.port, timeout=60)
        length = str(BODY_MB * len(main_app.MB))
        connection.request("PUT", "/upload", (main_app.MB for _ in range(BODY_MB)), {"Content-Length": length})
        told = json.load(connection.getresponse())
        assert told["sha256"] == want.hexdigest(), told
        connection.close()

    for name, work in (("download", download), ("upload", upload)):
        before = pss_mb(agent)
        began = time.monotonic()
        worst, looks = _worst(agent, work)
        how = f"from {before:.0f} MB, worst of {looks} looks, {BODY_MB / (time.monotonic() - began):.0f} MB/s"
        yield Figure(f"{name} of 2 GB: more memory in the agent", max(0.0, worst - before), 30, "MB", how)


def _worst(agent: int, work: Callable[[], None]) -> tuple[float, int]:
    over, looks = threading.Event(), [pss_mb(agent)]

    def look() -> None:
        while not over.wait(0.05):
            looks.append(pss_mb(agent))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return max(looks), len(looks)


def _crowd(space: Space, agent: int) -> Iterator[Figure]:
    """Connections that send half a head and wait, and one that sends junk as fast as it can."""
    before = pss_mb(agent)
    with contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", space.port), timeout=10))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2000)
        times = []
        for _ in range(200):
            began = time.perf_counter()
            assert space.get("/health")["status"] != "fail"
            times.append((time.perf_counter() - began) * 1000)
        worst = pss_mb(agent)
        how = f"{CROWD} connections with half a head of 2 KB each"
        yield Figure("slow heads: more memory in the agent", worst - before, 60, "MB", how)
        yield Figure("slow heads: /health p99", percentile(times, 0.99), 100, "ms", f"{how}, 200 requests")
    stop = threading.Event()

    def junk() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", space.port), timeout=5) as sock:
                sock.sendall(os.urandom(4096) + b"\r\n\r\n")
                sock.recv(4096)

    sender = threading.Thread(target=junk)
    sender.start()
    try:
        (space.disk / "data").mkdir(exist_ok=True)
        (space.disk / "data/written").write_text("under fire")
        began = time.monotonic()
        done = space.sidecar("checkpoint")
        took = time.monotonic() - began
        assert done.returncode == 0, done.stderr
    finally:
        stop.set()
        sender.join()
    yield Figure("checkpoint while junk comes in", took, 10, "s", "one sender, 4 KB of random bytes a connection")
    yield Figure("afterwards: more memory in the agent", pss_mb(agent) - before, 60, "MB", "crowd and junk are gone")
