"""A lost disk brought back from the local Hub, beside `curl | tar -x` and `snapshot_download` of the same bytes."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec

from huggingface_hub.utils.tqdm import disable_progress_bars

from bench import trees
from bench.figure import Figure
from bench.hubs import PLAIN, Stored, command, requests, stored
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub

P = ParamSpec("P")

ROUNDS = 5
TAR = "alice/tar"


def measure(folder: Path) -> Iterator[Figure]:
    for name, tree in (("10,000 files of 4 KB", trees.small), ("one file of 1 GB", trees.large)):
        for way, settings in (("Xet", {}), ("LFS", PLAIN)):
            yield from _one(folder / f"{tree.__name__}-{way}", f"restore of {name}, {way}", tree, settings)
            if tree is trees.large:  # not many small files: see ``Stored.fresh``
                shutil.rmtree(folder / f"{tree.__name__}-{way}")


def _one(folder: Path, name: str, tree: Callable[[Path], None], settings: dict[str, str]) -> Iterator[Figure]:
    with stored(folder, tree, **settings) as at:
        _put_tar(at)
        ours, peers, asked = [], [], 0
        for number in range(ROUNDS):  # in turns, so that both meet the same machine
            peers.append(_timed(_curl_tar, at.hub, folder / f"tar-{number}"))
            space = at.fresh()
            at.hub.reset()
            ours.append(_timed(command, space, "restore"))
            asked = requests(at.hub)
            assert sum(p.stat().st_size for p in space.disk.rglob("*") if p.is_file()) > 0
        took, calls = _snapshot_download(at, tree)
    best, peer = min(ours), min(peers)
    how = f"best of {', '.join(f'{s:.2f}' for s in ours)}; curl | tar {', '.join(f'{s:.2f}' for s in peers)}"
    yield Figure(f"{name}: time", best, round(1.5 * peer + 1, 2), "s", how)
    yield Figure(f"{name}: requests", asked, 99, "", "counted by the Hub")
    goal = 1 / 40 if tree is trees.small else math.inf
    how = f"once: {took:.1f} s, {calls:,} requests"
    yield Figure(f"{name}: against snapshot_download", best / took, goal, "x", how)


DOWNLOAD = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], repo_type="dataset", local_dir=sys.argv[2])
"""


def _snapshot_download(at: Stored, tree: Callable[[Path], None]) -> tuple[float, int]:
    """Seconds and requests of the Hub client's own way, of the same files as a dataset of their own."""
    repo = TAR
    if tree is trees.small:
        repo = "alice/files"
        at.hub.create_repo(repo)
        data = at.folder / "space-0/disk/data"
        files = sorted(p for p in data.rglob("*") if p.is_file())
        for start in range(0, len(files), 2000):
            at.hub.edit(repo, {str(p.relative_to(data)): p.read_bytes() for p in files[start : start + 2000]})
    at.hub.reset()
    env = {"HF_ENDPOINT": at.hub.url, "HF_TOKEN": DEFAULT_TOKEN, "HF_HOME": str(at.folder / "hf")}
    env |= {k: v for k, v in at.settings.items() if k.isupper()} | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    argv = [sys.executable, "-c", DOWNLOAD, repo, str(at.folder / "downloaded")]
    took = _timed(subprocess.run, argv, env={**os.environ, **env}, check=True)
    return took, requests(at.hub)


def _timed(work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> float:
    os.sync()  # what came before is nobody's to wait for
    began = time.monotonic()
    work(*args, **kwargs)
    return time.monotonic() - began


def _put_tar(at: Stored) -> None:
    """The same bytes as one tar in a dataset beside ours."""
    tar = at.folder / "tree.tar"
    subprocess.run(["tar", "-C", at.folder / "space-0/disk", "-cf", tar, "data"], check=True)
    disable_progress_bars()
    api = at.hub.api()
    api.create_repo(TAR, repo_type="dataset")
    api.upload_file(path_or_fileobj=tar, path_in_repo=tar.name, repo_id=TAR, repo_type="dataset")
    tar.unlink()


def _curl_tar(hub: LocalHub, into: Path) -> None:
    into.mkdir()
    url = f"{hub.url}/datasets/{TAR}/resolve/main/tree.tar"
    get = f"curl -sfL -H 'Authorization: Bearer {DEFAULT_TOKEN}' '{url}' | tar -xC '{into}'"
    subprocess.run(["sh", "-c", get], check=True)
