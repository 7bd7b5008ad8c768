"""What strangers can do to the port: a thousand silent connections, junk, and as many requests as one core sends.

The agent's memory, its health checks and a sync are measured meanwhile.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

from bench.figure import Figure, percentile, pss_mb
from tests.journeys.space import Space, agent_of, living

CONNECTIONS = 1000
FOR_S = 8.0
HEADS = [
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /status HTTP/1.1\r\nHost: " + b"y" * 4000 + b"\r\nAccept: text/html\r\n\r\n",
    b"POST /checkpoint HTTP/1.1\r\nHost: evil\r\nContent-Length: 60000\r\n\r\n" + b"z" * 60000,
    b"POST /sync HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer guess\r\n\r\n",
    b"GET /" + b"%41" * 3000 + b" HTTP/1.1\r\nHost: x\r\n" + b"X-Junk: 1\r\n" * 100 + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50,
]


def measure(folder: Path) -> Iterator[Figure]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * CONNECTIONS)), hard))
    attacks: list[tuple[str, Callable[[int, threading.Event], int]]] = [
        ("1,000 silent connections", silent),
        ("junk of all kinds", junk),
    ]
    if shutil.which("wrk"):
        attacks.append(("what one core of wrk sends", wrk))
    else:
        print("     (wrk is not here, `apt-get install wrk` brings it: not measured)")
    for name, attack in attacks:
        with living(Space(folder / attack.__name__, f"file://{folder}/{attack.__name__}-store")) as space:
            (space.disk / "data").mkdir()
            space.start()
            space.running()
            space.checkpoint()
            yield from under(space, name, attack)


def under(space: Space, name: str, attack: Callable[[int, threading.Event], int]) -> Iterator[Figure]:
    agent = agent_of(space)
    before = max(pss_mb(agent) for _ in range(3))
    over, count = threading.Event(), [0]
    strangers = threading.Thread(target=lambda: count.__setitem__(0, attack(space.port, over)))
    strangers.start()
    time.sleep(1.0)
    times, lags, worst, until = [], [], 0.0, time.monotonic() + FOR_S
    refused, sync_at = 0, 0.0
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", space.port, timeout=10)
            connection.request("GET", "/health")
            refused += connection.getresponse().status != 200
            connection.close()
        except OSError:
            refused += 1
        times.append((time.monotonic() - began) * 1000)
        if time.monotonic() >= sync_at:
            (space.disk / "data" / "file").write_bytes(os.urandom(1000))
            began = time.monotonic()
            done = space.sidecar("checkpoint")
            assert done.returncode == 0, done.stderr
            lags.append(time.monotonic() - began)
            sync_at = time.monotonic() + 1.5
        worst = max(worst, pss_mb(agent))
        time.sleep(0.01)
    over.set()
    strangers.join(30)
    what = "requests" if attack is wrk else "connections"
    how = f"{len(times)} health checks, p50 {percentile(times, 0.5):.1f} ms, {count[0]:,} {what}"
    yield Figure(f"/health p99 under {name}", percentile(times, 0.99), 250, "ms", how)
    yield Figure(f"/health not 200 under {name}", refused, 0, "", f"of {len(times)}")
    yield Figure(f"more memory under {name}", worst - before, 30, "MB", f"PSS of the agent, {before:.0f} MB before")
    yield Figure(f"a checkpoint under {name}", max(lags), 5, "s", f"the worst of {len(lags)}, the command included")


def silent(port: int, over: threading.Event) -> int:
    """Keep so many connections that say nothing, or half a head; those that are cut off come again."""
    open_: list[socket.socket] = []
    count = 0
    while not over.is_set():
        for sock in list(open_):
            with contextlib.suppress(BlockingIOError, InterruptedError):
                try:
                    if sock.recv(1) == b"":
                        raise ConnectionResetError
                except ConnectionError:
                    open_.remove(sock)
                    sock.close()
        while len(open_) < CONNECTIONS and not over.is_set():
            try:
                sock = socket.create_connection(("127.0.0.1", port), timeout=1)
            except OSError:
                break
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.send(random.choice([b"", b"GET /hea", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: "]))
            open_.append(sock)
            count += 1
        over.wait(0.05)
    for sock in open_:
        sock.close()
    return count


def junk(port: int, over: threading.Event) -> int:
    """All kinds of requests, well formed and not, one connection after the other, as fast as one core can."""
    count = 0
    while not over.is_set():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
            sock.sendall(random.choice(HEADS))
            sock.recv(4096)
        count += 1
    return count


WRK = """
local paths = {"/health", "/status", "/metrics", "/nothing", "/" .. string.rep("%%41", 2000)}
local n = 0
request = function()
  n = n + 1
  local headers = {["Accept"] = "text/html", ["X-Junk"] = string.rep("j", 2000), ["X-Forwarded-For"] = tostring(n)}
  return wrk.format(n % 3 == 0 and "POST" or "GET", paths[n % #paths + 1], headers, nil)
end
"""


def wrk(port: int, over: threading.Event) -> int:
    """64 connections of wrk on one thread, each asking again as soon as it is answered."""
    with NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK)
        script.flush()
        # It waits for the core's attention like any program: nice would only hide what it does.
        argv = ["wrk", "-t1", "-c64", f"-d{FOR_S + 4:.0f}s", "-s", script.name, f"http://127.0.0.1:{port}/"]
        said = subprocess.run(argv, capture_output=True, text=True, timeout=FOR_S + 30).stdout
    found = re.search(r"(\d+) requests in", said)
    return int(found[1]) if found else 0
