"""``recoveries``: what each start came to, from the store and from this machine's state dir."""

from __future__ import annotations

import calendar
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidecar import log
from sidecar.commands import words
from sidecar.commands.reading import Reader, reading
from sidecar.errors import EX_OK, SidecarError
from sidecar.recovery import diary, record
from sidecar.snapshot.manifest import RECOVERY
from sidecar.sync.reads import read_small

HEAD = ("WHEN", "RESULT", "EPOCH", "SNAPSHOT", "OLD", "ENDED", "FILES", "SIZE", "TOOK", "CHECKS", "RESUME", "INSTANCE")

MOST, WIDEST = 2**53, 40


def recoveries(args: Namespace) -> int:
    return reading(lambda reader: _recoveries(reader, args))


async def _recoveries(reader: Reader, args: Namespace) -> int:
    here = diary.read(Path(reader.settings.state_dir), reader.settings.store.url)
    try:
        head = await reader.store.head()
        kept = await read_small(reader.store, head, RECOVERY)
    except SidecarError as error:
        if not here:
            raise
        log.warning(f"only what this machine knows is shown: {error.message}")
        kept = None
    found = record.newest(record.read(record.append(kept, *here)) if kept or here else [], args.limit)
    if args.json:
        words.document(found)
    elif found:
        words.table([HEAD, *map(_row, found)])
        for document in found:
            if document.get("error"):
                log.info(f"{_when(document)}: {words.name(str(document['error']))}")
    else:
        log.info(f"{reader.store.url} has no recovery record yet: each start of `sidecar run` writes one")
    return EX_OK


def _row(document: Mapping[str, Any]) -> tuple[str, ...]:
    files, size, took, age = (_count(document.get(name)) for name in ("files", "bytes", "ms", "snapshot_age_s"))
    return (
        _when(document),
        _text(document.get("result")),
        _text(document.get("epoch")),
        "cold start" if document.get("cold_start") is True else _text(document.get("snapshot")),
        "-" if age is None else words.age(age),
        {"True": "cleanly", "False": "uncleanly"}.get(str(document.get("clean")), "-"),
        "-" if files is None else f"{files:,.0f}",
        "-" if size is None else words.size(size),
        "-" if took is None else f"{took / 1000:.1f} s",
        _checks(document.get("checks")),
        _resume(document.get("resume")),
        _text(document.get("instance"))[:16],
    )


def _count(value: Any) -> int | float | None:
    """A number that one of our records can hold; whoever may write to the store may have put anything there."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST else None


def _when(document: Mapping[str, Any]) -> str:
    at = str(document.get("at", ""))
    try:
        return words.when(calendar.timegm(time.strptime(at, "%Y-%m-%dT%H:%M:%SZ")), seconds=True)
    except ValueError:
        return words.name(at) or "-"


def _checks(found: Any) -> str:
    """How many checks came to what: ``3 pass, 1 fail``."""
    if not isinstance(found, list) or not found:
        return "-"
    results = [str(c.get("result", "?")) for c in found if isinstance(c, Mapping)]
    return ", ".join(f"{results.count(kind)} {_text(kind)}" for kind in list(dict.fromkeys(results))[:3])


def _resume(found: Any) -> str:
    if not isinstance(found, Mapping):
        return "-"
    return _text(found.get("state")) + (", interrupted before" if found.get("interrupted") is True else "")


def _text(value: Any) -> str:
    return "-" if value is None or value == "" else words.name(str(value)[:WIDEST])
