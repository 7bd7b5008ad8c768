"""The recovery record: one JSON object a start, in the log, in the status and in the store."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from sidecar import log

KEPT = 100
"""Records that the store keeps; older ones are dropped."""


@dataclass(slots=True)
class Record:
    """Collected while a start goes on; ``document`` is what is shown and kept."""

    instance: str
    started: float = field(default_factory=time.time)
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

    def document(self, result: str) -> dict[str, Any]:
        return {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "instance": self.instance,
            "result": result,
            **self.facts,
            "steps": self.steps,
        }


def append(before: bytes | None, document: dict[str, Any]) -> bytes:
    """The store's file with one more record, bounded; lines that aren't records are dropped."""
    lines = []
    for line in (before or b"").splitlines():
        try:
            if isinstance(orjson.loads(line), dict):
                lines.append(line)
        except orjson.JSONDecodeError:
            continue
    lines.append(_dump(document))
    return b"\n".join(lines[-KEPT:]) + b"\n"


def _dump(document: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # a file name that isn't UTF-8, in some message: it must not keep a start from its end
        return json.dumps(document, default=str).encode()
