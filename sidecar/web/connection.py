"""One connection to the main app: h11 speaks HTTP on it, asyncio carries it, one request after another."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import h11

from sidecar.web.guard import HEAD_MAX
from sidecar.web.headers import tokens, values

IDLE_S = 4.0
"""Less than the 5 s after which Node and uvicorn close a connection, so that we close first."""
_HIGH = 256 * 1024
"""So much of a response may wait for its reader before the app's socket is left alone."""


class Lost(Exception):
    """The connection to the app broke, or what came on it was no HTTP. ``answered``: after its first byte."""

    def __init__(self, reason: str, *, answered: bool) -> None:
        super().__init__(reason)
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the app gets it."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    has_body: bool
    chunked: bool
    expects: bool
    websocket: bool
    repeatable: bool
    """May it be sent again where a kept connection turns out to be closed (RFC 9110, section 9.2.2)?"""


class Connection(asyncio.Protocol):
    """One connection: one request after another, with at most one reader and one writer at a time.

    h11 reads what the app says, heads and chunks; a body of known length is counted here, which spares each of
    its bytes three copies. What is sent was read by h11 on its way in, and is written as it came.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until it is made
        self.went_on = asyncio.Event()
        """Set once the app has said `100 Continue`, or anything after it."""
        self.idle_in: set[Connection] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._lost: Lost | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._paused_reading = False
        self._full = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._start()

    def _start(self) -> None:
        """As it is before each request."""
        self._h11 = h11.Connection(h11.CLIENT, HEAD_MAX)
        self._method = b""
        self._chunked = self._sent = False
        self._head: h11.Response | h11.InformationalResponse | None = None
        self._left: int | None = None  # of a body of known length
        self._ended = self._answered = self._again = False

    # what its user calls

    def begin(self, asked: Asked) -> None:
        """Send a request's head, and all of it where it has no body. Raises Lost."""
        if self._lost is not None:
            raise self._lost
        self._method, self._chunked, self._sent = asked.method, asked.chunked, not asked.has_body
        # For h11 the request is over at once: all that it needs to know is what an answer to it looks like.
        self._h11.send(_hello(asked.method, asked.websocket))
        self._h11.send(h11.EndOfMessage())
        lines = [b"%b %b HTTP/1.1" % (asked.method, asked.target)]
        lines += [b"%b: %b" % header for header in asked.headers]
        self.transport.write(b"\r\n".join([*lines, b"", b""]))

    async def send(self, data: bytes) -> None:
        """Send some of the body, and wait while the app takes no more. Raises Lost."""
        if self._lost is not None:
            raise self._lost
        if self._chunked:
            self.transport.writelines([b"%x\r\n" % len(data), data, b"\r\n"])
        else:
            self.transport.write(data)
        if self._full:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
            if self._lost is not None:
                raise self._lost

    def finish(self) -> None:
        """The request's body ends here."""
        if self._lost is None:
            self._sent = True
            if self._chunked:
                self.transport.write(b"0\r\n\r\n")

    async def head(self) -> h11.Response | h11.InformationalResponse:
        """The response's head, or that of a 101. Raises Lost."""
        while self._head is None:
            await self._more()
        return self._head

    async def read(self) -> tuple[bytes, bool]:
        """What has come of the body, and whether more follows; waits for something to come. Raises Lost."""
        while not self._chunks and not self._ended:
            self._go_on()
            await self._more()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        self._go_on()
        return data, not self._ended

    def hold(self) -> None:
        """Leave what more the app sends to it until the next `read`: thousands of slow readers cost memory else."""
        if not self._paused_reading and not self._ended:
            self._paused_reading = True
            self.transport.pause_reading()

    def _go_on(self) -> None:
        if self._paused_reading:
            self._paused_reading = False
            self.transport.resume_reading()

    @property
    def answering(self) -> bool:
        """Has the response's head come?"""
        return self._head is not None

    @property
    def ready(self) -> bool:
        """Would `read` return at once?"""
        return bool(self._chunks) or self._ended

    def rest(self) -> bytes:
        """What came behind a 101: the new protocol's first bytes."""
        return self._h11.trailing_data[0]

    def renew(self) -> bool:
        """Make ready for the next request; False where the connection can't take one."""
        if not (self._ended and self._sent and self._again) or self._lost is not None or self.transport.is_closing():
            return False
        self._start()
        self.went_on.clear()
        return True

    def rest_in(self, idle: set[Connection]) -> None:
        """Wait in ``idle`` for the next request, at most IDLE_S."""
        idle.add(self)
        self.idle_in = idle
        self._expiry = asyncio.get_running_loop().call_later(IDLE_S, self.close)

    def wake(self) -> None:
        """A request is coming."""
        if self.idle_in is not None:
            self.idle_in.discard(self)
            self.idle_in = None
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def close(self) -> None:
        """Whatever is under way is over, for the app too."""
        self.wake()
        self._fail("closed")
        if self.transport is not None:
            self.transport.abort()

    # what the transport calls

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.idle_in is not None:
            self.close()  # an answer that nobody asked for, a 408 perhaps: it must not become the next one's
            return
        self._answered = True
        if self._left is None:
            self._parse(data)
        else:
            self._count(data)
        if self._size > _HIGH:
            self.hold()
        self._settle("_reader")

    def eof_received(self) -> None:
        if self._left is None:
            self._parse(b"")  # an HTTP/1.0 body may end so
            self._settle("_reader")

    def connection_lost(self, exc: Exception | None) -> None:
        self.wake()
        self._fail(str(exc) if exc is not None and str(exc) else "it closed the connection")

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._settle("_writer")

    def _parse(self, data: bytes) -> None:
        try:
            self._h11.receive_data(data)
            while (event := self._h11.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if type(event) is h11.ConnectionClosed or self._note(event):
                    return
        except h11.RemoteProtocolError as error:
            self._fail(f"its answer is no HTTP: {error}" if data else "it closed the connection")
            self.transport.abort()

    def _note(self, event: Any) -> bool:
        """True where what follows is not h11's business."""
        kind = type(event)
        if kind is h11.Data:
            self._keep(bytes(event.data))
        elif kind is h11.EndOfMessage:
            self._ended = True  # with its trailers, which nobody behind a proxy can rely on
            self._again = self._again and not self._h11.trailing_data[0]
        elif kind is h11.Response or event.status_code == 101:
            self._head = event
            self.went_on.set()
            if kind is h11.InformationalResponse:
                return True
            headers = list(event.headers)
            lengths = values(headers, b"content-length")
            chunked = bool(values(headers, b"transfer-encoding"))
            empty = self._method == b"HEAD" or event.status_code in (204, 304)
            self._again = (
                event.http_version >= b"1.1"
                and b"close" not in tokens(headers, b"connection")
                and (empty or chunked or bool(lengths))
            )
            if lengths and not chunked and not empty:
                self._left = int(lengths[0])
                self._count(self._h11.trailing_data[0])
                return True
        elif event.status_code == 100:
            self.went_on.set()
        return False

    def _count(self, data: bytes) -> None:
        assert self._left is not None
        if len(data) > self._left:
            self._again = False  # more than was announced: nobody's, and no next answer's
            data = data[: self._left]
        self._left -= len(data)
        self._keep(data)
        self._ended = self._left == 0

    def _keep(self, data: bytes) -> None:
        if data:
            self._chunks.append(data)
            self._size += len(data)

    async def _more(self) -> None:
        if self._lost is not None:
            raise self._lost
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader

    def _fail(self, reason: str) -> None:
        if self._lost is None:
            self._lost = Lost(reason, answered=self._answered)
        self.went_on.set()
        self._settle("_reader")
        self._settle("_writer")

    def _settle(self, name: str) -> None:
        waiter: asyncio.Future[None] | None = getattr(self, name)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


@lru_cache(64)
def _hello(method: bytes, websocket: bool) -> h11.Request:
    """A request like those that are sent, as far as its answer goes."""
    switch = [(b"connection", b"upgrade"), (b"upgrade", b"websocket")] if websocket else []
    return h11.Request(method=method, target=b"/", headers=[(b"host", b"-"), *switch])


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the kernel find out within minutes that the other end is gone: a WebSocket may be silent for hours."""
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3)):
            sock.setsockopt(socket.IPPROTO_TCP, option, seconds)
