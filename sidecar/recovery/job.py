"""One restore: look, fetch into staging, verify, put in place by a redo journal, tidy up."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from sidecar import heap
from sidecar.errors import RestoreFailed
from sidecar.recovery import aside, journal
from sidecar.recovery.choice import Image, Mode
from sidecar.recovery.meter import Meter
from sidecar.recovery.plan import Place, Plan, Step, operations
from sidecar.recovery.prepare import Ready, gather, prepare, settling
from sidecar.recovery.redo import Applied, Journal, apply
from sidecar.recovery.staging import fetch
from sidecar.recovery.survey import RowOf, survey
from sidecar.recovery.tidy import clear, seal_tops
from sidecar.recovery.tree import forget_digests
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.index import Index, Known, Stat
from sidecar.snapshot.manifest import Manifest
from sidecar.stores.base import Store


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    ``files`` and ``bytes`` are the snapshot's in the roots that were restored; ``fetched`` of them came from
    the store. ``kept_newer`` local changes stayed, ``conflict_count`` others lie in ``conflicts``.
    ``skipped`` are the snapshot's roots that aren't declared; ``blocked`` the entries that a socket, pipe,
    device, mount point or our own state dir stands in the way of: what is there was left. ``image_newer`` files stayed
    as a newer image ships them; ``buried`` shipped ones were removed, because main had deleted them. ``roots`` has
    the files and links of each root that was restored, and their bytes.
    """

    files: int = 0
    bytes: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    kept_newer: int = 0
    conflicts: Path | None = None
    conflict_count: int = 0
    skipped: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    image_newer: int = 0
    buried: int = 0
    roots: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """One restore: from where, to where, and what is known about this disk."""

    store: Store
    revision: str
    manifest: Manifest
    places: tuple[Place, ...]
    mode: Mode
    only: str | None = None
    row_of: RowOf = field(default=lambda _: None)
    index: Index | None = None  # where it is to describe the snapshot afterwards
    store_id: str = ""
    state_dir: Path | None = None
    instance: str = ""
    image: Image | None = None  # of a fresh disk
    bury: bool = False  # the snapshot's tombstones act


def look(job: Job, meter: Meter) -> Plan:
    own = str(job.state_dir) if job.state_dir is not None else None
    steps = survey(
        *(job.manifest, job.places, job.row_of, job.mode),
        only=job.only,
        own=own,
        image=job.image,
        bury=job.bury,
        tick=meter.tick,
    )
    files = [s for s in steps if s.entry.kind == "file" and not s.implied and s.action != "gone"]
    there = [s for s in files if not s.fetches]
    meter.expect(len(files), sum(s.entry.size for s in files))
    meter.done(len(there), sum(s.entry.size for s in there))
    return Plan(job.places, tuple(steps), job.image is not None)


async def bring(job: Job, meter: Meter) -> Restored:
    with heap.unhurried():
        plan = await meter.work(look, job, meter)
        ready = await meter.work(prepare, plan, job.manifest, job.state_dir, meter)
        looked = await fetch(job.store, job.revision, job.manifest, ready.wants, meter)
        return await meter.to_the_end(_put, job, replace(plan, places=ready.places), ready, looked, meter)


def _put(job: Job, plan: Plan, ready: Ready, looked: Mapping[str, bool], meter: Meter) -> Restored:
    """Put all in its place, by a journal where a later start can finish it; then the index; then tidy up."""
    sources, databases = gather(ready, looked, meter.tick)
    used = {s.place for s in plan.steps if s.fetches}
    with settling([plan.places[n] for n in sorted(used)]) as settled:
        ops = operations(plan, sources, databases, job.manifest.entries, ready.folders)
        folder = _conflicts(job.state_dir) if job.state_dir is not None else None
        log = Journal(
            *(job.store_id, str(job.manifest.snapshot), job.revision, job.instance, job.index is not None),
            str(folder) if folder is not None else None,
            plan.places,
            tuple(ops),
            wary=folder is not None,
        )
        if job.state_dir is not None and ops:
            if job.index is not None:
                job.index.set_note(journal.NOTE, log.snapshot)
            journal.write(job.state_dir, log, job.manifest, settled)
        settled()
    applied = apply(log, meter.tick)
    if applied.lost:
        _staging_lost(applied)
    if job.index is not None:
        known = Known(job.store_id, job.manifest.snapshot, job.revision)
        job.index.replace(known, job.manifest, _stats(plan.steps, applied.stats))
        job.index.set_note(journal.NOTE, None)
    if job.state_dir is not None:
        journal.remove(job.state_dir)
    for place in plan.places:
        clear(place)
    seal_tops(log)
    forget_digests()
    return _restored(plan, applied, folder)


def _staging_lost(applied: Applied) -> NoReturn:
    raise RestoreFailed(
        f"{applied.lost[0]!r} vanished from staging before it was in its place: does something clean up "
        f"{STAGING_PREFIX}* folders? The restore starts over from the store"
    )


def _conflicts(state_dir: Path) -> Path:
    """A folder that isn't there yet, named by the time for people."""
    base = state_dir / "conflicts" / time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    path, number = base, 1
    while os.path.lexists(path):
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def _stats(steps: Sequence[Step], placed: Mapping[str, Stat]) -> dict[str, Stat]:
    return {**{s.entry.path: s.stat for s in steps if s.stat is not None}, **placed}


def _restored(plan: Plan, applied: Applied, folder: Path | None) -> Restored:
    moved = aside.count(str(folder)) if folder is not None else 0
    blocked = {s.entry.path for s in plan.steps if s.action == "blocked"} | set(applied.blocked)
    known = [s for s in plan.steps if s.action != "gone"]
    files = [s.entry for s in known if s.entry.kind == "file" and s.entry.path not in blocked]
    fetched = [s.entry for s in plan.steps if s.fetches and s.entry.path not in blocked]
    return Restored(
        files=len(files),
        bytes=sum(e.size for e in files),
        fetched=len(fetched),
        fetched_bytes=sum(e.size for e in fetched),
        kept_newer=sum(s.action == "newer" and s.local is not None for s in plan.steps),
        conflicts=folder if moved else None,
        conflict_count=moved,
        blocked=tuple(sorted(blocked)),
        image_newer=sum(s.action == "image" and s.local is not None for s in plan.steps),
        buried=sum(s.action == "gone" for s in plan.steps),
        roots=_roots(plan, known, blocked),
    )


def _roots(plan: Plan, known: Sequence[Step], blocked: Collection[str]) -> dict[str, tuple[int, int]]:
    counts = [[0, 0] for _ in plan.places]
    for step in known:
        if step.entry.kind != "dir" and step.entry.path not in blocked:
            counts[step.place][0] += 1
            counts[step.place][1] += step.entry.size
    return {place.root: (files, size) for place, (files, size) in zip(plan.places, counts, strict=True)}
