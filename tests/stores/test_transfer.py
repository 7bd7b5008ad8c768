"""Large uploads in a process of their own, over Xet and over LFS: their end in all its forms."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.stores import hubclient
from sidecar.stores.base import Conflict, Denied, Refused, Source, StoreError, Unavailable
from sidecar.stores.hub import HubStore
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.stores.hubs import HASTY, REPO, fails, local_hub, run, store

TITLE = "sidecar: snapshot 3.7"

KINDS = pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with local_hub() as hub:
        yield hub


def apart(hub: LocalHub, tmp_path: Path, xet: bool, **more: Any) -> HubStore:
    """A store that uploads everything in a child."""
    given: dict[str, Any] = {"patience": HASTY, "cache_dir": tmp_path / "hf", "large": 0, "xet_from": 0}
    return store(hub, xet=xet, **{**given, **more})


MARK = f"of the tests in process {os.getpid()}"
"""In the environment of whatever we start: others may run the same tests at the same time."""


@pytest.fixture(autouse=True)
def _marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERS", MARK)


def children() -> list[str]:
    """Command lines of our uploads that are alive."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
            if b"sidecar.stores.transfer" not in line or MARK.encode() not in (process / "environ").read_bytes():
                continue
        except OSError:
            continue
        found.append(line.replace(b"\0", b" ").decode())
    return found


def gone(seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while children() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not children()


@KINDS
def test_upload_and_back(hub: LocalHub, tmp_path: Path, xet: bool) -> None:
    data = random.Random(1).randbytes(3_000_000)
    (tmp_path / "big").write_bytes(data)
    (tmp_path / "note").write_text("text")
    put: dict[str, Source] = {
        "r/big": tmp_path / "big",
        "r/twin": tmp_path / "big",
        "m.json": b"{}",
        "r/note": tmp_path / "note",
    }
    s = apart(hub, tmp_path, xet)
    one = run(s.commit(hub.head(REPO), put, ["nope"], f"{TITLE}\n\nmore"))
    assert hub.files(REPO, one) == {"r/big": data, "r/twin": data, "m.json": b"{}", "r/note": b"text"}
    assert hub.commits(REPO)[0]["description"] == "more"
    assert bool(hub.count("xet_xorb_put")) == xet
    assert bool(hub.count("lfs_put")) != xet
    # A small change sends little over Xet, all of it over LFS.
    hub.reset()
    changed = data[:1_500_000] + b"!" + data[1_500_000:]
    (tmp_path / "big").write_bytes(changed)
    two = run(s.commit(one, {"r/big": tmp_path / "big"}, ["r/twin"], "two"))
    sent = sum(c["bytes_in"] for c in hub.counters().values())
    assert sent < 600_000 if xet else sent > 3_000_000
    into = tmp_path / "into"
    into.mkdir()
    run(s.fetch(two, ["r/big"], into))
    assert (into / "r/big").read_bytes() == changed
    assert gone()


def test_what_decides(hub: LocalHub, tmp_path: Path) -> None:
    """Below a limit nothing is started; the limit is lower where Xet can save something."""
    s = store(hub, xet=True, large=1_000_000, xet_from=100_000)
    head = run(s.commit(hub.head(REPO), {"x": os.urandom(90_000)}, [], "small"))
    assert (hub.count("lfs_put"), hub.count("xet_token")) == (1, 0)
    head = run(s.commit(head, {"x": os.urandom(200_000)}, [], "medium"))
    assert (hub.count("lfs_put"), hub.count("xet_token")) == (1, 1)
    s = store(hub, xet=False, large=1_000_000, xet_from=100_000)
    run(s.commit(head, {"x": os.urandom(200_000)}, [], "medium, no Xet"))
    assert (hub.count("lfs_put"), hub.count("xet_token")) == (2, 1)
    assert "hf_xet" not in sys.modules or os.environ.get("PYTEST_XDIST_WORKER")


@pytest.mark.parametrize("value", ["true", "0", ""])
def test_xet_is_possible_where_the_client_thinks_so(value: str) -> None:
    code = (
        "from sidecar.stores.hubclient import xet_possible\n"
        "from huggingface_hub.utils._runtime import is_xet_available\n"
        "print(xet_possible() == is_xet_available(), xet_possible())"
    )
    env = {**os.environ, "HF_HUB_DISABLE_XET": value}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, timeout=30)
    assert done.stdout == f"True {value in ('0', '')}\n", done.stderr


