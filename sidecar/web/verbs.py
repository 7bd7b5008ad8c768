"""What can be asked of the agent over HTTP: who asks and how is checked here, what comes of it the agent knows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response

from sidecar.errors import SidecarError, TryLater
from sidecar.state import State
from sidecar.units import parse_duration
from sidecar.web.answers import answer, error
from sidecar.web.gate import Gate

CHECKPOINT_S = 30.0
CHECKPOINT_MAX_S = 120.0
SYNC_MAX_S = 600.0
PRUNE_MAX_S = 1800.0
_GRACE_S = 5.0
_RETRY_MAX_S = 3600.0
_IN_FLIGHT_MAX = 64
_ROOTS_MAX = 100


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


class Asking:
    """The endpoints of the verbs; all they share is how many of them are under way."""

    def __init__(self, state: State, verbs: Verbs, gate: Gate) -> None:
        self._state = state
        self._verbs = verbs
        self._gate = gate
        self._in_flight: set[asyncio.Task[Answer]] = set()

    async def checkpoint(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        roots = tuple(dict.fromkeys(request.query_params.getlist("root")))
        unknown = [name for name in roots if name not in self._state.roots]
        if len(roots) > _ROOTS_MAX or (unknown and self._state.roots):
            known = ", ".join(self._state.roots)
            return error(400, "unknown-root", f"no such root; this sidecar keeps: {known}")
        try:
            timeout_s = parse_duration(request.query_params.get("timeout") or f"{CHECKPOINT_S:.0f}s")
        except ValueError as wrong:
            return error(400, "bad-timeout", f"timeout: {wrong}; write it like 30s")
        if not 0 < timeout_s <= CHECKPOINT_MAX_S:
            return error(400, "bad-timeout", f"timeout: more than 0 and at most {CHECKPOINT_MAX_S:.0f}s")
        return await self._run(self._verbs.checkpoint(roots, timeout_s), timeout_s + _GRACE_S)

    async def sync(self, request: Request) -> Response:
        refused = self._refused(request)
        return await self._run(self._verbs.sync(), SYNC_MAX_S) if refused is None else refused

    async def forget(self, request: Request) -> Response:
        refused = self._refused(request) or self._gate.for_owners(request)
        if refused is not None:
            return refused
        # Not as starlette reads it: the name of a file may be any bytes.
        raw = request.scope.get("query_string", b"").decode("ascii", "replace")
        query = parse_qs(raw, errors="surrogateescape")
        path = (query.get("path") or [""])[-1]
        if not path.strip("/") or "\0" in path:
            return error(400, "bad-path", "path: the root, or the path of one, to let go of")
        return await self._run(self._verbs.forget(path, _yes(query)), SYNC_MAX_S)

    async def prune(self, request: Request) -> Response:
        refused = self._refused(request) or self._gate.for_owners(request)
        if refused is not None:
            return refused
        query = parse_qs(request.url.query)
        try:
            last = int(query["keep-last"][-1]) if "keep-last" in query else None
            within = parse_duration(query["keep-within"][-1]) if "keep-within" in query else None
        except ValueError as wrong:
            return error(400, "bad-retention", f"keep-last takes a number, keep-within a duration: {wrong}")
        if last is not None and last < 1:
            return error(400, "bad-retention", "keep-last takes a whole number from 1 on")
        return await self._run(self._verbs.prune(last, within, _yes(query)), PRUNE_MAX_S)

    def _refused(self, request: Request) -> Response | None:
        refused = self._gate.refused(request)
        if refused is None and len(self._in_flight) >= _IN_FLIGHT_MAX:
            busy = f"{_IN_FLIGHT_MAX} requests like this one are under way; try again in a second"
            return error(429, "busy", busy, headers={"retry-after": "1"})
        return refused

    async def _run(self, verb: Coroutine[Any, Any, Answer], limit_s: float) -> Response:
        """Wait for ``verb``; past ``limit_s`` answer 504 and leave it alone: it may be in mid-commit."""
        task = asyncio.create_task(verb)
        self._in_flight.add(task)
        task.add_done_callback(self._over)
        await asyncio.wait({task}, timeout=limit_s)
        if not task.done():
            return error(504, "time-limit", f"not done within {limit_s:.0f} s; it goes on, ask again")
        try:
            came = task.result()
        except TryLater as wrong:
            return error(503, "try-later", wrong.message, headers={"retry-after": "5"})
        except SidecarError as wrong:
            return error(500, "failed", wrong.message)
        after = came.retry_after
        retry = {} if after is None else {"retry-after": str(max(1, math.ceil(min(after, _RETRY_MAX_S))))}
        return answer(came.status, came.body, headers=retry)

    def _over(self, task: asyncio.Task[Answer]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits for it any more


def _yes(query: Mapping[str, Sequence[str]]) -> bool:
    return "1" in query.get("dry-run", ())
