"""One connection: uvicorn's protocol, with the bounds that a public port needs, and what a front door asks of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from sidecar.web.access import CONNECTION
from sidecar.web.crowd import Crowd
from sidecar.web.guard import Strict

_HEAD_S = 10.0
"""A request's head must arrive within this long: connections that say nothing may not use up all of them."""
_BODY_SILENCE_S = 30.0
"""Who owes a body and sends nothing of it for this long has to go, where somebody else needs the place."""


class _Held:
    """Stands for a transport while an answer's first pieces are gathered."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._closes = False

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def close(self) -> None:
        self._closes = True

    def is_closing(self) -> bool:
        return self._closes or self._transport.is_closing()

    def let_go(self) -> None:
        self._transport.write(b"".join(self._parts))
        if self._closes:
            self._transport.close()


class Protocol(H11Protocol):
    """uvicorn's, with a limit on how long a request's head may take, and the Date that its tick would set.

    A front door finds it in the scope: it can take the connection over, or cut it off.
    """

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], crowd: Crowd, *, dated: bool
    ) -> None:
        super().__init__(config, server_state, {**app_state, CONNECTION: self})
        self.conn: Strict = Strict()
        self._dated, self._crowd = dated, crowd
        self._leave: Callable[[], None] | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._heard = self.loop.time()

    @property
    def crowded(self) -> bool:
        """Are all places taken by others who are at work?"""
        return self._crowd.full

    @property
    def target(self) -> bytes:
        """The present request's target as it came; a scope has it in two parts that lose a closing '?'."""
        return self.conn.target

    @property
    def answering(self) -> bool:
        """Has the present request's answer begun?"""
        return self.cycle.response_started

    @property
    def behind(self) -> bool:
        """Does the client take its answer more slowly than it comes?"""
        return bool(self.flow.write_paused)

    async def caught_up(self) -> None:
        """Wait until it is no longer behind, or gone."""
        await self.flow.drain()

    def on_leave(self, call: Callable[[], None] | None) -> None:
        """``call`` when the client goes away; None: no more."""
        self._leave = call
        if call is not None:
            self.flow.resume_reading()  # a client that isn't read from can't be seen to go

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is answered meanwhile leaves in one piece: each one costs a system call, and wakes the client."""
        cycle, held = self.cycle, _Held(self.transport)
        cycle.transport = held  # type: ignore[assignment]  # it does what a cycle does with one
        try:
            yield
        finally:
            cycle.transport = self.transport
            held.let_go()

    def hand_over(self) -> tuple[asyncio.Transport, bytes, Callable[[Exception | None], None]]:
        """Give the connection away: its transport, what came behind the request, and whom to tell of its end."""
        self.cycle.disconnected = True  # nothing more is said here, whatever becomes of the request's task
        self.flow.resume_reading()
        return self.transport, self.conn.trailing_data[0], self.connection_lost

    def cut_off(self) -> None:
        """End an answer in its middle, so that nobody takes it for all of it."""
        if self.scope["http_version"] == "1.0":
            # There a connection's end is the answer's: it has to be a reset.
            sock = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()

    @property
    def stuck(self) -> bool:
        return self.behind or self._owes

    @property
    def _owes(self) -> bool:
        # Where reading is paused it is the app that takes nothing.
        owes = self.cycle is not None and self.cycle.more_body and not self.flow.read_paused
        return owes and self.loop.time() - self._heard > _BODY_SILENCE_S

    def turn_away(self) -> None:
        self.connections.discard(self)  # at once: a request that is looked at before its end is known finds a place
        self.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next one, which lay there already, is under way
            self._crowd.rests(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()
        self._crowd.comes(self)

    def data_received(self, data: bytes) -> None:
        if self._dated:
            date = formatdate(time.time(), usegmt=True).encode()
            self.server_state.default_headers = [(b"date", date)]
        self._heard = self.loop.time()
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn lets it run on after a reset: with all that the connection holds, for as long as one may be idle.
        self._unset_keepalive_if_required()
        if self._leave is not None:
            self._leave()
        self._crowd.leaves(self)
        if self._head_timer is not None:
            self._head_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                self.transport.close()  # the rest of a body that nobody wanted: its request is answered already
        elif cycle.response_started:
            self.transport.abort()  # a body gone wrong under an answer: another one can't be sent
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            super().send_400_response(msg)

    def _watch_head(self) -> None:
        """The clock runs while what comes belongs to no request under way: a head, an unwanted body."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._crowd.works(self)
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            return
        self._crowd.rests(self)
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_S, self.transport.abort)
