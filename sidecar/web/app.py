"""The sidecar's own paths, section 8 of the design: what is asked for, who may ask, what is answered.

Whatever reads answers from the state in memory and waits for nothing. Every response is made by `_answer`,
so none goes out without the security headers; what the main app says goes through the front door untouched.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sidecar import log
from sidecar.errors import SidecarError, TryLater
from sidecar.state import State
from sidecar.units import parse_duration
from sidecar.web import access
from sidecar.web.guesses import Guesses, guesser
from sidecar.web.health import health, readiness, rfc3339
from sidecar.web.status import status

ALWAYS = "/_sidecar"
"""Every path also answers below this one, whatever the short one means in this container."""
OPENAPI = Path(__file__).with_name("openapi.json")
"""What all of this answers, for programs: OpenAPI 3.1."""
PAGE_S = 0.5
"""So long strangers get the same page again: making one costs as much as ten other answers."""
CHECKPOINT_S = 30.0
CHECKPOINT_MAX_S = 120.0
SYNC_MAX_S = 600.0
PRUNE_MAX_S = 1800.0
_GRACE_S = 5.0
_RETRY_MAX_S = 3600.0
_BODY_MAX = 64 * 1024
_IN_FLIGHT_MAX = 64
_ROOTS_MAX = 100
_CSP = "default-src 'none'; frame-ancestors 'none'"
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": _CSP,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb came to: an HTTP status, a JSON body, and after how many seconds to try again."""

    status: int
    body: dict[str, Any]
    retry_after: float | None = None


class Verbs(Protocol):
    """What can be asked of the agent. All of it answers in time; none raises for a refusal."""

    async def checkpoint(self, roots: tuple[str, ...], timeout_s: float) -> Answer: ...
    async def sync(self) -> Answer: ...
    async def forget(self, path: str, dry_run: bool) -> Answer: ...
    async def prune(self, keep_last: int | None, keep_within_s: float | None, dry_run: bool) -> Answer: ...


Endpoint = Callable[[Request], Awaitable[Response]]


