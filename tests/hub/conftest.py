"""One Hub for the folder's tests, one repo for each; large files travel over LFS."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi

from tests.hub.server import LocalHub

_NAMES = itertools.count(1)


@pytest.fixture(scope="session")
def shared_hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        yield hub


@pytest.fixture
def hub(shared_hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    # Read at each call, so this is as good as the environment variable before the import.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    before = shared_hub.settings()
    shared_hub.reset()
    yield shared_hub
    shared_hub.settings(**before)
    shared_hub.reset()


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return hub.api()


@pytest.fixture
def repo(hub: LocalHub) -> str:
    name = f"alice/repo-{next(_NAMES)}"
    hub.create_repo(name)
    return name
