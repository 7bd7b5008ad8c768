"""Two small plots of the last hours, as inline SVG: how late syncing was, and what was used of the commit budget.

Colours are the style sheet's, by class: the policy of the page allows no inline style. What a plot shows stands in
words below it too, for who can't see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.measures import EVERY_S, Sample
from sidecar.web.pages.markup import Html, tag
from sidecar.web.pages.say import plural, seconds

WIDTH, HEIGHT = 640.0, 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 8.0, 10.0, 22.0
_GAP_S = 3 * EVERY_S
"""Samples further apart are not joined: nobody looked in between."""
_LEAST_S = 600.0
_HOURS = 6


@dataclass(frozen=True, slots=True)
class Frame:
    """Where values lie in the picture: times from ``first`` to ``last``, values from 0 to ``top``."""

    first: float
    last: float
    top: float

    def x(self, at: float) -> float:
        share = (at - self.first) / (self.last - self.first)
        return round(_LEFT + min(1.0, max(0.0, share)) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = min(1.0, max(0.0, value / self.top))
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


def ceiling(value: float) -> float:
    """The round number at or above ``value`` at which an axis ends: 1, 2 or 5 times a power of ten."""
    if not math.isfinite(value) or value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)


def plots(samples: Sequence[Sample], now: float, per_hour: int | None) -> Html:
    """The figures; ``samples`` are oldest first, the last one of this very moment; ``per_hour`` the budget's bound."""
    if len(samples) < 2:
        return tag("p", "The first sample comes within a minute of the start.", class_="quiet")
    first = min(samples[0].at, now - _LEAST_S)
    worst = max(samples, key=lambda each: each.lag_s)
    lag = Frame(first, now, ceiling(worst.lag_s))
    most = max(each.paced for each in samples)
    used = Frame(first, now, ceiling(max(most, per_hour or 0)))
    since = seconds(now - samples[0].at)
    when = seconds(max(0.0, now - worst.at))
    at_worst = "No change waited" if not worst.lag_s else f"At worst {seconds(worst.lag_s)}, {when} ago"
    bound = "" if per_hour is None else f" of {per_hour:,}"
    return tag(
        "div",
        _figure(
            "Sync lag",
            f"Over the last {since}. {at_worst}; now {seconds(samples[-1].lag_s)}.",
            lag,
            [(each.at, each.lag_s) for each in samples],
            seconds(lag.top),
        ),
        _figure(
            "Commit budget",
            f"Automatic snapshots in an hour: at most {plural(most, 'snapshot')}, now {samples[-1].paced:,}{bound}.",
            used,
            [(each.at, float(each.paced)) for each in samples],
            f"{used.top:g}",
            float(per_hour) if per_hour else None,
        ),
        class_="plots",
    )


def _figure(
    title: str, words: str, frame: Frame, points: list[tuple[float, float]], top: str, bound: float | None = None
) -> Html:
    picture = tag(
        "svg",
        tag("title", f"{title}. {words}"),
        _axes(frame, top),
        None if bound is None else _bound(frame, bound),
        [_run(frame, run) for run in runs(points)],
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        role="img",
        class_="plot",
    )
    return tag("figure", tag("h3", title), picture, tag("figcaption", words))


def runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """``points`` cut where too long a time lies between two of them, or the clock was set back."""
    out: list[list[tuple[float, float]]] = []
    for point in points:
        if out and 0 <= point[0] - out[-1][-1][0] <= _GAP_S:
            out[-1].append(point)
        else:
            out.append([point])
    return out


def _axes(frame: Frame, top: str) -> list[Html]:
    floor, head, right = frame.y(0), frame.y(frame.top), WIDTH - _RIGHT
    out = [tag("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid") for y in (head, frame.y(frame.top / 2), floor)]
    out.append(tag("text", top, x=_LEFT - 6, y=head + 4, class_="left"))
    out.append(tag("text", "0", x=_LEFT - 6, y=floor + 4, class_="left"))
    span = frame.last - frame.first
    step = next((each for each in (300, 600, 1800, 3600) if span / each <= _HOURS), 7200)
    for back in range(0, int(span) + 1, step):
        x = frame.x(frame.last - back)
        side = "right" if back == 0 else "mid"
        text = "now" if back == 0 else f"-{back // 3600} h" if back % 3600 == 0 else f"-{back // 60} min"
        if x - _LEFT >= 20 or back == 0:
            out.append(tag("text", text, x=x, y=HEIGHT - 5, class_=side))
    return out


def _bound(frame: Frame, bound: float) -> Html:
    y = frame.y(bound)
    return tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="bound")


def _run(frame: Frame, points: list[tuple[float, float]]) -> Html:
    where = [f"{frame.x(at)},{frame.y(value)}" for at, value in points]
    if len(points) == 1:
        x, y = where[0].split(",")
        return tag("circle", cx=x, cy=y, r=2, class_="dot")
    floor = frame.y(0)
    area = " ".join([f"{frame.x(points[0][0])},{floor}", *where, f"{frame.x(points[-1][0])},{floor}"])
    return tag("g", tag("polygon", points=area, class_="area"), tag("polyline", points=" ".join(where), class_="line"))
