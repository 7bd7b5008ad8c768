"""The sidecar's own paths, section 8 of the design: what is asked for, who may ask, what is answered.

Whatever reads answers from the state in memory and waits for nothing. Every response is made by `answers`,
so none goes out without the security headers; what the main app says goes through the front door untouched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sidecar import log
from sidecar.state import State
from sidecar.web import access
from sidecar.web.accept import prefers_html
from sidecar.web.answers import HEADERS, answer, error
from sidecar.web.gate import Gate
from sidecar.web.health import health, readiness, rfc3339
from sidecar.web.status import status
from sidecar.web.verbs import Asking, Verbs

ALWAYS = "/_sidecar"
"""Every path also answers below this one, whatever the short one means in this container."""
OPENAPI = Path(__file__).with_name("openapi.json")
"""What all of this answers, for programs: OpenAPI 3.1."""
PAGE_S = 0.5
"""So long strangers get the same page again: making one costs as much as ten other answers."""

Endpoint = Callable[[Request], Awaitable[Response]]


def build(state: State, verbs: Verbs, *, prefix: str | None, api_token: str | None, upstream: bool) -> Starlette:
    """The web app over ``state``.

    ``prefix`` (a path, or nothing) stands before every path; ``/_sidecar/…`` answers besides. ``upstream``
    says that a front door passes visitors on: then nobody counts as local for coming from this machine.
    """
    base = "/" + prefix.strip("/") if prefix and prefix.strip("/") else ""
    gate = Gate(state, api_token or None, upstream)
    own, asking = _Own(state, gate, api_token or None, upstream), Asking(state, verbs, gate)
    paths: dict[str, tuple[str, Endpoint]] = {
        "/health": ("GET", own.health),
        "/livez": ("GET", own.livez),
        "/readyz": ("GET", own.readyz),
        "/status": ("GET", own.status),
        "/heartbeat": ("GET", own.heartbeat),
        "/metrics": ("GET", own.metrics),
        "/checkpoint": ("POST", asking.checkpoint),
        "/sync": ("POST", asking.sync),
    }
    own.paths = tuple(base + path for path in paths)
    routes = [
        Route(start + path, endpoint, methods=[method])
        for start in dict.fromkeys((base, ALWAYS))
        for path, (method, endpoint) in paths.items()
    ]
    # Only there: an app may well have a page "/forget" of its own, and nobody calls these but our commands.
    for path, endpoint in (("/forget", asking.forget), ("/prune", asking.prune)):
        routes.append(Route(ALWAYS + path, endpoint, methods=["POST"]))
    routes.append(Route(f"{ALWAYS}/openapi.json", own.openapi, methods=["GET"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: own.no_such, Exception: own.broken})
    app.router.redirect_slashes = False  # a redirect would repeat whatever Host the caller made up
    return app


class _Own:
    """What is read, and what is said where there is nothing to read; all that is shared is what `build` was given."""

    def __init__(self, state: State, gate: Gate, api_token: str | None, upstream: bool) -> None:
        self._state = state
        self._api_token = api_token
        self._upstream = upstream
        self._gate = gate
        self._page: tuple[float, bytes] | None = None  # as strangers saw it last, and when
        self.paths: tuple[str, ...] = ()

    async def health(self, request: Request) -> Response:
        agent = access.outside_ping(access.caller(request.scope), self._state.in_space)
        if agent is not None:
            self._state.keepalive.ping(agent)
        code, body = health(self._state, time.monotonic())
        return answer(code, body, media_type="application/health+json")

    async def livez(self, request: Request) -> Response:
        return answer(200, {"ok": True})

    async def readyz(self, request: Request) -> Response:
        waits_for = readiness(self._state, self._upstream)
        return answer(200 if waits_for is None else 503, {"ready": waits_for is None, "waits_for": waits_for})

    async def heartbeat(self, request: Request) -> Response:
        state = self._state
        at = rfc3339(time.time())
        return answer(200, {"ok": True, "instance": state.instance, "epoch": state.epoch, "at": at})

    async def openapi(self, request: Request) -> Response:
        text = await asyncio.to_thread(OPENAPI.read_bytes)
        return Response(text, 200, HEADERS, "application/json")

    async def metrics(self, request: Request) -> Response:
        from sidecar.web.metrics import exposition  # the client costs memory that few agents need

        accept = b",".join(access.caller(request.scope).values(b"accept")).decode("latin-1")
        body, content_type = exposition(self._state, time.monotonic(), accept)
        return Response(body, 200, {**HEADERS, "vary": "Accept", "content-type": content_type})

    async def status(self, request: Request) -> Response:
        who = access.caller(request.scope)
        guessed = self._gate.guessed(who)
        if guessed is not None:
            return guessed
        owner = access.sees_names(who, self._api_token)
        vary = {"vary": "Accept, Authorization"}
        if not prefers_html(b",".join(who.values(b"accept")).decode("latin-1")):
            return answer(200, status(self._state, time.monotonic(), names=owner), headers=vary)
        from sidecar.web.pages.status import CSP  # few agents ever show it

        headers = {**HEADERS, **vary, "content-security-policy": CSP}
        return Response(self._page_for(owner), 200, headers, "text/html; charset=utf-8")

    def _page_for(self, owner: bool) -> bytes:
        from sidecar.web.pages.status import page

        now, shown = time.monotonic(), self._page
        if not owner and shown is not None and now - shown[0] <= PAGE_S:
            return shown[1]
        body = status(self._state, now, names=owner)
        text = page(body, list(self._state.measures.samples), owner=owner if self._api_token else None)
        made = text.encode("utf-8", "replace")
        if not owner:
            self._page = (now, made)
        return made

    async def no_such(self, request: Request, wrong: Exception) -> Response:
        assert isinstance(wrong, HTTPException)
        if wrong.status_code == 404:
            return error(404, "not-found", f"no such path; this is the sidecar, which has {', '.join(self.paths)}")
        if wrong.status_code == 405:
            allow = ", ".join(sorted((wrong.headers or {}).get("Allow", "").split(", ")))
            return error(405, "method", f"use {allow}", headers={"allow": allow})
        return error(wrong.status_code, "error", str(wrong.detail))

    async def broken(self, request: Request, wrong: Exception) -> Response:
        log.error("%s failed: %s: %s; the rest goes on", request.url.path, type(wrong).__name__, wrong)
        log.debug("%s", request.url.path, exc_info=wrong)
        return error(500, "bug", "the sidecar failed to answer; its log says more, syncing goes on")
