"""The engine beside a life of changes, failures, other instances and other people's edits."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import TryLater
from sidecar.recovery import lease as leases
from sidecar.recovery.claim import give_back
from sidecar.snapshot import stage as staging
from sidecar.snapshot.manifest import ASKS, HANDS, LEASE, SnapshotId
from sidecar.snapshot.stage import NoRoom
from sidecar.stores.base import Denied, Refused, Unavailable
from sidecar.sync import edits, pace, rides
from sidecar.sync import line as lines
from sidecar.sync.handover import heed_lease
from sidecar.sync.history import Retention
from sidecar.sync.line import Base
from sidecar.sync.look import Look
from sidecar.sync.survey import Surveyor
from tests.recovery.world import picture
from tests.sync.faulty import begin, contents, held, titles
from tests.sync.lives import Life, live, snapshots, until

AWAY = Unavailable("503")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "backoff", lambda *_: 0.01)
    monkeypatch.setattr(staging, "SETTLE_NS", 0)


def replace_commit(life: Life, commit: Any) -> None:
    vars(life.store.store)["commit"] = commit


# Debounce


def test_changes_that_come_together_go_together_once_it_is_quiet(base: Path) -> None:
    async def scenario(life: Life) -> None:
        async with life.running():
            assert await snapshots(life.store) == ["1.1"], "a cold start is committed at once"
            for n in range(8):
                life.fill(str(n))
                await asyncio.sleep(0.02)
            await until(lambda: life.state.sync.snapshot == "1.2")
            await asyncio.sleep(0.3)
            assert await snapshots(life.store) == ["1.1", "1.2"]
            assert life.state.sync.lag_s is not None
            assert 0.15 < life.state.sync.lag_s < 2
            assert (life.state.sync.pending, life.state.sync.pending_since_mono) == (0, None)
            assert {f"data/{n}" for n in range(8)} <= set((await life.manifest()).entries)

    live(base, scenario, quiet_s=0.15)


def test_changes_without_a_pause_wait_no_longer_than_the_delay(base: Path) -> None:
    async def scenario(life: Life) -> None:
        async with life.running():
            began = time.monotonic()
            n = 0
            while len(await snapshots(life.store)) < 3:
                n += 1
                life.fill("log", text=str(n))
                await asyncio.sleep(0.02)
                assert time.monotonic() - began < 10
            assert time.monotonic() - began > 0.6

    live(base, scenario, quiet_s=0.3, max_delay_s=0.4)


def test_what_is_written_during_a_sync_waits_since_then_and_not_for_longer(base: Path) -> None:
    async def scenario(life: Life) -> None:
        async with life.running():
            real = life.store.store.commit

            async def written_meanwhile(*given: Any) -> str:
                revision = await real(*given)
                if first:
                    return revision
                first.append(time.monotonic())
                life.fill("b")
                await until(lambda: life.engine.dirty.first)
                return revision

            first: list[float] = []
            replace_commit(life, written_meanwhile)
            life.fill("a")
            await until(lambda: life.state.sync.snapshot == "1.2")
            await until(lambda: life.state.sync.pending)
            since = life.state.sync.pending_since_mono
            assert since is not None
            assert since >= first[0], "the lag is that of what is not durable yet"

    live(base, scenario, quiet_s=0.5)


def test_nothing_that_waited_for_its_turn_begins_behind_the_last_one(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        real = life.store.store.commit
        waiting: list[asyncio.Task[Any]] = []

        async def joined(*given: Any) -> str:
            waiting.append(asyncio.create_task(life.engine.snapshot("automatic")))
            await asyncio.sleep(0)
            return await real(*given)

        replace_commit(life, joined)
        assert (await life.engine.final(time.monotonic() + 10)).ok
        replace_commit(life, real)
        life.fill("b")
        assert [(await task).code for task in waiting] == ["unavailable"]
        assert await snapshots(life.store) == ["1.1"]
        assert list((life.engine.options.state_dir / "staging").glob("*")) == []

    live(base, scenario)


def test_what_is_written_behind_the_last_one_keeps_the_loop_from_nothing(base: Path) -> None:
    """It was due at once, and refused at once, so that nothing else of the agent ever ran again."""

    async def scenario(life: Life) -> None:
        takes = 0
        async with life.running() as engine:
            real = engine.take

            async def counted(*given: Any) -> Any:
                nonlocal takes
                takes += 1
                return await real(*given)

            vars(engine)["take"] = counted
            assert (await engine.final(time.monotonic() + 10)).ok
            takes, before = 0, await snapshots(life.store)
            life.fill("b")
            engine.everything()
            await asyncio.sleep(0.3)
        assert takes <= 1, "the loop went round and round"
        assert await snapshots(life.store) == before

    live(base, scenario, quiet_s=0.01, max_delay_s=0.02)


def test_nothing_to_do_makes_no_commit(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a", "d/b")
        looks = count_looks(life)
        async with life.running():
            await asyncio.sleep(0.3)
            before = len(looks)
            await asyncio.sleep(0.3)
            assert len(looks) == before, "nor even a look"
            assert await snapshots(life.store) == ["1.1"]

    live(base, scenario)


@pytest.mark.parametrize("linked", [False, True])
def test_our_own_files_in_a_root_are_no_reason_for_anything(base: Path, linked: bool) -> None:
    """With ~ as root, and be it a link, an idle agent commits nothing and looks at nothing."""

    async def scenario(life: Life) -> None:
        life.fill("a")
        looks = count_looks(life)
        async with life.running():
            await asyncio.sleep(0.3)
            before = len(looks)
            life.index.set_note("x", "y")
            await asyncio.sleep(0.3)
            assert len(looks) == before
            assert set((await life.manifest()).entries) == {"data", "data/a"}
            life.fill("b")
            await until(lambda: life.state.sync.snapshot == "1.2")

    home = base / "disk" / "data"
    home.parent.mkdir()
    if linked:
        (base / "real").mkdir()
        home.symlink_to(base / "real")
    else:
        home.mkdir()
    live(base, scenario, state_dir=home / "state")


def count_looks(life: Life) -> list[Look]:
    looks: list[Look] = []
    real = Surveyor.look

    class Counted(Surveyor):
        def look(self, how: Look, *rest: Any) -> Any:
            looks.append(how)
            return real(self, how, *rest)

    s = life.engine.snapshotter.surveyor
    life.engine.snapshotter.surveyor = Counted(s.roots, s.index, s.patterns, s.own, s.devices)
    return looks


def test_an_automatic_sync_looks_where_it_was_told_and_all_others_everywhere(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a", "d/b")
        looks = count_looks(life)
        async with life.running():
            assert [how.hints for how in looks] == [None]
            life.fill("d/b", text="changed")
            await until(lambda: life.state.sync.snapshot == "1.2")
            assert looks[-1].hints is not None
            assert "d/b" in set(looks[-1].hints["data"] or ())
            assert "a" not in set(looks[-1].hints["data"] or ())
            for why in ("asked", "stop", "final"):
                life.fill(why)
                await life.engine.snapshot(why)
                assert looks[-1].hints is None
                assert looks[-1].still is (why == "final"), "after main's end nothing moves"

    live(base, scenario)


def test_a_rescan_finds_what_nobody_told(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        life.engine.watcher.start = lambda: None  # type: ignore[method-assign]
        async with life.running():
            life.fill("b")
            await until(lambda: life.state.sync.snapshot == "1.2")

    live(base, scenario, rescan_s=0.5)


# Failures


def test_a_failure_backs_off_and_becomes_durable_again_with_all_that_was_dirty(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits = iter([0.2, 0.2, 0.05, 0.05, 0.05])
    monkeypatch.setattr(pace, "backoff", lambda *_, **__: next(waits))
    monkeypatch.setattr(logging.getLogger("sidecar"), "propagate", True)

    async def scenario(life: Life) -> None:
        life.fill("a")
        async with life.running():
            life.store.plan["commit"] = [AWAY] * 6
            life.fill("b")
            await until(lambda: life.state.sync.error is not None)
            assert life.state.sync.pending > 0
            assert life.state.sync.error == "503"
            assert life.state.sync.error_code == "unavailable"
            life.fill("c")
            await until(lambda: life.state.sync.error is None)
            await until(lambda: life.state.sync.pending == 0)
            assert {"data/a", "data/b", "data/c"} <= set((await life.manifest()).entries)
            assert picture(await life.restored() / "data") == picture(life.root)
            assert life.state.measures.failures.keys() == {"unavailable"}
            newest = life.state.measures.snapshots[-1]
            assert (newest.snapshot, newest.files) == (life.state.sync.snapshot, 3)
            assert life.state.measures.snapshots_made >= 2

    with caplog.at_level(logging.INFO, "sidecar"):
        live(base, scenario)
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.INFO]
    assert len([s for s in said if "not durable since" in s]) == 1, said
    assert len([s for s in said if "durable again after" in s]) == 1, said


FULL = sqlite3.OperationalError("database or disk is full")
FULL.sqlite_errorcode = sqlite3.SQLITE_FULL


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Denied("401"), "denied"),
        (Refused("no", ".sidecar/manifest.json"), "failed"),
        (AWAY, "unavailable"),
        (RuntimeError("ours"), "failed"),
        (FULL, "no-room"),
    ],
)
def test_whatever_a_store_or_a_disk_does_the_result_says_it(
    base: Path, fault: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        if isinstance(fault, sqlite3.Error):
            monkeypatch.setattr(type(life.index), "begin", lambda *_, **__: (_ for _ in ()).throw(fault))
        else:
            life.store.plan["commit"] = [fault] * 3
        result = await life.engine.snapshot("asked")
        assert (result.ok, result.code) == (False, code)
        assert life.state.sync.error
        monkeypatch.undo()
        life.store.plan.clear()
        result = await life.engine.snapshot("asked")
        assert result.ok, result
        assert list((life.own / "staging").iterdir()) == []
        assert picture(await life.restored() / "data") == picture(life.root)

    live(base, scenario)


def test_a_full_disk_loses_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")

        def full(*_: Any) -> Any:
            raise NoRoom(28, "no space left for staging", "/state")

        monkeypatch.setattr(Surveyor, "look", full)
        result = await life.told()
        assert (result.ok, result.code) == (False, "no-room")
        assert "Free some disk space" in result.error
        monkeypatch.undo()
        assert (await life.told()).changed == 2

    live(base, scenario)


@pytest.mark.parametrize("landed", [True, False])
def test_a_commit_without_an_answer_is_settled_before_the_next(base: Path, landed: bool) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a", "b")
        await life.engine.snapshot("asked")
        life.fill("a", text="changed")
        unclear = Unavailable("reset", unclear=True)
        life.store.plan.update(commit=["lands" if landed else unclear, AWAY, AWAY], history=[AWAY] * 3)
        assert (await life.engine.snapshot("asked")).code == "unavailable"
        (life.root / "b").unlink()
        life.fill("c")
        result = await life.engine.snapshot("asked")
        assert result.ok
        assert await snapshots(life.store) == ["1.1", *(["1.2"] if landed else []), "1.3"]
        assert picture(await life.restored() / "data") == picture(life.root)
        assert (await life.manifest()).parent == ("1.2" if landed else "1.1")
        known = life.index.known()
        assert known is not None
        assert (str(known.snapshot), known.revision) == ("1.3", result.revision)

    live(base, scenario)


def test_what_was_never_sent_is_not_promoted_by_another_commit_that_landed(base: Path) -> None:
    """What a snapshot failed to send is still pending when a commit of the lease goes through without an answer."""

    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        life.fill("a", text="changed")
        life.store.plan["commit"] = [AWAY] * 3
        assert not (await life.engine.snapshot("asked")).ok
        assert life.index.pending() is not None
        await ask(life, "new")
        life.store.plan.update(commit=["lands", AWAY, AWAY], history=["ok", AWAY, AWAY, AWAY])
        await heed_lease(life.engine)
        assert life.engine.line.unclear is not None
        assert (await life.engine.snapshot("asked")).changed > 0
        assert (await life.restored() / "data" / "a").read_text() == "changed"

    live(base, scenario)


def test_what_a_killed_agent_was_staging_is_removed(base: Path) -> None:
    async def scenario(life: Life) -> None:
        left = life.own / "staging" / "4711-1"
        left.mkdir(parents=True)
        (left / "1").write_text("half a copy")
        life.fill("a")
        assert (await life.engine.snapshot("asked")).ok
        assert list((life.own / "staging").iterdir()) == []

    live(base, scenario)


# Mass deletions


def test_a_mass_deletion_is_held_through_syncs_retries_and_ends(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill(*(f"d/{n}" for n in range(20)), "keep")
        await life.engine.snapshot("asked")
        shutil.rmtree(life.root / "d")
        result = await life.told()
        assert result.held == {"data": 20}
        assert "held-deletion" in life.state.notes
        life.fill("new")
        life.store.plan["commit"] = [AWAY] * 3
        assert not (await life.told()).ok
        for why in ("automatic", "asked", "stop", "final"):
            life.fill("new", text=why)
            life.engine.everything()
            result = await life.engine.snapshot(why)
            assert (result.ok, result.held) == (True, {"data": 20}), why
        assert (await life.restored() / "data/d/7").read_text() == "d/7"
        assert (await life.restored() / "data/new").read_text() == "final"

    live(base, scenario)


def test_a_later_rescan_confirms_it_and_what_was_before_is_kept(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill(*(f"d/{n}" for n in range(20)), "keep")
        async with life.running():
            shutil.rmtree(life.root / "d")
            await until(lambda: "held-deletion" in life.state.notes)
            assert "data/d/3" in (await life.manifest()).entries
            await until(lambda: life.state.sync.snapshot == "1.2")
            assert set((await life.manifest()).entries) == {"data", "data/keep"}
            assert life.state.notes == {}
            [kept] = [c for c in await life.store.history(5, "kept/1.1") if c.title == "sidecar: snapshot 1.1"]
            assert (await life.restored(kept.revision) / "data/d/3").read_text() == "d/3"

    live(base, scenario, rescan_s=0.8)


def test_a_checkpoint_confirms_it_while_main_lives(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a", "b")
        await life.engine.snapshot("asked")
        (life.root / "a").unlink()
        (life.root / "b").unlink()
        life.state.main_state = "exited"
        assert (await life.engine.checkpoint()).held == {"data": 2}
        life.state.main_state = "running"
        assert (await life.engine.checkpoint()).held == {}
        assert set((await life.manifest()).entries) == {"data"}
        assert await life.store.history(1, "kept/1.1") != []

    live(base, scenario)


# Checkpoints


def held_look(life: Life, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Looks that say when they began and go on when they may."""
    began, may = threading.Event(), threading.Event()
    real = Surveyor.look

    def look(self: Surveyor, *args: Any) -> Any:
        began.set()
        assert may.wait(10)
        return real(self, *args)

    monkeypatch.setattr(Surveyor, "look", look)
    return began, may