def test_errors_come_through_as_they_are(hub: LocalHub, tmp_path: Path) -> None:
    s = apart(hub, tmp_path, False)
    old = hub.head(REPO)
    head = hub.edit(REPO, {".gitignore": b"*.log\n"})
    fails(Conflict, s.commit(old, {"x.bin": os.urandom(1000)}, [], TITLE), "moved on")
    assert fails(Refused, s.commit(head, {"x.log": b"1"}, [], TITLE), "x.log").path == "x.log"
    hub.fault("status", endpoint="commit", status=429, headers={"Retry-After": "44"})
    error = fails(Unavailable, s.commit(head, {"x": b"1"}, [], TITLE), "429")
    assert (error.retry_after, error.unclear) == (44, False)
    fails(Unavailable, s.commit(head, {"x": tmp_path / "missing"}, [], TITLE), "missing")
    hub.fault("status", endpoint="commit", status=403, body='{"error":"storage limit reached"}')
    fails(Denied, s.commit(head, {"x": b"1"}, [], TITLE), "no room")
    assert hub.head(REPO) == head


@KINDS
def test_a_commit_that_landed_unanswered_is_found(hub: LocalHub, tmp_path: Path, xet: bool) -> None:
    hub.fault("land_then_cut", endpoint="commit")
    revision = run(apart(hub, tmp_path, xet).commit(hub.head(REPO), {"x.bin": bytes(2000)}, [], TITLE))
    assert revision == hub.head(REPO)
    assert hub.count("commit") == 1


@pytest.mark.parametrize(
    ("endpoint", "status", "kind"),
    [
        ("xet_token", 403, Denied),
        ("xet_xorb_put", 401, Denied),
        ("xet_xorb_put", 503, Unavailable),  # hf_xet tries that again for minutes
        ("xet_shard_v2", 403, Denied),
    ],
)
def test_xet_storage_that_fails(
    hub: LocalHub, tmp_path: Path, endpoint: str, status: int, kind: type[StoreError]
) -> None:
    head = hub.head(REPO)
    rule = hub.fault("status", endpoint=endpoint, status=status, times=None, body='{"error":"No"}')
    s = apart(hub, tmp_path, True, patience=replace(HASTY, request=2.5, commit=0))
    error = fails(kind, s.commit(head, {"x.bin": os.urandom(5000)}, [], TITLE))
    assert hub.fired(rule)
    assert "Settings > Secrets" in error.message or not getattr(error, "unclear", False)
    assert hub.head(REPO) == head
    assert gone()


def test_xet_storage_that_stumbles(hub: LocalHub, tmp_path: Path) -> None:
    data = os.urandom(5000)
    hub.fault("status", endpoint="xet_xorb_put", status=503)
    run(apart(hub, tmp_path, True).commit(hub.head(REPO), {"x.bin": data}, [], TITLE))
    assert hub.files(REPO) == {"x.bin": data}


def test_it_ends_at_the_limit(hub: LocalHub, tmp_path: Path) -> None:
    rule = hub.fault("hang", endpoint="commit", times=None)
    s = apart(hub, tmp_path, False)

    async def main() -> None:
        with s.limit(3):
            await s.commit(hub.head(REPO), {"x.bin": os.urandom(5000)}, [], TITLE)

    begin = time.monotonic()
    # The child told us that it sent the commit itself: from there on it is unclear.
    assert fails(Unavailable, main(), "in time").unclear
    assert time.monotonic() - begin < 6
    assert hub.fired(rule) == 1
    assert gone()


