"""A WebSocket through the front door: once both sides have agreed, its bytes are carried as they are.

Nothing in between reads a frame, so whatever the two ends agree on works: text, binary, pings, close codes,
subprotocols, compression, messages of any size. What one end doesn't take holds the other end's sender back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class End(asyncio.Protocol):
    """One end of a tunnel; ``mine`` is its transport, ``other`` the one that its bytes go to."""

    def __init__(
        self, mine: asyncio.Transport, other: asyncio.Transport, lost: Callable[[Exception | None], None]
    ) -> None:
        self._mine, self._other, self._lost = mine, other, lost

    def data_received(self, data: bytes) -> None:
        if not self._other.is_closing():
            self._other.write(data)

    def pause_writing(self) -> None:
        if not self._other.is_closing():
            self._other.pause_reading()

    def resume_writing(self) -> None:
        if not self._other.is_closing():
            self._other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        # What waits to be sent still is: a close frame is often the last thing before the end.
        self._other.close()
        self._lost(exc)


async def carry(
    client: asyncio.Transport, app: asyncio.Transport, client_lost: Callable[[Exception | None], None]
) -> None:
    """Carry bytes both ways until both ends are gone; cancelled, cut both off.

    ``client_lost`` is told when the client's connection is gone.
    """
    both: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in range(2)]

    def gone(number: int, exc: Exception | None) -> None:
        if number == 0:
            client_lost(exc)
        if not both[number].done():
            both[number].set_result(None)

    client.set_protocol(End(client, app, lambda exc: gone(0, exc)))
    app.set_protocol(End(app, client, lambda exc: gone(1, exc)))
    try:
        await asyncio.gather(*both)
    finally:
        client.abort()
        app.abort()
