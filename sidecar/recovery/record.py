"""The recovery record: one JSON object a start, in the log, in the status and in the store."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from sidecar import log

KEPT = 100
"""Records that the store keeps; older ones are dropped."""

MOST = 256 * 1024
"""Bytes that they take together."""

LARGEST = 16 * 1024
"""Bytes of one: what is longer loses the ends of its lists and texts, then all but its few main facts."""

_LIST, _TEXT = 20, 1000
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T")
_MAIN = ("at", "instance", "result", "epoch", "revision", "snapshot", "snapshot_age_s", "clean", "files", "bytes", "ms")


@dataclass(slots=True)
class Record:
    """Collected while a start goes on; ``document`` is what is shown and kept."""

    instance: str
    started: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    steps: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Time one step; what the body puts into the dict goes along. A failure is recorded and passed on."""
        row: dict[str, Any] = {"step": name, "ok": False}
        began = time.monotonic()
        try:
            yield row
            row["ok"] = True
        finally:
            row["ms"] = round((time.monotonic() - began) * 1000)
            self.steps = [s for s in self.steps if s["step"] != name] + [row]
            log.debug(f"recovery: {name} {'done' if row['ok'] else 'failed'} in {row['ms']} ms")

    def document(self, result: str, ms: int | None = None) -> dict[str, Any]:
        """The record as it stands: ``ms`` are all that the start took, until now unless they are given."""
        return {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "instance": self.instance,
            "result": result,
            "ms": round((time.monotonic() - self.began) * 1000) if ms is None else ms,
            **self.facts,
            "steps": self.steps,
        }


def summary(document: Mapping[str, Any]) -> str:
    """The record on one line, for people."""
    steps = [
        f"{s['step']} {s['ms'] / 1000:.1f} s{'' if s['ok'] else ' (failed)'}{_detail(s)}"
        for s in document.get("steps", ())
    ]
    return f"recovery {document['result']} in {document['ms'] / 1000:.1f} s: {', '.join(steps) or 'no step was done'}"


def _detail(step: Mapping[str, Any]) -> str:
    return f" ({step['detail']})" if step.get("detail") else ""


def append(before: bytes | None, *documents: Mapping[str, Any]) -> bytes:
    """The store's file with more records, bounded in number and in bytes; lines that aren't records are dropped.

    Of two that speak of the same start (instance and time) the later one counts, in the place of the earlier.
    """
    lines: dict[tuple[Any, ...], bytes] = {}
    for n, document in enumerate([*read(before), *documents]):
        who, at = document.get("instance"), document.get("at")
        key = (str(who), str(at)) if who is not None and at is not None else (n,)
        lines[key] = _bounded(document)
    kept: list[bytes] = []
    size = 0
    for line in reversed(list(lines.values())[-KEPT:]):
        size += len(line) + 1
        if size > MOST and kept:
            break
        kept.append(line)
    return b"\n".join(reversed(kept)) + b"\n"


def read(raw: bytes | None) -> list[dict[str, Any]]:
    """The records in a file of them, oldest first; lines that are none are left out."""
    found = []
    for line in (raw or b"").splitlines():
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError:
            try:  # a lone surrogate, which stands for a byte of a name, is no JSON to orjson
                document = json.loads(line)
            except ValueError:
                continue
        if isinstance(document, dict):
            found.append(document)
    return found


def _bounded(document: Mapping[str, Any]) -> bytes:
    line = _dump(document)
    if len(line) > LARGEST:
        line = _dump({**_cut(document), "shortened": True})
    if len(line) > LARGEST:
        main = {name: document[name] for name in _MAIN if isinstance(document.get(name), str | int | float)}
        line = _dump({**_cut(main), "shortened": True})
    return line


def _cut(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k)[:100]: _cut(v) for k, v in list(value.items())[: 3 * _LIST]}
    if isinstance(value, list | tuple):
        return [_cut(v) for v in value[:_LIST]]
    if isinstance(value, str) and len(value) > _TEXT:
        return value[: _TEXT - 1] + "…"
    return value


def _dump(document: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # a file name that isn't UTF-8, in some message: it must not keep a start from its end
        return json.dumps(document, default=str).encode()


def newest(documents: Iterable[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """At most ``limit`` of them, newest first by their own times; of the same second the later one goes first.

    What doesn't tell its time goes last: it is no record of ours.
    """
    latest = list(documents)[::-1]
    return sorted(latest, key=_at, reverse=True)[:limit]


def _at(document: Mapping[str, Any]) -> str:
    at = document.get("at")
    return at if isinstance(at, str) and _TIME.match(at) else ""
