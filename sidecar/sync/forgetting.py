"""What a snapshot only carries forward, and that can be let go of: of no declared root, or excluded since."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.snapshot.exclude import Excluder
from sidecar.snapshot.index import Row
from sidecar.snapshot.manifest import root_of

SHOWN = 100
"""Parts of what goes that are named one by one."""


@dataclass(frozen=True, slots=True)
class Part:
    """One topmost path of what goes, with how many files lie at or below it, and their bytes."""

    path: str
    files: int
    bytes: int


def carried_only(rows: Iterable[Row], declared: Mapping[str, Excluder]) -> list[Row]:
    """Those of ``rows`` that no scan looks at any more; ``declared`` are the roots' names and what they exclude.

    Whatever else a snapshot has of a declared root would come back with the next sync.
    """
    out = []
    for row in rows:
        root = root_of(row.entry.path, declared)
        if root is not None:
            below = row.entry.path[len(root) + 1 :]
            if not below or not declared[root].hides(below, row.entry.kind == "dir"):
                continue
        out.append(row)
    return out


def parts(rows: Iterable[Row]) -> list[Part]:
    """``rows`` by their topmost paths, in order; folders count for nothing."""
    out: list[Part] = []
    for row in sorted(rows, key=lambda r: r.entry.path.split("/")):
        path, files = row.entry.path, int(row.entry.kind != "dir")
        if out and path.startswith(out[-1].path + "/"):
            top = out.pop()
            out.append(Part(top.path, top.files + files, top.bytes + row.entry.size))
        else:
            out.append(Part(path, files, row.entry.size))
    return out


def said(name: str, snapshot: str, going: Sequence[Row]) -> dict[str, Any]:
    """What goes, as JSON: of snapshot ``before``, at or under ``path``; ``parts`` are its topmost paths."""
    tops = parts(going)
    return {
        "before": snapshot,
        **_named(name),
        "entries": len(going),
        "files": sum(p.files for p in tops),
        "bytes": sum(p.bytes for p in tops),
        "parts": [{**_named(p.path), "files": p.files, "bytes": p.bytes} for p in tops[:SHOWN]],
        "more": max(0, len(tops) - SHOWN),
    }


def _named(path: str) -> dict[str, str]:
    """As the manifest's JSON has it: no reader of JSON takes a name that is not UTF-8."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return {"path_b64": base64.b64encode(os.fsencode(path)).decode()}
    return {"path": path}


def why_nothing(path: str, rows: Sequence[Row], snapshot: str) -> str:
    """Why nothing at or under ``path`` can be let go of; ``rows`` are all that snapshot ``snapshot`` has there."""
    if not rows:
        return f"snapshot {snapshot} has nothing at {path!r}; `sidecar ls` shows what it has"
    return (
        f"{path!r} is declared in SIDECAR_PATHS and not excluded: it would come back with the next sync, so nothing was"
        " changed. Take it out of SIDECAR_PATHS, or exclude it with SIDECAR_EXCLUDE, start again, and then forget it."
        " What was deleted on the disk needs no forgetting: the next rescan or `sidecar checkpoint` lets go of it"
    )
