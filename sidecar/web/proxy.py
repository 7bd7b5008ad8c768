"""The front door: our own paths are answered here, everything else goes to the main app and back as it comes.

Bodies stream both ways and wait for whoever is slower; nothing is stored, nothing is limited in time as long as
both sides are there. While there is no app to ask, visitors get a page and programs a JSON that say why.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidecar import log
from sidecar.state import State
from sidecar.web import headers as rules
from sidecar.web import relay
from sidecar.web.access import CONNECTION, LISTENER, UNIX
from sidecar.web.connection import Asked, Connection, Lost, keep_alive
from sidecar.web.guard import origin_form
from sidecar.web.upstream import Unreachable, Upstream

CONTINUE_S = 1.0
"""A client that asks before it sends its body waits so long for the app's word, then for ours."""
_SAFE_AGAIN = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_SAY_AGAIN_S = 60.0


@dataclass(slots=True)
class _Way:
    """Where a request is: on which connection, and whether its sender still waits."""

    link: Connection | None = None
    left: bool = False
    sending: asyncio.Task[None] | None = None

    def leave(self) -> None:
        self.left = True
        if self.link is not None:
            self.link.close()


class Door:
    """An ASGI app: ``own`` answers ``paths`` and all below ``always``, ``upstream`` everything else."""

    def __init__(self, own: ASGIApp, paths: Iterable[str], always: str, state: State, upstream: Upstream) -> None:
        self._own, self._paths, self._always = own, frozenset(paths), always
        self._state, self._upstream = state, upstream
        self._said_mono = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["state"][CONNECTION]
        target: bytes = connection.target
        try:
            target, host = origin_form(scope["method"], target)
        except ValueError as error:
            return await self._say(scope, send, 400, "bad-target", str(error))
        if host is not None:
            path, _, query = target.partition(b"?")
            headers = [(b"host", host), *((name, value) for name, value in scope["headers"] if name != b"host")]
            scope = {**scope, "path": unquote(path), "raw_path": path, "query_string": query, "headers": headers}
        if self.owns(scope["path"]) or scope["state"].get(LISTENER) == UNIX:
            return await self._own(scope, receive, _dated(send))
        if connection.crowded:
            return await self._say(scope, send, 503, "busy", "all connections are in use; try again in a moment")
        return await self._pass_on(scope, target, receive, send)

    def close(self) -> None:
        """Let go of the connections to the app that wait for a request."""
        self._upstream.close()

    def owns(self, path: str) -> bool:
        """Is ``path`` (decoded) the sidecar's own? Then the app never sees it."""
        return path in self._paths or path == self._always or path.startswith(f"{self._always}/")

    async def _pass_on(self, scope: Scope, target: bytes, receive: Receive, send: Send) -> None:
        state = self._state
        if state.holds_main and not state.recovered:
            return await self._closed(scope, send, "recovering")
        asked, way = self._asked(scope, target), _Way()
        connection = scope["state"][CONNECTION]
        connection.on_leave(way.leave)
        state.door.requests += 1
        state.door.open += 1
        try:
            head = await self._ask(asked, way, receive)
            if way.left:  # seen in the same turn as the answer: a tunnel would wait for ends that are gone
                raise Lost("its sender has left", answered=True)
            state.upstream_seen = True
            state.clear("upstream-down")
            if head.status_code == 101:
                await self._switch(scope, way, head)
            elif not 200 <= head.status_code < 600:
                raise Lost(f"its status is {head.status_code}", answered=True)
            else:
                await self._answer(connection, asked, way, head, send)
        except (Lost, Unreachable) as error:
            if not way.left:
                await self._broken(scope, send, error)
        finally:
            state.door.open -= 1
            connection.on_leave(None)
            if way.sending is not None:
                way.sending.cancel()
            if way.link is not None:
                way.link.close()

    def _asked(self, scope: Scope, target: bytes) -> Asked:
        method: str = scope["method"]
        given = scope["headers"]
        framing = rules.framing(given)
        websocket = rules.wants_websocket(method, given)
        peer = scope.get("client")
        return Asked(
            method=method.encode("ascii"),
            target=target,
            headers=rules.to_upstream(
                given,
                peer=peer[0] if peer else None,
                default_host=self._upstream.authority,
                websocket=websocket,
            ),
            has_body=framing.has_body,
            chunked=framing.chunked,
            expects=framing.has_body and b"100-continue" in rules.tokens(given, b"expect"),
            websocket=websocket,
            repeatable=method in _SAFE_AGAIN and not framing.has_body and not websocket,
        )

    async def _ask(self, asked: Asked, way: _Way, receive: Receive) -> Any:
        """Send the request and wait for the answer's head. Raises Lost, Unreachable.

        A kept connection may be one that the app is closing this moment. What may be sent twice takes that
        chance, and is sent again; what may not gets a connection of its own, which costs 0.1 ms on one machine.
        """
        kept = self._upstream.kept() if asked.repeatable else None
        if kept is not None:
            try:
                return await _send_on(kept, asked, way, receive)
            except Lost as lost:
                if lost.answered or way.left:
                    raise
                kept.close()
        return await _send_on(await self._upstream.connect(), asked, way, receive)

    async def _answer(self, connection: Any, asked: Asked, way: _Way, head: Any, send: Send) -> None:
        """Pass the app's answer on. Raises Lost where it breaks off."""
        link = way.link
        assert link is not None
        self._state.measures.proxied(asked.method.decode("ascii"), head.status_code)
        headers = rules.to_client(list(head.headers), head.status_code)
        more = True

        async def pass_on() -> bool:
            if connection.behind:
                link.hold()
                await connection.caught_up()
            data, more = await link.read()
            if not more:
                # Before the last bytes are sent: a slow visitor doesn't keep the app's connection.
                way.link = None
                self._upstream.release(link)
            await send({"type": "http.response.body", "body": data, "more_body": more})
            return more

        with connection.together():
            await send({"type": "http.response.start", "status": head.status_code, "headers": headers})
            if link.ready:
                more = await pass_on()
        while more:
            more = await pass_on()

    async def _switch(self, scope: Scope, way: _Way, head: Any) -> None:
        """Both sides have agreed on a WebSocket: from here on bytes are only carried."""
        link = way.link
        assert link is not None
        transport, first, lost = scope["state"][CONNECTION].hand_over()
        way.link = None
        for each in (transport, link.transport):
            keep_alive(each)
        transport.write(rules.switching(head.headers) + link.rest())
        if first:
            link.transport.write(first)
        self._state.measures.proxied("GET", 101)
        self._state.door.websockets += 1
        try:
            await relay.carry(transport, link.transport, lost)
        finally:
            self._state.door.websockets -= 1

    async def _broken(self, scope: Scope, send: Send, error: Lost | Unreachable) -> None:
        """No answer, or half of one."""
        state = self._state
        state.door.failed += 1
        if isinstance(error, Lost) and scope["state"][CONNECTION].answering:
            log.debug("%s %s: the app broke off its answer: %s", scope["method"], scope["path"], error)
            scope["state"][CONNECTION].cut_off()  # nobody may take half of it for all of it
            return None
        if isinstance(error, Unreachable) and not state.upstream_seen and state.main_state != "exited":
            return await self._closed(scope, send, "starting")
        if isinstance(error, Unreachable) and state.main_state != "exited":
            state.note("upstream-down", f"the app accepts no connection on {self._upstream.url}: {error}")
        now = asyncio.get_running_loop().time()
        if now - self._said_mono >= _SAY_AGAIN_S and state.main_state != "exited":
            self._said_mono = now
            log.warning(
                "the app gave no answer on %s: %s. Visitors get a 502; files are still kept. See the app's own log",
                self._upstream.url,
                error,
            )
        return await self._closed(scope, send, "gone")

    async def _closed(self, scope: Scope, send: Send, why: str) -> None:
        from sidecar.web.pages import door  # few visitors ever see it

        answer = door.answer(why, self._state, scope["method"], scope["headers"])
        self._state.measures.proxied(scope["method"], answer[0])
        await _whole(send, *answer)

    async def _say(self, scope: Scope, send: Send, status: int, code: str, detail: str) -> None:
        from sidecar.web.pages import door

        await _whole(send, *door.refusal(status, code, detail))