def build(state: State, verbs: Verbs, *, prefix: str | None, api_token: str | None, upstream: bool) -> Starlette:
    """The web app over ``state``.

    ``prefix`` (a path, or nothing) stands before every path; ``/_sidecar/…`` answers besides. ``upstream``
    says that a front door passes visitors on: then nobody counts as local for coming from this machine.
    """
    base = "/" + prefix.strip("/") if prefix and prefix.strip("/") else ""
    own = _Own(state, verbs, api_token or None, upstream)
    paths: dict[str, tuple[str, Endpoint]] = {
        "/health": ("GET", own.health),
        "/livez": ("GET", own.livez),
        "/readyz": ("GET", own.readyz),
        "/status": ("GET", own.status),
        "/heartbeat": ("GET", own.heartbeat),
        "/metrics": ("GET", own.metrics),
        "/checkpoint": ("POST", own.checkpoint),
        "/sync": ("POST", own.sync),
    }
    own.paths = tuple(base + path for path in paths)
    routes = [
        Route(start + path, endpoint, methods=[method])
        for start in dict.fromkeys((base, ALWAYS))
        for path, (method, endpoint) in paths.items()
    ]
    # Only there: an app may well have a page "/forget" of its own, and nobody calls these but our commands.
    for path, endpoint in (("/forget", own.forget), ("/prune", own.prune)):
        routes.append(Route(ALWAYS + path, endpoint, methods=["POST"]))
    routes.append(Route(f"{ALWAYS}/openapi.json", own.openapi, methods=["GET"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: own.no_such, Exception: own.broken})
    app.router.redirect_slashes = False  # a redirect would repeat whatever Host the caller made up
    return app


class _Own:
    """The endpoints; all they share is what `build` was given, and how many verbs are under way."""

    def __init__(self, state: State, verbs: Verbs, api_token: str | None, upstream: bool) -> None:
        self._state = state
        self._verbs = verbs
        self._api_token = api_token
        self._upstream = upstream
        self._in_flight: set[asyncio.Task[Answer]] = set()
        self._guesses = Guesses()
        self._page: tuple[float, bytes] | None = None  # as strangers saw it last, and when
        self.paths: tuple[str, ...] = ()

    async def health(self, request: Request) -> Response:
        agent = access.outside_ping(access.caller(request.scope), self._state.in_space)
        if agent is not None:
            self._state.keepalive.ping(agent)
        code, body = health(self._state, time.monotonic())
        return _answer(code, body, media_type="application/health+json")

    async def livez(self, request: Request) -> Response:
        return _answer(200, {"ok": True})

    async def readyz(self, request: Request) -> Response:
        waits_for = readiness(self._state, self._upstream)
        return _answer(200 if waits_for is None else 503, {"ready": waits_for is None, "waits_for": waits_for})

    async def heartbeat(self, request: Request) -> Response:
        state = self._state
        at = rfc3339(time.time())
        return _answer(200, {"ok": True, "instance": state.instance, "epoch": state.epoch, "at": at})

    async def openapi(self, request: Request) -> Response:
        text = await asyncio.to_thread(OPENAPI.read_bytes)
        return Response(text, 200, _HEADERS, "application/json")

    async def metrics(self, request: Request) -> Response:
        from sidecar.web.metrics import exposition  # the client costs memory that few agents need

        accept = b",".join(access.caller(request.scope).values(b"accept")).decode("latin-1")
        body, content_type = exposition(self._state, time.monotonic(), accept)
        return Response(body, 200, {**_HEADERS, "vary": "Accept", "content-type": content_type})

    async def status(self, request: Request) -> Response:
        who = access.caller(request.scope)
        guessed = self._guessed(who)
        if guessed is not None:
            return guessed
        owner = access.sees_names(who, self._api_token)
        vary = {"vary": "Accept, Authorization"}
        if not prefers_html(b",".join(who.values(b"accept")).decode("latin-1")):
            return _answer(200, status(self._state, time.monotonic(), names=owner), headers=vary)
        from sidecar.web.pages.status import CSP  # few agents ever show it

        headers = {**_HEADERS, **vary, "content-security-policy": CSP}
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

    async def checkpoint(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        roots = tuple(dict.fromkeys(request.query_params.getlist("root")))
        unknown = [name for name in roots if name not in self._state.roots]
        if len(roots) > _ROOTS_MAX or (unknown and self._state.roots):
            known = ", ".join(self._state.roots)
            return _error(400, "unknown-root", f"no such root; this sidecar keeps: {known}")
        try:
            timeout_s = parse_duration(request.query_params.get("timeout") or f"{CHECKPOINT_S:.0f}s")
        except ValueError as error:
            return _error(400, "bad-timeout", f"timeout: {error}; write it like 30s")
        if not 0 < timeout_s <= CHECKPOINT_MAX_S:
            return _error(400, "bad-timeout", f"timeout: more than 0 and at most {CHECKPOINT_MAX_S:.0f}s")
        return await self._run(self._verbs.checkpoint(roots, timeout_s), timeout_s + _GRACE_S)

    async def sync(self, request: Request) -> Response:
        refused = self._refused(request)
        return await self._run(self._verbs.sync(), SYNC_MAX_S) if refused is None else refused

    async def forget(self, request: Request) -> Response:
        refused = self._refused(request) or self._for_owners(request)
        if refused is not None:
            return refused
        # Not as starlette reads it: the name of a file may be any bytes.
        raw = request.scope.get("query_string", b"").decode("ascii", "replace")
        query = parse_qs(raw, errors="surrogateescape")
        path = (query.get("path") or [""])[-1]
        if not path.strip("/") or "\0" in path:
            return _error(400, "bad-path", "path: the root, or the path of one, to let go of")
        return await self._run(self._verbs.forget(path, _yes(query)), SYNC_MAX_S)

    async def prune(self, request: Request) -> Response:
        refused = self._refused(request) or self._for_owners(request)
        if refused is not None:
            return refused
        query = parse_qs(request.url.query)
        try:
            last = int(query["keep-last"][-1]) if "keep-last" in query else None
            within = parse_duration(query["keep-within"][-1]) if "keep-within" in query else None
        except ValueError as error:
            return _error(400, "bad-retention", f"keep-last takes a number, keep-within a duration: {error}")
        if last is not None and last < 1:
            return _error(400, "bad-retention", "keep-last takes a whole number from 1 on")
        return await self._run(self._verbs.prune(last, within, _yes(query)), PRUNE_MAX_S)

    async def no_such(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return _error(404, "not-found", f"no such path; this is the sidecar, which has {', '.join(self.paths)}")
        if error.status_code == 405:
            allow = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            return _error(405, "method", f"use {allow}", headers={"allow": allow})
        return _error(error.status_code, "error", str(error.detail))

    async def broken(self, request: Request, error: Exception) -> Response:
        log.error("%s failed: %s: %s; the rest goes on", request.url.path, type(error).__name__, error)
        log.debug("%s", request.url.path, exc_info=error)
        return _error(500, "bug", "the sidecar failed to answer; its log says more, syncing goes on")

    def _refused(self, request: Request) -> Response | None:
        who = access.caller(request.scope)
        guessed = self._guessed(who)
        if guessed is not None:
            return guessed
        refusal = access.refusal(who, self._api_token, self._upstream)
        if refusal is not None:
            ask = {"www-authenticate": 'Bearer realm="sidecar"'} if refusal.status == 401 else {}
            return _error(refusal.status, refusal.code, refusal.detail, headers=ask)
        size = b"".join(who.values(b"content-length"))
        # No body is read. A large one is turned away; one that hides its size meets the server's limits.
        if size.isdigit() and int(size) > _BODY_MAX:
            return _error(413, "body", "no body is needed", headers={"connection": "close"})
        if len(self._in_flight) >= _IN_FLIGHT_MAX:
            busy = f"{_IN_FLIGHT_MAX} requests like this one are under way; try again in a second"
            return _error(429, "busy", busy, headers={"retry-after": "1"})
        return None

    def _guessed(self, who: access.Caller) -> Response | None:
        """429 for a caller that has sent too many wrong tokens, before this one is looked at."""
        if who.listener == access.UNIX or not who.values(b"authorization"):
            return None
        name, now = guesser(who), time.monotonic()
        wait = self._guesses.wait_s(name, now)
        if wait > 0:
            said = "too many wrong tokens; inside the container `sidecar status` and `sidecar checkpoint` need none"
            return _error(429, "wrong-tokens", said, headers={"retry-after": str(math.ceil(wait))})
        if access.is_guess(who, self._api_token):
            self._state.measures.wrong_tokens += 1
            self._guesses.wrong(name, now)
        return None

    def _for_owners(self, request: Request) -> Response | None:
        """What can't be undone is for our own commands and for who has the token, wherever it comes from."""
        if access.sees_names(access.caller(request.scope), self._api_token):
            return None
        what = (
            "this destroys what is kept: it is asked over the Unix socket in the state dir, or with SIDECAR_API_TOKEN"
        )
        return _error(403, "not-yours", what)

    async def _run(self, verb: Coroutine[Any, Any, Answer], limit_s: float) -> Response:
        """Wait for ``verb``; past ``limit_s`` answer 504 and leave it alone: it may be in mid-commit."""
        task = asyncio.create_task(verb)
        self._in_flight.add(task)
        task.add_done_callback(self._over)
        await asyncio.wait({task}, timeout=limit_s)
        if not task.done():
            return _error(504, "time-limit", f"not done within {limit_s:.0f} s; it goes on, ask again")
        try:
            answer = task.result()
        except TryLater as error:
            return _error(503, "try-later", error.message, headers={"retry-after": "5"})
        except SidecarError as error:
            return _error(500, "failed", error.message)
        after = answer.retry_after
        retry = {} if after is None else {"retry-after": str(max(1, math.ceil(min(after, _RETRY_MAX_S))))}
        return _answer(answer.status, answer.body, headers=retry)

    def _over(self, task: asyncio.Task[Answer]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits for it any more


def _yes(query: Mapping[str, Sequence[str]]) -> bool:
    return "1" in query.get("dry-run", ())


def prefers_html(accept: str) -> bool:
    """Does the ``Accept`` header want HTML rather than JSON (RFC 9110, section 12.5.1)? A tie is for JSON."""
    return _quality(accept, "text", "html") > _quality(accept, "application", "json")


def _quality(accept: str, kind: str, subtype: str) -> float:
    """How welcome a media type is, 0 to 1; the most specific range that covers it decides."""
    best = (-1, 0.0)
    for part in accept.lower().split(","):
        range_, *parameters = (piece.strip() for piece in part.split(";"))
        ranks = {f"{kind}/{subtype}": 2, f"{kind}/*": 1, "*/*": 0}
        if range_ in ranks:
            best = max(best, (ranks[range_], _weight(parameters)))
    return best[1]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return min(1.0, max(0.0, weight)) if math.isfinite(weight) else 0.0
    return 1.0


def _answer(
    code: int,
    body: dict[str, Any],
    *,
    headers: dict[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    # A name that is not UTF-8 holds lone surrogates, which no JSON reader takes: they leave here as '?'.
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=str)
    return Response(text.encode("utf-8", "replace"), code, {**_HEADERS, **(headers or {})}, media_type)


def _error(code: int, error: str, detail: str, *, headers: dict[str, str] | None = None) -> Response:
    return _answer(code, {"error": error, "detail": detail}, headers=headers)
