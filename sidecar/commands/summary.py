"""The status as a person reads it, from the JSON that `/status` serves. Pure: values in, lines out."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

from sidecar.commands import words

_VERDICTS = {"pass": "all is well", "warn": "runs, with warnings", "fail": "FAILING"}
_ENDS = {"True": "ended cleanly", "False": "ended uncleanly"}
_MARKS = {"pass": "ok", "warn": "! ", "fail": "NO"}


def summary(body: dict[str, Any], now: float | None = None) -> Iterator[str]:
    """Lines for ``body``; ``now`` is in seconds since the epoch. Whatever is missing or odd is left out.

    The body may come from anybody: nothing in it reaches the terminal unescaped.
    """
    now = time.time() if now is None else now
    health = body.get("health")
    verdict = _VERDICTS.get(health, "?") if isinstance(health, str) else "?"
    yield f"{_text(body.get('phase'))}: {verdict}. {_text(body.get('detail'))}"
    yield ""
    facts = {
        "main": _main(_dict(body, "main")),
        "durable": _durable(_dict(body, "sync"), now),
        "pending": _pending(_dict(body, "sync")),
        "error": _text(_dict(body, "sync").get("error")),
        "lease": _lease(_dict(body, "lease")),
        "recovery": _recovery(_dict(body, "recovery")),
        "restore": _restore(_dict(body, "restore"), body.get("phase")),
        "store": _text(body.get("store")),
        "history": _history(_dict(body, "commits")),
        "instance": _instance(body),
    }
    for name, text in facts.items():
        if text:
            yield f"  {name:<10}{text}"
    yield from _roots(body)
    notes = _dict(body, "notes")
    if notes:
        yield ""
        yield "notes"
        for code, sentence in notes.items():
            yield f"  {_text(code)}: {_text(sentence)}"
    yield from _checklist(body)


def _dict(body: dict[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    return value if isinstance(value, dict) else {}


def _list(body: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = body.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return "" if value is None else words.name(str(value))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _main(main: dict[str, Any]) -> str:
    more = [f"pid {_text(main['pid'])}"] if main.get("pid") is not None else []
    more += [f"exit code {_text(main['exit'])}"] if main.get("exit") is not None else []
    return ", ".join([_text(main.get("state")), *more])


def _durable(sync: dict[str, Any], now: float) -> str:
    if not sync.get("snapshot"):
        return "nothing yet"
    parts = [f"{_text(sync['snapshot'])} (revision {_text(sync.get('revision'))[:12]})"]
    at = _seconds(sync.get("last_durable"))
    parts.append(f"{words.age(now - at)} ago" if at is not None else "by an earlier instance; nothing by this one yet")
    lag = _number(sync.get("last_lag_s"))
    return ", ".join(parts + ([f"lag {lag:.1f} s"] if lag is not None else []))


def _pending(sync: dict[str, Any]) -> str:
    pending, lag = _number(sync.get("pending")), _number(sync.get("lag_s"))
    if pending is None:
        return ""
    counts = [f"{sync[k]:,} {k}" for k in ("unsettled", "stale", "unreadable") if _number(sync.get(k))]
    if _number(sync.get("paced")):
        counts.append(f"{sync['paced']:,} large databases wait for their turn")
    first = f"{pending:,.0f} changes wait, the first for {lag or 0:.1f} s" if pending else "nothing"
    if pending and (waits := _number(sync.get("waits_s"))) is not None:
        first += f"; the pace of commits lets them go in {waits:.0f} s"
    return ", ".join([first, *counts]) + f" (watching by {_text(sync.get('watcher'))})"


def _lease(lease: dict[str, Any]) -> str:
    parts = [_text(lease.get("state"))]
    parts += [f"epoch {_text(lease['epoch'])}"] if lease.get("epoch") is not None else []
    parts += [f"held by {_text(lease['holder'])}"] if lease.get("holder") else []
    return ", ".join(parts)


def _recovery(record: dict[str, Any]) -> str:
    if not record:
        return ""
    parts = [f"{_text(record.get('result'))} at {_text(record.get('at'))}"]
    if record.get("cold_start"):
        parts.append("a cold start: nothing had been kept")
    elif record.get("snapshot"):
        files, size = _number(record.get("files")), _number(record.get("bytes"))
        parts.append(f"{files or 0:,.0f} files, {words.size(size or 0)} from {_text(record['snapshot'])}")
        parts.append(_ENDS.get(str(record.get("clean")), "no lease before"))
    steps = [
        f"{_text(s.get('step'))} {_number(s.get('ms')) or 0:,.0f} ms" + ("" if s.get("ok") else " FAILED")
        for s in _list(record, "steps")
    ]
    return "; ".join([*parts, *([", ".join(steps)] if steps else [])])


def _restore(progress: dict[str, Any], phase: Any) -> str:
    if phase != "restoring":
        return ""
    numbers = [_number(progress.get(k)) or 0 for k in ("files_done", "files_total", "bytes_done", "bytes_total")]
    return f"{numbers[0]:,.0f} of {numbers[1]:,.0f} files, {words.size(numbers[2])} of {words.size(numbers[3])}"


def _history(commits: dict[str, Any]) -> str:
    total, hour, stored = (_number(commits.get(k)) for k in ("total", "hour", "stored_bytes"))
    parts = [] if total is None else [f"{total:,.0f} commits"]
    parts += [f"{hour:,.0f} in the last hour"] if hour is not None else []
    parts += [f"{words.size(stored)} stored"] if stored is not None else []
    return ", ".join(parts)


def _instance(body: dict[str, Any]) -> str:
    up = _number(body.get("uptime_s"))
    parts = [_text(body.get("space")), _text(body.get("instance")), f"version {_text(body.get('version'))}"]
    return ", ".join([p for p in parts if p] + ([f"up for {words.age(up)}"] if up is not None else []))


def _roots(body: dict[str, Any]) -> Iterator[str]:
    roots = _list(body, "roots")
    if not roots:
        return
    rows = []
    for root in roots:
        files, size = _number(root.get("files")) or 0, _number(root.get("bytes")) or 0
        left = [f"{root[k]:,} {k}" for k in ("excluded", "skipped") if _number(root.get(k))]
        rows.append((_text(root.get("name")), f"{files:,.0f} files", words.size(size), _text(root.get("state")), *left))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    yield ""
    yield "roots"
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}", f"{row[1]:>{widths[1]}}", f"{row[2]:>{widths[2]}}", f"{row[3]:<{widths[3]}}"]
        yield ("  " + "  ".join([*cells, ", ".join(row[4:])])).rstrip()


def _checklist(body: dict[str, Any]) -> Iterator[str]:
    lines = _list(body, "checklist")
    if not lines:
        return
    yield ""
    yield "checklist"
    for line in lines:
        yield f"  {_MARKS.get(str(line.get('state')), '--')}  {_text(line.get('id'))}: {_text(line.get('text'))}"
        if line.get("fix"):
            yield f"      -> {_text(line['fix'])}"


def _seconds(text: Any) -> float | None:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
