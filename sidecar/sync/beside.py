"""Branches beside the line that a snapshot goes to: they keep what it takes away, or what it isn't made from."""

from __future__ import annotations

import asyncio

from sidecar import log
from sidecar.snapshot.manifest import snapshot_in
from sidecar.stores.base import Conflict, Revision, Store, Unavailable, Unsupported

SOME = 50
"""Commits of a history, among which the newest snapshot is: lease commits and edits stand before it."""


async def keep(store: Store, revision: Revision | None, name: str) -> None:
    """Keep ``revision`` under a branch of its own. Raises StoreError."""
    if revision is None:
        return
    try:
        await asyncio.wait_for(store.keep(revision, name), 60)
    except Conflict:
        log.debug(f"branch {name!r} keeps it already, as another revision")
    except Unsupported:
        log.debug(f"{store.url} keeps no branches: {name!r} is in its history only")
    except TimeoutError:
        raise Unavailable(f"{store.url} gave no answer in time") from None


async def called(store: Store, head: Revision | None) -> str:
    """What a head is called that nobody goes on from: its snapshot's id, which no squash renames."""
    try:
        history = await asyncio.wait_for(store.history(SOME), 60)
    except TimeoutError:
        raise Unavailable(f"{store.url} gave no answer in time") from None
    found = next((n for commit in history if (n := snapshot_in(commit.title)) is not None), None)
    return found or (head or "")[:12]
