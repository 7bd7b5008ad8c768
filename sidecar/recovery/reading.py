"""Reading a snapshot's manifest from a store, and telling "there is none" from "it didn't come"."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sidecar.errors import ManifestError
from sidecar.recovery.meter import Meter
from sidecar.recovery.staging import TRIES
from sidecar.recovery.trouble import failed
from sidecar.snapshot import codec
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.manifest import PATH, Manifest
from sidecar.state import RestoreProgress
from sidecar.stores.base import Corrupt, NotFound, Store

_BOX = f"{STAGING_PREFIX}manifest-"


async def read_manifest(store: Store, revision: str, scratch: Path) -> Manifest | None:
    """The manifest of ``revision``; None where that revision certainly has none.

    ``scratch`` is a folder of the caller's. Raises ManifestError or Corrupt where it is damaged in each of 3
    fetches, ManifestError at once for a format that this version can't read, NotFound for a revision that
    isn't there, and whatever else the store raises.
    """
    meter = Meter(RestoreProgress(), None)
    box = scratch / f"{_BOX}{os.getpid()}"
    for attempt in range(1, TRIES + 1):
        await meter.work(_fresh, box)
        try:
            await store.fetch(revision, [PATH], box)
            return await meter.work(_decode, box / PATH)
        except NotFound:
            # Of the revision, or of the path? Only the second may ever be taken for "nothing was kept here".
            if PATH not in await store.listing(revision):
                return None
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


def _decode(path: Path) -> Manifest:
    try:
        size = path.stat().st_size
        if size > codec.MAX_BYTES:
            raise ManifestError(f"the manifest has {size:,} bytes, more than {codec.MAX_BYTES:,}: refused unread")
        return codec.decode(path.read_bytes())
    except OSError as error:
        raise failed("read", str(path), error) from error
