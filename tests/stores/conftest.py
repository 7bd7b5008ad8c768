"""The stores that the contract tests run against: add one to ``KINDS``, and every test there is one more test.

A kind brings its real counterpart up in ``serve`` and gives back what opens a store on it; each call opens
another one on the same, empty place, as another process would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from sidecar.stores.base import Store
from sidecar.stores.folder import FolderStore
from sidecar.stores.hubcall import Patience
from tests.hub.server import LocalHub
from tests.stores.hubs import store as hub_store

T = TypeVar("T")

Open = Callable[[], Store]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of store, and in what it may differ.

    ``slow``: each call goes over a network, so tests take fewer rounds and smaller files. ``has_ceiling``: only
    so many commits an hour. ``first_head``: a new place has a head before anything was committed.
    ``refuses``: odd names that it may refuse; every other one it carries.
    """

    serve: Callable[[Path], AbstractContextManager[Open]]
    slow: bool = False
    has_ceiling: bool = False
    first_head: bool = False
    refuses: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Subject:
    """A place for one test, and stores on it."""

    kind: Kind
    open: Open

    def run(self, scenario: Callable[[Store], Awaitable[T]]) -> T:
        """Run ``scenario`` with a store that is ready to use, in an event loop of its own."""

        async def main() -> T:
            store = self.open()
            try:
                await store.check(create=True)
                return await scenario(store)
            finally:
                await store.close()

        return asyncio.run(main())


@contextmanager
def folder(tmp_path: Path) -> Iterator[Open]:
    yield lambda: FolderStore(tmp_path / "place" / "store")


@contextmanager
def hub(tmp_path: Path, *, xet: bool = False) -> Iterator[Open]:
    with LocalHub(tmp_path / "hub") as local:
        yield lambda: hub_store(
            local, repo="alice/place", xet=xet, patience=Patience(pause=0.05), cache_dir=tmp_path / "hf"
        )


KINDS: dict[str, Kind] = {
    "folder": Kind(folder),
    "hub": Kind(hub, slow=True, first_head=True),
    "hub-xet": Kind(partial(hub, xet=True), slow=True, first_head=True),
}


@pytest.fixture(params=list(KINDS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    kind = KINDS[request.param]
    with kind.serve(tmp_path) as opener:
        yield Subject(kind, opener)
