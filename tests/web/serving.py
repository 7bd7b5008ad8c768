"""A real server around a state, in a thread of its own, and requests to it as any client could send them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidecar.state import RootState, State
from sidecar.web.app import ALWAYS, build
from sidecar.web.proxy import Door, front
from sidecar.web.server import Web
from sidecar.web.unix import address
from sidecar.web.verbs import Answer


def state_of(**changes: Any) -> State:
    """A healthy, running state; ``changes`` are set on it."""
    state = State(instance="i-1", version="0.1.0", space="me/space", store="hf://datasets/me/x", persistent=True)
    state.phase, state.recovered, state.ready, state.main_state = "running", True, True, "running"
    state.lease, state.epoch = "held", 7
    state.roots["data"] = RootState("data", files=3, bytes=1234, state="durable")
    for name, value in changes.items():
        assert hasattr(state, name), name
        setattr(state, name, value)
    return state


@dataclass
class Verbs:
    """Stands where the agent will: it remembers what was asked, and answers what it was told to."""

    answer: Answer = field(default_factory=lambda: Answer(200, {"snapshot": "7.1", "revision": "abc"}))
    error: Exception | None = None
    hold: asyncio.Event | None = None
    asked: list[tuple[Any, ...] | str] = field(default_factory=list)

    async def checkpoint(self, roots: tuple[str, ...], timeout_s: float) -> Answer:
        self.asked.append((roots, timeout_s))
        return await self._come_to()

    async def sync(self) -> Answer:
        self.asked.append("sync")
        return await self._come_to()

    async def forget(self, path: str, dry_run: bool) -> Answer:
        self.asked.append(("forget", path, dry_run))
        return await self._come_to()

    async def prune(self, keep_last: int | None, keep_within_s: float | None, dry_run: bool) -> Answer:
        self.asked.append(("prune", keep_last, keep_within_s, dry_run))
        return await self._come_to()

    async def _come_to(self) -> Answer:
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return self.answer


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A running server; ``loop`` is where it runs."""

    web: Web
    state: State
    verbs: Verbs
    socket_path: Path
    loop: asyncio.AbstractEventLoop

    @property
    def port(self) -> int:
        assert self.web.bound_port is not None
        return self.web.bound_port

    def ask(self, target: str, method: str = "GET", headers: dict[str, str] | None = None) -> Reply:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            return _ask(connection, target, method, headers or {})

    def ask_unix(self, target: str, method: str = "GET", headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection), address(self.socket_path) as name:
            connection.sock.connect(name)
            return _ask(connection, target, method, headers or {})

    def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            sock.sendall(data)
            return b"".join(iter(lambda: sock.recv(65536), b""))


def _ask(connection: http.client.HTTPConnection, target: str, method: str, headers: dict[str, str]) -> Reply:
    connection.request(method, target, headers=headers)
    response = connection.getresponse()
    named = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, named, response.read())


@contextlib.contextmanager
def serving(
    folder: Path,
    state: State | None = None,
    verbs: Verbs | None = None,
    *,
    prefix: str | None = None,
    api_token: str | None = None,
    upstream: bool = False,
    app_url: str | None = None,
    port: int = 0,
) -> Iterator[Served]:
    state, verbs = state or state_of(), verbs or Verbs()
    door = app_url is not None
    own = build(state, verbs, prefix=prefix, api_token=api_token, upstream=upstream or door)
    app: Any = own if app_url is None else front(own, ALWAYS, state, app_url)
    web = Web(
        app,
        host="127.0.0.1",
        port=port,
        socket_path=folder / "agent.sock",
        door=door,
        turned_away=state.measures.turned,
    )
    started, finish = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def life() -> None:
        await web.start()
        started.set()
        await finish.wait()
        await web.stop(grace_s=0.5)
        await asyncio.sleep(0.05)  # transports that were cut off close in a later turn
        if isinstance(app, Door):
            app.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(life()), daemon=True)
    thread.start()
    try:
        assert started.wait(10)
        yield Served(web, state, verbs, folder / "agent.sock", loop)
    finally:
        loop.call_soon_threadsafe(finish.set)
        thread.join(10)
        assert not thread.is_alive()
        loop.close()
