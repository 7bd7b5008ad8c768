"""When a restore drill is due, and running it: ``sidecar drill`` in a process of its own, every SIDECAR_DRILL."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from sidecar import log
from sidecar.pid1 import interpreter
from sidecar.recovery import rehearsal
from sidecar.settings import Settings
from sidecar.state import State

LOOK_S = 60.0
"""How often the state dir is looked into for what `sidecar drill` or `sidecar verify` came to."""
LIMIT_S = 6 * 3600.0
"""A drill that takes longer is ended."""
END_S = 6.0
"""So long it has to clear up when it is ended early."""
MOMENT_S = 0.25

Draw = Callable[[float, float], float]
"""A number between two others; `random.uniform`."""


def wait_s(every_s: float, last: Mapping[str, Any] | None, now: float, draw: Draw) -> float:
    """Seconds from an agent's start to its first drill. ``last`` is the newest one known, ``now`` the wall clock.

    On a fresh disk nobody knows of an earlier one: a share of the interval goes by first, so that restarts don't drill,
    and a fleet doesn't drill in step. A clock that went back counts as no time gone by.
    """
    if last is None:
        return draw(0.05, 0.5) * every_s
    gone = max(0.0, now - float(last["at"]))
    return max(draw(0.9, 1.1) * every_s - gone, draw(0.01, 0.05) * every_s)


def again_s(every_s: float, result: str, draw: Draw) -> float:
    """Seconds until the next one: sooner where it came to no end."""
    return every_s * (draw(0.9, 1.1) if result in ("pass", "fail") else draw(0.1, 0.2))


async def now_and_then(settings: Settings, state: State) -> None:
    """For as long as the agent lives: show the newest drill, and run one when it is due."""
    every = settings.drill_s
    await _look(settings, state)
    due = None if every is None else time.monotonic() + wait_s(every, state.drill, time.time(), random.uniform)
    while True:
        left = LOOK_S if due is None else due - time.monotonic()
        await asyncio.sleep(min(LOOK_S, max(left, MOMENT_S)))
        if every is not None and due is not None and time.monotonic() >= due:
            if not _may(state):
                continue
            await _run(settings, state)
            result = str(state.drill["result"]) if state.drill else "error"
            due = time.monotonic() + again_s(every, result, random.uniform)
        else:
            await _look(settings, state)


def _may(state: State) -> bool:
    """Is there anything to restore, and nothing more important under way?"""
    return state.recovered and state.phase == "running" and state.sync.snapshot is not None


async def _look(settings: Settings, state: State) -> bool:
    """Take up what stands in the state dir; whether it is news. Said where it was made by this agent or is bad."""
    found = await asyncio.to_thread(rehearsal.last, settings.state_dir, settings.store.url)
    if found is None or (state.drill is not None and found["at"] == state.drill["at"]):
        return False
    state.drill = found
    if found["result"] == "fail":
        state.note("drill-failed", rehearsal.text(found))
    elif found["result"] == "pass":
        state.clear("drill-failed")
    return True


async def _run(settings: Settings, state: State) -> None:
    # Its words are said here, from what it writes down: not twice, and by one writer of this log.
    child = await asyncio.create_subprocess_exec(
        *(*interpreter(), "-m", "sidecar", "drill", "--watched"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    over, until = asyncio.create_task(child.wait()), time.monotonic() + LIMIT_S
    try:
        # The last sync needs processor, disk and network more than a drill does.
        while not over.done() and _may(state) and time.monotonic() < until:
            await asyncio.wait({over}, timeout=MOMENT_S)
    finally:
        if child.returncode is None:
            assert child.stdin is not None
            child.stdin.close()  # it clears up and ends
            await asyncio.wait({over}, timeout=END_S)
            if child.returncode is None:
                child.kill()
        over.cancel()
    if not _may(state):
        return
    if await _look(settings, state) and state.drill is not None:
        say = log.info if state.drill["result"] == "pass" else log.warning
        say(rehearsal.text(state.drill))
    else:
        log.warning(f"a restore drill ended with {child.returncode} and left no result; it is tried again")
