"""An agent whose supervisor was killed: it goes on beside main, and its own signals are its orders."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from sidecar import log
from sidecar.company import until_gone
from sidecar.link import Link, Orders
from sidecar.settings import Settings
from sidecar.state import State
from sidecar.syncing import Syncing

GONE = (
    "the supervisor is gone: files are kept in sync as long as main lives, and nobody starts this agent again if it"
    " ends. Restart the container soon."
)


def obey_signals(orders: Orders) -> None:
    """Without a supervisor SIGTERM and SIGINT are ours: they ask for the last sync."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, orders.final.set)


async def go_on(link: Link, state: State, settings: Settings, syncing: Syncing) -> None:
    """Return when the last sync is due: main has ended, or we were told to end and it had its time to do so too."""
    main, orders = link.main, link.orders
    orders.until = None  # of a stop that nobody carries out any more
    orders.stop.clear()
    if not main.started.is_set():
        return
    state.phase = "running"
    state.note("supervisor-gone", GONE)
    log.warning(f"{GONE} A SIGTERM to this agent (pid {os.getpid()}) makes the last snapshot")
    obey_signals(orders)
    ended = asyncio.create_task(until_gone(main.pid))
    asked = asyncio.create_task(orders.final.wait())
    try:
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return
        # Whoever ends us may be ending main too: what it writes last is in the last sync, as with a supervisor.
        state.phase = "stopping"
        orders.until = time.monotonic() + settings.shutdown_grace_s
        if syncing.engine is not None:
            syncing.beside(syncing.engine.snapshot("stop", orders.until))
        await asyncio.wait({ended}, timeout=min(settings.stop_timeout_s, settings.shutdown_grace_s * 0.8))
    finally:
        ended.cancel()
        asked.cancel()