def front(own: Starlette, always: str, state: State, url: str) -> Door:
    """The front door of the app at ``url``, with ``own`` for the paths of its routes and all below ``always``."""
    paths = [route.path for route in own.routes if isinstance(route, Route)]
    return Door(own, paths, always, state, Upstream(url))


async def _send_on(link: Connection, asked: Asked, way: _Way, receive: Receive) -> Any:
    way.link = link
    if way.left:
        raise Lost("its sender has left", answered=False)
    link.begin(asked)
    if asked.has_body:  # then it is sent once only, on this connection
        way.sending = asyncio.create_task(_send_body(link, asked, receive))
    return await link.head()


async def _send_body(link: Connection, asked: Asked, receive: Receive) -> None:
    """Send the request's body as it comes, for as long as both sides are there."""
    try:
        if asked.expects:
            # To receive the body is to invite it: not before the app does, or says nothing for a while.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONTINUE_S):
                    await link.went_on.wait()
            if link.answering:
                return None
        while (message := await receive())["type"] != "http.disconnect":
            if message.get("body"):
                await link.send(message["body"])
            if not message.get("more_body"):
                return link.finish()
    except Lost:
        pass  # whoever waits for the answer is told the same


def _dated(send: Send) -> Send:
    """Our own answers say when they were made; those of the app are dated by itself."""

    async def with_date(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"date", formatdate(usegmt=True).encode())]
        await send(message)

    return with_date


async def _whole(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    send = _dated(send)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
