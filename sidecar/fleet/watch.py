"""Pinging every Space on its own schedule, and telling of what changes. Telling never delays a ping."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

from sidecar import log
from sidecar.fleet.fetching import NoAnswer, fetch
from sidecar.fleet.ping import How, Seen, ping
from sidecar.fleet.roster import Fleet, Space

SPREAD_S = 5.0
"""The first pings of a watch are spread over so many seconds."""
WAITING = 100
"""News that wait for a webhook that is away; older ones make room."""
WEBHOOK_S = 10.0
WEBHOOK_TRIES = 5
WEBHOOK_PAUSE_S = 2.0

Change = dict[str, Any]
"""``{"id", "state", "before", "text"}``; before is None for the first that is known of a Space."""


async def watch(fleet: Fleet, how: How, show: Callable[[Change], None]) -> None:
    """Until it is cancelled. ``show`` gets every change; the webhook too, but for a first state that is good."""
    news: asyncio.Queue[Change] = asyncio.Queue(WAITING)

    def tell(change: Change) -> None:
        show(change)
        if fleet.webhook is None or (change["before"] is None and change["state"] == "pass"):
            return
        if news.full():
            dropped = news.get_nowait()
            log.warning(f"the webhook is behind: that {dropped['id']} went {dropped['state']} is not told any more")
        news.put_nowait(change)

    turn = asyncio.Semaphore(how.at_once)
    async with asyncio.TaskGroup() as tasks:
        if fleet.webhook is not None:
            tasks.create_task(_post_all(fleet.webhook, news))
        for space in fleet.spaces:
            tasks.create_task(_follow(space, how, turn, tell))


async def _follow(space: Space, how: How, turn: asyncio.Semaphore, tell: Callable[[Change], None]) -> None:
    before: Seen | None = None
    await asyncio.sleep(random.uniform(0, min(SPREAD_S, space.every_s)))
    while True:
        async with turn:
            seen = await ping(space, how)
        if before is None or seen.state != before.state:
            was = None if before is None else before.state
            tell({"id": seen.id, "state": seen.state, "before": was, "text": seen.text})
        before = seen
        await asyncio.sleep(space.every_s * random.uniform(0.9, 1.1))


async def _post_all(webhook: str, news: asyncio.Queue[Change]) -> None:
    while True:
        change = await news.get()
        body = json.dumps(change).encode()
        for number in range(1, WEBHOOK_TRIES + 1):
            try:
                answer = await fetch(webhook, limit_s=WEBHOOK_S, method="POST", body=body, kind="application/json")
                why = f"HTTP {answer.status}"
                if answer.status < 400:
                    break
            except NoAnswer as error:
                why = str(error)
            if number == WEBHOOK_TRIES:
                log.warning(f"the webhook could not be told that {change['id']} went {change['state']}: {why}")
            else:
                await asyncio.sleep(WEBHOOK_PAUSE_S * number * random.uniform(0.5, 1.5))
