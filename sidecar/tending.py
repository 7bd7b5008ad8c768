"""How much the store keeps: measured now and then, warned of, and squashed where the settings say so."""

from __future__ import annotations

import asyncio

from sidecar import log
from sidecar.errors import SidecarError
from sidecar.settings import Settings
from sidecar.state import State
from sidecar.stores.base import Usage
from sidecar.sync.engine import Engine
from sidecar.sync.history import LAST, Retention
from sidecar.sync.pace import spread
from sidecar.sync.rights import Edited, Fenced
from sidecar.units import size_text
from sidecar.web.checklist import LONG_HISTORY

FIRST_S = 60.0
"""A start has better things to do."""
EVERY_S = 3600.0
LIMIT_S = 300.0


async def tend(settings: Settings, state: State, engine: Engine) -> None:
    """For as long as the agent lives. What fails is tried again an hour later."""
    wait = FIRST_S
    while True:
        await asyncio.sleep(spread(wait))
        wait = EVERY_S
        try:
            usage = await asyncio.wait_for(engine.store.usage(), LIMIT_S)
            note(settings, state, usage)
            after = settings.squash_after
            if after and usage.commits is not None and usage.commits > after and not why_not(settings):
                await _prune(state, engine, after)
                note(settings, state, await asyncio.wait_for(engine.store.usage(), LIMIT_S))
        except (SidecarError, TimeoutError, OSError) as error:
            log.debug(f"how much the store keeps can't be told now: {error}")


def why_not(settings: Settings) -> str:
    """Why no history may be let go of, in words; empty where it may."""
    if settings.revision is None:
        return ""
    return (
        f"SIDECAR_REVISION={settings.revision} is set, and a start finds that snapshot, or that it went on from it, in"
        " the history: unset it and start again, then prune. Nothing was changed"
    )


def note(settings: Settings, state: State, usage: Usage) -> None:
    """Into the status, and as a warning where it is much."""
    if usage.commits is not None:
        state.commits_total = usage.commits
    state.stored_bytes = usage.bytes
    ways = "`sidecar prune` lets go of old snapshots"
    on_hub = settings.store.kind == "hf"
    if on_hub and usage.commits is not None and usage.commits >= LONG_HISTORY and settings.squash_after is None:
        sentence = f"{settings.store.url} has {usage.commits:,} commits: {ways}, SIDECAR_SQUASH_AFTER does by itself"
        _warn(state, "long-history", sentence)
    else:
        state.clear("long-history")
    if usage.bytes is not None and usage.free is not None and usage.bytes > usage.free:
        sentence = (
            f"{settings.store.url} takes {size_text(usage.bytes)} and its disk has {size_text(usage.free)} left: {ways}"
        )
        _warn(state, "store-grows", sentence)
    else:
        state.clear("store-grows")


def _warn(state: State, code: str, sentence: str) -> None:
    if code not in state.notes:
        log.warning(sentence)
    state.note(code, sentence)


async def _prune(state: State, engine: Engine, after: int) -> None:
    """Past SIDECAR_SQUASH_AFTER. A store that only cuts keeps half of that: else each commit would cut it again."""
    if engine.line.branch is not None or state.lease != "held":
        return
    last = LAST if engine.store.squashes else max(LAST, after // 2)
    try:
        found = await engine.prune(Retention(last))
    except (Fenced, Edited):
        return
    except SidecarError as error:
        log.warning(f"the history could not be squashed (SIDECAR_SQUASH_AFTER={after}): {error.message}")
        return
    if not found.nothing:
        done = "squashed" if found.squashes else "cut"
        log.info(f"SIDECAR_SQUASH_AFTER={after}: history {done}, {len(found.stays):,} snapshots stay")
