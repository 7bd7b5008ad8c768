"""Where these tests' disks and stores lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.snapshot.disk import FAST


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Instead of pytest's own: where no disk has to turn for each commit."""
    with TemporaryDirectory(dir=FAST, prefix="sidecar-sync-") as name:
        yield Path(name)
