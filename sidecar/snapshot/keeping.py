"""Branches that keep one snapshot of the past: how they are named, and read from their names."""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Iterable, Mapping
from itertools import chain

from sidecar.errors import ManifestError
from sidecar.snapshot.manifest import SnapshotId, snapshot_in
from sidecar.stores.base import Commit

PAST = "past/"
"""Branches of old snapshots that a prune made, and that a later one lets go of."""
KEPT = ("kept/", "damaged/")
"""Branches of one snapshot that no prune lets go of."""

_NAME = re.compile(r"past/([0-9]+\.[0-9]+)(?:_([0-9]{8}T[0-9]{6}Z))?")
_TIME = "%Y%m%dT%H%M%SZ"


def branch_name(snapshot: str, at: float | None) -> str:
    """The name of the branch that keeps ``snapshot``, of the time ``at``: a squash forgets the commit's own."""
    return f"{PAST}{snapshot}" + ("" if at is None else f"_{time.strftime(_TIME, time.gmtime(at))}")


def of_branch(name: str) -> tuple[str, float | None] | None:
    """The snapshot that a branch keeps, and from when it is where its name says so."""
    match = _NAME.fullmatch(name)
    if match is not None:
        at = _seconds(match[2]) if match[2] else None
        return match[1], at
    number = name.removeprefix("kept/")
    return (number, None) if number != name and re.fullmatch(r"[0-9]+\.[0-9]+", number) else None


def _seconds(text: str) -> float | None:
    try:
        return float(timegm(time.strptime(text, _TIME)))
    except ValueError:
        return None


def kept_as(branches: Mapping[str, str], wanted: str) -> str | None:
    """The revision of a branch that keeps the snapshot ``wanted``, or that is ``wanted``."""
    for name, revision in branches.items():
        kept = of_branch(name)
        if revision == wanted or (kept is not None and kept[0] == wanted):
            return revision
    return None


def ids(history: Iterable[Commit], branches: Iterable[str]) -> list[str]:
    """The snapshots that a store can give, by id: of its history (newest first), then of its ``branches``."""
    kept = (found[0] for found in map(of_branch, branches) if found is not None)
    return [found for found in chain((snapshot_in(c.title) for c in history), kept) if found is not None]


def near(wanted: str, known: Iterable[str]) -> str:
    """`` (near it are 1.2, 1.1)``: which of the ids ``known``, newest first, ``wanted`` may have meant; "" for none."""
    ids = list(dict.fromkeys(known))
    try:
        at = SnapshotId.parse(wanted)
        nearest = sorted(
            map(SnapshotId.parse, ids), key=lambda i: (abs(i.epoch - at.epoch), abs(i.sequence - at.sequence))
        )
        ids = list(map(str, nearest))
    except ManifestError:
        pass
    return f" (near it are {', '.join(ids[:3])})" if ids else ""
