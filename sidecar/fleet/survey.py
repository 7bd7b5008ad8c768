"""What Spaces say of themselves in /status, as rows of a table; and whether each was really pinged lately. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from sidecar.fleet.ping import Seen
from sidecar.fleet.roster import Space

PERIODS = 2
"""Without a ping for so many intervals, somebody has to look at the scheduler."""


def row(space: Space, seen: Seen) -> dict[str, Any]:
    """One Space's line: its state, and what of its status an operator of many looks at."""
    body = seen.body
    version = body.get("version")
    state, text = seen.state, seen.text
    if space.version is not None and state in ("pass", "warn") and version != space.version:
        state, text = "warn", f"{text}; version {space.version} is expected"
    sync, keepalive, lease = (_part(body, key) for key in ("sync", "keepalive", "lease"))
    return {
        "id": space.id,
        "state": state,
        "text": text,
        "url": space.url,
        "http": seen.http,
        "ms": seen.ms,
        "phase": body.get("phase"),
        "version": version,
        "snapshot": sync.get("snapshot"),
        "last_durable": sync.get("last_durable"),
        "epoch": lease.get("epoch"),
        "keepalive": keepalive.get("state"),
        "last_ping": keepalive.get("last"),
    }


def pinged(space: Space, seen: Seen, now: float) -> dict[str, Any]:
    """Was it pinged lately, as itself tells, and what fails in its checklist; ``now`` is in seconds since the epoch."""
    if not seen.body or "keepalive" not in seen.body:
        return _line(space, "fail", f"can't be asked: {seen.text}", "see `sidecar fleet ping`")
    last = _seconds(_part(seen.body, "keepalive").get("last"))
    up = seen.body.get("uptime_s")
    late = PERIODS * space.every_s
    fix = "look at the scheduler that should call its /health: is it on, and has it this URL?"
    if last is not None and now - last <= late:
        state, text, fix = "pass", f"pinged {_ago(now - last)} ago", ""
    elif last is not None:
        state, text = "fail", f"last pinged {_ago(now - last)} ago, every {_ago(space.every_s)} is expected"
    elif isinstance(up, int | float) and up < late:
        state, text = "unknown", f"not pinged yet; it is up for {_ago(up)}"
    else:
        state, text = "fail", "never pinged"
    lines = seen.body.get("checklist")
    bad = [str(c.get("id")) for c in lines if isinstance(c, dict) and c.get("state") == "fail"] if lines else []
    if bad:
        also = f"its checklist fails: {', '.join(bad)[:200]}"
        return _line(space, "fail", f"{text}; {also}", "; ".join(filter(None, [fix, "run `sidecar doctor` there"])))
    return _line(space, state, text, fix)


def _line(space: Space, state: str, text: str, fix: str) -> dict[str, Any]:
    return {"id": space.id, "state": state, "text": text, "fix": fix or None}


def _part(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    return value if isinstance(value, Mapping) else {}


def _seconds(text: Any) -> float | None:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"
