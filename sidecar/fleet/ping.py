"""Asking Spaces how they are: all at once, a bounded number at a time, with jitter and retries."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sidecar.fleet.fetching import Answer, NoAnswer, fetch
from sidecar.fleet.roster import Space

State = Literal["pass", "warn", "fail", "unreachable"]
T = TypeVar("T")

AT_ONCE = 16
LIMIT_S = 30.0
"""A Space that sleeps takes its time to wake."""
JITTER_S = 0.5
TRIES = 3
PAUSE_S = 2.0

_RETRIED = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class How:
    """How patient a ping is: seconds for one try, tries, the mean pause between them, how many Spaces at a time."""

    limit_s: float = LIMIT_S
    tries: int = TRIES
    pause_s: float = PAUSE_S
    at_once: int = AT_ONCE
    jitter_s: float = JITTER_S


@dataclass(frozen=True, slots=True)
class Seen:
    """What a Space said of itself. ``unreachable``: nothing that a sidecar would say.

    ``text`` is for people, ``http`` the status, ``ms`` how long the last of ``tries`` took; ``body`` is the answer.
    """

    id: str
    state: State
    text: str
    http: int | None = None
    ms: int = 0
    tries: int = 1
    body: dict[str, Any] = field(default_factory=dict, compare=False)


async def each(spaces: Sequence[Space], ask: Callable[[Space], Awaitable[T]], how: How) -> list[T]:
    """``ask`` all of them, ``how.at_once`` at a time, each after a moment of its own; answers in their order."""
    turn = asyncio.Semaphore(how.at_once)

    async def one(space: Space) -> T:
        await asyncio.sleep(random.uniform(0, how.jitter_s) if len(spaces) > 1 else 0)
        async with turn:
            return await ask(space)

    return list(await asyncio.gather(*(one(space) for space in spaces)))


async def ping(space: Space, how: How) -> Seen:
    """Call its /health: this is what keeps it awake. Where a version is expected, its /status is asked too."""
    seen = await ask(space, "/health", how)
    if space.version is None or seen.state in ("unreachable", "fail"):
        return seen
    status = await ask(space, "/status", how)
    runs = status.body.get("version")
    if runs == space.version:
        return seen
    text = f"runs {_words(runs) if runs else 'an unknown version'}, {space.version} is expected"
    return Seen(seen.id, "warn", text, seen.http, seen.ms, seen.tries, seen.body)


async def ask(space: Space, path: str, how: How) -> Seen:
    """GET ``path``, again where that may help. Raises nothing."""
    token = None
    if space.token_env is not None:
        token = os.environ.get(space.token_env, "").strip()
        if not token:
            return Seen(
                space.id, "unreachable", f"{space.token_env} is not set here: it should hold its token", tries=0
            )
    for number in range(1, how.tries + 1):
        began = time.monotonic()
        try:
            answer: Answer | None = await fetch(space.url + path, limit_s=how.limit_s, token=token)
            why = ""
        except NoAnswer as error:
            answer, why = None, str(error)
        took = round((time.monotonic() - began) * 1000)
        seen = judge(space, answer, why, took, number)
        if seen.state != "unreachable" or (answer is not None and answer.status not in _RETRIED) or number == how.tries:
            return seen
        await asyncio.sleep(how.pause_s * number * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def judge(space: Space, answer: Answer | None, why: str, ms: int, tries: int) -> Seen:
    """What an answer of /health or /status means; ``why`` there was none."""
    if answer is None:
        return Seen(space.id, "unreachable", why, None, ms, tries)
    try:
        body = json.loads(answer.body)
    except ValueError:
        body = None
    verdict = body.get("status", body.get("health")) if isinstance(body, dict) else None
    state = next((known for known in ("pass", "warn", "fail") if known == verdict), None)
    if not isinstance(body, dict) or state is None:
        hint = {
            401: ": a private Space wants `token`",
            404: ": is it private (then it wants `token`), or under SIDECAR_PREFIX (then `url` ends with that)",
        }.get(answer.status, "")
        text = f"HTTP {answer.status}, but not as a sidecar answers{hint}"
        return Seen(space.id, "unreachable", text, answer.status, ms, tries)
    notes = body.get("notes")
    said = ", ".join(_words(n) for n in notes) if isinstance(notes, list | dict) else ""
    text = f"{_words(body.get('phase'))}{f': {said}' if said else ''}"
    return Seen(space.id, state, text, answer.status, ms, tries, body)  # type: ignore[arg-type]


def _words(value: Any) -> str:
    """A stranger's word, fit for one line."""
    return "".join(c if c.isprintable() else "?" for c in str(value)[:200])
