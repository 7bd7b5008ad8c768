"""What docs/snapshots.md says of a restore without the sidecar, done to the letter."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from sidecar.snapshot import shards
from sidecar.stores.base import Store
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.stores.hubs import REPO, local_hub, store
from tests.sync.rig import Rig

T = TypeVar("T")
DOCS = Path(__file__).resolve().parents[2] / "docs/snapshots.md"
TOOLS = ("zstd", "tar", "awk", "grep", "find")


@dataclass
class HubRig(Rig):
    """Its store is a dataset on a local Hub."""

    hub: LocalHub | None = None

    def with_store(self, call: Callable[[Store], Awaitable[T]]) -> T:
        assert self.hub is not None
        opened = store(self.hub)

        async def run() -> T:
            try:
                return await call(opened)
            finally:
                await opened.close()

        return asyncio.run(run())


def script() -> str:
    found = re.search(r"^## By hand\n.*?^```sh\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1].replace("OWNER/NAME", REPO)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def several_snapshots(rig: HubRig) -> None:
    """Files in shards and in the manifest, in old and new bundles and mirrored, some gone, some of another kind now."""
    root = rig.root
    for number in range(60):
        (root / f"{number % 7}").mkdir(exist_ok=True)
        (root / f"{number % 7}" / f"small {number}").write_text(f"{number}\n" * 50)
    (root / ".gitignore").write_text("*.large")
    (root / "é.large").write_bytes(os.urandom(5_000_000))
    rig.sync()
    for number in range(0, 60, 9):
        (root / f"{number % 7}" / f"small {number}").write_text("second")
    (root / "4/small 4").unlink()
    (root / "4/small 4").mkdir()
    (root / "4/small 4/below").write_text("below")
    rig.sync()
    (root / "1/small 1").unlink()
    (root / "0/small 0").write_text("third")
    (root / "0/new, [0-9]* 'quoted' $x").write_text("new")
    os.utime(root / "0/small 0", (1, 1))  # the oldest of all by its time, and the newest
    rig.sync()


@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")
def test_a_person_restores_it_with_zstd_and_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"WHOLE": 20, "TARGET": 32, "SOFT": 30, "HARD": 40, "FOLDS": 1}.items():
        monkeypatch.setattr(shards, key, value)
    with local_hub() as hub:
        rig = HubRig(tmp_path / "rig", layout="bundle", hub=hub)
        several_snapshots(rig)
        manifest = rig.manifest()
        assert manifest.sharding is not None
        assert manifest.sharding.gone
        assert manifest.sharding.replaced
        assert len(manifest.bundles) > 2
        rig.close()
        env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HOME": str(tmp_path / "hf")}
        env |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": DEFAULT_TOKEN, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run(
            ["sh", "-eu", "-c", script()], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"^(zstd|tar|awk|grep|find): ", done.stderr, re.MULTILINE), done.stderr
    assert files(tmp_path / "restored/data") == files(rig.root)