def test_checkpoints_that_come_together_share_a_commit_and_one_that_comes_later_has_its_own(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(life: Life) -> None:
        began, may = held_look(life, monkeypatch)
        busy = asyncio.create_task(life.engine.snapshot("asked"))
        await asyncio.to_thread(began.wait)
        life.fill("a")
        first, second = (asyncio.create_task(life.engine.checkpoint()) for _ in range(2))
        await asyncio.sleep(0.05)
        began.clear()
        may.set()
        await busy
        results = await asyncio.gather(first, second)
        assert results[0] is results[1], "both came before a look began"
        may.clear()
        began.clear()
        life.fill("b")
        third = asyncio.create_task(life.engine.checkpoint())
        await asyncio.to_thread(began.wait)
        life.fill("c")  # the look of the third may miss it
        fourth = asyncio.create_task(life.engine.checkpoint())
        await asyncio.sleep(0.05)
        may.set()
        one, other = await asyncio.gather(third, fourth)
        assert one is not other
        assert other.ok
        assert other.revision is not None
        assert "data/c" in (await life.manifest(other.revision)).entries

    live(base, scenario)


def test_a_checkpoint_of_nothing_new_answers_with_the_head(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        first = await life.engine.checkpoint()
        before = await life.store.head()
        again = await life.engine.checkpoint()
        assert (again.ok, again.changed) == (True, 0)
        assert (again.snapshot, again.revision) == (first.snapshot, first.revision) == ("1.1", before)
        assert await life.store.head() == before

    live(base, scenario)


def test_a_caller_that_goes_away_does_not_stop_a_checkpoint(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(life: Life) -> None:
        began, may = held_look(life, monkeypatch)
        impatient = asyncio.create_task(life.engine.checkpoint())
        await asyncio.to_thread(began.wait)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        may.set()
        await until(lambda: life.state.sync.snapshot == "1.1")

    live(base, scenario)


def test_a_checkpoint_over_the_ceiling_says_when_to_come_again(base: Path) -> None:
    async def scenario(life: Life) -> None:
        now = time.monotonic()
        for _ in range(118):
            life.engine.budget.note(now - 3000, automatic=False)
        result = await life.engine.checkpoint()
        assert (result.ok, result.code) == (False, "")
        assert result.retry_after == pytest.approx(600, abs=5)
        assert (await life.engine.final(time.monotonic() + 10)).ok, "the last sync is tried all the same"

    live(base, scenario, ceiling=120)


def test_what_the_pace_holds_back_is_told_and_goes_with_a_checkpoint(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("sidecar"), "propagate", True)

    async def scenario(life: Life) -> None:
        life.engine.budget.per_hour = 12
        life.state.commits_per_hour = 12
        async with life.running() as engine:
            assert life.state.sync.waits_until_mono is None
            for _ in range(12):
                engine.budget.note(time.monotonic() - 1800, automatic=True)
            life.fill("late")
            await until(lambda: life.state.sync.waits_until_mono is not None)
            assert life.state.sync.waits_until_mono is not None
            assert life.state.sync.waits_until_mono - time.monotonic() == pytest.approx(1800, abs=30)
            assert (await engine.checkpoint()).ok
            await until(lambda: life.state.sync.waits_until_mono is None)

    with caplog.at_level(logging.INFO, "sidecar"):
        live(base, scenario, quiet_s=0.05, max_delay_s=0.2)
    said = [r.getMessage() for r in caplog.records if "SIDECAR_COMMITS_PER_HOUR=12" in r.getMessage()]
    assert len(said) == 1, "not at each look"
    assert "A checkpoint goes at once" in said[0]


# Names that a store refuses


def test_refused_paths_go_into_a_bundle_however_many_there_are(base: Path) -> None:
    async def scenario(life: Life) -> None:
        names = [f"odd{n}" for n in range(7)]
        life.fill("plain", *names)
        real = life.store.store.commit

        async def picky(parent: Any, put: Any, *rest: Any) -> str:
            for name in names:
                if f"data/{name}" in put:
                    raise Refused("no such names here", f"data/{name}")
            return await real(parent, put, *rest)

        replace_commit(life, picky)
        result = await life.engine.snapshot("asked")
        assert result.ok, result
        there = await contents(life.store)
        assert "data/plain" in there
        assert not any(f"data/{name}" in there for name in names)
        assert picture(await life.restored() / "data") == picture(life.root)

    live(base, scenario)


# Who may write


async def ask(life: Life, who: str) -> None:
    """Another instance asks for the lease."""
    now = await life.lease()
    wanted = replace(now, state="requested", requester=who, turn=now.turn + 1)
    store = life.store.store
    await store.commit(await store.head(), {LEASE: leases.encode(wanted)}, [], f"{ASKS}{who}")


async def take(life: Life, who: str) -> Life:
    """Another instance takes the lease, as it does from a holder that is dead or has released it; its life."""
    now = await life.lease()
    other = Life(life.base / who, life.store, who, store_at=life.base / "store")
    decision = leases.decide(now, leases.Me(who, "local"), silent=True)
    assert isinstance(decision, leases.Take)
    await other.begin(decision.lease, (await life.manifest()).snapshot)
    return other


@pytest.mark.parametrize("meanwhile", [False, True])
def test_the_lease_is_handed_over_with_the_last_changes(base: Path, meanwhile: bool) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        await heed_lease(life.engine)
        assert life.state.lease == "held"
        fenced: list[int] = []
        life.engine.on_fenced = lambda: fenced.append(1)
        await ask(life, "new")
        if meanwhile:  # a sync meets the request before we look for one
            life.fill("b")
            assert (await life.told()).ok
            assert (await life.lease()).state == "requested"
        life.fill("last")
        await heed_lease(life.engine)
        lease = await life.lease()
        assert (lease.state, lease.clean, lease.instance) == ("released", True, "me")
        assert "sidecar: lease handing over" in await titles(life.store)
        assert (life.state.lease, fenced) == ("fenced", [1])
        assert (await life.restored() / "data/last").read_text() == "last"

        other = await take(life, "new")
        head = await life.store.head()
        life.fill("after")
        result = await life.told()
        assert result.ok
        assert await life.store.head() == head, "nothing more of ours goes to the main line"
        assert (await snapshots(life.store, "fenced/me"))[-1] == result.snapshot
        assert (await life.engine.checkpoint()).code == "fenced"
        assert (await life.engine.final(time.monotonic() + 5)).ok
        assert await life.store.head() == head
        other.close()

    live(base, scenario)


def test_a_hand_over_that_fails_is_tried_again(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        await ask(life, "new")
        life.store.plan["commit"] = ["ok", AWAY, AWAY, AWAY]
        await heed_lease(life.engine)
        assert (await life.lease()).state == "handing_over"
        turn = (await life.lease()).turn
        assert life.state.lease == "held"
        life.store.plan["commit"] = ["ok", AWAY, AWAY, AWAY]
        await heed_lease(life.engine)
        assert (await life.lease()).turn > turn, "whoever waits sees that we live"
        await heed_lease(life.engine)
        assert (await life.lease()).state == "released"

    live(base, scenario)


def test_a_holder_whose_last_look_takes_long_says_that_it_lives(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "RENEW_S", 0.1)

    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        look = Surveyor.look

        def slow(*args: Any) -> Any:
            time.sleep(0.35)
            return look(*args)

        monkeypatch.setattr(Surveyor, "look", slow)
        life.fill("last")
        await ask(life, "new")
        await heed_lease(life.engine)
        assert (await life.lease()).state == "released"
        said = await titles(life.store)
        assert said[-1] == "sidecar: snapshot 1.2"
        assert said.count(HANDS) >= 3
        assert (await life.restored() / "data/last").read_text() == "last"

    live(base, scenario)


@pytest.mark.parametrize("when", ["looking", "between"])
def test_a_request_that_is_taken_back_in_the_middle_of_the_hand_over_ends_it(
    base: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        await ask(life, "new")
        new, store, look = leases.Me("new", "local"), life.store.store, Surveyor.look
        if when == "looking":
            loop = asyncio.get_running_loop()

            def taken_back(*args: Any) -> Any:
                back = give_back(store, new, None, clean=False)
                asyncio.run_coroutine_threadsafe(back, loop).result(5)
                return look(*args)

            monkeypatch.setattr(Surveyor, "look", taken_back)
        else:  # the hand-over failed, and is to be tried again
            life.store.plan["commit"] = ["ok", AWAY, AWAY, AWAY]
        life.fill("last")
        await heed_lease(life.engine)
        monkeypatch.setattr(Surveyor, "look", look)
        if when == "between":
            assert (await life.lease()).state == "handing_over"
            await give_back(store, new, None, clean=False)
            await heed_lease(life.engine)
            assert (await life.told()).ok
        assert ((await life.lease()).state, life.state.lease) == ("held", "held")
        assert (await life.restored() / "data/last").read_text() == "last"
        assert len(await snapshots(life.store)) == 2
        assert "edited" not in " ".join(await titles(life.store))
        life.fill("more")
        assert (await life.engine.checkpoint()).snapshot == (await snapshots(life.store))[2]
        await ask(life, "another")
        await heed_lease(life.engine)
        assert ((await life.lease()).state, life.state.lease) == ("released", "fenced")

    live(base, scenario)


@pytest.mark.parametrize("by", ["sync", "heed"])
def test_a_successor_fences_us_whether_we_sync_or_look(base: Path, by: str) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        other = await take(life, "new")
        other.fill("theirs")
        assert (await other.engine.snapshot("asked")).snapshot == "2.1"
        head = await life.store.head()
        life.fill("ours")
        if by == "sync":
            result = await life.told()
            assert (result.ok, result.code) == (False, "fenced")
        else:
            await heed_lease(life.engine)
        assert life.state.lease == "fenced"
        result = await life.told()
        assert result.ok
        assert result.revision is not None
        assert await life.store.head() == head
        restored = await life.restored(result.revision) / "data"
        assert {p.name for p in restored.iterdir()} == {"a", "ours"}, "what this one writes is on a branch of its own"
        assert (await life.restored() / "data/theirs").exists()
        other.close()

    live(base, scenario)


# Making room for another engine (Syncing takes the lease again)


def test_who_holds_still_syncs_nothing_until_it_may_go_on(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        head = await life.store.head()
        assert await life.engine.hold_still(1)
        life.fill("b")
        waiting = asyncio.create_task(life.told())
        asked = asyncio.create_task(life.engine.checkpoint())
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert not asked.done()
        assert await life.store.head() == head
        assert (await life.engine.snapshot("stop", time.monotonic() + 0.1)).code == "timeout"
        life.engine.go_on(retired=False)
        assert (await waiting).ok
        assert (await asked).ok
        assert (await life.restored() / "data/b").exists()

    live(base, scenario)


def test_nobody_holds_still_in_the_middle_of_a_sync(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        life.store.plan["commit"] = ["hang"]
        stuck = asyncio.create_task(life.engine.snapshot("asked", time.monotonic() + 1))
        await until(lambda: life.store.calls.count("commit") == 1)
        assert not await life.engine.hold_still(0.1)
        assert not (await stuck).ok
        assert await life.engine.hold_still(1), "an attempt that was given up holds nothing"
        life.engine.go_on(retired=False)
        assert (await life.engine.snapshot("asked")).ok

    live(base, scenario)


def test_who_is_retired_never_writes_again_whoever_waits_for_it(base: Path) -> None:
    """Another engine has the index now: two of them would promote each other's commits."""

    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        assert await life.engine.hold_still(1)
        life.fill("b")
        waiting = [
            asyncio.create_task(work)
            for work in (life.told(), life.engine.checkpoint(), life.engine.final(time.monotonic() + 0.5))
        ]
        await asyncio.sleep(0.05)
        head = await life.store.head()
        life.engine.go_on(retired=True)
        assert [(r.ok, r.code) for r in await asyncio.gather(*waiting)] == [(False, "unavailable")] * 3
        assert await life.store.head() == head

    live(base, scenario)


def test_two_engines_at_once_never_write_over_each_other(base: Path) -> None:
    """One is fenced at its next commit; what the other wrote is whole."""

    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        other = await take(life, "new")
        async with life.running(), other.running():
            for n in range(12):
                life.fill(f"ours{n}")
                other.fill(f"theirs{n}")
                await asyncio.sleep(0.03)
            await until(lambda: life.state.sync.pending == 0 and other.state.sync.pending == 0)
        assert (life.state.lease, other.state.lease) == ("fenced", "held")
        assert picture(await other.restored() / "data") == picture(other.root)
        assert not any("ours" in path for path in await contents(life.store))
        branch = (await life.store.history(1, "fenced/me"))[0].revision
        assert picture(await life.restored(branch) / "data") == picture(life.root)
        other.close()

    live(base, scenario)


def test_the_last_sync_releases_the_lease_in_the_same_commit(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        life.fill("b")
        before = len(await titles(life.store))
        result = await life.engine.final(time.monotonic() + 10)
        assert (result.ok, result.changed) == (True, 1)
        assert len(await titles(life.store)) == before + 1
        lease = await life.lease()
        assert (lease.state, lease.clean, lease.epoch) == ("released", True, 1)
        assert picture(await life.restored() / "data") == picture(life.root)

    live(base, scenario)


def test_with_nothing_new_the_last_sync_releases_the_lease_all_the_same(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        assert (await life.engine.final(time.monotonic() + 10)).changed == 0
        assert (await life.lease()).state == "released"

    live(base, scenario)


def test_the_last_sync_is_tried_until_the_time_is_up(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        life.store.plan["commit"] = [AWAY] * 8
        assert (await life.engine.final(time.monotonic() + 10)).ok
        life.fill("b")
        life.store.plan["commit"] = [AWAY] * 1000
        began = time.monotonic()
        assert (await life.engine.final(began + 1)).code == "unavailable"
        assert time.monotonic() - began < 1.5
        life.store.plan["commit"] = [Denied("401")] * 10
        assert (await life.engine.final(time.monotonic() + 10)).code == "denied"
        assert len(life.store.plan["commit"]) == 9, "a no is not asked again"

    live(base, scenario)


def test_a_small_commit_that_hangs_makes_way_for_the_last_sync(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        life.store.plan["commit"] = ["hang"]
        stuck = asyncio.create_task(life.engine.snapshot("stop", time.monotonic() + 60))
        await until(lambda: life.store.calls.count("commit") == 1)
        life.fill("late")
        result = await life.engine.final(time.monotonic() + 1.5)
        assert result.ok, result
        assert not (await stuck).ok
        assert (await life.restored() / "data/late").read_text() == "late"
        assert (await life.lease()).state == "released"

    live(base, scenario)


# Edits by others


@pytest.mark.parametrize("noticed", ["by the next change", "by looking at the lease"])
@pytest.mark.parametrize("edit", ["delete", "modify", "manifest", "all"])
def test_what_somebody_edits_is_put_right_again(base: Path, edit: str, noticed: str) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a", "d/b", *(f"m/{n}" for n in range(120)))
        (life.root / ".gitignore").write_text("in a bundle")
        await life.engine.snapshot("asked")
        store = life.store.store
        there = await contents(store)
        bundles = [p for p in there if p.startswith(".sidecar/bundles/")]
        assert len(bundles) == 1
        put: dict[str, Any] = {"notes.txt": b"somebody else's"}
        delete: list[str] = []
        if edit == "delete":
            delete = ["data/a", *bundles]
        elif edit == "modify":
            put.update({"data/a": b"by hand", "data/d/b": b"by hand"})
        elif edit == "manifest":
            delete = [".sidecar/manifest.json"]
        else:
            delete = [p for p in there if p != LEASE]
        await store.commit(await store.head(), put, delete, "Update files")
        if noticed == "by the next change":
            life.fill("new")
            assert (await life.told()).ok
        else:
            async with life.running():
                await heed_lease(life.engine)
                await until(lambda: life.state.sync.snapshot == "1.2")
        assert picture(await life.restored() / "data") == picture(life.root)
        assert (await contents(store))["notes.txt"] == b"somebody else's", "what we don't name is left alone"
        before = await store.head()
        assert (await life.engine.snapshot("asked")).changed == 0
        assert await store.head() == before, "once"

    live(base, scenario)


def test_a_bundle_that_is_put_again_as_it_was_stays_in_the_manifest(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a", ".gitignore", "d/.gitignore")
        await life.engine.snapshot("asked")
        store = life.store.store
        bundles = (await life.manifest()).bundles
        await store.commit(await store.head(), {"notes.txt": b"somebody else's"}, [], "Update files")
        life.fill("new")
        assert (await life.told()).ok
        assert (await life.manifest()).bundles == bundles
        assert picture(await life.restored() / "data") == picture(life.root)
        (life.root / ".gitignore").unlink()
        assert (await life.told()).ok
        assert picture(await life.restored() / "data") == picture(life.root), "its files are counted right"

    live(base, scenario)


def test_an_edit_takes_nothing_that_this_disk_cannot_give(base: Path) -> None:
    """A root that is no longer declared, a deletion that is held back: they come from the snapshot before."""

    async def scenario(life: Life) -> None:
        (Path(life.roots[1].path) / "old").write_text("kept")
        (Path(life.roots[1].path) / ".gitignore").write_text("kept in a bundle")
        names = [str(n) for n in range(12)]
        life.fill("keep", *names)
        await life.engine.snapshot("asked")
        life.engine.snapshotter.surveyor.roots = life.roots[:1]
        for name in names:
            (life.root / name).unlink()
        assert (await life.engine.snapshot("asked")).held == {"data": 12}
        store = life.store.store
        gone = [p for p in await contents(store) if p != LEASE and p != ".sidecar/manifest.json"]
        assert len(gone) == 15
        await store.commit(await store.head(), {}, gone, "Clean up")
        life.fill("new")
        assert (await life.told()).ok
        restored = await life.restored()
        assert (restored / "more/old").read_text() == "kept"
        assert (restored / "more/.gitignore").read_text() == "kept in a bundle"
        assert {p.name: p.read_text() for p in (restored / "data").iterdir()} == {n: n for n in (*names, "keep", "new")}

    live(base, scenario, names=("data", "more"))


def test_new_metadata_after_an_edit_brings_the_bytes_too(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        store = life.store.store
        await store.commit(await store.head(), {"data/a": b"by hand"}, [], "Update a")
        (life.root / "a").chmod(0o600)
        assert (await life.told()).ok
        assert picture(await life.restored() / "data") == picture(life.root)

    live(base, scenario)


def test_what_somebody_changed_in_the_store_is_copied_before_ours_goes_on_top(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a", "d/b", "same", "gone")
        await life.engine.snapshot("asked")
        store, conflicts = life.store.store, life.own / "conflicts"
        put = {"data/a": b"A", "data/d/b": b"longer than ours", "notes.txt": b"not ours"}
        await store.commit(await store.head(), put, ["data/gone"], "Update files")
        life.store.plan["fetch"] = ["ok", AWAY]  # the lease is read, their files can't be now
        life.fill("new")
        assert not (await life.told()).ok
        assert not conflicts.exists()
        assert (await contents(store))["data/a"] == b"A", "nothing goes on top of what could not be copied yet"
        assert (await life.told()).ok
        (folder,) = conflicts.iterdir()
        there = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert there == {"data/a": b"A", "data/d/b": b"longer than ours"}
        assert (life.root / "a").read_text() == "a", "main's files are main's"
        now = await contents(store)
        assert (now["data/a"], now["data/gone"], now["notes.txt"]) == (b"a", b"gone", b"not ours")

    live(base, scenario)


def test_copies_of_edits_are_bounded(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "MOST_EDITS", 2)
    monkeypatch.setattr(edits, "MOST_FILES", 3)
    monkeypatch.setattr(edits, "MOST_BYTES", 250)

    async def scenario(life: Life) -> None:
        life.fill(*"abcdefg")
        await life.engine.snapshot("asked")
        store, conflicts = life.store.store, life.own / "conflicts"
        conflicts.mkdir()
        (conflicts / "2026-01-01T000000Z").mkdir()  # of a restore: the only copy of what was on this disk
        for n, size in enumerate((1, 100, 120)):
            put: dict[str, Any] = {f"data/{name}": str(n).encode() * size for name in "abcdefg"}
            await store.commit(await store.head(), put, [], "Update files")
            life.fill(f"new-{n}")
            assert (await life.told()).ok
        found = sorted(p.name for p in conflicts.iterdir())
        assert found[0] == "2026-01-01T000000Z"
        assert len(found) == 3
        kept = {p.name: p.read_bytes() for name in found[1:] for p in (conflicts / name / "data").iterdir()}
        assert set(kept) == {"a", "b"}, "three would be too much"
        assert {data[:1] for data in kept.values()} <= {b"1", b"2"}

    live(base, scenario)


def test_a_lease_that_was_deleted_is_written_again(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        store = life.store.store
        await store.commit(await store.head(), {}, [LEASE], "Delete .sidecar/lease.json")
        async with life.running():
            await heed_lease(life.engine)
            await until(lambda: life.state.sync.snapshot == "1.2")
        assert (await life.lease()).state == "held"
        assert life.state.lease == "held"

    live(base, scenario)


def test_nothing_is_pruned_until_an_edit_is_put_right(base: Path) -> None:
    """A squash would take away what the history tells of it, and of who may have written since."""

    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        store = life.store.store
        await store.commit(await store.head(), {}, [LEASE], "Delete .sidecar/lease.json")
        await heed_lease(life.engine)
        with pytest.raises(TryLater, match="edited"):
            await life.engine.prune(Retention(1))
        assert (await life.told()).ok
        await life.engine.prune(Retention(1))

    live(base, scenario)


def test_edits_without_a_pause_are_given_up_for_now(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        await life.engine.snapshot("asked")
        real = life.store.store.commit

        async def edited_before(parent: Any, put: Any, delete: Any, message: str, branch: Any = None) -> str:
            await real(await life.store.store.head(), {"x": str(time.monotonic_ns()).encode()}, [], "by hand")
            return await real(parent, put, delete, message, branch)

        replace_commit(life, edited_before)
        life.fill("b")
        assert (await life.told()).code == "unavailable"
        replace_commit(life, real)
        assert (await life.told()).ok
        assert picture(await life.restored() / "data") == picture(life.root)

    live(base, scenario)


# What goes along


def test_what_rides_along_goes_once_and_what_came_meanwhile_stays(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.engine.rides.files.update({"README.md": b"one", ".sidecar/recovery.jsonl": b"{}\n"})
        real = life.store.store.commit

        async def slow(*args: Any) -> str:
            life.engine.rides.files["README.md"] = b"two"
            return await real(*args)

        replace_commit(life, slow)
        await life.engine.snapshot("asked")
        assert life.engine.rides.files == {"README.md": b"two"}
        assert (await contents(life.store))["README.md"] == b"one"
        replace_commit(life, real)
        life.fill("a")
        await life.engine.snapshot("asked")
        assert life.engine.rides.files == {}
        assert (await contents(life.store))["README.md"] == b"two"

    live(base, scenario)


RIDE = {".sidecar/recovery.jsonl": b"{}\n"}


def test_what_rides_goes_alone_where_nothing_else_is_due(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rides, "ALONE_S", 0.2)

    async def scenario(life: Life) -> None:
        life.fill("a")
        async with life.running():
            before = await snapshots(life.store)
            life.engine.along(RIDE)
            await until(lambda: life.engine.rides.files == {})
            assert (await titles(life.store))[-1] == f"sidecar: recovery record of {life.engine.options.instance}"
            assert await snapshots(life.store) == before, "it is no snapshot"
            assert (await contents(life.store)).items() >= RIDE.items()
            life.fill("b")
            await until(lambda: life.state.sync.snapshot == "1.2")
        assert picture(await life.restored() / "data") == picture(life.root)

    live(base, scenario)


def test_what_rides_waits_for_a_commit_that_is_due(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rides, "ALONE_S", 0.3)

    async def scenario(life: Life) -> None:
        life.fill("a")
        async with life.running():
            life.engine.along(RIDE)
            life.fill("b")
            await until(lambda: life.engine.rides.files == {})
            assert not [t for t in await titles(life.store) if "recovery record" in t]
            assert len(await snapshots(life.store)) == 2

    live(base, scenario)


@pytest.mark.parametrize("fault", [AWAY, Denied("403"), "lands"])
def test_what_could_not_go_alone_goes_later(base: Path, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rides, "ALONE_S", 0.05)
    monkeypatch.setattr(rides, "ALONE_AGAIN_S", 0.1)

    async def scenario(life: Life) -> None:
        life.fill("a")
        async with life.running():
            life.store.plan["commit"] = [fault] * (1 if fault == "lands" else 3)
            life.engine.along(RIDE)
            await until(lambda: life.engine.rides.files == {})
            assert (await contents(life.store)).items() >= RIDE.items()
            assert life.state.sync.error is None, "nothing of main's waits for it"

    live(base, scenario)


@pytest.mark.parametrize("how", ["edited", "taken"])
def test_what_goes_alone_meets_what_others_did(base: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit: ours goes on top, by a snapshot. Somebody else's lease: nothing of ours goes over it."""
    monkeypatch.setattr(rides, "ALONE_S", 0.05)

    async def scenario(life: Life) -> None:
        life.fill("a")
        store = life.store.store
        async with life.running():
            mine = {LEASE: b"never on a branch"} if how == "taken" else {}
            put: dict[str, Any] = (
                {"data/a": b"by hand"} if how == "edited" else {LEASE: leases.encode(held(9, "other"))}
            )
            await store.commit(await store.head(), put, [], "by hand")
            life.engine.along({**RIDE, **mine})
            if how == "edited":
                await until(lambda: life.engine.rides.files == {})
                assert (await contents(life.store)).items() >= RIDE.items()
            else:
                await until(lambda: life.state.lease == "fenced")
                life.fill("b")
                async with asyncio.timeout(10):
                    while life.engine.line.branch not in await life.store.store.branches():
                        await asyncio.sleep(0.02)
                assert (await life.lease()).instance == "other"
        assert how == "taken" or picture(await life.restored() / "data") == picture(life.root)

    live(base, scenario)


def test_a_start_from_an_older_snapshot_goes_on_with_all_of_it_and_keeps_the_head(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a", "b")
        first = await life.engine.snapshot("asked")
        life.fill("b", text="worse")
        life.fill("c", text="worse")
        await life.engine.snapshot("asked")
        known = life.index.known()
        assert known is not None
        damaged = await life.store.head()
        assert damaged is not None
        # Another life: its disk is the first snapshot, its line goes on from the head.
        other = Life(life.base / "other", life.store, "other")
        other.fill("a", "b")
        assert first.revision is not None
        manifest = await life.manifest(first.revision)
        other.index.replace(replace(known, snapshot=manifest.snapshot, revision=first.revision), manifest, {})
        revision, tenure = await begin(life.store.store, held(2, "other"))
        other.make(Base(revision, SnapshotId(1, 2)), tenure).snapshotter.goes_on_from("1.1", first.revision)
        result = await other.engine.snapshot("automatic")
        assert (result.ok, result.snapshot) == (True, "2.1")
        assert (await titles(life.store))[-1] == "sidecar: snapshot 2.1 (from 1.1)"
        assert (await life.restored() / "data/b").read_text() == "b"
        assert not (await life.restored() / "data/c").exists()
        kept = (await life.store.history(1, "damaged/1.2"))[0].revision
        assert (await contents(life.store, kept))["data/c"] == b"worse"
        other.close()

    live(base, scenario)


def test_an_engine_on_a_side_branch_looks_at_no_lease(base: Path) -> None:
    async def scenario(life: Life) -> None:
        head = await life.store.head()
        engine = life.make(Base(head, None, "orphan/me"), None)
        life.fill("a")
        await ask(life, "new")
        before = await life.store.head()
        await heed_lease(engine)
        answer = await engine.checkpoint()
        assert (answer.ok, answer.code) == (False, "fenced"), "nothing of it is where the next start looks"
        assert "orphan/me" in answer.error
        assert (await engine.final(time.monotonic() + 10)).ok
        assert await life.store.head() == before
        assert await snapshots(life.store, "orphan/me") == ["0.1"]

    live(base, scenario)


def test_the_state_says_what_is_durable_and_what_is_not(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a", "d/b")
        os.mkfifo(life.root / "pipe")
        await life.engine.snapshot("asked")
        root = life.state.roots["data"]
        assert (root.files, root.bytes, root.state, root.skipped) == (2, 4, "durable", 1)
        (life.root / "x.db").write_bytes(b"SQLite format 3\0" + b"broken" * 1000)
        result = await life.engine.snapshot("asked")
        assert set(result.troubled) == {"data/x.db"}
        assert life.state.sync.files == [{"path": "data/x.db", "state": "stale"}]
        assert life.state.sync.trouble_since_mono is not None
        (life.root / "x.db").unlink()
        await life.engine.snapshot("asked")
        assert life.state.sync.files == []
        assert not life.state.sync.trouble_since_mono
        shutil.rmtree(life.root)
        await life.told()
        await life.engine.snapshot("asked")
        assert life.state.roots["data"].state == "absent"

    live(base, scenario)


def test_a_checkpoint_of_nothing_new_still_asks_the_store(base: Path) -> None:
    """Acknowledged means that it is there: not that it once was, nor that we once held the lease."""

    async def scenario(life: Life) -> None:
        life.fill("a")
        first = await life.engine.checkpoint()
        head = await life.store.head()
        edited = await life.store.commit(head, {"data/a": b"edited"}, [], "by hand")
        again = await life.engine.checkpoint()
        assert again.ok
        assert again.snapshot != first.snapshot
        taken = held(9, "other")
        await life.store.commit(
            await life.store.head(), {LEASE: leases.encode(taken)}, [], "sidecar: lease 9 claimed by other"
        )
        last = await life.engine.checkpoint()
        assert (last.ok, last.code) == (False, "fenced")
        assert edited != head

    live(base, scenario)
