"""Spaces that answer what a test tells them to, over real HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WELL = {"status": "pass", "phase": "running", "epoch": 7, "lag_s": 0.0, "last_durable": None, "notes": []}


@dataclass
class Served:
    """One server. ``answers`` are given in turn, the last one again and again: (status, body), or seconds to hang."""

    answers: list[tuple[int, Any] | float] = field(default_factory=lambda: [(200, WELL)])
    paths: dict[str, tuple[int, Any]] = field(default_factory=dict)
    url: str = ""
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    hold: Callable[[], None] | None = None

    def next(self, path: str) -> tuple[int, Any] | float:
        if path in self.paths:
            return self.paths[path]
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def serving(*spaces: Served) -> Iterator[tuple[Served, ...]]:
    with _all([*spaces]):
        yield spaces


@contextmanager
def _all(spaces: list[Served]) -> Iterator[None]:
    if not spaces:
        yield
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(spaces[0]))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    spaces[0].url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with _all(spaces[1:]):
            yield
    finally:
        server.shutdown()
        server.server_close()


def _handler(space: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            headers = {k.lower(): v for k, v in self.headers.items()}
            space.asked.append((self.command, self.path, headers, self.rfile.read(size)))
            if space.hold is not None:
                space.hold()
            answer = space.next(self.path)
            if isinstance(answer, float):
                time.sleep(answer)
                return
            status, body = answer
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET

        def log_message(self, *args: object) -> None: ...

    return Handler
