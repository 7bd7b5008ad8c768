"""The queue of `examples/queue` among its submitters, the outside and a killer; and what came of every job."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.journeys.space import REPO, Space, free_port, living

APP = str(REPO / "examples/queue/app.py")


@dataclass
class Tale:
    """What happened, as seen from outside."""

    accepted: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)
    effects: Counter[str] = field(default_factory=Counter)
    late: list[str] = field(default_factory=list)
    """Keys whose effect was asked for after "done" had been reported."""
    kills: int = 0


@contextlib.contextmanager
def outside(tale: Tale) -> Iterator[str]:
    """Somebody who has effects, and notes every key that comes; the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            key = self.headers["Idempotency-Key"]
            self.rfile.read(int(self.headers["Content-Length"]))
            tale.effects[key] += 1
            if key in tale.reported:
                tale.late.append(key)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/effects"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def call(url: str, body: object = None) -> tuple[int, dict[str, object]]:
    """One request to the app; status 0 while nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, {}
    except (OSError, ValueError, http.client.HTTPException):  # killed before, or in, its answer
        return 0, {}


def campaign(home: Path, kills: int, seed: int, submitters: int = 3) -> Tale:
    """Kill the whole container ``kills`` times while jobs come in; in two of three the disk is lost as well."""
    rng, tale, over = random.Random(seed), Tale(), threading.Event()
    port = free_port()
    app = f"http://127.0.0.1:{port}/jobs"

    def submit(name: str) -> None:
        number = 0
        while not over.is_set():
            key = f"{name}-{number}"
            status, _ = call(app, {"key": key, "payload": number})
            if status == 201:
                tale.accepted.add(key)
                number += 1
            else:
                time.sleep(0.05)

    def ask() -> None:
        while not over.is_set():
            for key in tale.accepted - tale.reported:
                status, body = call(f"{app}/{key}")
                if (status, body.get("state")) == (200, "done"):
                    tale.reported.add(key)
            time.sleep(0.05)

    with outside(tale) as url:
        store = f"file://{home}/store"
        env = {"QUEUE_DIR": str(home / "disk/data"), "QUEUE_OUTSIDE": url, "QUEUE_PORT": str(port)}
        with living(Space(home, store, paths=f"queue={home}/disk/data", **env)) as space:
            threads = [threading.Thread(target=submit, args=(f"s{n}",)) for n in range(submitters)]
            for thread in [*threads, threading.Thread(target=ask)]:
                thread.start()
            try:
                while tale.kills < kills:
                    space.start(sys.executable, APP)
                    space.running(60)
                    time.sleep(rng.uniform(0.3, 2.5))
                    space.kill()
                    tale.kills += 1
                    if rng.random() < 2 / 3:
                        space.lose_disk()
                space.start(sys.executable, APP)
                space.running(60)
                over.set()
                for thread in threads:
                    thread.join(60)
                until = time.monotonic() + 60
                while tale.accepted - tale.reported and time.monotonic() < until:
                    for key in tale.accepted - tale.reported:
                        if call(f"{app}/{key}") == (200, {"key": key, "state": "done"}):
                            tale.reported.add(key)
                    time.sleep(0.1)
                space.running(60)  # a SIGTERM before Python has started would find nobody to handle it
                code = space.end()
                assert code in (143, 0), (code, space.said())
                assert "Traceback" not in space.said(), space.said()
            finally:
                over.set()
    return tale


def require_kept(tale: Tale) -> None:
    """No job lost, and none asked for again once it was reported."""
    assert tale.accepted, "nothing was ever accepted"
    assert tale.accepted - tale.reported == set(), "accepted and lost"
    assert tale.late == [], "done, reported and done again"
    assert set(tale.effects) >= tale.accepted
    # Each kill costs at most the batch that was under way and not yet durable.
    repeats = sum(count - 1 for count in tale.effects.values())
    assert repeats <= tale.kills * 20
