"""What an agent answers on: its own paths, on a port and a Unix socket, and the front door where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar import log
from sidecar.settings import Settings
from sidecar.state import State
from sidecar.web.app import ALWAYS, build
from sidecar.web.server import Web
from sidecar.web.unix import SOCKET_NAME
from sidecar.web.verbs import Verbs

if TYPE_CHECKING:
    from sidecar.web.proxy import Door


@dataclass(frozen=True, slots=True)
class Serving:
    """Listeners that answer, and the front door where there is one."""

    web: Web
    door: Door | None

    async def stop(self) -> None:
        """Answer no more; the connections to the main app are closed too."""
        await self.web.stop()
        if self.door is not None:
            self.door.close()


async def serve(settings: Settings, state: State, verbs: Verbs) -> Serving:
    """Answer from here on. What could not be had of it is noted in the state."""
    upstream = settings.upstream
    own = build(state, verbs, prefix=settings.prefix, api_token=settings.api_token, upstream=upstream is not None)
    door: Door | None = None
    if upstream is not None:
        from sidecar.web.proxy import front  # an agent without an app to pass on to stays as small as it was

        state.upstream_seen = False
        door = front(own, ALWAYS, state, upstream)
    web = Web(
        door or own,
        host=settings.host,
        port=settings.port,
        socket_path=Path(settings.state_dir) / SOCKET_NAME,
        door=door is not None,
        turned_away=state.measures.turned,
    )
    await web.start()
    for code, sentence in web.problems.items():
        state.note(code, sentence)
    return Serving(web, door)


def say(settings: Settings) -> None:
    """Where it answers, for who reads the log of a Space."""
    if settings.upstream is not None:
        log.info(f"front door on port {settings.port}: /health and /status here, all else from {settings.upstream}")
    elif settings.space_id is not None:
        log.info(f"/health and /status answer on port {settings.port}, inside of the container only")
