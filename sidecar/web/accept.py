"""What a caller would rather read: the ``Accept`` header, weighed as RFC 9110 says (section 12.5.1)."""

from __future__ import annotations

import math


def prefers_html(accept: str) -> bool:
    """Does the ``Accept`` header want HTML rather than JSON (RFC 9110, section 12.5.1)? A tie is for JSON."""
    return _quality(accept, "text", "html") > _quality(accept, "application", "json")


def _quality(accept: str, kind: str, subtype: str) -> float:
    """How welcome a media type is, 0 to 1; the most specific range that covers it decides."""
    best = (-1, 0.0)
    for part in accept.lower().split(","):
        range_, *parameters = (piece.strip() for piece in part.split(";"))
        ranks = {f"{kind}/{subtype}": 2, f"{kind}/*": 1, "*/*": 0}
        if range_ in ranks:
            best = max(best, (ranks[range_], _weight(parameters)))
    return best[1]


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return min(1.0, max(0.0, weight)) if math.isfinite(weight) else 0.0
    return 1.0
