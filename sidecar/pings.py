"""The last ping from outside outlives the agent: written to the state dir, judged by the monotonic clock alone."""

from __future__ import annotations

import asyncio
import math
from typing import Any, TypeGuard

from sidecar import log
from sidecar.state import State
from sidecar.statedir import note_down, noted

FILE = "keepalive.json"
PAUSE_S = 5.0
"""However many pings come, at most one is written in this time."""


def recall(state: State, folder: str) -> None:
    """Take up what an earlier agent saw. Only one of the same instance had the same monotonic clock."""
    seen, found = state.keepalive, noted(folder, FILE)
    last, agent = found.get("last"), found.get("agent")
    if not _number(last) or not isinstance(agent, str):
        return
    seen.last, seen.agent = last, agent
    since, last_mono = found.get("since_mono"), found.get("last_mono")
    if found.get("instance") != state.instance or not _number(last_mono) or not _number(since):
        return
    seen.since_mono = min(float(since), state.started_mono)
    seen.last_mono = min(float(last_mono), state.started_mono)


async def remember(state: State, folder: str) -> None:
    """Write each ping down, for as long as the agent lives. A disk that refuses is no reason to end."""
    seen = state.keepalive
    while True:
        await seen.news.wait()
        seen.news.clear()
        document = {
            "instance": state.instance,
            "since_mono": state.started_mono if seen.since_mono is None else seen.since_mono,
            "last": seen.last,
            "last_mono": seen.last_mono,
            "agent": seen.agent,
        }
        try:
            await asyncio.to_thread(note_down, folder, FILE, document)
        except OSError as error:
            log.debug(f"the last ping can't be written to {folder!r}: {error}")
        await asyncio.sleep(PAUSE_S)


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
