"""``verify``: read everything back and compare checksums, without touching a root."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidecar import log
from sidecar.commands import words
from sidecar.commands.bar import Bar
from sidecar.commands.drill import Drill, Report
from sidecar.commands.reading import ALL, Reader, Unreadable, is_id, reading
from sidecar.errors import EX_FAILED, EX_OK, ManifestError
from sidecar.recovery import rehearsal
from sidecar.recovery.meter import Meter
from sidecar.recovery.scratch import scratch
from sidecar.snapshot.manifest import PATH, SnapshotId, snapshot_in
from sidecar.stores.base import Revision
from sidecar.sync.history import past


def verify(args: Namespace) -> int:
    return reading(lambda reader: _verify(reader, args))


async def _verify(reader: Reader, args: Namespace) -> int:
    began = time.monotonic()
    revision = await reader.revision(args.revision or "head")
    reports: list[Report] = []
    with Bar("verifying") as bar, scratch(Path(reader.settings.state_dir), "verify") as folder:
        drill = Drill(reader.store, folder, Meter(bar.progress, bar.alive), whole=args.full)
        reports.append(await _one(reader, drill, revision))
        # Whoever has a damaged snapshot needs to know which one to start from.
        if args.full or reports[0].damaged:
            async for older in _older(reader, reports[0]):
                report = await _one(reader, drill, older)
                if report.snapshot == reports[0].snapshot and report.damaged:
                    continue  # the same once more: its commit, below a later one of the lease
                reports.append(report)
                if not args.full and not report.damaged:
                    break
    good = next((r.snapshot for r in reports if not r.damaged), None)
    damaged = [r for r in reports if r.damaged]
    if args.revision in (None, "head"):
        _note(reader, reports[0], began)
    if args.json:
        words.document({"ok": not damaged, "newest_good": good, "snapshots": [_document(r) for r in reports]})
    for report in reports:
        _say(report, args.json)
    if damaged:
        _say_what_to_do(damaged, good)
    return EX_FAILED if damaged else EX_OK


def _note(reader: Reader, head: Report, began: float) -> None:
    """This counts as a drill, where an agent's state dir is here to say so in."""
    state_dir = reader.settings.state_dir
    outcome = rehearsal.Outcome(
        "fail" if head.damaged else "pass",
        reader.store.url,
        time.time(),
        f"{len(head.damaged):,} files or bundles are damaged" if head.damaged else "",
        head.snapshot,
        head.revision,
        head.files,
        head.bytes,
        round(time.monotonic() - began, 1),
        by="verify",
    )
    with suppress(OSError):  # no state dir: nobody will ask
        rehearsal.note(state_dir, outcome)


async def _one(reader: Reader, drill: Drill, revision: Revision) -> Report:
    """One snapshot; a manifest that can't be believed is damage of it, and doesn't end the drill."""
    try:
        found = await reader.at(revision)
        return await drill.read(found.revision, found.manifest)
    except (Unreadable, ManifestError) as error:
        if not error.damage:
            raise
        return Report(await _called(reader, revision), revision, 0, 0, {PATH: error.message})


async def _called(reader: Reader, revision: Revision) -> str:
    """What the snapshot at ``revision`` is called where it can't say so itself."""
    history = await reader.store.history(ALL)
    place = next((n for n, c in enumerate(history) if c.revision == revision), len(history))
    return next((found for c in history[place:] if (found := snapshot_in(c.title)) is not None), revision[:12])


async def _older(reader: Reader, newest: Report) -> AsyncIterator[Revision]:
    """Every snapshot before ``newest`` that the store still has, newest first."""
    history = await reader.store.history(ALL)
    place = next((n for n, c in enumerate(history) if c.revision == newest.revision), -1)
    limit = SnapshotId.parse(newest.snapshot) if is_id(newest.snapshot) else None
    for p in past(history[place + 1 :], await reader.store.branches()):
        if limit is None or p.number < limit or (p.number == limit and newest.damaged):
            yield p.revision


def _document(report: Report) -> dict[str, Any]:
    return {
        "snapshot": report.snapshot,
        "revision": report.revision,
        "files": report.files,
        "bytes": report.bytes,
        "damaged": [{**words.named(path), "why": why} for path, why in sorted(report.damaged.items())],
        "unnamed": [{**words.named(path), "size": size} for path, size in sorted(report.unnamed.items())],
    }


def _say(report: Report, quiet: bool) -> None:
    what = f"{words.files(report.files)}, {words.size(report.bytes)}"
    if report.unnamed:
        log.info(
            f"{report.snapshot}: {words.files(len(report.unnamed))}, {words.size(sum(report.unnamed.values()))} in the"
            " store that the snapshot doesn't name: no restore reads them"
        )
    if not report.damaged:
        log.info(f"verified {report.snapshot}: {what}, all as they were committed")
    elif not report.files:
        log.error(f"{report.snapshot}: its manifest can't be read back as it was committed")
    else:
        log.error(f"{report.snapshot}: {len(report.damaged):,} of {what} can't be read back as they were committed")
    if quiet:
        return
    for path, why in sorted(report.damaged.items()):
        print(f"damaged  {report.snapshot}  {words.name(path)}  ({words.name(why)})")
    for path, size in sorted(report.unnamed.items()):
        print(f"unnamed  {report.snapshot}  {words.name(path)}  ({words.size(size)})")


def _say_what_to_do(damaged: list[Report], good: str | None) -> None:
    message = "the store does not give back what was committed. What is on this disk was not touched. "
    if good is None:
        message += "No earlier snapshot that the store has is whole either: look at the store by hand"
    elif good == damaged[0].snapshot:
        message += (
            f"The store was changed since {good} was committed, which is whole in its history:"
            f" SIDECAR_REVISION={good} starts from it"
        )
    else:
        message += f"The newest snapshot that verifies is {good}: SIDECAR_REVISION={good} starts from it"
    log.error(message)
