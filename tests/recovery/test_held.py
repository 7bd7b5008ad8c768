"""Holding a lease while the resume commands run: who asks waits, who has taken it ends them, an outage says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sidecar.recovery import held as holding
from sidecar.recovery.claim import Waits, attempt, give_back, read_lease, renew
from sidecar.recovery.held import Held
from sidecar.recovery.lease import PATH, Lease, Me, Tenure, encode
from sidecar.recovery.turns import Waiting
from sidecar.stores.base import Unavailable
from tests.snapshot.disk import FAST
from tests.sync.faulty import Faulty, held, opened

NEW = Me("new", "local")


@pytest.fixture
def base() -> Iterator[Path]:
    with TemporaryDirectory(dir=FAST, prefix="sidecar-") as name:
        yield Path(name)


async def put(store: Faulty, files: dict[str, bytes], title: str) -> str:
    real = store.store
    return await real.commit(await real.head(), files, [], title)


async def there(store: Faulty) -> Lease:
    found = await read_lease(store, await store.head())
    assert found is not None
    return found


async def asked(store: Faulty) -> None:
    """A new instance comes and asks."""
    head = await store.head()
    assert isinstance(await attempt(store, head, await there(store), NEW, 0, Waiting(1.0)), Waits)


def live(base: Path, scenario: Callable[[Faulty, Held], Awaitable[Any]]) -> None:
    async def main() -> None:
        async with opened(base / "store") as store:
            lease = replace(held(5, "me"), resuming=True)
            revision = await put(store, {PATH: encode(lease)}, "sidecar: lease 5 claimed by me")
            await scenario(store, Held(store, revision, Tenure(lease)))

    asyncio.run(main())


def test_who_asks_is_told_to_wait_for_as_long_as_it_takes(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: Faulty, mine: Held) -> None:
        await mine.look()
        before = await store.head()
        assert mine.revision == before, "nobody asks: nothing is written"
        await asked(store)
        await mine.look()
        first = await there(store)
        assert (first.state, first.instance, first.resuming) == ("handing_over", "me", True)
        assert mine.revision == await store.head() != before
        await mine.look()
        assert await there(store) == first, "it has time until the next renewal"
        monkeypatch.setattr(holding, "RENEW_S", 0.0)
        await mine.look()
        assert (await there(store)).turn == first.turn + 1
        await give_back(store, NEW, None, False)
        await mine.look()
        assert (mine.revision, mine.tenure.handing, mine.lost) == (await store.head(), False, False)
        assert (await there(store)).resuming, "who asks no more has not changed what we have to tell"

    live(base, scenario)


def test_who_has_taken_it_has_it(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "LOOK_S", 0.01)

    async def scenario(store: Faulty, mine: Held) -> None:
        await put(store, {PATH: encode(held(6, "new"))}, "sidecar: lease 6 claimed by new")
        await asyncio.wait_for(mine.until_lost(), 10)
        assert mine.lost

    live(base, scenario)


@pytest.mark.parametrize("asks", [False, True])
def test_an_edit_by_hand_is_left_for_the_first_sync_to_find(base: Path, asks: bool) -> None:
    async def scenario(store: Faulty, mine: Held) -> None:
        before = mine.revision
        await put(store, {"data/x": b"x"}, "by hand")
        if asks:
            await asked(store)
        head = await store.head()
        await mine.look()
        assert (mine.revision, mine.lost, await store.head()) == (before, False, head)

    live(base, scenario)


@pytest.mark.parametrize("raw", [b"broken", None])
def test_neither_an_outage_nor_a_broken_lease_takes_it(base: Path, raw: bytes | None) -> None:
    async def scenario(store: Faulty, mine: Held) -> None:
        if raw is None:
            store.plan["head"] = [Unavailable("503")]
        else:
            await put(store, {PATH: raw}, "by hand")
        await mine.look()
        assert not mine.lost

    live(base, scenario)


def test_the_next_epoch_is_taken_by_its_holder_and_tells_what_was_cut_off(base: Path) -> None:
    async def scenario(store: Faulty, mine: Held) -> None:
        mine.tenure.begin_resume()
        taken = await renew(store, mine.revision, mine.tenure)
        assert (taken.tenure.epoch, taken.tenure.interrupted, taken.tenure.resume) == (6, True, "none")
        assert await there(store) == taken.tenure.lease
        taken.tenure.begin_resume()
        taken.tenure.end_resume()
        again = await renew(store, taken.revision, taken.tenure)
        assert (again.tenure.epoch, again.tenure.interrupted) == (7, False)

    live(base, scenario)
