"""What goes on beside an agent's story for as long as it lives: signs of life, reminders, main's state."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

from sidecar import drills, family, inspection, log, pings, session
from sidecar.heartbeat import Heartbeat
from sidecar.link import ALIVE_S, Link
from sidecar.measures import EVERY_S
from sidecar.recovery.checks import Checks
from sidecar.session import Session
from sidecar.settings import Settings
from sidecar.state import State
from sidecar.sync.engine import Engine

REMIND_S = 3600.0
KNOCK_S, KNOCK_MAX_S = 0.1, 5.0
LATE_S = 60.0
"""An app that imports much may take half a minute; one that takes longer may listen somewhere else."""


def all_along(
    here: Session, link: Link, checks: Checks, heartbeat: Heartbeat, engine: Callable[[], Engine | None]
) -> list[Coroutine[Any, Any, None]]:
    """All that goes on from the first answer to the last sync: each until it is cancelled."""
    settings, state = here.settings, here.state
    beside = [
        beat(state, link),
        follow_main(state, link),
        sample(state, engine),
        pings.remember(state, settings.state_dir),
        checks.watch(link.main.started),
        inspection.now_and_then(settings, state, here.store),
        drills.now_and_then(settings, state),
        heartbeat.posting.run(),
        heartbeat.beat(),
    ]
    if not settings.store.persistent:
        beside.append(remind(settings, state))
    if settings.upstream is not None:
        beside.append(knock(state, link, settings.upstream))
    return beside


async def beat(state: State, link: Link) -> None:
    """Tell health checks and the supervisor that the loop turns."""
    while True:
        state.loop_beat_mono = time.monotonic()
        link.say("alive")
        await asyncio.sleep(ALIVE_S)


async def remind(settings: Settings, state: State) -> None:
    """Say hourly that nothing outlives this machine: whoever looks at a log sees its end."""
    while True:
        session.say_not_persisted(settings, state)
        await asyncio.sleep(REMIND_S)


async def sample(state: State, engine: Callable[[], Engine | None]) -> None:
    """Note once a minute how late syncing is and what is left of the commit budget, for the plot on the page."""
    while True:
        await asyncio.sleep(EVERY_S)
        note(state, engine(), time.monotonic())


def note(state: State, engine: Engine | None, now: float) -> None:
    """One sample; ``now`` is monotonic."""
    if engine is not None:
        state.commits_hour, state.commits_paced = engine.budget.in_hour(now)
    since = state.sync.pending_since_mono
    waits = 0.0 if since is None else max(0.0, now - since)
    state.measures.sample(time.time(), waits, state.commits_hour, state.commits_paced)


async def follow_main(state: State, link: Link) -> None:
    """Mirror what the supervisor says of main into the state."""
    main = link.main
    await main.started.wait()
    state.phase = "running" if state.phase == "ready" else state.phase
    while True:
        state.main_pid = main.pid
        state.main_state = "exited" if main.exited is not None else "running"
        state.main_exit = main.exited
        state.ready = main.exited is None
        await asyncio.sleep(0.5)


async def knock(state: State, link: Link, url: str) -> None:
    """Find out when the main app first accepts a connection, and when it does again after it had stopped.

    Says so where the first one takes suspiciously long.
    """
    at = urlsplit(url)
    await link.main.started.wait()
    began, told = time.monotonic(), False
    while True:
        if state.upstream_seen and "upstream-down" not in state.notes:
            await asyncio.sleep(KNOCK_MAX_S)
            continue
        try:
            async with asyncio.timeout(KNOCK_MAX_S):
                _, writer = await asyncio.open_connection(at.hostname, at.port or 80)
        except OSError as error:  # a timeout is one too
            waited = time.monotonic() - began
            if not state.upstream_seen and waited > LATE_S and not told and state.main_state == "running":
                told = True
                log.warning(
                    f"the app accepts no connection on SIDECAR_UPSTREAM={url} {waited:.0f} s after its start"
                    f" ({error.strerror or 'no answer'}). Visitors get a page that says so, and files are kept."
                    f" Let the app listen on port {at.port or 80}, or set SIDECAR_UPSTREAM to where it does"
                )
            await asyncio.sleep(min(KNOCK_MAX_S, max(KNOCK_S, waited / 20)))
        else:
            writer.close()
            state.upstream_seen = True
            state.clear("upstream-down")


async def first(*events: asyncio.Event) -> None:
    """Wait until one of ``events`` is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def until_gone(pid: int | None) -> None:
    """Wait until the process ``pid`` has ended."""
    while pid is not None and _lives(pid):
        await asyncio.sleep(0.2)


def _lives(pid: int) -> bool:
    """A zombie doesn't: where nobody reaps, it stays one. What can't be told lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    found = family.look_up(pid)
    return found is None or found.alive
