"""What a start begins from: a snapshot, or nothing that was ever kept, and never one for the other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sidecar.errors import EX_CONFIG, RestoreFailed
from sidecar.recovery.origin import Origin, find, way_out
from sidecar.recovery.trouble import Damaged
from sidecar.snapshot import stage as staging
from sidecar.snapshot.index import Index
from sidecar.snapshot.keeping import ids, near
from sidecar.snapshot.manifest import LEASE, PATH
from sidecar.stores.base import Commit, Unavailable
from sidecar.stores.folder import FolderStore
from sidecar.sync.look import Look
from tests.snapshot.disk import FAST
from tests.sync.faulty import Faulty
from tests.sync.rig import STORE_ID, Rig


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(staging, "SETTLE_NS", 0)
    with TemporaryDirectory(dir=FAST, prefix="sidecar-origin-") as name:
        made = Rig(Path(name) / "rig")
        yield made
        made.close()


def origin(rig: Rig, *, fresh: bool = True, cold_start: str = "allow", revision: str | None = None) -> Origin:
    """What a start on a ``fresh`` disk, or on this one, finds."""

    async def run() -> Origin:
        store = FolderStore(rig.base / "store")
        index = Index(rig.base / "fresh.db") if fresh else rig.index
        try:
            return await find(
                *(store, await store.head(), rig.roots, index, rig.base),
                store_id=STORE_ID,
                cold_start=cold_start,
                revision=revision,
            )
        finally:
            await store.close()
            if fresh:
                index.close()

    return asyncio.run(run())


def refused(rig: Rig, **more: Any) -> RestoreFailed:
    with pytest.raises(RestoreFailed) as raised:
        origin(rig, **more)
    return raised.value


def commit(rig: Rig, put: dict[str, bytes], delete: tuple[str, ...] = (), title: str = "by hand") -> str:
    async def run(store: Any) -> str:
        return await store.commit(await store.head(), put, delete, title)

    return rig.with_store(run)


def fill(rig: Rig, **texts: str) -> str:
    for name, text in texts.items():
        (rig.root / name).write_text(text)
    rig.sync(Look(confirm_present=True))
    assert rig.head is not None
    return rig.head


# A snapshot


def test_the_newest_snapshot_is_where_a_start_begins(rig: Rig) -> None:
    fill(rig, a="1")
    head = fill(rig, a="2")
    found = origin(rig)
    assert (found.head, found.source, found.chosen, found.readme) == (head, head, None, False)
    assert found.manifest is not None
    assert str(found.manifest.snapshot) == "1.2"
    assert origin(rig, fresh=False) == found


def test_commits_on_top_that_leave_the_manifest_alone_are_no_matter(rig: Rig) -> None:
    fill(rig, a="1")
    head = commit(rig, {LEASE: b"{}", "notes": b"x"})
    found = origin(rig)
    assert (found.head, found.source) == (head, head)


# Cold starts


@pytest.mark.parametrize("fresh", [True, False])
def test_a_store_that_nothing_was_ever_kept_in_is_a_cold_start(rig: Rig, fresh: bool) -> None:
    assert origin(rig, fresh=fresh) == Origin(None, None, None, readme=True)


@pytest.mark.parametrize(
    ("put", "readme"),
    [
        ({".gitattributes": b""}, True),
        ({"README.md": b"somebody's"}, False),  # which is never rewritten
        ({LEASE: b"{}"}, True),  # a claim before main was ever started
        ({"other/file": b"not under a root's name"}, True),
        ({"data2/file": b"nor this"}, True),
    ],
)
def test_what_may_lie_in_a_store_at_a_cold_start(rig: Rig, put: dict[str, bytes], readme: bool) -> None:
    head = commit(rig, put)
    assert origin(rig) == Origin(head, None, None, readme=readme)


@pytest.mark.parametrize("path", ["data/file", "data"])
def test_files_under_a_roots_name_that_we_did_not_write_are_no_cold_start(rig: Rig, path: str) -> None:
    commit(rig, {path: b"the user's own"})
    failure = refused(rig)
    assert not failure.final
    assert repr(path) in failure.message
    assert "prefix" in failure.message


@pytest.mark.parametrize("squashed", [False, True])
def test_a_history_without_a_manifest_is_no_cold_start(rig: Rig, squashed: bool) -> None:
    fill(rig, a="1")
    commit(rig, {}, (PATH, "data/a"))
    if squashed:  # its one commit keeps a title of ours
        commit(rig, {}, (), "sidecar: snapshot 1.1 (squashed)")
    failure = refused(rig)
    assert "snapshot 1.1" in failure.message
    assert "SIDECAR_REVISION=1.1" in failure.message


def test_a_disk_that_knew_a_snapshot_is_no_cold_start(rig: Rig) -> None:
    """The store was deleted and made anew: what this disk has must not be taken for a first deploy."""
    fill(rig, a="1")
    shutil.rmtree(rig.base / "store")
    rig.with_store(lambda store: store.check(create=True))
    failure = refused(rig, fresh=False)
    assert "1.1" in failure.message
    assert str(rig.index.path) in failure.message
    assert origin(rig).manifest is None, "to a fresh disk it is one"


def test_where_cold_starts_are_refused_an_empty_store_is_a_mistake(rig: Rig) -> None:
    failure = refused(rig, cold_start="refuse")
    assert failure.final
    assert "SIDECAR_COLD_START=refuse" in failure.message
    fill(rig, a="1")
    assert origin(rig, cold_start="refuse").manifest is not None


# Damage


@pytest.mark.parametrize("raw", [b"", b"{", b'{"format": 1, "entries": 5}'])
def test_a_manifest_that_cannot_be_believed_is_damage_and_no_cold_start(rig: Rig, raw: bytes) -> None:
    fill(rig, a="1")
    commit(rig, {PATH: raw})
    failure = refused(rig)
    assert isinstance(failure, Damaged)
    assert failure.path == PATH


def test_a_newer_format_is_no_damage(rig: Rig) -> None:
    fill(rig, a="1")
    commit(rig, {PATH: b'{"format": 99}'})
    failure = refused(rig)
    assert not isinstance(failure, Damaged)
    assert failure.final
    assert "update space-sidecar" in failure.message.lower()


def out(rig: Rig, damage: Damaged, plan: dict[str, list[Any]] | None = None) -> str:
    async def run(store: Any) -> str:
        faulty = Faulty(store)
        faulty.plan.update(plan or {})
        return await way_out(faulty, damage, rig.base)

    return rig.with_store(run)


def test_the_way_out_of_damage_is_the_newest_snapshot_that_is_whole(rig: Rig) -> None:
    fill(rig, a="good", b="1")
    fill(rig, b="2")
    fill(rig, a="newer")
    damage = Damaged("data/a", "1.3", "wrong bytes")
    said = out(rig, damage)
    assert "SIDECAR_REVISION=1.3" in said, "its bytes are good, as far as can be told"
    assert "changed since 1.3 was committed" in said, "what was damaged is never called the newest that verifies"
    commit(rig, {"data/a": b"wrong"}, (), "sidecar: snapshot 1.4")
    assert "SIDECAR_REVISION=1.3" in out(rig, damage), "the same size isn't the same bytes"
    commit(rig, {}, ("data/b",), "sidecar: snapshot 1.5")
    commit(rig, {PATH: b"{"}, (), "sidecar: snapshot 1.6")
    assert "SIDECAR_REVISION=1.3" in out(rig, damage)
    assert "can't be checked just now" in out(rig, damage, {"history": [Unavailable("503")]})


def test_where_nothing_is_whole_it_says_so(rig: Rig) -> None:
    commit(rig, {PATH: b"{"}, (), "sidecar: snapshot 1.1")
    assert out(rig, Damaged(PATH, "1.1", "x")).startswith("None of the last 20")


# A snapshot of choice


def test_a_snapshot_can_be_chosen_by_its_number_or_its_revision(rig: Rig) -> None:
    first = fill(rig, a="1")
    head = fill(rig, a="2")
    for wanted in ("1.1", first, first[:12]):
        found = origin(rig, revision=wanted)
        assert (found.head, found.source, found.chosen) == (head, first, wanted)
        assert found.manifest is not None
        assert str(found.manifest.snapshot) == "1.1"


def test_a_start_that_went_on_from_the_chosen_one_already_goes_on_from_there(rig: Rig) -> None:
    fill(rig, a="1")
    fill(rig, a="2")
    head = commit(rig, {}, (), "sidecar: snapshot 2.1 (from 1.1)")
    found = origin(rig, revision="1.1")
    assert (found.head, found.source, found.chosen, found.spent) == (head, head, None, "1.1")
    other = origin(rig, revision="1.2")
    assert (other.chosen, other.spent) == ("1.2", None), "that of another number is no matter"
    assert origin(rig).spent is None


def test_a_damaged_head_is_no_matter_to_a_start_from_another(rig: Rig) -> None:
    first = fill(rig, a="1")
    commit(rig, {PATH: b"{"}, (), "sidecar: snapshot 1.2")
    assert origin(rig, revision="1.1").source == first


@pytest.mark.parametrize("wanted", ["9.9", "nonsense", "1.1)"])
def test_one_that_is_not_there_is_a_setting_to_correct(rig: Rig, wanted: str) -> None:
    fill(rig, a="1")
    failure = refused(rig, revision=wanted)
    assert (failure.final, failure.exit_code) == (True, EX_CONFIG)
    assert "sidecar snapshots" in failure.message
    assert "(near it are 1.1)" in failure.message


def test_near_an_id_are_those_of_its_epoch_and_near_nothing_the_newest() -> None:
    history = [Commit(f"r{n}", f"sidecar: snapshot {n}", None) for n in ("3.2", "3.1", "2.9", "2.8", "1.7")]
    known = ids([Commit("r0", "sidecar: lease 4 released", None), *history], ["main", "past/1.6_20260101T000000Z"])
    assert near("2.7", known) == " (near it are 2.8, 2.9, 1.7)"
    assert near("9.9", known) == " (near it are 3.2, 3.1, 2.9)"
    assert near("nonsense", known) == " (near it are 3.2, 3.1, 2.9)"
    assert near("1.5", known) == " (near it are 1.6, 1.7, 2.8)"
    assert near("1.1", []) == ""


def test_a_chosen_one_that_is_damaged_says_so(rig: Rig) -> None:
    fill(rig, a="1")
    commit(rig, {PATH: b"{"}, (), "sidecar: snapshot 1.2")
    commit(rig, {PATH: b"{}"})
    failure = refused(rig, revision="1.2")
    assert isinstance(failure, Damaged)
    assert "1.2 (SIDECAR_REVISION)" in failure.message


def test_in_an_empty_store_a_choice_is_a_cold_start_or_a_mistake(rig: Rig) -> None:
    assert origin(rig, revision="1.1").manifest is None
