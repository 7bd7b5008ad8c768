"""A tree that lies on a local Hub, and fresh disks to bring it back to; for whoever measures restores or uploads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys.space import Space

REPO = "alice/app-state"
PLAIN = {"HF_HUB_DISABLE_XET": "1"}
"""The settings without Xet: LFS carries what is large."""


@dataclass(slots=True)
class Stored:
    """A tree that was synced to ``hub`` from the root ``data``; ``folder`` takes one new disk after the other."""

    hub: LocalHub
    folder: Path
    settings: dict[str, str]
    numbers: Iterator[int]

    def fresh(self) -> Space:
        """A Space that has nothing on its disk yet.

        Never one that was emptied: ext4 passes over the inodes of the last minutes one by one (``recently_deleted``
        in its ialloc.c), which makes the next ten thousand files take ten times as long.
        """
        return fresh(self.folder / f"space-{next(self.numbers)}", self.hub, self.settings)


def fresh(home: Path, hub: LocalHub, settings: Mapping[str, str]) -> Space:
    """A Space at ``home`` whose store is a dataset on ``hub``; ``settings`` are of its environment, or its layout."""
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": DEFAULT_TOKEN, "SPACE_ID": "alice/app", **settings}
    root = f"data={home}/disk/data" + settings.get("layout", "")
    return Space(home, "", root, **{k: v for k, v in own.items() if k.isupper()})


@contextmanager
def stored(folder: Path, tree: Callable[[Path], None], layout: str = "", **settings: str) -> Iterator[Stored]:
    """``tree`` made on a disk of its own and synced by `sidecar sync`; the Hub's counters begin there."""
    with LocalHub(folder / "hub", process=True) as hub:
        at = Stored(hub, folder, {**settings, "layout": layout}, count())
        space = at.fresh()
        tree(space.disk / "data")
        command(space, "sync")
        hub.reset()
        yield at


def command(space: Space, *words: str) -> None:
    """One of our commands, run to its end. Raises CalledProcessError, with what it said."""
    done = subprocess.run([sys.executable, "-m", "sidecar", *words], env=space.env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"sidecar {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")


def requests(hub: LocalHub) -> int:
    """How many requests of any kind the Hub has seen since its counters were reset."""
    return sum(c["count"] for c in hub.counters().values())
