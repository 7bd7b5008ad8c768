"""The main app's address, and the connections to it that are kept for the next request."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from sidecar.web.connection import Connection

CONNECT_S = 5.0
"""A local app accepts within microseconds or refuses; one whose backlog is full gets this long."""
IDLE_MAX = 64


class Unreachable(Exception):
    """No connection to the app could be had."""


class Upstream:
    """The main app's address, and the connections to it that wait for a request.

    There is no limit here: each connection belongs to a request, and the server limits those.
    """

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        self.url = url
        self.host, self.port = at.hostname or "127.0.0.1", at.port or 80
        self.authority = at.netloc.encode("ascii", "replace")
        self._idle: set[Connection] = set()

    async def connect(self) -> Connection:
        """A fresh connection. Raises Unreachable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                _, connection = await loop.create_connection(Connection, self.host, self.port)
        except TimeoutError:
            raise Unreachable(f"it accepts no connection within {CONNECT_S:.0f} s") from None
        except OSError as error:
            raise Unreachable(error.strerror or str(error)) from None
        return connection

    def kept(self) -> Connection | None:
        """A connection that was used before and waits, if there is one: the app may be closing it just now."""
        while self._idle:
            connection = self._idle.pop()
            connection.wake()
            if not connection.transport.is_closing():
                return connection
        return None

    def release(self, connection: Connection) -> None:
        """The request on ``connection`` is over: keep it for another, or close it."""
        if len(self._idle) < IDLE_MAX and connection.renew():
            connection.rest_in(self._idle)
        else:
            connection.close()

    def close(self) -> None:
        for connection in list(self._idle):
            connection.close()
