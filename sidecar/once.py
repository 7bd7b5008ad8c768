"""`sidecar sync` where no agent runs: claim the lease, commit once, release it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import Any

from sidecar import session
from sidecar.errors import SidecarError, TryLater
from sidecar.recovery import report
from sidecar.recovery.restore import read_manifest
from sidecar.recovery.start import Start, settle
from sidecar.session import Session, open_session
from sidecar.stores.base import NotFound, StoreError

PATIENCE_S = 3600.0


def sync_once() -> dict[str, Any]:
    """One snapshot of the declared roots: ``{"snapshot", "revision", "changed"}``. Blocks.

    Raises ConfigError, TryLater while an agent or its main lives, and SidecarErrors; nothing is written then, but for
    a lease that could not be given back.
    """
    here = open_session(os.environ, os.urandom(8).hex())
    try:
        return asyncio.run(_sync(here))
    finally:
        here.locks.release()
        here.index.close()


async def _sync(here: Session) -> dict[str, Any]:
    try:
        await require_known(here)
        start = Start(here.store, here.index, here.plan, here.state, here.record)
        recovered = await start.claim_only()
        if recovered.tenure is None:
            raise TryLater(f"the store can't be written: {recovered.why_unleased}")
        engine = await session.engine(here, session.base_of(recovered), recovered.tenure, recovered.access.now)
        if recovered.origin.readme:
            engine.rides["README.md"] = report.readme(here.settings.identity, here.settings.store.url)
        result = await engine.final(time.monotonic() + PATIENCE_S)
        if not result.ok:
            await start.give_back()
            raise TryLater(f"nothing was committed: {result.error}")
        return {"snapshot": result.snapshot, "revision": result.revision, "changed": result.changed}
    finally:
        with contextlib.suppress(StoreError, TimeoutError):
            await asyncio.wait_for(here.store.close(), 5)


async def require_known(here: Session) -> None:
    """Without a restore the disk must be what the index says: else a sync would take lost files for deleted ones.

    Raises SidecarError where it isn't. A store without a snapshot is for the cold-start check to judge, and one that
    isn't there, or can't be seen, for the claim: it makes it, or says why it can't.
    """
    try:
        exists = (await here.store.check()).exists
    except NotFound:
        exists = False
    head = await here.store.head() if exists else None
    manifest = await read_manifest(here.store, head, here.plan.state_dir) if head is not None else None
    if head is None or manifest is None or await settle(here.index, here.plan.store_id, manifest, head):
        return
    raise SidecarError(
        f"this disk was not restored from {manifest.snapshot}, the newest snapshot in {here.store.url}: a sync"
        " would take what is missing for deleted. Run `sidecar restore` first. Nothing was written"
    )
