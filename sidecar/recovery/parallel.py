"""Several fetches at a time: what they bring stays, also where one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from sidecar.stores.base import Unavailable

Job = Callable[[], Awaitable[None]]


async def run(jobs: Iterable[Job], most: int) -> None:
    """Run ``jobs``, ``most`` at a time.

    After a failure no new one starts, and those under way are waited for: what they bring isn't lost. Raises the
    failure that says the most.
    """
    waiting = iter(jobs)
    failures: list[Exception] = []

    async def worker() -> None:
        for job in waiting:
            if failures:
                return
            try:
                await job()
            except Exception as error:
                failures.append(error)

    workers = [asyncio.create_task(worker()) for _ in range(most)]
    try:
        await asyncio.wait(workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if failures:
        # A refusal or damage says more than the timeouts around it.
        raise min(failures, key=lambda e: isinstance(e, Unavailable))
