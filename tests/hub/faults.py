"""Faults on request: rules that make an endpoint fail in the ways that networks and the Hub do."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any

from starlette.responses import Response

from tests.hub.wire import HubError

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Receive, Send], Awaitable[None]]

ACTIONS = (
    "pass",  # only the delay
    "status",  # answer `status`; the request has no effect
    "hang",  # never answer
    "cut_request",  # RST after `after` bytes of the request's body; no effect
    "cut_response",  # RST after `after` bytes of the answer's body
    "truncate",  # close in order after `after` bytes, though Content-Length said more
    "short",  # `after` bytes and a Content-Length that agrees: only a checksum tells
    "corrupt",  # one byte of the answer's body flipped, at `after` or in the middle
    "land_then_status",  # do it, then answer `status`
    "land_then_cut",  # do it, then RST instead of an answer
    "land_then_hang",  # do it, then never answer
)
_IDS = itertools.count(1)
_LINGER_NONE = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Rule:
    """Which requests (all given patterns must match), how often (`times`, None for ever; the first `skip` go
    free), and what happens to them: `delay` seconds first, then `action`."""

    action: str = "status"
    endpoint: str | None = None
    method: str | None = None
    path: str | None = None
    skip: int = 0
    times: int | None = 1
    delay: float = 0.0
    status: int = 500
    body: str = '{"error":"Internal Server Error"}'
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int | None = None
    id: int = field(default_factory=lambda: next(_IDS))
    fired: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Rule:
        """Raises HubError 400 for an unknown field or action, or a path that is no regular expression."""
        unknown = set(value) - {f.name for f in fields(cls)}
        if unknown:
            raise HubError(400, f"unknown fault fields: {', '.join(sorted(unknown))}")
        rule = cls(**value)
        if rule.action not in ACTIONS:
            raise HubError(400, f"unknown fault action {rule.action!r}, use one of {', '.join(ACTIONS)}")
        try:
            re.compile(rule.path or "")
        except re.error as exc:
            raise HubError(400, f"fault path is no regular expression: {exc}") from None
        return rule

    def matches(self, endpoint: str, method: str, path: str) -> bool:
        return (
            (self.endpoint is None or fnmatchcase(endpoint, self.endpoint))
            and (self.method is None or self.method == method)
            and (self.path is None or re.search(self.path, path) is not None)
        )


class Faults:
    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def take(self, endpoint: str, method: str, path: str) -> Rule | None:
        """The first rule for this request that isn't used up, counted as fired."""
        for rule in self.rules:
            if (rule.times is None or rule.fired < rule.times) and rule.matches(endpoint, method, path):
                if rule.skip > 0:
                    rule.skip -= 1
                    continue
                rule.fired += 1
                return rule
        return None


async def apply(
    rule: Rule, app: App, scope: Mapping[str, Any], receive: Receive, send: Send, closing: asyncio.Event
) -> None:
    """Run `app` for one request as `rule` says. `closing` ends delays and hangs when the server stops."""
    transport = scope["state"]["transport"]
    if rule.delay:
        try:
            await asyncio.wait_for(closing.wait(), rule.delay)
        except TimeoutError:
            pass
    match rule.action:
        case "pass":
            await app(receive, send)
        case "status":
            await _drain(receive, None)
            await _reply(rule, scope, receive, send)
        case "hang":
            await _hang(receive, transport, closing)
        case "cut_request":
            await _drain(receive, rule.after or 0)
            await reset(transport)
        case "land_then_status":
            await app(receive, _swallow)
            await _reply(rule, scope, receive, send)
        case "land_then_cut":
            await app(receive, _swallow)
            await reset(transport)
        case "land_then_hang":
            await app(receive, _swallow)
            await _hang(receive, transport, closing)
        case _:
            await app(receive, _Spoiler(rule, transport, send))


class _Spoiler:
    """Stands between app and connection and spoils the answer's body."""

    def __init__(self, rule: Rule, transport: asyncio.Transport, send: Send) -> None:
        self.rule, self.transport, self.send = rule, transport, send
        self.sent, self.at, self.over = 0, rule.after or 0, False

    async def __call__(self, message: Message) -> None:
        if self.over:
            return
        if message["type"] == "http.response.start":
            length = next((int(v) for k, v in message["headers"] if k.lower() == b"content-length"), 0)
            if self.rule.after is None:
                self.at = length // 2
            if self.rule.action == "short":
                keep = [(k, v) for k, v in message["headers"] if k.lower() != b"content-length"]
                size = str(min(self.at, length)).encode()
                message = {**message, "headers": [*keep, (b"content-length", size)]}
            await self.send(message)
            return
        body = message.get("body", b"")
        start, self.sent = self.sent, self.sent + len(body)
        if self.rule.action == "corrupt":
            if start <= self.at < self.sent:
                spot = self.at - start
                body = body[:spot] + bytes([body[spot] ^ 0xFF]) + body[spot + 1 :]
            await self.send({**message, "body": body})
            return
        if self.sent < self.at and message.get("more_body"):
            await self.send(message)
            return
        self.over = True
        kept = body[: max(0, self.at - start)]
        if self.rule.action == "short":
            await self.send({**message, "body": kept, "more_body": False})
            return
        await self.send({**message, "body": kept, "more_body": True})
        if self.rule.action == "truncate":
            self.transport.close()
            await _gone(self.transport)
        else:
            # A reset makes the peer's kernel drop what it hasn't read: give it time to read its part.
            await asyncio.sleep(0.05)
            await reset(self.transport)


async def reset(transport: asyncio.Transport) -> None:
    """Cut the connection so that the peer gets a RST, not an orderly end."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:  # the client may have gone first
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    transport.abort()
    await _gone(transport)


async def _gone(transport: asyncio.Transport) -> None:
    # The server learns of the loss in a later turn of the loop; until then it would miss an answer.
    for _ in range(200):
        await asyncio.sleep(0 if transport.is_closing() and not transport.get_write_buffer_size() else 0.005)
        if transport.is_closing() and not transport.get_write_buffer_size():
            break
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def _drain(receive: Receive, limit: int | None) -> None:
    """Read the request's body, at most `limit` bytes of it."""
    seen = 0
    while limit is None or seen < limit:
        message = await receive()
        seen += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


async def _hang(receive: Receive, transport: asyncio.Transport, closing: asyncio.Event) -> None:
    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    waits = [asyncio.ensure_future(left()), asyncio.ensure_future(closing.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    if closing.is_set():
        await reset(transport)


async def _swallow(_: Message) -> None:
    return None


async def _reply(rule: Rule, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    response = Response(rule.body, rule.status, dict(rule.headers), media_type="application/json")
    await response(scope, receive, send)  # type: ignore[arg-type]
