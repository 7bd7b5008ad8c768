"""For the main app: make the present state durable, and wait until it is.

    import sidecar.client

    done = sidecar.client.checkpoint()            # or: await sidecar.client.checkpoint_async()
    print(done.snapshot, done.revision)

Standard library only. It asks the agent of this container over its Unix socket, so it needs no token; the app has
to run as the agent's user and see the same SIDECAR_STATE_DIR, which is so for whatever `sidecar run` started.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from sidecar.commands.agent_client import OWN, Nobody, Reply, over_socket, socket_of
from sidecar.errors import SidecarError, TryLater
from sidecar.statedir import choose_state_dir

__all__ = ["Checkpoint", "Fenced", "NotDurable", "NotGood", "checkpoint", "checkpoint_async"]

LONGEST_S = 120.0
"""The agent takes no longer limit for one request; a longer one is asked for in several."""
_MORE_S = 5.0
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is durable: the snapshot's id (``7.113``) and the store's revision of it."""

    snapshot: str
    revision: str


@dataclass(eq=False)
class NotDurable(Exception):
    """The state at the time of the call is not known to be durable. It may be a moment later: the sync goes on.

    ``code`` is for programs: ``timeout``, ``budget`` (commit ceiling), ``unavailable``, ``denied``, ``not-ready``,
    ``no-agent``, ``fenced``, ``not-good``, ``unauthorized``, …; ``retry_after`` in seconds where the agent said it.
    """

    detail: str
    code: str = "failed"
    retry_after: float | None = None

    def __str__(self) -> str:
        return self.detail


@dataclass(eq=False)
class Fenced(NotDurable):
    """Another instance is the writer now: nothing that happens here will be in the main line. Stop taking jobs."""


@dataclass(eq=False)
class NotGood(NotDurable):
    """Committed, but some of it is not as it is on disk: ``roots`` names each root and why."""

    roots: dict[str, str] = field(default_factory=dict)
    committed: Checkpoint | None = None


def checkpoint(*roots: str, timeout: float = 30.0) -> Checkpoint:
    """Everything written before this call, durable in the store; returns only when it is.

    ``roots`` (their names) limits what must be good; everything is committed all the same. Within ``timeout``
    seconds it is tried again where the agent says that this may help. Raises ``Fenced``, ``NotGood`` and for all
    else ``NotDurable``; ``ValueError`` for a root that the sidecar doesn't have. Calls of several threads that come
    while one waits share a commit.
    """
    path = socket_of(os.environ.get("SIDECAR_STATE_DIR") or choose_state_dir(os.environ)[0])
    until = time.monotonic() + timeout
    while True:
        left = until - time.monotonic()
        limit = min(max(left, 0.1), LONGEST_S)
        query = urlencode([*(("root", name) for name in roots), ("timeout", f"{limit:.3f}s")], quote_via=quote)
        try:
            failure, again = _read(over_socket(path, "POST", f"{OWN}/checkpoint?{query}", limit + _MORE_S))
        except Nobody as error:
            failure, again = NotDurable(error.message, "no-agent", _PAUSE_S), True
        except TryLater as error:
            failure, again = NotDurable(error.message, "timeout", _PAUSE_S), True
        except SidecarError as error:
            raise NotDurable(error.message) from None
        if isinstance(failure, Checkpoint):
            return failure
        pause = max(failure.retry_after or 0.0, _PAUSE_S) * random.uniform(1.0, 1.2)
        if not again or time.monotonic() + pause >= until:
            raise failure
        time.sleep(pause)


async def checkpoint_async(*roots: str, timeout: float = 30.0) -> Checkpoint:
    """``checkpoint``, waited for in a thread. Cancelling it stops the waiting, not the commit."""
    return await asyncio.to_thread(checkpoint, *roots, timeout=timeout)


def _read(reply: Reply) -> tuple[Checkpoint | NotDurable, bool]:
    """What an answer means, and whether asking again may help."""
    code, body = str(reply.body.get("error") or f"http-{reply.status}"), reply.body
    made = Checkpoint(str(body.get("snapshot") or ""), str(body.get("revision") or ""))
    if reply.status == 200:
        return made, False
    if reply.status == 400:
        raise ValueError(reply.why)
    if reply.status == 409:
        return Fenced(reply.why, code), False
    if reply.status == 422:
        why = body.get("roots")
        roots = {str(root): str(reason) for root, reason in why.items()} if isinstance(why, dict) else {}
        said = "; ".join(f"{root}: {reason}" for root, reason in roots.items()) or reply.why
        return NotGood(said, code, None, roots, made if made.revision else None), False
    return NotDurable(reply.why, code, reply.retry_after), reply.status in (429, 503, 504)
