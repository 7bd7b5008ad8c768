"""Branches that keep one snapshot of the past: how they are named, and read from their names."""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Mapping

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
