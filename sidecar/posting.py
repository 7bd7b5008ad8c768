"""Posts what is to be heard elsewhere, in the background: in order, a few times, never for long, holding up nothing.

Where the URL is one of healthchecks.io (or of a Healthchecks of one's own) the event stands in the path, as that wants
it; any other URL, such as an n8n webhook, gets each event by a plain POST. The body is the same JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from sidecar import log
from sidecar.masking import mask_path
from sidecar.state import State

Event = Literal["start", "recovery", "success", "fail"]

QUEUE = 16
"""What waits; of more the oldest goes: the newest tells most."""

TRIES = 4
TIMEOUT_S = 10.0
PAUSE_S = 2.0
"""Before the second try; twice as long before each later one, and up to half of it less by chance."""

LONGEST = 64 * 1024
"""Bytes of a body: Healthchecks takes 100 KB."""

_SUFFIX: dict[Event, str | None] = {"start": "/start", "recovery": None, "success": "", "fail": "/fail"}


class Undelivered(Exception):
    """Why, in words without the URL; ``again``: it may work later."""

    def __init__(self, why: str, *, again: bool) -> None:
        super().__init__(why)
        self.again = again


def is_healthchecks(url: str) -> bool:
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    return host == "hc-ping.com" or host.endswith(".hc-ping.com") or parts.path.startswith("/ping/")


def target(url: str, event: Event) -> str | None:
    """Where ``event`` is posted to; None where that place has no use for it."""
    if not is_healthchecks(url):
        return url
    suffix = _SUFFIX[event]
    if suffix is None:
        return None
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix))


def post(url: str, body: bytes, agent: str, timeout_s: float = TIMEOUT_S) -> None:
    """Blocks, for each of connecting and reading at most ``timeout_s``. Raises Undelivered."""
    # Only here: an agent that posts nothing needs none of it.
    import http.client
    import urllib.error
    import urllib.request

    headers = {"Content-Type": "application/json", "User-Agent": agent}
    parts = urlsplit(url)
    if parts.username is not None:
        import base64

        user, password = unquote(parts.username), unquote(parts.password or "")
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    try:
        request = urllib.request.Request(url, body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            reply.read(1)
    except urllib.error.HTTPError as error:
        with contextlib.suppress(OSError):
            error.close()
        raise Undelivered(f"it answers {error.code}", again=error.code >= 500 or error.code in (408, 429)) from None
    except TimeoutError:
        raise Undelivered(f"no answer within {timeout_s:g} s", again=True) from None
    except urllib.error.URLError as error:
        why = error.reason
        why = (why.strerror or type(why).__name__) if isinstance(why, OSError) else type(why).__name__
        raise Undelivered(f"it can't be reached ({why})", again=True) from None
    except OSError as error:
        raise Undelivered(f"the connection broke ({error.strerror or type(error).__name__})", again=True) from None
    except (http.client.HTTPException, ValueError) as error:  # their words may hold the URL
        raise Undelivered(f"no proper answer ({type(error).__name__})", again=True) from None


class Posting:
    """The queue, and the one worker behind it. Without a URL nothing is ever done."""

    def __init__(self, url: str | None, state: State) -> None:
        self.url, self.state = url, state
        self._waiting: deque[tuple[Event, bytes]] = deque(maxlen=QUEUE)
        self._news = asyncio.Event()
        self._busy = False
        self._worker: ThreadPoolExecutor | None = None

    def send(self, event: Event, document: Mapping[str, Any]) -> None:
        """Soon, in the background."""
        if self.url is None or target(self.url, event) is None:
            return
        if len(self._waiting) == QUEUE:
            log.debug(f"heartbeat: {self._waiting[0][0]} was never sent, too much waits")
        self._waiting.append((event, _bytes(document)))
        self._news.set()

    async def run(self) -> None:
        """For as long as the agent lives."""
        if self.url is None:
            return
        # One thread of its own: one that hangs takes no worker from the syncs.
        self._worker = ThreadPoolExecutor(1, "heartbeat")
        while True:
            self._busy = bool(self._waiting)
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
            self._busy = True
            await self._deliver(*self._waiting.popleft())

    async def flush(self, seconds: float) -> None:
        """Wait until all is sent, but no longer."""
        until = time.monotonic() + seconds
        while (self._busy or self._waiting) and time.monotonic() < until:
            await asyncio.sleep(0.02)

    async def _deliver(self, event: Event, body: bytes) -> None:
        assert self.url is not None
        where = target(self.url, event) or self.url
        agent = f"space-sidecar/{self.state.version}"
        loop = asyncio.get_running_loop()
        for attempt in range(1, TRIES + 1):
            try:
                await loop.run_in_executor(self._worker, post, where, body, agent)
            except Undelivered as error:
                if error.again and attempt < TRIES:
                    await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1) * (0.5 + random.random() / 2))
                    continue
                self._told(event, str(error))
                return
            self._told(event, None)
            return

    def _told(self, event: Event, error: str | None) -> None:
        before = self.state.heartbeat
        if error is not None and (before is None or before["error"] is None):
            log.warning(
                f"heartbeat: {event} could not be posted to {mask_path(self.url or '')}: {error}. Nothing else depends"
                " on it; the next one is tried in time"
            )
        elif error is None and before is not None and before["error"] is not None:
            log.info("heartbeat: posted again")
        self.state.heartbeat = {"event": event, "at": time.time(), "error": error}


def _bytes(document: Mapping[str, Any]) -> bytes:
    body = json.dumps(document, default=str).encode()
    if len(body) > LONGEST:
        body = json.dumps({k: v for k, v in document.items() if k != "recovery"}, default=str).encode()
    return body if len(body) <= LONGEST else json.dumps({"event": document.get("event")}).encode()
