"""When somebody elsewhere hears of us: at the start, when all is durable and regularly from then on, and when not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Literal

from sidecar.masking import mask
from sidecar.posting import Event, Posting
from sidecar.state import State
from sidecar.sync.pace import spread
from sidecar.web.health import SENTENCES, judge, lag_s, rfc3339

EVERY_S = 900.0
"""From one success to the next, or a little less."""

HOLD_S = 600.0
"""A success that is due waits so long for all roots to be durable, then it is a failure."""

LOOK_S, LOOK_AGAIN_S = 1.0, 5.0

LAST_S = 1.0
"""What the end of a life has to say gets so long, where that end is a failure. Else nothing waits."""

Verdict = Literal["success", "fail", "wait", "silent"]


def durable(state: State, due: float) -> bool:
    """Is all that was written to the roots before ``due`` (monotonic) in a store that outlives this machine?

    A large database that waits for its turn counts by its last turn, at most ten minutes ago.
    """
    sync = state.sync
    if not state.persistent or state.lease != "held" or state.mode != "normal" or not state.recovered:
        return False
    if sync.error is not None or sync.looked_mono is None or "held-deletion" in state.notes:
        return False
    if sync.unsettled or sync.stale or sync.unreadable:
        return False
    return sync.pending_since_mono is None or sync.looked_mono >= due


def verdict(state: State, due: float, now: float) -> Verdict:
    """What is to be said at ``now`` where the next word was ``due`` (both monotonic).

    Nothing by one that is fenced: its successor speaks, to the same address.
    """
    if state.lease == "fenced" or state.phase in ("stopping", "stopped"):
        return "silent"
    if state.mode == "orphan" or (not state.recovered and state.phase in ("waiting", "failed")):
        return "fail"
    if not state.recovered:
        return "wait"
    if judge(state, now)[0] == "fail":
        return "fail"
    if durable(state, due):
        return "success"
    return "fail" if now - due >= HOLD_S else "wait"


class Heartbeat:
    """What one life of the agent posts, and when."""

    def __init__(self, url: str | None, state: State) -> None:
        self.state = state
        self.posting = Posting(url, state)
        self._recovery: Mapping[str, Any] | None = None
        self._failed_at: float | None = None
        self._untold = False

    def start(self) -> None:
        """A start begins: what follows is its success or its failure."""
        self._send("start")

    def recovered(self, record: Mapping[str, Any]) -> None:
        """The record of this start, as it stands now: posted by itself, and once more with the next verdict."""
        self._recovery = record
        if record.get("result") == "ok":
            self._untold = True
            self.ready()
        elif record.get("result") != "stopped":
            self._fail()

    def ready(self) -> None:
        """Main may start, so that what goes along with the news of it says no more that recovery is under way."""
        if self._untold and self.state.recovered:
            self._untold = False
            self._send("recovery")

    async def beat(self) -> None:
        """For as long as the agent lives."""
        if self.posting.url is None:
            return
        due = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S if self._failed_at is None else LOOK_AGAIN_S)
            now = time.monotonic()
            if not self.state.recovered:
                due = now  # nothing is due before there is something to keep
            found = verdict(self.state, due, now)
            if found == "success":
                self._failed_at = None
                self._send("success")
                due = now + spread(EVERY_S)
                await asyncio.sleep(due - now)
            elif found == "fail" and (self._failed_at is None or now - self._failed_at >= EVERY_S):
                self._fail()

    async def ended(self, error: str) -> None:
        """The last sync came to ``error``, or to nothing bad: then nobody need hear, and nothing waits."""
        if error and self.state.lease != "fenced":
            self._fail(f"the last sync failed: {error}")
            await self.last_words()

    async def last_words(self) -> None:
        await self.posting.flush(LAST_S)

    def _fail(self, why: str = "") -> None:
        self._failed_at = time.monotonic()
        self._send("fail", why)

    def _send(self, event: Event, why: str = "") -> None:
        if self.posting.url is None:
            return
        document = self._document(event, why)
        if self._recovery is not None:
            document["recovery"] = self._recovery
        if event in ("success", "fail"):
            self._recovery = None
        self.posting.send(event, document)

    def _document(self, event: Event, why: str) -> dict[str, Any]:
        state, now = self.state, time.monotonic()
        health, notes = judge(state, now)
        return {
            "event": event,
            "at": rfc3339(time.time()),
            "message": f"{state.space}: {mask(why) or self._said(event, notes)}",
            "space": state.space,
            "instance": state.instance,
            "epoch": state.epoch,
            "version": state.version,
            "phase": state.phase,
            "health": health,
            "notes": notes,
            "snapshot": state.sync.snapshot,
            "last_durable": rfc3339(state.sync.last_durable),
            "lag_s": lag_s(state, now),
        }

    def _said(self, event: Event, notes: list[str]) -> str:
        """One sentence for people."""
        state = self.state
        if event == "start":
            return "starting"
        if event == "recovery":
            return f"recovered from {(self._recovery or {}).get('snapshot') or 'nothing (a cold start)'}"
        if event == "success":
            return f"all roots are durable as of {state.sync.snapshot}"
        why = state.sync.error or (state.recovery_error if not state.recovered or state.mode == "orphan" else None)
        if why is None:
            why = next((SENTENCES[code] for code in notes if code in SENTENCES), "changes are not durable for too long")
        return mask(why)
