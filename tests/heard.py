"""A place that things are posted to: a real HTTP server that notes what it hears, and answers as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float  # monotonic


@dataclass
class Heard:
    """``answers`` are the statuses of the next answers (200 when there are none left); 0 is none at all."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    def until(self, what: Callable[[list[Call]], Any], seconds: float = 15, else_: Callable[[], str] = str) -> Any:
        end = time.monotonic() + seconds
        while not (found := what(list(self.calls))):
            assert time.monotonic() < end, f"{[(c.path, c.body.get('event')) for c in self.calls]}\n{else_()}"
            time.sleep(0.02)
        return found

    def events(self) -> list[str]:
        return [call.body["event"] for call in self.calls]

    def paths(self) -> list[str]:
        return [call.path for call in self.calls]


@contextmanager
def hearing() -> Iterator[Heard]:
    heard = Heard()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            heard.calls.append(Call("POST", self.path, dict(self.headers), json.loads(raw), time.monotonic()))
            status = heard.answers.pop(0) if heard.answers else 200
            if status == 0:
                heard.gone.wait(60)
                return
            self.send_response(status)
            if status in (301, 302, 307):
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    heard.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield heard
    finally:
        heard.gone.set()
        server.shutdown()
        server.server_close()
