"""The first snapshot of the trees that restores are measured with, on the local Hub: what it asks and what it sends."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from bench import trees
from bench.figure import Figure
from bench.hubs import PLAIN, command, fresh, requests
from tests.hub.server import LocalHub


def measure(folder: Path) -> Iterator[Figure]:
    for name, tree, size in (
        ("10,000 files of 4 KB", trees.small, trees.SMALL_FILES * trees.SMALL_SIZE),
        ("one file of 1 GB", trees.large, trees.LARGE_SIZE),
    ):
        for way, settings in (("Xet", {}), ("LFS", PLAIN)):
            at = folder / f"{tree.__name__}-{way}"
            with LocalHub(at / "hub", process=True) as hub:
                space = fresh(at / "space", hub, settings)
                tree(space.disk / "data")
                hub.reset()
                began = time.monotonic()
                command(space, "sync")
                took, asked = time.monotonic() - began, requests(hub)
                sent = sum(c["bytes_in"] for c in hub.counters().values())
            shutil.rmtree(at)
            yield Figure(
                f"first upload of {name}, {way}: requests", asked, 100, "", f"counted by the Hub; {took:.1f} s"
            )
            yield Figure(f"first upload of {name}, {way}: bytes", sent / size, 1.1, "x", f"{sent:,} of {size:,} bytes")
