"""The recovery record of a start as a timeline: which step ran when, for how long, and what came of it."""

from __future__ import annotations

from typing import Any

from sidecar.web.pages import say
from sidecar.web.pages.markup import Html, join, tag

_FACTS = {
    "at": "Started",
    "result": "Result",
    "snapshot": "From snapshot",
    "snapshot_age_s": "Its age",
    "clean": "The last run ended cleanly",
    "cold_start": "Nothing to restore",
    "epoch": "Epoch",
    "files": "Files",
    "bytes": "Bytes",
    "fetched": "Files fetched",
    "fetched_bytes": "Bytes fetched",
    "kept_newer": "Newer local files kept",
    "conflicts": "Local files moved aside",
}
_SIZES = {"bytes", "fetched_bytes"}
_SPANS = {"snapshot_age_s"}
_LEAST = 0.5
"""Per cent: a bar that is shorter can't be seen."""


def recovery(record: dict[str, Any] | None, now: float) -> Html:
    """The record as it was written; what it holds besides what is known here is shown too."""
    if not record:
        return tag("p", "No record yet: it is written when recovery ends.")
    steps = [each for each in _list(record.get("steps")) if isinstance(each, dict)]
    spans = [max(0.0, float(each["ms"])) if isinstance(each.get("ms"), int | float) else 0.0 for each in steps]
    whole = sum(spans) or 1.0
    lines = [
        _step(each, 100 * sum(spans[:n]) / whole, 100 * spans[n] / whole, spans[n]) for n, each in enumerate(steps)
    ]
    return join(
        [
            tag("ol", lines, class_="steps", aria_label="Steps, in order") if lines else None,
            tag("dl", [_fact(key, value, now) for key, value in record.items() if key != "steps"], class_="facts"),
        ]
    )


def _step(step: dict[str, Any], start: float, share: float, ms: float) -> Html:
    ok = step.get("ok") is not False
    bar = tag(
        "svg",
        tag("rect", x=0, y=3, width=100, height=4, class_="back"),
        tag("rect", x=round(min(start, 100 - _LEAST), 2), y=0, width=round(max(share, _LEAST), 2), height=10,
            class_="bar" if ok else "bar bad"),
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )  # fmt: skip
    more = {key: value for key, value in step.items() if key not in ("step", "ok", "ms")}
    words = "; ".join(f"{key} {say.value(value)}" for key, value in more.items())
    return tag(
        "li",
        tag("b", say.value(step.get("step"))),
        tag("span", f"{'' if ok else 'FAILED after '}{ms:,.0f} ms"),
        bar,
        tag("small", words) if words else None,
        class_=None if ok else "fail",
    )


def _fact(key: str, value: Any, now: float) -> Html:
    if key == "at":
        shown: Any = say.moment(value, now)
    elif key in _SIZES:
        shown = say.size(value)
    elif key in _SPANS:
        shown = say.seconds(value)
    elif isinstance(value, dict):
        shown = tag("dl", [_fact(inner, each, now) for inner, each in value.items()], class_="facts")
    else:
        shown = say.value(value)
    return join([tag("dt", _FACTS.get(key, key.replace("_", " "))), tag("dd", shown)])


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