def test_it_ends_with_its_task(hub: LocalHub, tmp_path: Path) -> None:
    rule = hub.fault("hang", endpoint="preupload", times=None)
    s = apart(hub, tmp_path, False)

    async def main() -> None:
        task = asyncio.create_task(s.commit(hub.head(REPO), {"x.bin": b"1"}, [], TITLE))
        while not hub.fired(rule):
            await asyncio.sleep(0.02)
        assert len(children()) == 1
        assert DEFAULT_TOKEN not in children()[0]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not children()

    run(main())


def test_it_ends_with_its_store(hub: LocalHub, tmp_path: Path) -> None:
    rule = hub.fault("hang", endpoint="preupload", times=None)
    s = apart(hub, tmp_path, False)

    async def main() -> None:
        task = asyncio.create_task(s.commit(hub.head(REPO), {"x.bin": b"1"}, [], TITLE))
        while not hub.fired(rule):
            await asyncio.sleep(0.02)
        await s.close()
        with pytest.raises(Unavailable) as caught:
            await task
        assert not caught.value.unclear

    run(main())
    assert gone()


def test_it_ends_with_its_parent(hub: LocalHub, tmp_path: Path) -> None:
    """Killed with SIGKILL, the agent can't say goodbye: the child sees the end of its stdin."""
    rule = hub.fault("hang", endpoint="preupload", times=None)
    code = (
        "import asyncio\n"
        "from pathlib import Path\n"
        "from sidecar.stores.hub import HubStore\n"
        f"s = HubStore({REPO!r}, token={DEFAULT_TOKEN!r}, endpoint={hub.url!r}, xet=False, large=0,\n"
        f"    cache_dir=Path({str(tmp_path)!r}))\n"
        f"asyncio.run(s.commit({hub.head(REPO)!r}, {{'x': b'1'}}, [], 'one'))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 20
        while not hub.fired(rule) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(children()) == 1
        parent.send_signal(signal.SIGKILL)
    finally:
        parent.kill()
        parent.wait(10)
    assert gone()


def test_a_child_that_is_killed_is_unclear(hub: LocalHub, tmp_path: Path) -> None:
    hub.fault("land_then_hang", endpoint="commit", times=None)
    s = apart(hub, tmp_path, False)
    head = hub.head(REPO)

    async def main() -> str:
        task = asyncio.create_task(s.commit(head, {"x.bin": b"1"}, [], TITLE))
        while hub.head(REPO) == head:
            await asyncio.sleep(0.02)
        for child in s._children._running:
            os.kill(child.pid, signal.SIGKILL)
        return await task

    assert run(main()) == hub.head(REPO), "what landed was not found"


def test_neither_our_environment_nor_the_token_gets_about(hub: LocalHub, tmp_path: Path) -> None:
    rule = hub.fault("hang", endpoint="preupload", times=None)
    s = apart(hub, tmp_path, False)
    before = dict(os.environ)
    seen: list[bytes] = []

    async def main() -> None:
        os.environ["HF_TOKEN"] = DEFAULT_TOKEN
        task = asyncio.create_task(s.commit(hub.head(REPO), {"x.bin": b"1"}, [], TITLE))
        while not hub.fired(rule):
            await asyncio.sleep(0.02)
        for child in s._children._running:
            for name in ("environ", "cmdline"):
                seen.append(Path(f"/proc/{child.pid}/{name}").read_bytes())  # noqa: ASYNC240
        task.cancel()
        await asyncio.wait([task])

    try:
        run(main())
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert len(seen) == 2
    assert not any(DEFAULT_TOKEN.encode() in each for each in seen)
    assert f"HF_HOME={tmp_path / 'hf'}".encode() in seen[0].split(b"\0")


def test_the_clients_environment(tmp_path: Path) -> None:
    made = hubclient.environment(tmp_path, "http://h")
    assert made["HF_XET_CACHE"].startswith(made["HF_HOME"]) == str(tmp_path).startswith(made["HF_HOME"])
    assert (made["HF_ENDPOINT"], made["HF_HUB_OFFLINE"]) == ("http://h", "0")
    assert "HF_ENDPOINT" not in hubclient.environment(tmp_path, None)
