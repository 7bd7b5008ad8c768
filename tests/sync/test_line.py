"""The one door to the main line: no base no commit, conflicts told apart, unclear answers settled by the history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.recovery import lease as leases
from sidecar.recovery.lease import Tenure
from sidecar.recovery.turns import lets_go
from sidecar.snapshot.manifest import ASKS, HANDS, LEASE, SnapshotId
from sidecar.snapshot.manifest import PATH as MANIFEST
from sidecar.stores.base import Denied, NotFound, Refused, Store, StoreError, Unavailable, Unsupported
from sidecar.sync import line as lines
from sidecar.sync.beside import keep
from sidecar.sync.line import Base, Line
from sidecar.sync.pace import Budget
from sidecar.sync.reads import read_small
from sidecar.sync.rights import Edited, Fenced, Withdrawn
from tests.sync.faulty import Faulty, begin, contents, held, opened, titles

AWAY = Unavailable("503")
UNCLEAR = Unavailable("connection reset", unclear=True)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "backoff", lambda *_: 0.02)


def patched(wait: float) -> None:
    """Another wait between two attempts; the fixture puts back what was there."""
    vars(lines)["backoff"] = lambda *_: wait


def run(tmp_path: Path, scenario: Callable[[Faulty, Line], Awaitable[Any]]) -> Any:
    """``scenario`` with a store that has a snapshot and our lease, and a line on it."""

    async def main() -> Any:
        async with opened(tmp_path / "store") as store:
            revision, tenure = await begin(store, held(7), {"data/a": b"1"})
            store.calls.clear()
            line = Line(store, Base(revision, SnapshotId(7, 3)), tenure, Budget(30, 120))
            return await scenario(store, line)

    return asyncio.run(main())


async def commit(line: Line, put: dict[str, Any] | None = None, *, automatic: bool = True, within: float = 5) -> str:
    """One snapshot, with the number that it is due."""
    title = f"sidecar: snapshot {line.next_id()}"
    until = time.monotonic() + within
    revision = await line.commit(put or {"data/b": b"2"}, [], title, automatic=automatic, until=until)
    line.snapshot = SnapshotId.parse(title.rpartition(" ")[2])
    return revision


async def outside(store: Store, put: dict[str, Any], delete: tuple[str, ...] = (), title: str = "by hand") -> str:
    return await store.commit(await store.head(), put, delete, title)


# Bases


def test_there_is_no_line_without_a_base_or_on_the_main_line_without_a_lease() -> None:
    store: Any = object()
    tenure = Tenure(held())
    for base in (None, "r1", SnapshotId(1, 1)):
        with pytest.raises(TypeError, match="base"):
            Line(store, base, tenure, Budget(30))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="lease"):
        Line(store, Base("r1", None), None, Budget(30))

    async def allowed() -> None:
        Line(store, Base("r1", None, "orphan/me"), None, Budget(30))
        Line(store, Base(None, None), tenure, Budget(30))

    asyncio.run(allowed())


@pytest.mark.parametrize(
    ("epoch", "snapshot", "sent", "following"),
    [
        (7, None, None, "7.1"),
        (7, SnapshotId(7, 113), None, "7.114"),
        (8, SnapshotId(7, 113), None, "8.1"),
        (7, SnapshotId(7, 113), SnapshotId(7, 120), "7.121"),
        (8, SnapshotId(7, 113), SnapshotId(7, 120), "8.1"),
        (7, SnapshotId(9, 2), None, "9.3"),  # never below what there is
        (None, None, None, "0.1"),
        (None, SnapshotId(7, 5), None, "7.6"),
    ],
)
def test_numbers_only_grow(
    epoch: int | None, snapshot: SnapshotId | None, sent: SnapshotId | None, following: str
) -> None:
    async def number() -> str:
        tenure = Tenure(held(epoch)) if epoch is not None else None
        base = Base("r", snapshot, None if tenure else "orphan/x", sent)
        return str(Line(object(), base, tenure, Budget(30)).next_id())  # type: ignore[arg-type]

    assert asyncio.run(number()) == following


# Commits


def test_commits_follow_each_other(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        first = await commit(line)
        second = await commit(line, {"data/c": b"3"})
        assert line.head == line.ours == second == await store.head()
        assert (await titles(store))[1:] == ["sidecar: snapshot 7.4", "sidecar: snapshot 7.5"]
        assert set(await contents(store)) == {LEASE, "data/a", "data/b", "data/c"}
        assert set(await contents(store, first)) == {LEASE, "data/a", "data/b"}
        assert (len(line.budget.automatic), len(line.budget.every)) == (2, 2)
        await commit(line, {"data/d": b"4"}, automatic=False)
        assert (len(line.budget.automatic), len(line.budget.every)) == (2, 3)

    run(tmp_path, scenario)


@pytest.mark.parametrize("error", [Denied("no"), Refused("no", "data/b"), NotFound("no"), Unsupported("no")])
def test_a_clear_no_is_not_tried_again_nor_counted(tmp_path: Path, error: StoreError) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        store.plan["commit"] = [error]
        with pytest.raises(type(error)):
            await commit(line)
        assert store.calls == ["commit"]
        assert line.budget.every == []
        await commit(line)

    run(tmp_path, scenario)


def test_an_outage_is_tried_three_times_and_uses_up_no_budget(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        for _ in range(20):
            store.plan["commit"] = [AWAY] * 3
            with pytest.raises(Unavailable):
                await commit(line)
            assert store.plan["commit"] == []
        now = time.monotonic()
        assert line.budget.automatic_at(now) <= now
        store.plan["commit"] = [AWAY, AWAY]
        await commit(line)
        assert line.unclear is None
        assert (await titles(store))[1:] == ["sidecar: snapshot 7.24"], "a number that was sent is not sent again"

    run(tmp_path, scenario)


def test_a_store_that_wants_to_be_left_alone_for_long_is_away_at_once(tmp_path: Path) -> None:
    """Whoever waits is to know now, not after minutes of waiting for a third answer."""

    async def scenario(store: Faulty, line: Line) -> None:
        patched(lines.LONG_S + 1)
        store.plan["commit"] = [AWAY]
        with pytest.raises(Unavailable):
            await commit(line, within=600)
        assert store.calls.count("commit") == 1

    run(tmp_path, scenario)


def test_a_commit_is_given_up_in_time(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        store.plan["commit"] = ["hang"]
        began = time.monotonic()
        with pytest.raises(Unavailable, match="in time") as raised:
            await commit(line, within=0.3)
        assert time.monotonic() - began < 1
        assert raised.value.unclear
        store.plan.update(commit=["hang"], history=["hang"])
        with pytest.raises(Unavailable):
            await commit(line, within=0.3)
        assert time.monotonic() - began < 2

    run(tmp_path, scenario)


def test_what_hangs_makes_way_when_it_is_cut(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        plans: list[dict[str, list[Any]]] = [
            {"commit": ["hang"]},
            {"commit": [UNCLEAR], "history": ["hang"]},
            {"commit": [AWAY] * 3},
        ]
        for plan in plans:
            store.plan.update(plan)
            patched(60.0)
            task = asyncio.create_task(commit(line, within=3600))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            line.cut()
            with pytest.raises(Unavailable):
                await task
            assert time.monotonic() - began < 1
            store.plan.clear()
        await line.resolve(time.monotonic() + 5)
        await commit(line)

    run(tmp_path, scenario)


# Unclear answers


def test_an_unclear_answer_to_a_commit_that_landed_is_settled_by_the_history(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        store.plan["commit"] = ["lands"]
        assert await commit(line) == await store.head()
        assert (await titles(store))[1:] == ["sidecar: snapshot 7.4"]
        assert (len(line.budget.automatic), line.unclear) == (1, None)
        await commit(line)

    run(tmp_path, scenario)


def test_an_unclear_answer_to_a_commit_that_did_not_land_is_tried_again(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        store.plan["commit"] = [UNCLEAR, UNCLEAR]
        await commit(line)
        assert (await titles(store))[1:] == ["sidecar: snapshot 7.4"]
        assert (len(line.budget.automatic), len(line.budget.every)) == (1, 3), "the store may have counted all"

    run(tmp_path, scenario)


def test_one_that_lands_while_it_is_tried_again_is_found(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        store.plan["commit"] = ["late"]
        patched(0.6)
        revision = await commit(line)
        assert await store.head() == revision
        assert (await titles(store))[1:] == ["sidecar: snapshot 7.4"]

    run(tmp_path, scenario)


@pytest.mark.parametrize("landed", [True, False])
def test_what_cannot_be_told_is_resolved_later_and_its_number_never_used_again(tmp_path: Path, landed: bool) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        store.plan.update(commit=["lands" if landed else UNCLEAR, AWAY, AWAY], history=[AWAY] * 4)
        with pytest.raises(Unavailable):
            await commit(line)
        assert line.unclear == "sidecar: snapshot 7.4"
        with pytest.raises(Unavailable):
            await line.resolve(time.monotonic() + 5)
        assert line.unclear == "sidecar: snapshot 7.4", "it is still not known"
        found = await line.resolve(time.monotonic() + 5)
        assert found == ("sidecar: snapshot 7.4" if landed else None)
        assert line.unclear is None
        assert await line.resolve(time.monotonic() + 5) is None
        await commit(line, {"data/b": b"another package"})
        assert (await titles(store))[1:] == [*(["sidecar: snapshot 7.4"] if landed else []), "sidecar: snapshot 7.5"]
        assert (await contents(store))["data/b"] == b"another package"

    run(tmp_path, scenario)


def test_one_that_lands_after_it_was_given_up_is_never_taken_for_the_next(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        store.plan.update(commit=["late", AWAY, AWAY])
        with pytest.raises(Unavailable):
            await commit(line)
        assert await line.resolve(time.monotonic() + 5) is None
        await store.late[0]
        with pytest.raises(Edited):  # its head isn't what we planned on: plan again
            await commit(line, {"data/b": b"newer"})
        await commit(line, {"data/b": b"newer"})
        assert (await contents(store))["data/b"] == b"newer"

    run(tmp_path, scenario)


def test_a_title_of_ours_on_top_of_something_else_is_not_ours(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        await outside(store, {"x": b"1"})
        await outside(store, {"data/b": b"forged"}, title="sidecar: snapshot 7.4")
        with pytest.raises(Edited):
            await commit(line)

    run(tmp_path, scenario)


# Conflicts


def test_an_outside_edit_is_told_and_the_head_taken_over(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        before = line.head
        edited = await outside(store, {"data/a": b"by hand"})
        with pytest.raises(Edited):
            await commit(line)
        assert (line.head, line.ours) == (edited, before)
        assert (line.requested, line.lost) == (False, False)
        await commit(line)
        assert line.ours == line.head == await store.head()
        assert len(line.budget.automatic) == 1, "what the store refused is not counted"

    run(tmp_path, scenario)


def test_a_squash_renames_our_snapshot_and_is_no_edit(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        line.head = line.ours = await outside(store, {MANIFEST: b'{"snapshot":"7.3"}'}, title="sidecar: snapshot 7.3")
        await store.store.compact()
        assert await commit(line, {MANIFEST: b'{"snapshot":"7.4"}'}) == await store.head()
        await store.store.compact()
        assert await line.heed(5) == "mine"
        assert line.head == line.ours == await store.head()
        # Asked for the lease right before or after it: a request is still a request.
        asking = leases.encode(replace(held(7), state="requested", requester="other"))
        await store.store.compact()
        await outside(store, {LEASE: asking}, title="sidecar: lease requested by other")
        assert await line.heed(5) == "requested"
        await store.store.compact()
        assert await line.heed(5) == "requested"
        assert line.ours == await store.head()

    run(tmp_path, scenario)


@pytest.mark.parametrize("change", ["edited after", "another snapshot", "taken over", "no manifest"])
def test_a_squash_of_something_else_is_not_taken_for_ours(tmp_path: Path, change: str) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        line.head = line.ours = await outside(store, {MANIFEST: b'{"snapshot":"7.3"}'}, title="sidecar: snapshot 7.3")
        if change == "another snapshot":
            await outside(store, {MANIFEST: b'{"snapshot":"7.2"}'}, title="sidecar: snapshot 7.2")
        elif change == "taken over":
            await outside(store, {LEASE: leases.encode(held(8, "other"))}, title="sidecar: lease 8 claimed by other")
        elif change == "no manifest":
            await outside(store, {}, (MANIFEST,))
        await store.store.compact()
        if change == "edited after":
            await outside(store, {"data/a": b"by hand"})
        with pytest.raises(Fenced if change == "taken over" else Edited):
            await line.heed(5)
        if change != "taken over":
            assert line.ours == line.head == await store.head(), "what was before is gone"

    run(tmp_path, scenario)


@pytest.mark.parametrize("successor", [held(8, "other"), replace(held(8, "other"), state="released"), held(7, "other")])
def test_another_holder_fences(tmp_path: Path, successor: leases.Lease) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        before = line.head
        taken = await outside(store, {LEASE: leases.encode(successor)})
        with pytest.raises(Fenced):
            await commit(line)
        assert line.head == before
        assert await store.head() == taken
        line.fork("fenced/me")
        await commit(line, {"data/b": b"after"})
        assert await store.head() == taken, "nothing more goes to the main line"
        assert (await titles(store, "fenced/me"))[1:] == ["sidecar: snapshot 7.5"]

    run(tmp_path, scenario)


def test_a_lease_of_a_newer_format_fences(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        await outside(store, {LEASE: b'{"format": 2}'})
        with pytest.raises(Fenced):
            await commit(line)

    run(tmp_path, scenario)


@pytest.mark.parametrize("how", ["deleted", "broken", "older"])
def test_a_lease_that_was_lost_is_ours_still_and_is_put_there_again(tmp_path: Path, how: str) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        old = leases.encode(held(6, "before"))
        puts = {"deleted": {}, "broken": {LEASE: b"{"}, "older": {LEASE: old}}[how]
        await outside(store, puts, (LEASE,) if how == "deleted" else ())
        with pytest.raises(Edited):
            await commit(line)
        assert line.lost
        assert line.tenure is not None
        await commit(line, {LEASE: line.tenure.held()})
        assert not line.lost
        assert line.tenure.judge((await contents(store))[LEASE]) == "mine"

    run(tmp_path, scenario)


def test_a_lease_that_was_lost_after_somebody_took_it_is_not_ours(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        before = line.head
        await begin(store.store, held(8, "other"))
        await outside(store, {"data/theirs": b"1"}, title="sidecar: snapshot 8.1")
        await outside(store, {}, (LEASE,), title="Delete lease.json")
        with pytest.raises(Fenced):
            await commit(line)
        assert line.head == before

    run(tmp_path, scenario)


def asking(who: str = "new") -> tuple[dict[str, bytes], str]:
    lease = replace(held(7), state="requested", requester=who, turn=1)
    return {LEASE: leases.encode(lease)}, f"{ASKS}{who}"


def test_a_request_for_the_lease_is_no_edit(tmp_path: Path) -> None:
    """The snapshot goes on top of it at once, and the request stays to be answered."""

    async def scenario(store: Faulty, line: Line) -> None:
        puts, title = asking()
        await outside(store, puts, title=title)
        revision = await commit(line)
        assert line.requested
        assert line.head == line.ours == revision
        assert leases.decode((await contents(store))[LEASE]).state == "requested"
        assert (await titles(store))[1:] == [title, "sidecar: snapshot 7.4"]
        assert await line.heed(5) == "requested", "not forgotten, although the head is ours"

    run(tmp_path, scenario)


def test_a_request_beside_an_edit_is_an_edit_too(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        before = line.ours
        puts, title = asking()
        await outside(store, puts, title=title)
        await outside(store, {"data/a": b"by hand"})
        with pytest.raises(Edited):
            await commit(line)
        assert line.requested
        assert line.ours == before

    run(tmp_path, scenario)


def test_requests_without_a_pause_do_not_hold_a_commit_for_ever(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        inner: Any = store.store
        real = inner.commit

        async def asked_before(*args: Any) -> str:
            puts, title = asking(str(time.monotonic_ns()))
            await real(await store.store.head(), puts, [], title)
            return await real(*args)

        inner.commit = asked_before
        with pytest.raises(Unavailable):
            await commit(line)

    run(tmp_path, scenario)


def test_heed_says_what_became_of_the_lease(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        assert await line.heed(5) == "mine"
        puts, title = asking()
        line.requested = False
        await outside(store, puts, title=title)
        assert await line.heed(5) == "requested"
        await outside(store, {"data/a": b"by hand"})
        with pytest.raises(Edited):
            await line.heed(5)
        await outside(store, {LEASE: leases.encode(held(8, "other"))})
        with pytest.raises(Fenced):
            await line.heed(5)
        store.plan["head"] = ["hang"]
        with pytest.raises(Unavailable):
            await line.heed(0.1)

    run(tmp_path, scenario)


# Handing over


async def answered(store: Faulty, line: Line) -> None:
    """Somebody asks, and we have answered that we hand over."""
    puts, title = asking()
    await outside(store, puts, title=title)
    assert await line.heed(5) == "requested"
    await line.answer(time.monotonic() + 5)


async def release(line: Line, within: float = 5) -> str:
    """The last snapshot of a hand-over."""
    assert line.tenure is not None
    return await commit(line, {"data/b": b"2", LEASE: line.tenure.released(clean=True)}, within=within)


def slow(store: Faulty, seconds: list[float]) -> None:
    """Commits of snapshots are so long on their way to the store before it looks at their parent."""
    inner: Any = store.store
    real = inner.commit

    async def late(parent: Any, put: Any, delete: Any, message: str, branch: Any = None) -> str:
        if message.startswith("sidecar: snapshot") and seconds:
            await asyncio.sleep(seconds.pop(0))
        return str(await real(parent, put, delete, message, branch))

    inner.commit = late


@pytest.mark.parametrize("fault", ["ok", "lands", AWAY, UNCLEAR])
def test_who_waits_is_told_that_a_long_hand_over_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    monkeypatch.setattr(lines, "RENEW_S", 0.2)

    async def scenario(store: Faulty, line: Line) -> None:
        await answered(store, line)
        first = leases.decode((await contents(store))[LEASE])
        assert (first.state, first.requester, first.turn) == ("handing_over", "new", 2)
        slow(store, [0.9])
        store.plan["commit"] = ["ok", fault]
        sending = asyncio.create_task(release(line))
        await asyncio.sleep(0.75)
        now = leases.decode((await contents(store))[LEASE])
        assert (now.state, now.requester) == ("handing_over", "new")
        assert now.turn >= first.turn + 2, "each time another one, also where an answer was lost"
        assert await sending == await store.head()
        after = leases.decode((await contents(store))[LEASE])
        assert (after.state, after.clean) == ("released", True)
        said = await titles(store)
        assert said[-1] == "sidecar: snapshot 7.4"
        assert said.count("sidecar: snapshot 7.4") == 1
        assert said.count(HANDS) >= 3

    run(tmp_path, scenario)


def test_long_work_before_the_commit_is_told_of_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "RENEW_S", 0.1)

    async def scenario(store: Faulty, line: Line) -> None:
        assert await line.patiently(asyncio.sleep(0.25, "looked")) == "looked"
        assert HANDS not in await titles(store), "nobody waits"
        await answered(store, line)
        assert await line.patiently(asyncio.sleep(0.45, "looked")) == "looked"
        assert 4 <= (await titles(store)).count(HANDS) <= 5
        assert line.head == line.ours == await store.head()
        with pytest.raises(ZeroDivisionError):
            await line.patiently(asyncio.to_thread(lambda: 1 // 0))

    run(tmp_path, scenario)


def test_who_asks_no_more_is_not_given_the_lease(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        await answered(store, line)
        asked = leases.decode((await contents(store))[LEASE])
        given = lets_go(asked, leases.Me("new", "local"), clean=False)
        assert given is not None
        await outside(store, {LEASE: leases.encode(given)}, title=f"{ASKS}new, who asks no more")
        with pytest.raises(Withdrawn):
            await release(line)
        assert line.tenure is not None
        assert not line.tenure.handing
        revision = await commit(line)
        assert leases.decode((await contents(store, revision))[LEASE]).state == "held"
        puts, title = asking("another")
        puts[LEASE] = leases.encode(replace(given, state="requested", requester="another", turn=given.turn + 1))
        await outside(store, puts, title=title)
        assert await line.heed(5) == "requested"
        await line.answer(time.monotonic() + 5)
        last = leases.decode((await contents(store))[LEASE])
        assert (last.requester, last.turn) == ("another", given.turn + 2)

    run(tmp_path, scenario)


def test_a_request_that_is_taken_back_before_it_is_answered_is_not_answered(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        puts, title = asking()
        await outside(store, puts, title=title)
        assert await line.heed(5) == "requested"
        given = lets_go(leases.decode(puts[LEASE]), leases.Me("new", "local"), clean=False)
        assert given is not None
        await outside(store, {LEASE: leases.encode(given)}, title=f"{ASKS}new, who asks no more")
        with pytest.raises(Withdrawn):
            await line.answer(time.monotonic() + 5)
        assert leases.decode((await contents(store))[LEASE]).state == "held"

    run(tmp_path, scenario)


# Branches


def test_a_side_branch_begins_at_what_was_last_committed(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        main = await commit(line)
        line.fork("fenced/me")
        await commit(line, {"data/c": b"3"})
        await commit(line, {"data/d": b"4"})
        assert await store.head() == main
        assert (await titles(store, "fenced/me"))[1:] == [f"sidecar: snapshot 7.{n}" for n in (4, 5, 6)]
        assert set(await contents(store, line.head)) == {LEASE, *(f"data/{n}" for n in "abcd")}
        await store.commit(line.head, {"x": b""}, [], "by hand", "fenced/me")
        with pytest.raises(Edited):
            await commit(line)
        await commit(line)

    run(tmp_path, scenario)


def test_an_unclear_first_commit_of_a_branch(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        line.fork("fenced/me")
        store.plan["commit"] = [UNCLEAR, "lands"]
        revision = await commit(line)
        assert (await store.history(1, "fenced/me"))[0].revision == revision

    run(tmp_path, scenario)


def test_what_is_kept_is_kept_once(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        first = line.head
        await keep(store, line.head, "kept/7.3")
        await keep(store, line.head, "kept/7.3")
        puts, title = asking()
        line.head = await outside(store, puts, title=title)  # the same snapshot, another revision
        await keep(store, line.head, "kept/7.3")
        assert (await store.history(1, "kept/7.3"))[0].revision == first
        store.plan["keep"] = [Unsupported("no branches here")]
        await keep(store, line.head, "kept/x")
        store.plan["keep"] = [AWAY]
        with pytest.raises(Unavailable):
            await keep(store, line.head, "kept/x")
        line.head = None
        await keep(store, line.head, "kept/y")

    run(tmp_path, scenario)


def test_one_small_file_of_a_revision(tmp_path: Path) -> None:
    async def scenario(store: Faulty, line: Line) -> None:
        assert await read_small(store, line.head, "data/a") == b"1"
        assert await read_small(store, line.head, "data/none") is None
        assert await read_small(store, None, "data/a") is None
        store.plan["fetch"] = ["hang"]
        with pytest.raises(Unavailable):
            await read_small(store, line.head, "data/a", 0.1)

    run(tmp_path, scenario)
