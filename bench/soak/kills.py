"""The crash campaign: a thousand SIGKILLs on a folder store, three hundred on the local Hub, several at a time."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.campaign import Found, campaign
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub

KILLS = {"folder": 1000, "hub": 300}
LANES = 4
"""Spaces at a time; the first of them never loses its disk."""


def run(scale: float, seed: int) -> dict[str, Found]:
    """The campaigns by store."""
    return {store: _on(store, max(LANES, round(kills * scale)), seed) for store, kills in KILLS.items()}


def _on(store: str, kills: int, seed: int) -> Found:
    found = Found()
    with TemporaryDirectory(prefix="sidecar-soak-") as name, ThreadPoolExecutor(LANES) as pool:
        folder = Path(name)
        hub = LocalHub(folder / "hub", process=True) if store == "hub" else None
        try:
            if hub is not None:
                hub.start()
            lanes = [
                pool.submit(_lane, folder / f"lane{n}", hub, n, kills // LANES + (n < kills % LANES), seed)
                for n in range(LANES)
            ]
            for lane in lanes:
                found.add(lane.result())
        finally:
            if hub is not None:
                hub.stop()
    print(found.line(store), flush=True)
    for line in [*found.wrong, *found.left][:100]:
        print("  ", line, flush=True)
    return found


def _lane(home: Path, hub: LocalHub | None, number: int, kills: int, seed: int) -> Found:
    rng, keeps_disk = random.Random(seed + number), number == 0
    if hub is None:
        return campaign(home, f"file://{home}-store", kills, rng, keeps_disk=keeps_disk)
    given = {"HF_ENDPOINT": hub.url, "HF_TOKEN": DEFAULT_TOKEN}
    return campaign(home, f"hf://datasets/alice/lane{number}", kills, rng, keeps_disk=keeps_disk, **given)
