"""Taking the lease in a real store: from nobody, from the dead, from the living, and where it can't be had."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sidecar.errors import EX_REFUSED, ManifestError, RestoreFailed
from sidecar.recovery import claim as claims
from sidecar.recovery.claim import Claimed, Moved, Unleased, Waits, attempt, claim, give_back, read_lease, withdraw
from sidecar.recovery.lease import PATH, Lease, Me, Tenure, encode
from sidecar.recovery.turns import Waiting, lets_go
from sidecar.snapshot.manifest import ASKS, HANDS
from sidecar.stores.base import Conflict, Denied, Unavailable
from tests.snapshot.disk import FAST
from tests.sync.faulty import Faulty, held, opened, titles

ME = Me("me", "local")
AWAY = Unavailable("503")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Instead of pytest's own: where no disk has to turn for each commit."""
    with TemporaryDirectory(dir=FAST, prefix="sidecar-") as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_S", 0.02)
    monkeypatch.setattr(claims, "RETRY_S", 0.01)


def run(tmp_path: Path, scenario: Callable[[Faulty], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with opened(tmp_path / "store") as store:
            return await scenario(store)

    return asyncio.run(main())


async def put(store: Faulty, lease: Lease | bytes, title: str = "sidecar: lease") -> str:
    raw = lease if isinstance(lease, bytes) else encode(lease)
    real = store.store
    return await real.commit(await real.head(), {PATH: raw}, [], title)


async def once(store: Faulty, waiting: Waiting, me: Me = ME, least: int = 0) -> Claimed | Unleased | Waits:
    """One attempt, on the head as it is now."""
    head = await store.head()
    return await attempt(store, head, await read_lease(store, head), me, least, waiting)


async def take(store: Faulty, wait_s: float = 0.5, me: Me = ME, least: int = 0) -> Claimed | Unleased:
    """What a start does: again on each new head."""
    waiting = Waiting(wait_s)
    while True:
        try:
            head = await store.head()
            return await claim(store, head, await read_lease(store, head), me, least, waiting)
        except Moved:
            continue


async def now(store: Faulty) -> Lease:
    found = await read_lease(store, await store.store.head())
    assert found is not None
    return found


# Free


@pytest.mark.parametrize(("least", "epoch"), [(0, 1), (7, 8)])
def test_an_empty_store_is_anybodys(tmp_path: Path, least: int, epoch: int) -> None:
    async def scenario(store: Faulty) -> None:
        taken = await take(store, least=least)
        assert isinstance(taken, Claimed)
        assert (taken.tenure.epoch, taken.clean) == (epoch, None)
        assert taken.revision == await store.head()
        assert await now(store) == replace(taken.tenure.lease)
        assert (await titles(store))[-1] == f"sidecar: lease {epoch} claimed by me"

    run(tmp_path, scenario)


@pytest.mark.parametrize(("least", "epoch"), [(0, 4), (7, 8)])
def test_a_lease_that_was_deleted_by_hand_gives_no_epoch_away_again(tmp_path: Path, least: int, epoch: int) -> None:
    """Who had claimed it may be alive, and number snapshots by that epoch."""

    async def scenario(store: Faulty) -> None:
        for number in (2, 3):
            await put(store, Lease(number, "other", "local", "held"), f"sidecar: lease {number} claimed by other")
        real = store.store
        await real.commit(await real.head(), {}, [PATH], "Delete .sidecar/lease.json")
        taken = await take(store, least=least)
        assert isinstance(taken, Claimed)
        assert taken.tenure.epoch == epoch

    run(tmp_path, scenario)


@pytest.mark.parametrize("clean", [True, False])
def test_a_released_lease_is_taken_at_once_and_tells_how_its_holder_ended(tmp_path: Path, clean: bool) -> None:
    async def scenario(store: Faulty) -> None:
        await put(store, Tenure(held(4, "before")).released(clean))
        began = time.monotonic()
        taken = await take(store, wait_s=60)
        assert time.monotonic() - began < 2
        assert isinstance(taken, Claimed)
        assert (taken.tenure.epoch, taken.clean) == (5, clean)

    run(tmp_path, scenario)


def test_what_an_earlier_attempt_of_ours_took_is_ours(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        await put(store, held(4, "me"))
        before = await store.head()
        taken = await take(store, wait_s=60)
        assert isinstance(taken, Claimed)
        assert (taken.tenure.epoch, taken.revision) == (4, before)
        assert await store.head() == before, "without another commit"

    run(tmp_path, scenario)


@pytest.mark.parametrize("state", ["held", "requested", "handing_over", "released"])
def test_another_identitys_lease_is_left_alone(tmp_path: Path, state: Any) -> None:
    async def scenario(store: Faulty) -> None:
        before = await put(store, replace(held(4, "prod-1", "owner/prod"), state=state))
        with pytest.raises(RestoreFailed) as raised:
            await take(store)
        assert (raised.value.final, raised.value.exit_code) == (True, EX_REFUSED)
        assert "SIDECAR_ADOPT=owner/prod" in raised.value.message
        assert await store.head() == before, "nothing is written"
        taken = await take(store, wait_s=0.1, me=Me("me", "local", adopt="owner/prod"))
        assert isinstance(taken, Claimed)
        assert ((await now(store)).space, taken.tenure.epoch) == ("local", 5)

    run(tmp_path, scenario)


def test_a_lease_that_cannot_be_read_is_nobodys_guess(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        await put(store, b"{")
        with pytest.raises(ManifestError):
            await take(store)

    run(tmp_path, scenario)


# Held


def test_a_holder_that_hands_over_is_followed_at_once(tmp_path: Path) -> None:
    async def holder(store: Faulty) -> None:
        tenure = Tenure(held(4, "other"))
        while (await now(store)).state != "requested":
            await asyncio.sleep(0.01)
        for _ in range(4):  # its last snapshot takes longer than the wait, and it says that it lives
            await put(store, tenure.handing_over())
            await asyncio.sleep(0.25)
        await put(store, tenure.released(clean=True))

    async def scenario(store: Faulty) -> None:
        await put(store, held(4, "other"))
        handing = asyncio.create_task(holder(store))
        taken = await take(store, wait_s=0.4)
        await handing
        assert isinstance(taken, Claimed)
        assert (taken.tenure.epoch, taken.clean) == (5, True)
        said = await titles(store)
        assert said.count(f"{ASKS}me") == 1

    run(tmp_path, scenario)


def test_a_silent_holder_is_asked_once_and_then_taken_for_dead(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        await put(store, held(4, "dead"))
        began = time.monotonic()
        taken = await take(store, wait_s=0.3)
        assert 0.25 < time.monotonic() - began < 3
        assert isinstance(taken, Claimed)
        assert (taken.tenure.epoch, taken.clean) == (5, False)
        assert (await titles(store))[1:] == [f"{ASKS}me", "sidecar: lease 5 claimed by me"]

    run(tmp_path, scenario)


def test_with_no_time_to_wait_nobody_is_asked(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        await put(store, held(4, "dead"))
        taken = await take(store, wait_s=0)
        assert isinstance(taken, Claimed)
        assert len(await titles(store)) == 2

    run(tmp_path, scenario)


def test_a_request_that_met_another_commit_is_made_again(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        await put(store, held(4, "other"))
        head, found = await store.head(), await now(store)
        snapshot = await store.store.commit(head, {"data/a": b"1"}, [], "sidecar: snapshot 4.2")
        waiting = Waiting(60)
        with pytest.raises(Moved):
            await claim(store, head, found, ME, 0, waiting)
        assert await store.head() == snapshot, "it could not be written"
        assert isinstance(await once(store, waiting), Waits)
        assert (await now(store)).requester == "me"

    run(tmp_path, scenario)


def test_a_second_requester_waits_for_the_first_and_then_asks_it(tmp_path: Path) -> None:
    """Whoever was faster is another holder: it gets its own time, and is asked for itself."""

    async def scenario(store: Faulty) -> None:
        await put(store, replace(held(4, "dead"), state="requested", requester="first"))
        waiting = Waiting(0.5)
        assert isinstance(await once(store, waiting), Waits)
        assert len(await titles(store)) == 1, "the dead one was asked already"
        await asyncio.sleep(0.4)
        await put(store, held(5, "first"), "sidecar: lease 5 claimed by first")
        began = time.monotonic()
        taken = await claim(store, await store.head(), held(5, "first"), ME, 0, waiting)
        assert time.monotonic() - began > 0.4, "it was not taken for dead with the one before"
        assert isinstance(taken, Claimed)
        assert taken.tenure.epoch == 6
        assert (await titles(store))[2:] == [f"{ASKS}me", "sidecar: lease 6 claimed by me"]

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("sights", "silent_at"),
    [
        ([(0, "held", 0)], 30),
        ([(0, "held", 0), (7, "requested", 1)], 37),
        ([(0, "held", 0), (20, "handing_over", 2)], 50),
        ([(0, "held", 0), (20, "handing_over", 2), (45, "handing_over", 3)], 75),
        ([(0, "held", 0), *((t, "handing_over", t) for t in range(20, 400, 20))], 300),  # ten times as long, no more
    ],
)
def test_how_long_a_holder_is_waited_for(sights: list[tuple[int, Any, int]], silent_at: int) -> None:
    waiting = Waiting(30)
    at = {t: (state, turn) for t, state, turn in sights}
    state, turn = "held", 0
    for second in range(500):
        state, turn = at.get(second, (state, turn))
        if waiting.silent(Lease(4, "other", "local", state, turn=turn), 1000.0 + second):
            assert second == silent_at
            return
    raise AssertionError("never")


# Where it can't be had


@pytest.mark.parametrize("found", [None, held(4, "other")])
def test_where_writing_is_denied_a_start_goes_on_without_a_lease(tmp_path: Path, found: Lease | None) -> None:
    async def scenario(store: Faulty) -> None:
        if found is not None:
            await put(store, found)
        store.plan["commit"] = [Denied("403 read-only token")]
        taken = await take(store, wait_s=60)
        assert taken == Unleased("403 read-only token")

    run(tmp_path, scenario)


def test_where_only_writing_fails_a_start_goes_on_without_a_lease(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        store.plan["commit"] = [AWAY] * 3
        assert await take(store) == Unleased("503")
        store.plan["commit"] = [AWAY] * 2
        assert isinstance(await take(store), Claimed)

    run(tmp_path, scenario)


def test_where_a_request_cannot_be_written_the_holder_has_its_time_all_the_same(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        await put(store, held(4, "other"))
        store.plan["commit"] = [AWAY] * 1000
        began = time.monotonic()
        assert await take(store, wait_s=0.3) == Unleased("503")
        assert time.monotonic() - began > 0.25

    run(tmp_path, scenario)


@pytest.mark.parametrize("found", [None, held(4, "other")])
def test_an_outage_is_no_reason_to_go_on_without(tmp_path: Path, found: Lease | None) -> None:
    async def scenario(store: Faulty) -> None:
        if found is not None:
            await put(store, found)
        store.plan["commit"] = [AWAY] * 3
        store.plan["head"] = ["ok", AWAY]
        with pytest.raises(Unavailable):
            await take(store)

    run(tmp_path, scenario)


def test_a_claim_that_landed_without_an_answer_is_found(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        store.plan["commit"] = ["lands"]
        taken = await take(store)
        assert isinstance(taken, Claimed)
        assert (await titles(store), taken.revision) == (["sidecar: lease 1 claimed by me"], await store.head())

    run(tmp_path, scenario)


def test_a_claim_that_did_not_land_is_made_again(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        store.plan["commit"] = [Unavailable("reset", unclear=True)]
        assert isinstance(await take(store), Claimed)
        assert len(await titles(store)) == 1

    run(tmp_path, scenario)


def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        waits = [Waiting(60) for _ in range(5)]
        results = await asyncio.gather(
            *(once(store, waiting, Me(f"i{n}", "local")) for n, waiting in enumerate(waits)), return_exceptions=True
        )
        assert len([r for r in results if isinstance(r, Claimed)]) == 1
        assert len([r for r in results if isinstance(r, Moved)]) == 4
        assert await titles(store) == [f"sidecar: lease 1 claimed by {(await now(store)).instance}"]

    run(tmp_path, scenario)


def test_what_was_taken_for_nothing_is_given_back(tmp_path: Path) -> None:
    async def scenario(store: Faulty) -> None:
        await put(store, Tenure(held(4, "before")).released(clean=True))
        taken = await take(store)
        assert isinstance(taken, Claimed)
        await give_back(store, ME, taken, clean=False)
        lease = await now(store)
        assert (lease.epoch, lease.state, lease.clean, lease.instance) == (5, "released", True, "me")
        again = await take(store, me=Me("next", "local"))
        assert isinstance(again, Claimed)
        assert (again.tenure.epoch, again.clean) == (6, True), "nothing was lost between"

    run(tmp_path, scenario)


@pytest.mark.parametrize("answered", [False, True])
def test_a_request_that_is_taken_back_leaves_the_holder_as_it_was(tmp_path: Path, answered: bool) -> None:
    async def scenario(store: Faulty) -> None:
        before = held(4, "other")
        await put(store, before)
        waits = await once(store, Waiting(60))
        assert isinstance(waits, Waits)
        asked = await now(store)
        assert waits.found == asked
        assert (asked.state, asked.requester) == ("requested", "me")
        if answered:
            holder = Tenure(before)
            assert holder.judge(encode(asked)) == "requested"
            await put(store, holder.handing_over(), HANDS)
        head = await store.head()
        assert head is not None
        assert head == waits.head or answered
        await give_back(store, ME, None, clean=False)
        after = await now(store)
        assert replace(after, turn=before.turn) == before
        if answered:
            assert holder.judge(encode(after)) == "withdrawn"
        assert Tenure(before).judge(encode(after)) == "mine"
        assert (await titles(store))[-1].startswith(ASKS), "no edit, for the holder"
        given = lets_go(asked, ME, clean=False)
        assert given is not None
        with pytest.raises(Conflict):
            await withdraw(store, head, given, ME, {})

    run(tmp_path, scenario)


def test_a_conflict_on_a_head_that_has_not_moved_is_no_reason_to_look_again_for_ever(tmp_path: Path) -> None:
    """A Hub that answered each commit with 412 was asked thirty times a second, without an end."""

    async def scenario(store: Faulty) -> None:
        await store.check(create=True)
        store.plan["commit"] = [Conflict("the head has moved")] * (claims.TRIES + 5)
        taken = await once(store, Waiting(5))
        assert isinstance(taken, Unleased)
        assert "as if that had moved" in taken.why
        assert len(store.plan["commit"]) == 5, "a few tries"

    run(tmp_path, scenario)
