"""An agent that comes after another one, beside a main that already runs: nothing is restored over it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from sidecar.errors import ManifestError
from sidecar.recovery.claim import Claimed, claim, read_lease
from sidecar.recovery.restore import read_manifest
from sidecar.recovery.terms import Plan, Recovered
from sidecar.recovery.turns import Waiting, goes_on
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Manifest, SnapshotId
from sidecar.stores.base import Corrupt, Revision, Store, Unavailable


@dataclass(frozen=True, slots=True)
class Reattached:
    """What an agent finds beside a main that already runs.

    ``taken`` is None where another instance has the lease; ``intact`` tells whether the index describes
    ``manifest``: the head's, or that of the snapshot that SIDECAR_REVISION ``chosen`` to start from where nothing was
    committed since (its words, and its revision). ``sent`` is the number of a snapshot that may still be on its way
    from the agent before.
    """

    taken: Claimed | None
    manifest: Manifest | None
    head: Revision
    intact: bool
    sent: SnapshotId | None
    chosen: tuple[str, Revision] | None = None


CHOSEN = "chosen"


def note_choice(index: Index, instance: str, recovered: Recovered) -> None:
    """Remember for the agents after this one which snapshot ``instance`` started from instead of the head. Blocks."""
    origin = recovered.origin
    chosen = origin.chosen is not None and origin.source is not None
    noted = json.dumps([instance, origin.chosen, origin.source, recovered.head])
    index.set_note(CHOSEN, noted if chosen else None)


def choice(index: Index, instance: str) -> tuple[str, Revision, Revision | None] | None:
    """What ``instance`` started from instead of the head, as long as nothing was committed since. Blocks.

    Its words, its revision, and what was the head then.
    """
    noted = index.note(CHOSEN)
    known = index.known()
    if noted is None or known is None:
        return None
    whose, words, source, head = json.loads(noted)
    return (words, source, head) if whose == instance and known.revision == source else None


async def settle(index: Index, store_id: str, manifest: Manifest, head: Revision, sender: str | None = None) -> bool:
    """Whether the index describes ``manifest``, the one at ``head``, once a commit of unknown outcome is settled.

    ``sender`` is the instance that sent it, where that is known: another's snapshot may have the same number.
    """
    sent = await asyncio.to_thread(index.pending)
    if sent is not None and sent == manifest.snapshot and sender in (None, manifest.instance):
        await asyncio.to_thread(index.promote, store_id, head)
    elif sent is not None:
        await asyncio.to_thread(index.discard)
    known = await asyncio.to_thread(index.known)
    return known is not None and known.store == store_id and known.snapshot == manifest.snapshot


async def reattach(store: Store, index: Index, plan: Plan) -> Reattached:
    """Beside a main that already runs: pick up from the index, restoring nothing. Raises Moved, SidecarErrors."""
    head = await store.head()
    if head is None:
        raise Unavailable(f"{store.url} has no head any more")
    chosen = await asyncio.to_thread(choice, index, plan.me.instance)
    sent = await asyncio.to_thread(index.pending)
    try:
        manifest = await read_manifest(store, head, plan.state_dir)
    except (ManifestError, Corrupt):
        if chosen is None:
            raise
        manifest = None  # the damaged head that the choice was made for
    found = await read_lease(store, head)
    intact = manifest is None or await settle(index, plan.store_id, manifest, head, plan.me.instance)
    # A life that has had no lease yet may take one, as long as the head is what it started from.
    unmoved = chosen[2] == head if chosen is not None else manifest is not None and intact
    stands, writer = (manifest.snapshot, manifest.instance) if manifest is not None else (None, "")
    if not goes_on(found, stands, writer, plan.me, unmoved=unmoved):
        return Reattached(None, manifest, head, False, sent)
    if chosen is not None and await asyncio.to_thread(choice, index, plan.me.instance) is not None:
        manifest, intact = await read_manifest(store, chosen[1], plan.state_dir), True
    else:
        chosen = None
    least = manifest.snapshot.epoch if manifest else 0
    taken = await claim(store, head, found, plan.me, least, Waiting(0.0))
    return Reattached(
        taken if isinstance(taken, Claimed) else None, manifest, head, intact, sent, chosen and chosen[:2]
    )
