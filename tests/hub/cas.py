"""Xet's content-addressed store (stub until the next step)."""

from __future__ import annotations

from pathlib import Path

from tests.hub.blobs import Blobs
from tests.hub.wire import HubError


class Cas:
    def __init__(self, root: Path, blobs: Blobs) -> None:
        self.blobs = blobs
        self.by_sha256: dict[str, str] = {}

    def materialize(self, sha256: str) -> None:
        raise HubError(404, f"No object {sha256}")
