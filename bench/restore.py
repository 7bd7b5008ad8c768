"""A lost disk brought back from the local Hub, beside `curl | tar -x` of the same bytes from the same Hub."""

from __future__ import annotations

import os
import shutil
import subprocess
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

ROUNDS = 3
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
    best, peer = min(ours), min(peers)
    how = f"best of {', '.join(f'{s:.2f}' for s in ours)}; curl | tar {', '.join(f'{s:.2f}' for s in peers)}"
    yield Figure(f"{name}: time", best, round(1.5 * peer + 1, 2), "s", how)
    yield Figure(f"{name}: requests", asked, 99, "", "counted by the Hub")


def _timed(work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> float:
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
