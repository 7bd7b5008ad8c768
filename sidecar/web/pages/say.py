"""How the page says numbers, sizes and times, and the one sentence that a person came for."""

from __future__ import annotations

import datetime
import json
from typing import Any

from sidecar.units import size_text
from sidecar.web.pages.markup import Html, join, tag

NOTHING = "-"
_HEADS = {"pass": "All is well", "warn": "Works, but needs attention", "fail": "Not well"}


def verdict(body: dict[str, Any]) -> tuple[str, str]:
    """Two parts of one sentence for ``body``, the JSON of the status: how it is, and why."""
    head = _HEADS.get(body["health"], "Unknown")
    if "not-persisted" in body["notes"]:
        head += " - NOT PERSISTED"
    reasons = list(body["notes"].values())
    if not reasons:
        pending = body["sync"]["pending"]
        waits = f"{plural(pending, 'change')} on the way." if pending else "Everything that changed is saved."
        return head, f"{body['detail']} {waits}"
    restore = body["restore"]
    if list(body["notes"]) == ["recovering"]:
        head, reasons = "Recovery is under way", [body["detail"]]
    if body["phase"] == "restoring" and restore["files_total"]:
        return head, f"{restore['files_done']:,} of {plural(restore['files_total'], 'file')} are back."
    return head, str(reasons[0])


def plural(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def value(given: Any) -> str:
    """Any value of the status as text; a dash where there is none."""
    if given is None or given == "":
        return NOTHING
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, int):
        return f"{given:,}"
    if isinstance(given, float):
        return f"{given:,.1f}"
    return given if isinstance(given, str) else json.dumps(given, default=str, ensure_ascii=False)


def size(count: Any) -> str:
    return size_text(count) if isinstance(count, int | float) and not isinstance(count, bool) else NOTHING


def seconds(given: Any) -> str:
    """A time span by its largest unit."""
    if not isinstance(given, int | float):
        return NOTHING
    for each, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if given >= each:
            return f"{given / each:.0f} {unit}"
    return f"{given:.1f} s" if given < 10 else f"{given:.0f} s"


def moment(at: Any, now: float) -> Html | str:
    """An RFC 3339 time, or seconds since the epoch, as how long ago it is; what is no time stays as it is."""
    if isinstance(at, int | float) and not isinstance(at, bool):
        try:
            at = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")
        except (OverflowError, ValueError, OSError):
            return value(at)
    if not isinstance(at, str):
        return value(at)
    try:
        then = datetime.datetime.fromisoformat(at)
    except ValueError:
        return at
    if then.tzinfo is None:
        return at
    utc = then.astimezone(datetime.UTC)
    text = utc.strftime("%Y-%m-%d %H:%M:%S UTC")
    ago = f"{seconds(max(0.0, now - then.timestamp()))} ago"
    return tag("time", ago, datetime=utc.isoformat(timespec="seconds"), title=text)


def cells(*given: Any) -> Html:
    """Table cells; a number, or what is said of one, stands to the right."""
    return join(
        tag("td", value(each) if not isinstance(each, Html) else each, class_="n" if _number(each) else None)
        for each in given
    )


def _number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)
