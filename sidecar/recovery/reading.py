"""Reading a snapshot's manifest, shards and all, from a store, and telling "there is none" from "it didn't come"."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from sidecar import heap
from sidecar.errors import ManifestError
from sidecar.recovery.meter import Meter
from sidecar.recovery.staging import TRIES
from sidecar.recovery.trouble import failed
from sidecar.snapshot import draft, shards
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.manifest import PATH, Manifest, Shard
from sidecar.state import RestoreProgress
from sidecar.stores.base import Corrupt, NotFound, Store

_BOX = f"{STAGING_PREFIX}manifest-"

TOGETHER = 100
"""Shards that one call fetches."""


async def read_manifest(store: Store, revision: str, scratch: Path) -> Manifest | None:
    """The manifest of ``revision``; None where that revision certainly has none.

    ``scratch`` is a folder of the caller's. Raises ManifestError or Corrupt where it is damaged in each of 3
    fetches, ManifestError at once for a format that this version can't read, NotFound for a revision that
    isn't there, and whatever else the store raises.
    """
    meter = Meter(RestoreProgress(), None)
    box = scratch / f"{_BOX}{os.getpid()}"
    for attempt in range(1, TRIES + 1):
        begun: draft.Draft | None = None
        await meter.work(_fresh, box)
        try:
            await store.fetch(revision, [PATH], box)
            begun = await meter.work(_begin, box / PATH)
            for group in _groups([shards.store_path(s.sha256) for s in begun.parts]):
                await store.fetch(revision, group, box)
            with heap.unhurried():
                return await meter.work(draft.finish, begun, partial(_shard, box))
        except NotFound:
            # Of the revision, or of a path? Only the manifest's may ever be taken for "nothing was kept here".
            there = await store.listing(revision)
            if PATH not in there:
                return None
            missing = [s for s in begun.parts if shards.store_path(s.sha256) not in there] if begun else []
            if missing:
                raise ManifestError(f"shard {missing[0].sha256[:12]}… of the manifest is not in the store") from None
            if attempt == TRIES:
                raise
        except ManifestError as error:
            if attempt == TRIES or not error.damage:
                raise
        except Corrupt:
            if attempt == TRIES:
                raise
        finally:
            await meter.work(shutil.rmtree, box, True)
    raise AssertionError("unreachable")


def _fresh(box: Path) -> None:
    """Make ``box`` anew, and remove what readers that were killed have left beside it."""
    try:
        for name in os.listdir(box.parent):
            owner = name.removeprefix(_BOX)
            if name.startswith(_BOX) and (name == box.name or not os.path.exists(f"/proc/{owner}")):
                shutil.rmtree(box.parent / name, ignore_errors=True)
        box.mkdir(mode=0o700)
    except OSError as error:
        raise failed("make", str(box), error) from error


def _groups(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(paths), TOGETHER):
        yield paths[at : at + TOGETHER]


def _begin(path: Path) -> draft.Draft:
    return draft.begin(_bytes(path, draft.MAX_BYTES, "the manifest"))


def _shard(box: Path, shard: Shard) -> bytes:
    return _bytes(box / shards.store_path(shard.sha256), shard.size, f"shard {shard.sha256[:12]}… of the manifest")


def _bytes(path: Path, most: int, what: str) -> bytes:
    try:
        size = path.stat().st_size
        if size > most:
            raise ManifestError(f"{what} has {size:,} bytes, more than {most:,}: refused unread")
        return path.read_bytes()
    except OSError as error:
        raise failed("read", str(path), error) from error
