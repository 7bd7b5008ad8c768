"""Noting what the image ships, while a start asks the store."""

from __future__ import annotations

import time
from collections.abc import Callable

from sidecar import log
from sidecar.recovery import image
from sidecar.recovery.meter import Meter
from sidecar.recovery.terms import Plan
from sidecar.snapshot.index import Index
from sidecar.state import RestoreProgress


async def note_image(index: Index, plan: Plan, alive: Callable[[], None]) -> None:
    """Before anything is restored or main runs: what a fresh disk's image brought. Said where it is much."""
    began = time.monotonic()
    meter = Meter(RestoreProgress(), alive)
    try:
        found = await meter.work(image.note, index, plan.state_dir, plan.roots, plan.exclude, plan.own, meter.tick)
    except OSError as error:
        log.warning(f"what the image ships can't be told ({error.strerror}): only snapshots count at this start")
        return
    if found is None:
        return
    if found.hashes:
        seconds = time.monotonic() - began
        what = f"{len(found.hashes):,} paths, {found.bytes:,} bytes read in {seconds:.1f} s"
        (log.info if seconds >= 1 else log.debug)(f"the image ships in the roots: {what}")
    if found.left:
        log.warning(
            f"the image ships more in the roots than {image.MOST_FILES:,} files and {image.MOST_BYTES >> 20:,} MB:"
            f" of {found.left:,} files a newer image's version won't win over the snapshot's"
        )
