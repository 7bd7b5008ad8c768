"""The web app on a TCP port and on the Unix socket, inside the agent's own event loop.

uvicorn's protocol does the HTTP; its ``Server`` is left out, for three reasons. Its main loop ticks ten times
a second, which alone costs 0.28 % of a core of the 0.3 % that an idle agent may use (measured, uvicorn 0.54;
without it 0.0015 %). It takes over signals, which are the supervisor's. And it can't tell an app on which of
two sockets a request came in, which decides what the caller may do.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from sidecar import log
from sidecar.web import unix
from sidecar.web.access import LISTENER, TCP, UNIX
from sidecar.web.crowd import Crowd, brief, places
from sidecar.web.guard import HEAD_MAX
from sidecar.web.protocol import Protocol

_BACKLOG = 128
_CONNECTIONS = 256
"""At most so many connections on each listener; beyond, who says nothing makes room, or ends with an answer."""
_KEEP_ALIVE_S = 15
_DOOR_CONNECTIONS = 2048
"""The same where a front door carries all of an app's visitors: each may hold a WebSocket for hours."""
_DOOR_KEEP_ALIVE_S = 75
"""Longer than a platform's proxy keeps its connections, so that it is the one to close them."""


class Web:
    """Serves ``app`` on ``host``:``port`` (0: any free port) and, unless None, on the socket ``socket_path``.

    With ``door`` the app passes visitors on to another one: more of them, and with answers that are dated already.
    ``problems`` says after `start` what could not be had: a code and a sentence for people each.
    """

    def __init__(
        self,
        app: Any,
        *,
        host: str,
        port: int,
        socket_path: Path | None,
        door: bool = False,
        turned_away: Callable[[], None] = lambda: None,
    ) -> None:
        self._door, self._turned_away = door, turned_away
        # A visitor of the front door costs a connection to the app too.
        self._places = places(_DOOR_CONNECTIONS, 2) if door else places(_CONNECTIONS, 1)
        self._config = Config(
            brief(app),
            http=Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",  # bad requests are anybody's, and our own app logs its own failures
            access_log=False,
            proxy_headers=False,  # whoever is forwarded must not look like somebody else: see access.py
            forwarded_allow_ips="127.0.0.1",  # unused; a main app's variables for uvicorn stay out
            workers=1,  # the same
            server_header=False,
            timeout_keep_alive=_DOOR_KEEP_ALIVE_S if door else _KEEP_ALIVE_S,
            h11_max_incomplete_event_size=HEAD_MAX,
        )
        self._config.load()
        self._host, self._port, self._path = host, port, socket_path
        self._states: list[ServerState] = []
        self._servers: list[asyncio.Server] = []
        self._inode: tuple[int, int] | None = None
        self._bound_port: int | None = None
        self.problems: dict[str, str] = {}

    @property
    def bound_port(self) -> int | None:
        """The TCP port that is served, None before `start` and where it could not be had."""
        return self._bound_port

    async def start(self) -> None:
        """Listen on both, or on what can be had: what can't is logged with the way out, not raised."""
        await self._start_tcp()
        if self._path is not None:
            await self._start_unix(self._path)

    async def stop(self, grace_s: float = 1.0) -> None:
        """Take no more requests, let those under way end for ``grace_s`` seconds, then cut them off."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._bound_port = None
        self._remove_socket()
        for state in self._states:
            for connection in list(state.connections):
                connection.shutdown()
        deadline = time.monotonic() + grace_s
        while any(state.connections for state in self._states) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for state in self._states:
            tasks = list(state.tasks)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=0.5)
            for connection in list(state.connections):
                if connection.transport is not None:
                    connection.transport.abort()

    async def _start_tcp(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(self._factory(TCP), self._host, self._port, backlog=_BACKLOG)
        except OSError as error:
            self._problem("port-unavailable", _no_port(self._host, self._port, error))
            return
        self._servers.append(server)
        self._bound_port = server.sockets[0].getsockname()[1]

    async def _start_unix(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock = unix.listen(path)
        except OSError as error:
            self._problem("socket-unavailable", _no_socket(path, error))
            return
        found = os.stat(path)
        self._inode = (found.st_dev, found.st_ino)
        self._servers.append(await loop.create_unix_server(self._factory(UNIX), sock=sock, backlog=_BACKLOG))

    def _factory(self, listener: str) -> Callable[[], Protocol]:
        # A state of its own each: however many connections hang on the port, our own commands get through.
        state = ServerState()
        self._states.append(state)
        crowd = Crowd(self._places, self._turned_away)
        return partial(Protocol, self._config, state, {LISTENER: listener}, crowd, dated=not self._door)

    def _problem(self, code: str, sentence: str) -> None:
        self.problems[code] = sentence
        log.warning("%s", sentence)

    def _remove_socket(self) -> None:
        if self._path is None or self._inode is None:
            return
        with contextlib.suppress(OSError):
            found = os.stat(self._path)
            if (found.st_dev, found.st_ino) == self._inode:  # a successor's stays
                os.unlink(self._path)
        self._inode = None


def _no_port(host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            reason, remedy = "another program has it", "Set SIDECAR_PORT to a free port"
        case errno.EACCES | errno.EPERM:
            reason, remedy = "this user may not take it", "Set SIDECAR_PORT to a port from 1024 on"
        case errno.EADDRNOTAVAIL:
            reason, remedy = "that is no address of this machine", "Set SIDECAR_HOST to 0.0.0.0"
        case _:
            reason, remedy = (
                error.strerror or str(error),
                "Set SIDECAR_HOST and SIDECAR_PORT to what can be had",
            )
    return (
        f"can't listen on {host}:{port}: {reason}. Restore, sync and the app go on as ever, "
        f"but /health and /status don't answer there. {remedy}, then restart."
    )


def _no_socket(path: Path, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        reason, remedy = "another agent answers there", "Give each agent its own SIDECAR_STATE_DIR"
    elif error.errno == errno.EEXIST:
        reason, remedy = "it is no socket and stays untouched", "Move it away"
    else:
        reason, remedy = error.strerror or str(error), "Set SIDECAR_STATE_DIR to another folder"
    return (
        f"can't make the command socket {str(path)!r}: {reason}. Restore, sync and the app go on as ever, "
        f"but `sidecar checkpoint` and `sidecar sync` don't reach this agent. {remedy}, then restart."
    )
