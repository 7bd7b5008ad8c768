"""Holding a lease through something slow before main runs, when no sync engine answers for it yet.

Who asks for the lease meanwhile is told to wait, so that it doesn't take us for dead and do the same thing a second
time beside us; where somebody has taken it all the same, what goes on is to be stopped.
"""

from __future__ import annotations

import asyncio
import time

from sidecar import log
from sidecar.errors import ManifestError
from sidecar.recovery.claim import read_lease
from sidecar.recovery.lease import PATH, Tenure, encode
from sidecar.snapshot.manifest import ASKS
from sidecar.stores.base import Conflict, Revision, Store, StoreError

LOOK_S = 5.0
RENEW_S = 20.0
ANSWER_S = 30.0


class Held:
    """``revision`` is the head as far as we wrote it, or may write onto it; ``lost``: somebody else has the lease."""

    def __init__(self, store: Store, revision: Revision, tenure: Tenure) -> None:
        self.store, self.revision, self.tenure = store, revision, tenure
        self.lost = False
        self._renewed = time.monotonic()

    async def until_lost(self) -> None:
        """Look every few seconds, until the lease is somebody else's."""
        while not self.lost:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Is it ours? A store out of reach says nothing: where nobody reaches it, nobody takes the lease there."""
        try:
            await self._look()
        except Conflict:
            pass  # somebody was faster: the next look tells who
        except (StoreError, ManifestError, TimeoutError) as error:
            log.debug(f"the lease can't be looked at now: {error}")

    async def _look(self) -> None:
        head = await asyncio.wait_for(self.store.head(), ANSWER_S)
        waits = self.tenure.handing
        if head == self.revision:
            if waits and time.monotonic() - self._renewed >= RENEW_S:
                await self._ask_for_time(head)
            return
        found = await asyncio.wait_for(read_lease(self.store, head), ANSWER_S)
        verdict = self.tenure.judge(encode(found) if found is not None else None)
        if verdict == "fenced":
            self.lost = True
        elif verdict == "withdrawn" and head is not None and await self._only_asked():
            self.revision = head
        elif verdict == "requested" and head is not None and await self._only_asked():
            if not waits:
                log.info("a new instance asks for the lease: it waits until the resume commands are through")
            await self._ask_for_time(head)

    async def _only_asked(self) -> bool:
        """Whether nothing but requests came after what we know: an edit by hand is for the first sync to find."""
        history = await asyncio.wait_for(self.store.history(20), ANSWER_S)
        newer: list[str] = []
        for commit in history:
            if commit.revision == self.revision:
                return all(title.startswith(ASKS) for title in newer)
            newer.append(commit.title)
        return False

    async def _ask_for_time(self, onto: Revision) -> None:
        put = {PATH: self.tenure.handing_over()}
        self.revision = await asyncio.wait_for(self.store.commit(onto, put, [], "sidecar: lease handing over"), 60)
        self._renewed = time.monotonic()
