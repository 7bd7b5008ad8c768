"""What is asked of a store in between commits: each with a limit of its own, and given up for what matters more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import orjson

from sidecar.snapshot import machine
from sidecar.snapshot.manifest import PATH as MANIFEST
from sidecar.stores.base import Commit, NotFound, Revision, Store, Unavailable

T = TypeVar("T")

MOMENT_S = 0.3
"""What is cut short gets so long to end by itself."""


class GivenUp(Exception):
    """There was no answer in time, or something that matters more came."""


async def until_cut(work: Awaitable[T], cut: asyncio.Event, seconds: float, moment_s: float = 0.0) -> T:
    """What ``work`` comes to within ``seconds``, or until ``cut`` is set and ``moment_s`` more are over.

    Raises GivenUp where it came to nothing, and what ``work`` does.
    """
    working = asyncio.ensure_future(work)
    cutting = asyncio.ensure_future(cut.wait())
    seconds = max(seconds, 0.1)
    until = time.monotonic() + seconds
    try:
        await asyncio.wait({working, cutting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if moment_s and not working.done() and cutting.done():
            await asyncio.wait({working}, timeout=max(min(moment_s, until - time.monotonic()), 0))
        if working.done():
            return working.result()
        raise GivenUp
    finally:
        working.cancel()
        cutting.cancel()


async def newest(store: Store, branch: str | None, limit: int, cut: asyncio.Event, seconds: float) -> list[Commit]:
    """The newest commits; none where the branch isn't there yet. A cut leaves it a moment. Raises StoreError."""
    try:
        return await until_cut(store.history(limit, branch), cut, seconds, MOMENT_S)
    except GivenUp:
        raise Unavailable(f"{store.url} gave no answer in time") from None
    except NotFound:
        return []


async def read_small(store: Store, revision: Revision | None, path: str, limit: float = 60.0) -> bytes | None:
    """The bytes of one small file at ``revision``, or None where it isn't there."""
    if revision is None:
        return None
    try:
        with TemporaryDirectory(prefix="sidecar-") as folder:
            await asyncio.wait_for(store.fetch(revision, [path], Path(folder)), limit)
            return await asyncio.to_thread((Path(folder) / path).read_bytes)
    except NotFound:
        return None
    except TimeoutError:
        raise Unavailable(f"{store.url} gave no answer in time") from None
    except OSError as error:
        raise Unavailable(f"{path} of {store.url} could not be read here: {machine.why(error)}") from error


async def read_id(store: Store, revision: Revision | None, limit: float) -> str | None:
    """The id of the snapshot whose manifest is at ``revision``; None where there is none that can be read."""
    raw = await read_small(store, revision, MANIFEST, limit)
    try:
        return None if raw is None else str(orjson.loads(raw)["snapshot"])
    except (ValueError, TypeError, KeyError):
        return None
