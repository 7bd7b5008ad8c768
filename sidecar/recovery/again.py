"""Coming to the lease late: a start that could not have it, and an instance that has handed it over for nothing."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.errors import SidecarError
from sidecar.recovery.claim import Claimed, Moved, claim, read_lease
from sidecar.recovery.lease import Lease, Me
from sidecar.recovery.restore import read_manifest
from sidecar.recovery.terms import Plan, Recovered
from sidecar.recovery.turns import Left, Waiting, reclaims
from sidecar.snapshot.manifest import Manifest
from sidecar.stores.base import Revision, Store

SINCE = 100
"""Commits that are looked through for the one that was restored."""

LEASES = "sidecar: lease "
"""How the titles of commits start that touch nothing but the lease."""


@dataclass(frozen=True, slots=True)
class Regained:
    """The lease of an unleased start, and the snapshot that it is taken with: what was restored, maybe renumbered."""

    taken: Claimed
    manifest: Manifest | None


async def regain(store: Store, recovered: Recovered, plan: Plan, waiting: Waiting) -> Regained | None:
    """An unleased start tries once more: the lease, if what the head holds is still what was restored.

    Whoever has it now is asked, and waited for over several calls with one ``waiting``; what it writes meanwhile is
    nothing that this disk has, and ends that for good. None: not yet, or not any more.
    """
    while True:
        try:
            head = await store.head()
            manifest = await _unmoved(store, head, recovered, plan)
            found = await read_lease(store, head)
            least = manifest.snapshot.epoch if manifest is not None else 0
            taken = await claim(store, head, found, plan.me, least, waiting)
        except Moved:
            continue
        except (SidecarError, _Other):
            return None
        return Regained(taken, manifest) if isinstance(taken, Claimed) else None


class _Other(Exception):
    """The head holds something else than what was restored."""


async def _unmoved(store: Store, head: Revision | None, recovered: Recovered, plan: Plan) -> Manifest | None:
    """The manifest at ``head``, which holds what was ``recovered``. Raises _Other, SidecarErrors."""
    if head == recovered.head:
        return recovered.manifest
    history = await store.history(SINCE)
    there = next((n for n, commit in enumerate(history) if commit.revision == recovered.head), None)
    if there is not None and all(commit.title.startswith(LEASES) for commit in history[:there]):
        return recovered.manifest
    if head is None or recovered.origin.chosen is not None:
        raise _Other
    manifest = await read_manifest(store, head, plan.state_dir)
    if manifest is None or recovered.manifest is None or manifest.entries != recovered.manifest.entries:
        raise _Other
    return manifest


@dataclass(frozen=True, slots=True)
class Standing:
    """A main line that a fenced instance may take again: its head, the lease there, and its snapshot."""

    head: Revision
    lease: Lease
    manifest: Manifest


async def standing(store: Store, plan: Plan, left: Left, waited_s: float, patience_s: float) -> Standing | None:
    """The main line, where a fenced instance may claim it again (see ``reclaims``). Raises SidecarErrors."""
    head = await store.head()
    found = await read_lease(store, head)
    if head is None or found is None or (found.state != "released" and found.instance != plan.me.instance):
        return None
    manifest = await read_manifest(store, head, plan.state_dir)
    stands = manifest.snapshot if manifest is not None else None
    if manifest is None or not reclaims(found, stands, plan.me, left, waited_s=waited_s, patience_s=patience_s):
        return None
    return Standing(head, found, manifest)


async def reclaim(store: Store, at: Standing, me: Me) -> Claimed | None:
    """Claim what is ``standing``; None where it could not be had, or isn't any more."""
    try:
        taken = await claim(store, at.head, at.lease, me, at.manifest.snapshot.epoch, Waiting(0.0))
    except (Moved, SidecarError):
        return None
    return taken if isinstance(taken, Claimed) else None
