"""Bring the declared roots to a snapshot: look, fetch into staging, verify, put in place by a redo journal.

Until every byte is verified nothing on this disk is changed but our own staging folders (design, section 7).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sidecar.errors import RestoreFailed, SidecarError, UsageError
from sidecar.recovery import journal
from sidecar.recovery.choice import Image, Mode
from sidecar.recovery.image import described, image_of
from sidecar.recovery.job import Job, Restored, bring, look
from sidecar.recovery.journal import JournalOutcome, finish_journal
from sidecar.recovery.meter import Meter
from sidecar.recovery.plan import Step, at_or_under, check
from sidecar.recovery.prepare import prepare
from sidecar.recovery.reading import read_manifest
from sidecar.recovery.staging import fetch
from sidecar.recovery.survey import RowOf, places, survey, whole
from sidecar.recovery.tree import forget_digests
from sidecar.recovery.trouble import Damaged, failed
from sidecar.roots import Root
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.index import Index, Known
from sidecar.snapshot.manifest import Manifest
from sidecar.state import RestoreProgress
from sidecar.stores.base import Store

__all__ = [
    "Damaged",
    "JournalOutcome",
    "Restored",
    "confirm_local",
    "download",
    "entry_path",
    "finish_journal",
    "preview",
    "read_manifest",
    "restore",
    "restore_paths",
    "restore_to",
]


async def restore(
    store: Store,
    revision: str,
    manifest: Manifest,
    roots: Sequence[Root],
    *,
    index: Index,
    store_id: str,
    state_dir: Path,
    progress: RestoreProgress,
    instance: str,
    alive: Callable[[], None] | None = None,
    earlier: JournalOutcome | None = None,
) -> Restored:
    """Bring ``roots`` to ``manifest`` before main starts; afterwards ``index`` describes it.

    Finishes an open journal first. Where the index knows this very snapshot, local changes are newer and
    stay. Else what differs locally and isn't as the index says is moved to ``<state_dir>/conflicts/<time>/``.
    ``alive`` is called, on the loop, when something moves; ``earlier`` is what the caller has finished of a journal.
    Raises RestoreFailed (Damaged among it),
    ManifestError and what the store raises; the next call doesn't fetch again what was verified by then.
    """
    meter = Meter(progress, alive)
    await meter.work(check, manifest)
    earlier = await meter.to_the_end(finish_journal, state_dir, index, tick=meter.tick) or earlier
    mode = await meter.work(_believe, index, store_id, manifest, revision)
    where, skipped = await meter.work(places, manifest, roots)
    image = await meter.work(image_of, index, manifest)
    manifest = await meter.work(described, manifest, index, same=mode == "resume")
    job = Job(
        *(store, revision, manifest, where, mode),
        image=image,
        bury=True,
        row_of=await meter.work(_rows, index, store_id),
        index=index,
        store_id=store_id,
        state_dir=state_dir,
        instance=instance,
    )
    return _with(await bring(job, meter), skipped, earlier)


async def download(
    store: Store,
    revision: str,
    manifest: Manifest,
    roots: Sequence[Root],
    *,
    index: Index,
    store_id: str,
    state_dir: Path,
    progress: RestoreProgress,
    alive: Callable[[], None] | None = None,
) -> None:
    """Have all that a `restore` of ``manifest`` would fetch, verified, in staging. Raises as that does.

    No root is changed but for its staging folder, nor is the index: nothing is decided yet.
    """
    meter = Meter(progress, alive)
    await meter.work(check, manifest)
    mode = await meter.work(_worth, index, store_id, manifest)
    where, _ = await meter.work(places, manifest, roots)
    image = await meter.work(image_of, index, manifest)
    manifest = await meter.work(described, manifest, index, same=mode == "resume")
    row_of = await meter.work(_rows, index, store_id)
    job = Job(*(store, revision, manifest, where, mode), image=image, bury=True, row_of=row_of, state_dir=state_dir)
    plan = await meter.work(look, job, meter)
    ready = await meter.work(prepare, plan, job.manifest, job.state_dir, meter)
    await fetch(job.store, job.revision, job.manifest, ready.wants, meter)


async def restore_paths(
    store: Store,
    revision: str,
    manifest: Manifest,
    roots: Sequence[Root],
    only: str | None,
    *,
    index: Index | None,
    store_id: str,
    state_dir: Path,
    progress: RestoreProgress,
    instance: str,
    record: bool = False,
    alive: Callable[[], None] | None = None,
) -> Restored:
    """`sidecar restore`: what lies at or under ``only`` (a path in the snapshot; None is all) into the roots.

    Asked for by a person, so nothing local counts as newer: what differs goes to conflicts. The index is left
    as it is, which makes the restored files changes that the next sync takes, unless ``record`` says that it
    is to describe this snapshot from now on (not with ``only``).
    """
    meter = Meter(progress, alive)
    await meter.work(check, manifest)
    earlier = await meter.to_the_end(finish_journal, state_dir, index, tick=meter.tick)
    if earlier is not None and not earlier.complete and only is not None:
        raise RestoreFailed(
            f"an earlier restore was cut off ({earlier.why}), and a part alone would leave it so. Nothing was "
            "changed. Run `sidecar restore` without --path first"
        )
    where, skipped = await meter.work(places, manifest, roots)
    await meter.work(_require, manifest, only, [p.root for p in where])
    starts = record and only is None and index is not None
    image = None
    if starts and index is not None:
        image = await meter.work(image_of, index, manifest)
        manifest = await meter.work(described, manifest, index, same=False)
    job = Job(
        *(store, revision, manifest, where, "bring", only),
        image=image,
        bury=starts,
        row_of=await meter.work(_rows, index, store_id),
        index=index if starts else None,
        store_id=store_id,
        state_dir=state_dir,
        instance=instance,
    )
    return _with(await bring(job, meter), skipped, earlier)


async def restore_to(
    store: Store,
    revision: str,
    manifest: Manifest,
    dest: Path,
    *,
    only: str | None = None,
    force: bool = False,
    progress: RestoreProgress,
    alive: Callable[[], None] | None = None,
) -> Restored:
    """Lay the snapshot (at or under ``only``) out as ``dest/<root name>/…`` and touch nothing else.

    ``dest`` is made where it is missing. UsageError where it isn't empty, unless ``force``: then files and
    links in the way are replaced, the rest is kept, and a folder where a file belongs is a RestoreFailed.
    """
    meter = Meter(progress, alive)
    await meter.work(check, manifest)
    await meter.work(_require, manifest, only, None)
    if not force:
        await meter.work(_require_empty, dest)
    place = await meter.work(whole, dest)
    return await bring(Job(store, revision, manifest, (place,), "overwrite", only), meter)


def preview(
    manifest: Manifest,
    roots: Sequence[Root],
    index: Index | None,
    only: str | None,
    *,
    image: Image | None = None,
    bury: bool = False,
) -> list[Step]:
    """What `sidecar restore` would do: ``image`` and ``bury`` where it would go by them. Blocks."""
    check(manifest)
    where, _ = places(manifest, roots)
    _require(manifest, only, [p.root for p in where])
    known = index is not None and index.known() is not None
    row_of: RowOf = index.get if index is not None and known else lambda _: None
    steps = survey(manifest, where, row_of, "bring", only=only, image=image, bury=bury, tick=lambda: None)
    forget_digests()
    return [step for step in steps if not step.implied or step.changes]


def confirm_local(manifest: Manifest, roots: Sequence[Root], index: Index, store_id: str, revision: str) -> None:
    """Rebuild a lost index beside a running main, as the head's entries.

    A file counts as unchanged only where its bytes were hashed and are the entry's. Touches no root, and
    fails for nothing that it finds in one. Blocks.
    """
    where, _ = places(manifest, roots)
    now = time.time_ns()
    steps = survey(manifest, where, lambda _: None, "confirm", tick=lambda: None)
    # A file that was written a moment ago may change again within its timestamp.
    stats = {s.entry.path: s.stat for s in steps if s.stat is not None and s.stat.ctime_ns < now - 2_000_000_000}
    forget_digests()
    index.replace(Known(store_id, manifest.snapshot, revision), manifest, stats)


def entry_path(path: str, roots: Sequence[Root]) -> str:
    """What a person's ``path``, local and absolute or already a snapshot's, is called in a snapshot."""
    for root in roots:
        if at_or_under(path, root.path):
            return root.name + path[len(root.path) :].rstrip("/")
    return path.strip("/")


def _require(manifest: Manifest, only: str | None, roots: Sequence[str] | None) -> None:
    if only is None or any(at_or_under(path, only) for path in manifest.entries):
        if only is None or roots is None or any(at_or_under(only, r) or at_or_under(r, only) for r in roots):
            return
        raise UsageError(f"{only!r} lies in no declared root: `sidecar restore --to DIR` lays it out elsewhere")
    raise SidecarError(
        f"snapshot {manifest.snapshot} has nothing at or under {only!r}; "
        f"`sidecar ls {manifest.snapshot}` shows what it has"
    )


def _require_empty(dest: Path) -> None:
    try:
        names = [n for n in os.listdir(dest) if not n.startswith(STAGING_PREFIX)]
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise UsageError(f"{str(dest)!r} is no folder") from None
    except OSError as error:
        raise failed("look into", str(dest), error) from error
    if names:
        raise UsageError(
            f"{str(dest)!r} is not empty, nothing was changed: name another folder, "
            "or use --force to replace what is there"
        )


def _believe(index: Index, store_id: str, manifest: Manifest, revision: str) -> Mode:
    """Settle what an earlier life left pending, and say what the index is worth for this snapshot."""
    known = index.known()
    pending = index.pending()
    if pending is not None:
        if pending == manifest.snapshot and (known is None or known.store == store_id):
            index.promote(store_id, revision)
            known = index.known()
        else:
            index.discard()
    return _worth(index, store_id, manifest)


def _worth(index: Index, store_id: str, manifest: Manifest) -> Mode:
    """What the index, as it is, is worth for this snapshot."""
    known = index.known()
    this = known is not None and known.store == store_id and known.snapshot == manifest.snapshot
    return "resume" if this and index.note(journal.NOTE) is None else "bring"


def _rows(index: Index | None, store_id: str) -> RowOf:
    """What the index says of a path; nothing where it isn't of this store."""
    known = index.known() if index is not None else None
    if index is None or known is None or known.store != store_id:
        return lambda _: None
    return index.get


def _with(done: Restored, skipped: tuple[str, ...], earlier: JournalOutcome | None) -> Restored:
    """``done``, and what an earlier restore that was finished first has moved aside."""
    if earlier is not None and earlier.conflicts is not None:
        count = done.conflict_count + earlier.conflict_count
        done = replace(done, conflicts=done.conflicts or earlier.conflicts, conflict_count=count)
    return replace(done, skipped=skipped)
