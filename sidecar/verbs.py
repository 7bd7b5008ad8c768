"""What can be asked of a running agent over HTTP: a checkpoint, or a sync."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from sidecar.snapshot.manifest import root_of
from sidecar.state import State
from sidecar.sync.bulletin import Result
from sidecar.sync.engine import Engine
from sidecar.web.app import Answer

_STATUS = {"fenced": 409, "unavailable": 503, "denied": 503, "no-room": 503, "failed": 503, "timeout": 504}


class AgentVerbs:
    """Answers with the engine once there is one; before that with 503 and when to ask again."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.engine: Engine | None = None

    async def checkpoint(self, roots: tuple[str, ...], timeout_s: float) -> Answer:
        if self.engine is None:
            return self._not_yet()
        unknown = [r for r in roots if r not in self.state.roots]
        if unknown:
            return Answer(422, {"error": "unknown-root", "detail": f"no root is named {unknown[0]!r}"})
        try:
            result = await asyncio.wait_for(self.engine.checkpoint(), timeout_s)
        except TimeoutError:
            detail = f"not durable within {timeout_s:g} s; the sync goes on, ask again"
            return Answer(504, {"error": "timeout", "detail": detail})
        if not result.ok:
            return self._failed(result)
        wanted = roots or tuple(self.state.roots)
        trouble = {path: why for path, why in result.troubled.items() if root_of(path, wanted) is not None}
        held = {root: n for root, n in result.held.items() if root in wanted}
        body: dict[str, Any] = {"snapshot": result.snapshot, "revision": result.revision}
        if trouble or held:
            reasons: dict[str, str] = {}
            for path, why in trouble.items():
                reasons.setdefault(root_of(path, wanted) or path, why)
            reasons.update(dict.fromkeys(held, "a mass deletion is held back"))
            return Answer(422, {**body, "error": "not-good", "roots": reasons})
        return Answer(200, body)

    async def sync(self) -> Answer:
        if self.engine is None:
            return self._not_yet()
        result = await self.engine.snapshot("asked")
        if not result.ok:
            return self._failed(result)
        return Answer(200, {"snapshot": result.snapshot, "revision": result.revision, "changed": result.changed})

    def _not_yet(self) -> Answer:
        if self.state.lease == "unleased":
            detail = "this instance has no lease yet, so nothing can be made durable; see /status"
        else:
            detail = f"the sidecar is {self.state.phase}; nothing can be made durable yet"
        return Answer(503, {"error": "not-ready", "detail": detail}, retry_after=5)

    def _failed(self, result: Result) -> Answer:
        if result.code == "" and result.retry_after is not None:
            wait = math.ceil(result.retry_after)
            return Answer(429, {"error": "budget", "detail": result.error}, retry_after=wait)
        status = _STATUS.get(result.code, 503)
        retry = (result.retry_after or 10.0) if status == 503 else None
        return Answer(status, {"error": result.code or "failed", "detail": result.error}, retry_after=retry)
