"""`sidecar sync`, `forget` and `prune` where no agent runs: claim the lease, commit once, release it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from dataclasses import replace
from typing import Any

from sidecar import log, session, tending
from sidecar.errors import SidecarError, TryLater
from sidecar.recovery import journal, report
from sidecar.recovery.claim import read_lease
from sidecar.recovery.reattach import settle
from sidecar.recovery.restore import read_manifest
from sidecar.recovery.start import Start
from sidecar.session import Session, open_session
from sidecar.stores.base import Denied, NotFound, StoreError
from sidecar.sync import history
from sidecar.sync.history import Retention

PATIENCE_S = 3600.0

HELD = "held by hand"
"""The index's note of what the last sync of ours held back."""


def sync_once(forget: str = "") -> dict[str, Any]:
    """One snapshot of the declared roots: ``{"snapshot", "revision", "changed"}``. Blocks.

    It has nothing any more of what was only carried forward at or under ``forget`` (an entry's path).

    Raises ConfigError, TryLater while an agent or its main lives, and SidecarErrors; nothing is written then, but for
    a lease that could not be given back.
    """
    here = open_session(os.environ, os.urandom(8).hex())
    try:
        return asyncio.run(_sync(here, forget))
    finally:
        here.locks.release()
        here.index.close()


async def _sync(here: Session, forget: str) -> dict[str, Any]:
    try:
        await require_known(here)
        start = Start(here.store, here.index, here.plan, here.state, here.record)
        recovered = await start.claim_only()
        if recovered.tenure is None:
            raise Denied(f"{here.store.url} can't be written: {recovered.why_unleased}. Nothing was written")
        engine = await session.engine(here, session.base_of(recovered), recovered.tenure, recovered.access.now)
        now = time.time()
        since, seen = await asyncio.to_thread(_seen_before, here, now)
        engine.seen_by_hand = seen if now - since >= here.settings.rescan_s else {}
        if recovered.origin.readme:
            engine.rides.files["README.md"] = report.readme(here.settings.identity, here.settings.store.url)
        result = await engine.final(time.monotonic() + PATIENCE_S, forget=forget)
        if not result.ok:
            await start.claimant.give_back()
            raise TryLater(f"nothing was committed: {result.error}")
        held = dict(result.held)
        note = {"since": since if held == seen else now, "snapshot": result.snapshot, "held": held}
        await asyncio.to_thread(here.index.set_note, HELD, json.dumps(note) if held else None)
        return {"snapshot": result.snapshot, "revision": result.revision, "changed": result.changed}
    finally:
        with contextlib.suppress(StoreError, TimeoutError):
            await asyncio.wait_for(here.store.close(), 5)


def _seen_before(here: Session, now: float) -> tuple[float, dict[str, int]]:
    """Since when mass deletions are held back (seconds since the epoch), and how many files of which roots.

    As an agent's rescan does, a later sync by hand confirms it, `SIDECAR_RESCAN` after the first one that saw it, where
    nothing but such syncs has committed since: whoever else did may have had the files back.
    """
    known = here.index.known()
    try:
        note = json.loads(here.index.note(HELD) or "{}")
        since, held = float(note["since"]), {str(root): int(files) for root, files in note["held"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return now, {}
    if known is None or note.get("snapshot") != str(known.snapshot) or since > now:
        return now, {}
    return since, held


def prune_once(keep_last: int | None, keep_within_s: float | None) -> dict[str, Any]:
    """Let go of old snapshots under a lease of our own, which is given back. Blocks. Raises SidecarErrors."""
    here = open_session(os.environ, os.urandom(8).hex())
    try:
        return asyncio.run(_prune(here, keep_last, keep_within_s))
    finally:
        here.locks.release()
        here.index.close()


async def _prune(here: Session, keep_last: int | None, keep_within_s: float | None) -> dict[str, Any]:
    store = here.store
    try:
        why = tending.why_not(here.settings)
        if why:
            raise SidecarError(why)
        held = await read_lease(store, await store.head())
        if held is not None and held.state != "released":
            # To take it would fence an app that lives, for the sake of some space.
            raise TryLater(
                f"instance {held.instance} holds the lease, and may live: nothing was pruned. Prune where it runs; if"
                " it is gone for good, `sidecar sync` or the next start takes the lease over"
            )
        start = Start(store, here.index, here.plan, here.state, here.record)
        claimed = await start.claim_only()
        if claimed.tenure is None:
            raise TryLater(f"the store can't be written: {claimed.why_unleased}")
        try:
            found = await history.look(store, Retention.of(keep_last, keep_within_s, squashes=store.squashes))
            await history.carry_out(store, found)
        finally:
            # A squash gave the commit that claimed another name.
            with contextlib.suppress(StoreError):
                head = await store.head()
                if start.claimant.claimed is not None and head is not None:
                    start.claimant.claimed = replace(start.claimant.claimed, revision=head)
            await start.claimant.give_back()
        return history.document(found)
    finally:
        with contextlib.suppress(StoreError, TimeoutError):
            await asyncio.wait_for(store.close(), 5)


async def require_known(here: Session) -> None:
    """Without a restore the disk must be what the index says: else a sync would take lost files for deleted ones.

    A restore that was cut off half-way is finished first. Raises SidecarError where it isn't. A store without a
    snapshot is for the cold-start check to judge, and one that isn't there, or can't be seen, for the claim: it makes
    it, or says why it can't.
    """
    done = await asyncio.to_thread(journal.finish_journal, here.plan.state_dir, here.index)
    if done is not None and done.conflicts is not None:
        log.warning(f"a restore of {done.snapshot} was cut off before; what differed from it lies in {done.conflicts}")
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
