"""Engines that let go of paths and of the past, while they go on; and what never lets go of anything."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.errors import TryLater
from sidecar.snapshot import stage as staging
from sidecar.snapshot.exclude import Excluder
from sidecar.snapshot.index import Row
from sidecar.snapshot.manifest import Entry
from sidecar.stores.base import Unavailable
from sidecar.sync import line as lines
from sidecar.sync.forgetting import carried_only, parts, said, why_nothing
from sidecar.sync.handover import heed_lease
from sidecar.sync.history import Retention
from sidecar.verbs import AgentVerbs
from sidecar.web.verbs import Answer
from tests.sync.faulty import titles
from tests.sync.letting import hub_life, some
from tests.sync.lives import Life, live, snapshots
from tests.sync.test_engine import ask


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "backoff", lambda *_: 0.01)
    monkeypatch.setattr(staging, "SETTLE_NS", 0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


def verbs(life: Life) -> AgentVerbs:
    made = AgentVerbs(life.state)
    made.engine = life.engine
    return made


def undeclare(life: Life, name: str) -> None:
    """As a later start without it would find it."""
    life.roots = [r for r in life.roots if r.name != name]
    life.engine.snapshotter.surveyor.roots = life.roots
    life.engine.options = life.engine.snapshotter.options = replace(life.engine.options, roots=life.roots)
    del life.state.roots[name]


# What goes, as values


def rows(*paths: str) -> list[Row]:
    """Files of 7 bytes, and folders."""
    made = []
    for path in paths:
        is_dir = path.endswith("/")
        entry = Entry(path.rstrip("/"), "dir" if is_dir else "file", 0o644, 0, 0, 0, size=0 if is_dir else 7)
        made.append(Row(entry))
    return made


def test_what_no_scan_looks_at_any_more_can_go(tmp_path: Path) -> None:
    found = rows("data/", "data/a", "data/cache/", "data/cache/x", "data.old/y", "more/", "more/z")
    going = carried_only(found, {"data": Excluder(str(tmp_path), ["cache/"], ())})
    assert [r.entry.path for r in going] == ["data/cache", "data/cache/x", "data.old/y", "more", "more/z"]
    assert carried_only(rows("data/"), {"data": Excluder(str(tmp_path), ["*"], ())}) == [], "the root itself stays"


def test_it_is_said_by_its_topmost_paths() -> None:
    going = rows("b/", "b/x", "b/y", "a.log", "b.log", "b/c/", "b/c/z")
    assert [(p.path, p.files, p.bytes) for p in parts(going)] == [("a.log", 1, 7), ("b", 3, 21), ("b.log", 1, 7)]
    whole = said("top", "1.2", rows(*(f"{n:03}" for n in range(130)), "\udcff"))
    assert (whole["files"], len(whole["parts"]), whole["more"]) == (131, 100, 31)
    assert said("\udcff", "1.2", going)["path_b64"] == "/w=="
    assert "nothing at 'x'" in why_nothing("x", [], "1.2")
    assert "SIDECAR_PATHS" in why_nothing("x", going, "1.2")


# Paths


def test_a_root_that_is_not_declared_is_forgotten_by_name_or_by_where_it_was(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        (Path(life.roots[1].path) / "old").write_text("old")
        (Path(life.roots[2].path) / "sub").mkdir()
        (Path(life.roots[2].path) / "sub/x").write_text("x")
        await life.engine.snapshot("asked")
        ways = verbs(life)
        where = life.roots[2].path
        for path in ("conf", "data", "data/a", life.roots[1].path):
            answer = await ways.forget(path, False)
            assert (answer.status, answer.body["error"]) == (422, "nothing"), path
            assert "SIDECAR_PATHS" in answer.body["detail"]
        assert (await ways.forget("nowhere", False)).status == 422
        undeclare(life, "conf")
        undeclare(life, "more")
        life.fill("new")
        await life.told()
        before = await life.store.head()
        answer = await ways.forget(f"{where}/sub/", True)
        assert (answer.status, answer.body["path"], answer.body["files"]) == (200, "more/sub", 1)
        assert await life.store.head() == before, "it is only asked"
        assert (await ways.forget(f"{where}/sub", False)).status == 200
        answer = await ways.forget("conf", False)
        assert answer == Answer(200, {**answer.body, "snapshot": "1.4", "revision": await life.store.head()})
        assert (answer.body["before"], answer.body["files"], answer.body["bytes"]) == ("1.3", 1, 3)
        manifest = await life.manifest()
        assert set(manifest.entries) == {"data", "data/a", "data/new", "more"}
        assert [r.name for r in manifest.roots] == ["data", "more"]
        assert "conf/old" in (await life.manifest(before)).entries, "history has it"
        assert not [p for p in await life.store.listing(await life.store.head() or "") if p.startswith("conf")]
        assert (await ways.forget("conf", False)).body["error"] == "nothing"
        assert (Path(life.base) / "disk/conf/old").exists(), "nothing on the disk is touched"

    live(base, scenario, names=("data", "conf", "more"))


def test_what_is_forgotten_stays_forgotten_when_the_store_was_edited(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        (Path(life.roots[1].path) / "old").write_text("old")
        await life.engine.snapshot("asked")
        undeclare(life, "conf")
        await life.store.store.commit(await life.store.head(), {"data/a": b"by hand"}, [], "by hand")
        life.store.calls.clear()
        assert (await verbs(life).forget("conf", False)).status == 200
        assert life.store.calls.count("commit") == 2, "planned anew on the edited head"
        assert set((await life.manifest()).entries) == {"data", "data/a"}
        assert (await life.restored() / "data/a").read_text() == "a"

    live(base, scenario, names=("data", "conf"))


def test_a_store_that_fails_forgets_nothing(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill("a")
        (Path(life.roots[1].path) / "old").write_text("old")
        await life.engine.snapshot("asked")
        undeclare(life, "conf")
        life.store.plan["commit"] = [Unavailable("503")] * 3
        answer = await verbs(life).forget("conf", False)
        assert (answer.status, answer.body["error"]) == (503, "unavailable")
        life.fill("b")
        assert (await life.told()).ok
        assert "conf/old" in (await life.manifest()).entries, "nor does any later sync"

    live(base, scenario, names=("data", "conf"))


# Mass deletions


def test_a_hand_over_confirms_no_mass_deletion(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill(*(f"d/{n}" for n in range(20)), "keep")
        await life.engine.snapshot("asked")
        shutil.rmtree(life.root / "d")
        life.fill("last")
        assert (await life.told()).held == {"data": 20}
        await ask(life, "new")
        await heed_lease(life.engine)
        assert (await life.lease()).state == "released"
        restored = await life.restored() / "data"
        assert (restored / "d/7").read_text() == "d/7"
        assert (restored / "last").read_text() == "last"

    live(base, scenario)


def test_a_rescan_confirms_no_more_than_was_held_before(base: Path) -> None:
    async def scenario(life: Life) -> None:
        life.fill(*(f"d/{n}" for n in range(20)), "keep", "more")
        await life.engine.snapshot("asked")
        for n in range(15):
            (life.root / f"d/{n}").unlink()
        assert (await life.told()).held == {"data": 15}
        shutil.rmtree(life.root / "d")
        life.engine.confirming = life.engine.snapshotter.held  # as the loop does when the rescan is due
        assert (await life.told()).held == {"data": 20}
        assert "data/d/3" in (await life.manifest()).entries
        life.engine.confirming = life.engine.snapshotter.held
        assert (await life.told()).held == {}
        assert set((await life.manifest()).entries) == {"data", "data/keep", "data/more"}
        assert await life.store.history(1, "kept/1.1") != []

    live(base, scenario)


# The past


def test_pruned_on_the_hub_the_engine_goes_on_without_a_word(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(life: Life) -> None:
        await some(life, 6)
        head = await life.store.head()
        answer = await verbs(life).prune(3, None, True)
        assert (answer.status, answer.body["goes"], answer.body["squashes"]) == (200, 3, True)
        assert await life.store.head() == head
        answer = await verbs(life).prune(3, None, False)
        assert answer.status == 200
        assert [p["snapshot"] for p in answer.body["stays"]] == ["1.6", "1.5", "1.4"]
        assert await life.store.head() != head
        assert await snapshots(life.store) == ["1.6"]
        assert life.state.sync.revision == await life.store.head()
        known = life.index.known()
        assert known is not None
        assert known.revision == await life.store.head()
        life.store.calls.clear()
        life.fill("n", text="on")
        result = await life.told()
        assert (result.ok, result.snapshot, result.changed) == (True, "1.7", 1)
        assert life.store.calls.count("commit") == 1
        branches = await life.store.branches()
        kept = {str((await life.manifest(revision)).snapshot): name for name, revision in branches.items()}
        assert sorted(kept) == ["1.4", "1.5"]
        assert all(name.startswith(f"past/{number}_") for number, name in kept.items())

    hub_life(base, scenario)
    assert "edited" not in caplog.text


def test_a_squash_by_somebody_else_is_no_edit(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(life: Life) -> None:
        await some(life, 2)
        await life.store.store.compact()
        await heed_lease(life.engine)
        life.fill("n", text="on")
        assert (await life.told()).changed == 1
        await life.store.store.compact()
        life.fill("n", text="and on")
        assert (await life.told()).changed == 1, "nothing is put again"
        assert (await life.engine.checkpoint()).ok
        assert await titles(life.store) == ["sidecar: snapshot 1.3", "sidecar: snapshot 1.4"]

    live(base, scenario)
    assert "edited" not in caplog.text


def test_while_the_lease_is_asked_for_nothing_is_pruned(base: Path) -> None:
    async def scenario(life: Life) -> None:
        await some(life, 3)
        await ask(life, "new")
        with pytest.raises(TryLater):
            await life.engine.prune(Retention(1))
        answer = await verbs(life).prune(1, None, False)
        assert (answer.status, answer.retry_after) == (503, 30)
        assert len(await snapshots(life.store)) == 3
        assert (await verbs(life).prune(1, None, True)).status == 200, "to ask is free"

    live(base, scenario)


def test_neither_fenced_nor_refused_anything_is_pruned(base: Path) -> None:
    async def scenario(life: Life) -> None:
        await some(life, 3)
        ways = verbs(life)
        ways.unpruned = "SIDECAR_REVISION is set"
        assert (await ways.prune(1, None, False)).body == {"error": "refused", "detail": "SIDECAR_REVISION is set"}
        ways.unpruned = ""
        life.store.plan["compact"] = [Unavailable("503")]
        assert (await ways.prune(1, None, False)).status == 503
        await ask(life, "new")
        await heed_lease(life.engine)
        assert life.engine.line.branch == "fenced/me"
        for answer in (await ways.prune(1, None, False), await ways.forget("data", False)):
            assert (answer.status, answer.body["error"]) == (409, "fenced")
        assert len(await snapshots(life.store)) >= 3
        ways.engine = None
        assert (await ways.prune(1, None, True)).status == (await ways.forget("x", True)).status == 503

    live(base, scenario)
