"""A look at the store, the token and the disk around the roots, for the checklist: by doctor, and by an agent."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from dataclasses import replace

from sidecar import log
from sidecar.errors import SidecarError
from sidecar.recovery.holders import by_turns
from sidecar.settings import Settings
from sidecar.snapshot.exclude import own_paths
from sidecar.snapshot.uncovered import search, to_declare
from sidecar.state import Inspection, LocalOnly, State
from sidecar.stores.base import Commit, Denied, NotFound, Public, Store, StoreError

FIRST_S = 90.0
"""A start has better things to do."""
EVERY_S = 6 * 3600.0
LIMIT_S = 120.0

HISTORY = 200
"""Commits that are looked through: more than a Hub takes in an hour."""


async def inspect(settings: Settings, store: Store, limit_s: float = LIMIT_S) -> Inspection:
    """Look once; the store has ``limit_s`` to answer. Raises nothing that a store or a disk may do."""
    local = asyncio.create_task(asyncio.to_thread(local_only, settings))
    found = Inspection()
    try:
        async with asyncio.timeout(limit_s):
            found = await _ask(store)
    except Public as error:
        found = Inspection(trouble=error.message, public=True)
    except (StoreError, TimeoutError) as error:
        why = error.message if isinstance(error, SidecarError) else f"no answer within {limit_s:.0f} s"
        found = Inspection(trouble=why, denied=isinstance(error, Denied | NotFound))
    return replace(found, local=await local)


async def _ask(store: Store) -> Inspection:
    access = await store.check()
    history: Sequence[Commit] = ()
    commits: int | None = 0
    if access.exists:
        history = await store.history(HISTORY)
        commits = (await store.usage()).commits if len(history) == HISTORY else len(history)
    turns = by_turns(history)
    return Inspection(
        writable=access.writable,
        trouble="" if access.writable else access.detail,
        denied=not access.writable,
        public=access.public,
        wider=access.wider,
        commits=commits,
        turns=() if turns is None else turns.instances,
        turns_again=turns is not None and turns.again,
        turns_at=None if turns is None else turns.last,
    )


def local_only(settings: Settings) -> LocalOnly:
    """Databases and logins under the home directory and the working directory that no root covers. Blocks."""
    places = [os.path.expanduser("~")]
    try:
        places.append(os.getcwd())
    except FileNotFoundError:  # removed under us
        pass
    folder = settings.store.path if settings.store.kind == "folder" else None
    ours = own_paths(settings.state_dir, os.environ, folder)
    roots = [root.path for root in settings.roots]
    found = search(places, [*roots, *ours])
    files = tuple((f.path, f.kind) for f in found.found)
    return LocalOnly(files, to_declare(found.found, places, roots), found.complete)


async def now_and_then(settings: Settings, state: State, store: Store) -> None:
    """For as long as the agent lives: into the state, and said once in the log where data is at risk."""
    wait = FIRST_S
    while True:
        await asyncio.sleep(wait * (0.8 + 0.4 * random.random()))
        wait = EVERY_S
        before, state.inspection = state.inspection, await inspect(settings, store)
        local = state.inspection.local
        if local is not None and local.files and (before is None or before.local != local):
            log.warning(
                f"{len(local.files):,} databases or logins lie in no root and are gone with this machine:"
                " `sidecar doctor` names them, and what to add to SIDECAR_PATHS"
            )
