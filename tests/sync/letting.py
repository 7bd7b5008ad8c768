"""Lives whose store is a dataset on a local Hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.stores.hubs import local_hub
from tests.stores.hubs import store as hub_store
from tests.sync.faulty import Faulty
from tests.sync.lives import Life


@asynccontextmanager
async def on_the_hub(base: Path) -> AsyncIterator[Life]:
    with local_hub() as hub:
        store = Faulty(hub_store(hub))
        life = Life(base, store)
        try:
            await store.check(create=True)
            await life.begin()
            yield life
        finally:
            life.close()
            await store.close()


def hub_life(base: Path, scenario: Callable[[Life], Awaitable[None]]) -> None:
    async def main() -> None:
        async with on_the_hub(base) as life:
            await scenario(life)

    asyncio.run(main())


async def some(life: Life, count: int) -> None:
    for n in range(count):
        life.fill("n", text=f"{n}")
        assert (await life.engine.snapshot("asked")).ok
