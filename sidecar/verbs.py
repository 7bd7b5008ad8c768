"""What can be asked of a running agent over HTTP: a checkpoint, a sync, or to let go of something."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from sidecar import log
from sidecar.errors import SidecarError, TryLater
from sidecar.recovery.restore import entry_path
from sidecar.roots import Root
from sidecar.snapshot.index import Row
from sidecar.snapshot.manifest import root_of
from sidecar.state import State
from sidecar.stores.base import Denied, Unavailable
from sidecar.sync import history
from sidecar.sync.bulletin import Result
from sidecar.sync.engine import Engine
from sidecar.sync.forgetting import said, why_nothing
from sidecar.sync.history import Retention
from sidecar.sync.rights import Edited, Fenced
from sidecar.web.verbs import Answer

_STATUS = {"fenced": 409, "unavailable": 503, "denied": 503, "no-room": 503, "failed": 503, "timeout": 504}


class AgentVerbs:
    """Answers with the engine once there is one; before that with 503 and when to ask again."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.engine: Engine | None = None
        self.unpruned = ""
        """Why no history may be let go of here, if none may."""

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

    async def forget(self, path: str, dry_run: bool) -> Answer:
        """Let go of what is only carried forward at or under ``path``, as a person writes it, or say what would go."""
        engine = self.engine
        if engine is None:
            return self._not_yet()
        if engine.line.branch is not None:
            detail = f"this instance writes to branch {engine.line.branch}, not to the main line"
            return Answer(409, {"error": "fenced", "detail": detail})
        name, rows, going = await asyncio.to_thread(_at, engine, path)
        snapshot = str(engine.line.snapshot)
        if not going:
            return Answer(422, {"error": "nothing", "detail": why_nothing(name, rows, snapshot)})
        body = said(name, snapshot, going)
        if dry_run:
            return Answer(200, body)
        result = await engine.snapshot("asked", forget=name)
        if not result.ok:
            return self._failed(result)
        log.info(f"let go of {name!r}: {body['files']:,} files; {snapshot} and the history before it still have them")
        return Answer(200, {**body, "snapshot": result.snapshot, "revision": result.revision})

    async def prune(self, keep_last: int | None, keep_within_s: float | None, dry_run: bool) -> Answer:
        """Let go of old snapshots, or say which would go."""
        engine = self.engine
        if engine is None:
            return self._not_yet()
        if engine.line.branch is not None:
            detail = f"this instance writes to branch {engine.line.branch}, not to the main line"
            return Answer(409, {"error": "fenced", "detail": detail})
        if self.unpruned:
            return Answer(422, {"error": "refused", "detail": self.unpruned})
        wanted = Retention.of(keep_last, keep_within_s, squashes=engine.store.squashes)
        try:
            found = await engine.prune(wanted, dry_run)
        except Fenced:
            return Answer(409, {"error": "fenced", "detail": "another instance holds the lease now"})
        except Edited:
            detail = "somebody edited the store: let the next sync go through, then try again"
            return Answer(503, {"error": "edited", "detail": detail}, retry_after=30)
        except Denied as error:
            return Answer(503, {"error": "denied", "detail": error.message})
        except (Unavailable, TryLater) as error:
            return Answer(503, {"error": "unavailable", "detail": error.message}, retry_after=30)
        except SidecarError as error:
            return Answer(422, {"error": "refused", "detail": error.message})
        return Answer(200, history.document(found))

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


def _at(engine: Engine, path: str) -> tuple[str, list[Row], list[Row]]:
    """What ``path`` is called in the snapshot, the entries there, and those that can be let go of."""
    recorded = [Root(r.name, r.path) for r in engine.index.roots() if r.path]
    name = entry_path(path, [*engine.options.roots, *recorded])
    return name, *engine.snapshotter.surveyor.at(name)
