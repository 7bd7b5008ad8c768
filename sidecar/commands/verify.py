"""``verify``: read everything back and compare checksums, without touching a root."""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sidecar import log
from sidecar.commands import words
from sidecar.commands.bar import Bar
from sidecar.commands.reading import ALL, Found, Reader, reading
from sidecar.errors import EX_FAILED, EX_OK, SidecarError
from sidecar.recovery.meter import Meter
from sidecar.recovery.plan import check
from sidecar.recovery.staging import Want, fetch
from sidecar.recovery.trouble import Damaged
from sidecar.snapshot import bundle
from sidecar.snapshot.manifest import BUNDLES, PATH, Entry, Frame, snapshot_in
from sidecar.stores.base import Revision, StoreError

GROUP_FILES, GROUP_BYTES = 200, 256 * 1024 * 1024
"""So much is on the disk at a time (a single file or bundle may be larger)."""


Key = tuple[str, Frame | str]


@dataclass(frozen=True, slots=True)
class Report:
    """What reading one snapshot back came to; ``damaged`` says why, by path."""

    snapshot: str
    revision: Revision
    files: int
    bytes: int
    damaged: dict[str, str]


def verify(args: Namespace) -> int:
    return reading(lambda reader: _verify(reader, args))


async def _verify(reader: Reader, args: Namespace) -> int:
    seen: set[Key] = set()
    with Bar("verifying") as bar:
        meter = Meter(bar.progress, bar.alive)
        found = await reader.find(args.revision)
        reports = [await _check(reader, found, seen, meter)]
        for snapshot, revision in await _older(reader, found) if args.full else []:
            reports.append(await _check_older(reader, snapshot, revision, seen, meter))
    damaged = any(report.damaged for report in reports)
    if args.json:
        words.document({"ok": not damaged, "snapshots": [_document(r) for r in reports]})
    for report in reports:
        _say(report, args.json)
    if damaged:
        log.error(
            "the store does not give back what was committed. What is on this disk was not touched. "
            "`sidecar verify --revision ID` tells of an earlier snapshot, SIDECAR_REVISION=ID starts from one"
        )
    return EX_FAILED if damaged else EX_OK


async def _older(reader: Reader, found: Found) -> list[tuple[str, Revision]]:
    """Every snapshot before ``found`` that the history still has, as (id, revision)."""
    history = await reader.store.history(ALL)
    place = next((n for n, c in enumerate(history) if c.revision == found.revision), 0)
    out: dict[str, Revision] = {}
    for commit in history[place + 1 :]:
        snapshot = snapshot_in(commit.title)
        if snapshot is not None and snapshot != found.id:
            out.setdefault(snapshot, commit.revision)
    return list(out.items())


async def _check_older(reader: Reader, snapshot: str, revision: Revision, seen: set[Key], meter: Meter) -> Report:
    try:
        found = await reader.find(revision)
    except StoreError:
        raise
    except SidecarError as error:
        return Report(snapshot, revision, 0, 0, {PATH: error.message})
    return await _check(reader, found, seen, meter)


async def _check(reader: Reader, found: Found, seen: set[Key], meter: Meter) -> Report:
    """Read all of one snapshot that was not read before, and look that the rest is there."""
    check(found.manifest)
    files = [e for e in found.manifest.entries.values() if e.kind == "file"]
    new = [e for e in files if _key(e) not in seen]
    damaged = await _missing(reader, found, [e for e in files if _key(e) in seen])
    meter.expect(len(new), sum(e.size for e in new))
    for group in groups(new):
        damaged.update(await _read(reader, found, group, meter))
    seen.update(_key(e) for e in new if e.path not in damaged)
    return Report(found.id, found.revision, len(files), sum(e.size for e in files), damaged)


def _key(entry: Entry) -> Key:
    """Equal for what a store reads from the same place."""
    return entry.sha256, entry.frame or entry.path


async def _missing(reader: Reader, found: Found, known: list[Entry]) -> dict[str, str]:
    """Which of ``known``, read already from another snapshot, this one can't reach."""
    if not known:
        return {}
    there = await reader.store.listing(found.revision)
    out = {}
    for entry in known:
        frame = entry.frame
        path = bundle.store_path(frame.bundle) if frame else entry.path
        if there.get(path) != (found.manifest.bundles[frame.bundle] if frame else entry.size):
            out[entry.path] = f"{path!r} is not there in its size"
    return out


async def _read(reader: Reader, found: Found, group: list[Entry], meter: Meter) -> dict[str, str]:
    """Fetch ``group`` and throw it away again; why each file of it that is damaged is so."""
    damaged: dict[str, str] = {}
    while group:
        try:
            await _fetch(reader, found, group, meter)
            break
        except Damaged as error:
            if group[0].frame is not None and error.path.startswith(BUNDLES):
                return {**damaged, **{e.path: error.why for e in group}}
            damaged[error.path] = error.why
            group = [e for e in group if e.path != error.path]
            if group and group[0].frame is None and len(group) > 1:
                # One damaged file ends a fetch; most of the others are good, and are not read for each anew.
                half = len(group) // 2
                for part in (group[:half], group[half:]):
                    damaged.update(await _read(reader, found, part, meter))
                break
    return damaged


async def _fetch(reader: Reader, found: Found, group: list[Entry], meter: Meter) -> None:
    box = reader.scratch / "verify"
    box.mkdir(mode=0o700)
    try:
        await fetch(reader.store, found.revision, found.manifest, [Want(box, e) for e in group], meter)
    finally:
        await meter.work(shutil.rmtree, box, True)


def groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """``entries`` in portions; what lies in one bundle stays together, or it would be fetched several times."""
    by_bundle: dict[str, list[Entry]] = {}
    group: list[Entry] = []
    weight = 0
    for entry in entries:
        if entry.frame is not None:
            by_bundle.setdefault(entry.frame.bundle, []).append(entry)
            continue
        if group and (len(group) >= GROUP_FILES or weight + entry.size > GROUP_BYTES):
            yield group
            group, weight = [], 0
        group.append(entry)
        weight += entry.size
    if group:
        yield group
    yield from by_bundle.values()


def _document(report: Report) -> dict[str, Any]:
    return {
        "snapshot": report.snapshot,
        "revision": report.revision,
        "files": report.files,
        "bytes": report.bytes,
        "damaged": [{**words.named(path), "why": why} for path, why in sorted(report.damaged.items())],
    }


def _say(report: Report, quiet: bool) -> None:
    what = f"{words.files(report.files)}, {words.size(report.bytes)}"
    if not report.damaged:
        log.info(f"verified {report.snapshot}: {what}, all as they were committed")
        return
    log.error(f"{report.snapshot}: {len(report.damaged):,} of {what} can't be read back as they were committed")
    if not quiet:
        for path, why in sorted(report.damaged.items()):
            print(f"damaged  {words.name(path)}  ({words.name(why)})")
