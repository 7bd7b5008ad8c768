"""Mounts, full disks and other users: each scenario of `placed` in a mount namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recovery.placed import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]


def can_unshare() -> bool:
    tried = ["unshare", "-m", "true"]
    return os.geteuid() == 0 and bool(shutil.which("unshare")) and subprocess.run(tried, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="needs root and mount namespaces")


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="sidecar-places-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(base: Path, name: str) -> None:
    run = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "tests.recovery.placed", name, base],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr[-4000:]
