"""The recovery records in the state dir: what a later agent of the same life shows, and what the store has yet to get.

A start that fails can often write nowhere else. Nothing here stops a start: a disk that is full keeps no diary.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidecar import log
from sidecar.recovery import record

NAME = "recoveries.jsonl"
KEPT = 20
"""A life that can't reach its store for so many starts has other worries than the first of them."""


def write(state_dir: Path, store_id: str, document: Mapping[str, Any]) -> None:
    """Add a start of ``store_id``, or say more of the one that was added. Blocks; never raises."""
    path = state_dir / NAME
    try:
        lines = record.append(_raw(path), {**document, "store": store_id}).splitlines(keepends=True)
        new = path.with_name(NAME + ".new")
        with open(new, "wb") as out:
            out.writelines(lines[-KEPT:])
            out.flush()
            os.fsync(out.fileno())
        os.replace(new, path)
    except OSError as error:
        log.debug(f"the recovery record can't be kept in {path}: {error}")


def read(state_dir: Path, store_id: str) -> list[dict[str, Any]]:
    """The starts of ``store_id`` that were seen on this disk, oldest first. Blocks; never raises."""
    try:
        found = record.read(_raw(state_dir / NAME))
    except OSError as error:
        log.debug(f"earlier recovery records can't be read: {error}")
        return []
    return [{k: v for k, v in d.items() if k != "store"} for d in found if d.get("store") == store_id]


def _raw(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
