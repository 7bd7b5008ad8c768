"""How the app is served: uvicorn with its connection handed to the app, and a quick stop."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.hub.app import HubApp
from tests.hub.state import Hub

HOST = "127.0.0.1"


class _Protocol(H11Protocol):
    """Faults cut connections, so the app needs the transport that each request came over."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Server(uvicorn.Server):
    """Wakes once a second (for the Date header) and stops at once: hundreds of tests start one each."""

    def __init__(self, hub: Hub) -> None:
        config = uvicorn.Config(
            HubApp(hub),
            http=_Protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            timeout_keep_alive=75,
            backlog=512,
        )
        super().__init__(config)
        self.hub = hub
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await self.on_tick(0)
        await super().startup(sockets)

    async def main_loop(self) -> None:
        while not self.should_exit:
            await self.on_tick(0)
            try:
                await asyncio.wait_for(self.hub.closing.wait(), 1.0)
            except TimeoutError:
                pass

    def stop(self) -> None:
        """From any thread or signal handler."""
        self.should_exit = True
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.hub.closing.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        tasks = self.server_state.tasks
        for _ in range(50):
            if not tasks:
                break
            await asyncio.sleep(0.01)
        left: list[asyncio.Task[Any]] = list(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)


def bind(port: int = 0) -> socket.socket:
    """A listening socket on loopback. Raises OSError where the port is taken."""
    # With the protocol named asyncio sets TCP_NODELAY; without it each answer may wait 40 ms for an ACK.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, port))
        sock.listen(512)
    except BaseException:
        sock.close()
        raise
    return sock


def prepare(hub: Hub, port: int) -> tuple[Server, list[socket.socket]]:
    """A server for `hub` and its two sockets: the Hub's, and the CDN's on a port (an origin) of its own."""
    front = bind(port)
    try:
        side = bind()
    except BaseException:
        front.close()
        raise
    hub.host = f"{HOST}:{front.getsockname()[1]}"
    hub.cdn = f"http://{HOST}:{side.getsockname()[1]}"
    return Server(hub), [front, side]
