"""What an agent's look at a real Hub finds, also where its own store refuses to look."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from sidecar.inspection import inspect
from sidecar.settings import load
from sidecar.state import Inspection
from sidecar.stores.opening import open_store
from tests.hub.server import LocalHub
from tests.test_drills import world


def look() -> Inspection:
    async def go() -> Inspection:
        settings = load(os.environ, need_paths=True)
        store = open_store(settings)
        try:
            return await inspect(settings, store, 20)
        finally:
            await store.close()

    return asyncio.run(go())


def test_a_dataset_that_was_made_public_since_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        world(tmp_path, monkeypatch, hub)
        monkeypatch.setenv("HOME", str(tmp_path / "data"))
        monkeypatch.chdir(tmp_path / "data")
        found = look()
        assert (found.public, found.writable, found.turns, found.trouble) == (False, True, (), "")
        assert found.commits is not None
        assert found.commits >= 2
        assert found.local is not None
        assert found.local.files == ()
        hub.set_private("alice/state", False)
        found = look()
        assert (found.public, found.denied) == (True, False)
        hub.stop()
        found = look()
        assert (found.public, found.denied) == (None, False)
        assert "out of reach" in found.trouble
