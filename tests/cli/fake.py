"""An agent that answers what a test tells it to, over a real socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any


@dataclass
class Script:
    """What to answer, and what was asked. ``cut``: hang up instead."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    cut: bool = False
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


def handler(script: Script) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            if script.cut:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = script.raw if script.raw is not None else json.dumps(script.body).encode()
            self.send_response(script.status)
            for name, value in {"content-length": str(len(body)), **script.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *args: object) -> None: ...

    return Handler


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None: ...


@contextmanager
def agent(path: Path, script: Script) -> Iterator[Script]:
    """Serve ``script`` on the Unix socket ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _Server(str(path), handler(script)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join(5)
            path.unlink(missing_ok=True)
