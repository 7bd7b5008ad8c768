"""How much a store keeps: told, warned of, and squashed where the settings say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sidecar import tending
from sidecar.settings import Settings, load
from sidecar.snapshot import stage as staging
from sidecar.state import State
from sidecar.stores.base import Unavailable, Usage
from sidecar.sync import line as lines
from sidecar.web.health import SENTENCES
from sidecar.web.status import status
from tests.snapshot.disk import FAST
from tests.sync.letting import hub_life, some
from tests.sync.lives import Life, live, snapshots, until


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "backoff", lambda *_: 0.01)
    monkeypatch.setattr(staging, "SETTLE_NS", 0)
    monkeypatch.setattr(tending, "FIRST_S", 0.01)
    monkeypatch.setattr(tending, "EVERY_S", 0.05)


@pytest.fixture
def base() -> Iterator[Path]:
    with TemporaryDirectory(dir=FAST, prefix="sidecar-tending-") as name:
        yield Path(name) / "base"


def settings(**more: str) -> Settings:
    given = {"SIDECAR_PATHS": "/data", "SIDECAR_STORE": "hf://datasets/me/x", "HF_TOKEN": "t", **more}
    return load({k: v for k, v in given.items() if v}, need_paths=True)


def state() -> State:
    return State("me", "0", "local", "hf://datasets/me/x", True)


def test_a_long_history_is_a_warning_on_the_hub_only() -> None:
    made = state()
    tending.note(settings(), made, Usage(1499, 10))
    assert made.notes == {}
    assert status(made, 0.0, names=False)["commits"].items() >= {"hour": 0, "total": 1499, "stored_bytes": 10}.items()
    tending.note(settings(), made, Usage(1500, 10))
    assert "1,500 commits" in made.notes["long-history"]
    assert "sidecar prune" in made.notes["long-history"]
    tending.note(settings(SIDECAR_SQUASH_AFTER="5000"), made, Usage(1500, 10))
    assert made.notes == {}, "it will be squashed by itself"
    tending.note(settings(SIDECAR_STORE="file:///srv/x"), made, Usage(9999, 10, 1000))
    assert made.notes == {}
    tending.note(settings(), made, Usage(None, None))
    assert (made.commits_total, made.stored_bytes) == (9999, None)


def test_a_folder_that_fills_its_disk_is_a_warning() -> None:
    made, here = state(), settings(SIDECAR_STORE="file:///srv/x")
    tending.note(here, made, Usage(10, 2_000_000_000, 1_000_000_000))
    assert "2.0 GB" in made.notes["store-grows"]
    tending.note(here, made, Usage(10, 1_000_000_000, 1_000_000_000))
    assert made.notes == {}
    assert {"store-grows", "long-history"} <= SENTENCES.keys()


def beside(life: Life, here: Settings, true: Callable[[], Any]) -> Any:
    async def main() -> None:
        task = asyncio.create_task(tending.tend(here, life.state, life.engine))
        try:
            await until(lambda: true() or task.done())
            assert not task.done(), "nothing ends it"
        finally:
            while not task.done():  # Python 3.11's wait_for may swallow one
                task.cancel()
                await asyncio.sleep(0.01)

    return main()


def test_past_the_setting_the_hubs_history_is_squashed(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(life: Life) -> None:
        await some(life, 13)
        before = len(await life.store.history(100))
        await beside(life, settings(SIDECAR_SQUASH_AFTER=str(before)), lambda: life.state.stored_bytes is not None)
        assert len(await life.store.history(100)) == before, "not yet past it"
        life.store.plan["usage"] = [Unavailable("503")]
        await beside(life, settings(SIDECAR_SQUASH_AFTER="10"), lambda: life.state.commits_total == 1)
        assert await snapshots(life.store) == ["1.13"]
        assert len(await life.store.branches()) == 9, "with the newest, ten snapshots"
        life.fill("n", text="on")
        assert (await life.told()).snapshot == "1.14"

    with caplog.at_level("INFO", "sidecar"):
        hub_life(base, scenario)
    assert "history squashed, 10 snapshots stay" in caplog.text


def test_a_folder_keeps_the_newer_half(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tending, "LAST", 3)

    async def scenario(life: Life) -> None:
        await some(life, 13)
        here = settings(SIDECAR_SQUASH_AFTER="12", SIDECAR_STORE="file:///srv/x")
        await beside(life, here, lambda: life.state.commits_total == 6)
        assert (await snapshots(life.store))[0] == "1.8"

    live(base, scenario)


def test_it_is_left_alone_where_it_may_not_be(base: Path) -> None:
    async def scenario(life: Life) -> None:
        await some(life, 12)
        looks = life.store.calls
        for here, lease in (
            (settings(SIDECAR_SQUASH_AFTER="5", SIDECAR_REVISION="1.3"), "held"),
            (settings(SIDECAR_SQUASH_AFTER="5"), "fenced"),
            (settings(), "held"),
        ):
            life.state.lease = lease  # type: ignore[assignment]
            looks.clear()
            await beside(life, here, lambda: looks.count("usage") > 2)
        assert len(await snapshots(life.store)) == 12

    live(base, scenario)
