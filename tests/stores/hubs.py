"""What the Hub store's tests share: a local Hub, stores on it that wait for nothing long, and how they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from sidecar.stores.base import StoreError
from sidecar.stores.hub import HubStore
from sidecar.stores.hubcall import Patience
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub

T = TypeVar("T")
E = TypeVar("E", bound=StoreError)

REPO = "alice/app-state"

HASTY = Patience(connect=5, read=10, commit=10, request=30, stall=30, tries=3, pause=0.01, longest=0.05, hint=600)
"""Repeats without waiting, yet gives a busy machine its time."""

BRISK = replace(HASTY, read=0.4, commit=0.4)
"""Takes a silence of 0.4 s for a hang."""


def store(hub: LocalHub, *, patience: Patience = HASTY, **more: Any) -> HubStore:
    """A store on ``hub``, for alice's app-state, without Xet unless said otherwise."""
    given: dict[str, Any] = {"token": DEFAULT_TOKEN, "xet": False, "cache_dir": hub.data / "hf-home", **more}
    return HubStore(given.pop("repo", REPO), endpoint=hub.url, patience=patience, **given)


@contextmanager
def local_hub(**settings: Any) -> Iterator[LocalHub]:
    """A Hub with an empty, private app-state."""
    with LocalHub(settings=settings) as hub:
        hub.create_repo(REPO)
        yield hub


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def fails(kind: type[E], coroutine: Coroutine[Any, Any, Any], *words: str) -> E:
    """Run it; it must fail as exactly ``kind``, with each of ``words`` in its message and no token in it."""
    with pytest.raises(kind) as caught:
        asyncio.run(coroutine)
    error = caught.value
    assert type(error) is kind
    for word in words:
        assert word in error.message, error.message
    chain: BaseException | None = error
    while chain is not None:
        assert not isinstance(chain, StoreError) or DEFAULT_TOKEN not in str(chain)
        chain = chain.__cause__
    assert "\n" not in error.message
    return error
