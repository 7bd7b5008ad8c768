"""Restores from a store that fails: what is retried, what is damage, what is fetched again, what stays untouched."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.errors import EX_TEMPFAIL, ManifestError, RestoreFailed
from sidecar.recovery import journal
from sidecar.recovery.restore import Damaged, read_manifest
from sidecar.snapshot import bundle
from sidecar.snapshot.manifest import PATH, Manifest
from sidecar.stores.base import Corrupt, Denied, NotFound, Progress, Store, StoreError, Unavailable
from tests.recovery.world import World, Wrapped, fill, picture


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def lost_disk(world: World, files: dict[str, str], **more: object) -> tuple[str, Manifest]:
    fill(world.root, files)
    revision, manifest = world.snapshot(**more)  # type: ignore[arg-type]
    world.empty_disk()
    return revision, manifest


class Flipping(Wrapped):
    """The bytes of ``path`` arrive changed, the first ``times`` times; nothing is raised."""

    path, times = "data/b", 1

    async def after(self, paths: list[str], into: Path) -> None:
        if self.path in paths and self.times > 0:
            self.times -= 1
            raw = bytearray((into / self.path).read_bytes())
            raw[0] ^= 1
            (into / self.path).write_bytes(raw)


class Raising(Wrapped):
    """A call for ``path`` raises ``error``, the first ``times`` times, after what ``partly`` names has arrived."""

    path, times = "data/b", 1
    error: StoreError = Corrupt("the store's own checksum is wrong")
    partly: tuple[str, ...] = ()

    async def fetch(self, revision: str, paths: Iterable[str], into: Path, progress: Progress | None = None) -> None:
        wanted = list(paths)
        if self.path not in wanted or self.times <= 0:
            return await super().fetch(revision, wanted, into, progress)
        self.times -= 1
        self.calls.append(wanted)
        some = [p for p in wanted if p in self.partly]
        if some:
            await self.store.fetch(revision, some, into, progress)
        raise self.error


def wrapping(kind: type[Wrapped], kept: list[Wrapped], **settings: object) -> Callable[[Store], Store]:
    def wrap(store: Store) -> Store:
        made = kind(store)
        for name, value in settings.items():
            setattr(made, name, value)
        kept.append(made)
        return made

    return wrap


THREE = {"a": "one", "b": "two", "c/d": "three"}


@pytest.mark.parametrize("kind", [Flipping, Raising])
@pytest.mark.parametrize("times", [1, 2])
def test_file_that_came_wrong_is_fetched_again_alone(world: World, kind: type[Wrapped], times: int) -> None:
    revision, manifest = lost_disk(world, THREE)
    kept: list[Wrapped] = []
    done = world.restore(revision, manifest, wrap=wrapping(kind, kept, times=times))
    assert {p: (world.root / p).read_text() for p in THREE} == THREE
    assert done.fetched == 3
    assert all(len(call) == 1 for call in kept[0].calls[1:])
    assert kept[0].asked.count("data/b") == times + 1
    if kind is Flipping:
        assert kept[0].asked.count("data/a") == 1, "what was good is not fetched again"


@pytest.mark.parametrize("kind", [Flipping, Raising])
def test_file_that_stays_wrong_is_damage_and_nothing_is_changed(world: World, kind: type[Wrapped]) -> None:
    revision, manifest = lost_disk(world, THREE)
    fill(world.root, {"a": "mine"})
    before = picture(world.root, times=False)
    kept: list[Wrapped] = []
    with pytest.raises(Damaged) as failure:
        world.restore(revision, manifest, wrap=wrapping(kind, kept, times=99))
    assert failure.value.path == "data/b"
    assert "'data/b'" in failure.value.message
    assert str(manifest.snapshot) in failure.value.message
    assert (failure.value.exit_code, failure.value.final) == (EX_TEMPFAIL, False)
    assert kept[0].asked.count("data/b") in (3, 4)  # Corrupt of the first call may have been another file's
    left = picture(world.root, times=False)
    assert {p: s for p, s in left.items() if ".sidecar-tmp" not in p} == before
    assert not journal.is_open(world.state)
    assert world.restore(revision, manifest).conflict_count == 1, "the next attempt may find it mended"


def test_a_lie_about_the_size_is_damage(world: World) -> None:
    def lie(manifest: Manifest) -> Manifest:
        entry = replace(manifest.entries["data/a"], size=4)
        return replace(manifest, entries={**manifest.entries, entry.path: entry})

    revision, manifest = lost_disk(world, THREE, change=lie)
    with pytest.raises(Damaged, match="'data/a'"):
        world.restore(revision, manifest)


@pytest.mark.parametrize("error", [Unavailable("away", 7.0), Denied("no")])
def test_refusal_is_passed_on_at_once_and_keeps_what_arrived(world: World, error: StoreError) -> None:
    revision, manifest = lost_disk(world, THREE)
    kept: list[Wrapped] = []
    wrap = wrapping(Raising, kept, error=error, partly=("data/a",))
    with pytest.raises(type(error)) as failure:
        world.restore(revision, manifest, wrap=wrap)
    assert failure.value is error
    assert kept[0].asked.count("data/b") == 1, "only its owner knows how long to wait"
    assert not (world.root / "a").exists(), "nothing is put in place before all is there"
    again: list[Wrapped] = []
    done = world.restore(revision, manifest, wrap=wrapping(Wrapped, again))
    assert sorted(again[0].asked) == ["data/b", "data/c/d"]
    assert {p: (world.root / p).read_text() for p in THREE} == THREE
    assert done.fetched == 3
    assert (world.progress.files_done, world.progress.bytes_done) == (3, 11)


def test_one_refusal_among_timeouts_is_what_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.recovery.staging.BATCH_FILES", 1)

    class Mixed(Wrapped):
        async def before(self, paths: list[str]) -> None:
            await asyncio.sleep(0.05 if "data/b" in paths else 0)
            raise Denied("the token was revoked") if "data/b" in paths else Unavailable("timeout")

    revision, manifest = lost_disk(world, THREE)
    with pytest.raises(Denied):
        world.restore(revision, manifest, wrap=Mixed)


def test_what_a_killed_start_had_verified_is_found_by_content(world: World) -> None:
    revision, manifest = lost_disk(world, {**THREE, "same": "one"})
    staging = world.root / ".sidecar-tmp-restore"
    fill(staging, {manifest.entries["data/a"].sha256: "one", manifest.entries["data/b"].sha256: "tw0"})
    fill(staging, {"in-1/data/c/d": "three", "junk": "?"})
    kept: list[Wrapped] = []
    world.restore(revision, manifest, wrap=wrapping(Wrapped, kept))
    assert sorted(kept[0].asked) == ["data/b", "data/c/d"], "a wrong one is not believed"
    assert sorted(os.listdir(world.root)) == ["a", "b", "c", "same"]
    assert (world.root / "same").read_text() == "one"
    assert os.stat(world.root / "same").st_ino != os.stat(world.root / "a").st_ino


def test_equal_files_are_fetched_once_and_empty_ones_never(world: World) -> None:
    revision, manifest = lost_disk(world, {"a": "same", "b/c": "same", "d": "same", "e": "", "f/g": ""})
    kept: list[Wrapped] = []
    done = world.restore(revision, manifest, wrap=wrapping(Wrapped, kept))
    assert len(kept[0].asked) == 1
    assert (done.fetched, done.fetched_bytes) == (5, 12)
    assert (world.root / "d").read_text() == "same"
    assert (world.root / "f/g").read_bytes() == b""


def test_file_that_the_revision_lacks_is_damage(world: World) -> None:
    revision, manifest = lost_disk(world, THREE)
    entry = replace(manifest.entries["data/a"], path="data/z", sha256="ab" * 32)
    longer = replace(manifest, entries={**manifest.entries, "data/z": entry})
    with pytest.raises(Damaged, match="'data/z'"):
        world.restore(revision, longer)


def test_revision_that_is_gone_is_no_damage(world: World) -> None:
    """A squash took it away: the caller goes on from the head, with what was verified."""
    revision, manifest = lost_disk(world, THREE)
    with pytest.raises(NotFound):
        world.restore("ab" * 32, manifest)
    assert world.restore(revision, manifest).fetched == 3


# Bundles


def test_many_small_files_take_few_requests(world: World) -> None:
    files = {f"{n % 20}/{n}": f"content {n}" for n in range(600)}
    revision, manifest = lost_disk(world, files, bundled=lambda path: True)
    kept: list[Wrapped] = []
    done = world.restore(revision, manifest, wrap=wrapping(Wrapped, kept))
    assert kept[0].calls == [[bundle.store_path(next(iter(manifest.bundles)))]]
    assert done.fetched == 600
    assert {p: (world.root / p).read_text() for p in files} == files
    assert sorted(os.listdir(world.root)) == sorted({p.partition("/")[0] for p in files})


def test_bundle_that_stays_wrong_is_damage_that_names_what_it_carries(world: World) -> None:
    revision, manifest = lost_disk(world, {"a": "one", "b": "two"}, bundled=lambda path: True)
    path = bundle.store_path(next(iter(manifest.bundles)))
    kept: list[Wrapped] = []
    assert world.restore(revision, manifest, wrap=wrapping(Flipping, kept, path=path, times=2)).fetched == 2
    assert kept[0].asked == [path] * 3
    world.empty_disk()
    with pytest.raises(Damaged) as failure:
        world.restore(revision, manifest, wrap=wrapping(Flipping, [], path=path, times=9))
    assert failure.value.path == path
    assert "and 1 more" in failure.value.message


@pytest.mark.parametrize("wrong", ["content", "size", "place", "name"])
def test_bundle_that_was_committed_wrong_is_damage(world: World, wrong: str) -> None:
    """Its own hash is right, so no fetch can help: what it holds isn't what the manifest says."""

    def change(manifest: Manifest) -> Manifest:
        entry = manifest.entries["data/a"]
        assert entry.frame is not None
        changed = {
            "content": replace(entry, sha256="ab" * 32),
            "size": replace(entry, size=entry.size + 1),
            "place": replace(entry, frame=replace(entry.frame, offset=entry.frame.offset + 1, length=5)),
            "name": replace(entry, path="data/z"),
        }[wrong]
        entries = {p: e for p, e in manifest.entries.items() if p != "data/a"}
        return replace(manifest, entries={**entries, changed.path: changed})

    revision, manifest = lost_disk(world, {"a": "one", "b": "two"}, bundled=lambda path: True, change=change)
    kept: list[Wrapped] = []
    with pytest.raises(Damaged) as failure:
        world.restore(revision, manifest, wrap=wrapping(Wrapped, kept))
    assert failure.value.path == ("data/z" if wrong == "name" else "data/a")
    assert len(kept[0].asked) == 1
    assert not (world.root / "b").exists()


def test_one_bundle_for_two_roots(tmp_path: Path) -> None:
    world = World(tmp_path, ("data", "more"))
    fill(world.root, {"a": "one", "b": "same"})
    fill(Path(world.roots[1].path), {"c": "two", "d": "same"})
    before = picture(tmp_path / "disk")
    revision, manifest = world.snapshot(bundled=lambda path: True)
    world.empty_disk()
    world.restore(revision, manifest)
    after = picture(tmp_path / "disk")
    assert {p: s for p, s in after.items() if p} == {p: s for p, s in before.items() if p}


# The manifest


def read(world: World, revision: str, wrap: Callable[[Store], Store] = lambda s: s) -> Manifest | None:
    async def call(store: Store) -> Manifest | None:
        return await read_manifest(store, revision, world.state)

    found = world.with_store(call, wrap)
    assert found is None or isinstance(found, Manifest)
    return found


def test_manifest_is_read_back(world: World) -> None:
    revision, manifest = lost_disk(world, THREE)
    fill(world.state, {".sidecar-tmp-manifest-999999999/x": "a reader that was killed"})
    assert read(world, revision) == manifest
    assert os.listdir(world.state) == [], "nothing is left behind"


def test_revision_without_a_manifest_is_none_and_a_revision_that_is_gone_is_not(world: World) -> None:
    world.root.mkdir()
    revision = world.commit({"README.md": b"hello"})
    assert read(world, revision) is None
    with pytest.raises(NotFound):
        read(world, "ab" * 32)


def test_missing_by_one_answer_and_there_by_another_is_no_cold_start(world: World) -> None:
    revision, _ = lost_disk(world, THREE)
    with pytest.raises(NotFound):
        read(world, revision, wrapping(Raising, [], path=PATH, times=9, error=NotFound("404")))


@pytest.mark.parametrize("error", [Unavailable("500"), Denied("401")])
def test_store_that_does_not_give_it_is_no_cold_start_either(world: World, error: StoreError) -> None:
    revision, _ = lost_disk(world, THREE)
    kept: list[Wrapped] = []
    with pytest.raises(type(error)):
        read(world, revision, wrapping(Raising, kept, path=PATH, times=9, error=error))
    assert len(kept[0].calls) == 1


@pytest.mark.parametrize("kind", [Flipping, Raising])
def test_damaged_manifest_is_fetched_three_times(world: World, kind: type[Wrapped]) -> None:
    revision, manifest = lost_disk(world, THREE)
    assert read(world, revision, wrapping(kind, [], path=PATH, times=2)) == manifest
    kept: list[Wrapped] = []
    with pytest.raises((ManifestError, Corrupt)):
        read(world, revision, wrapping(kind, kept, path=PATH, times=9))
    assert kept[0].asked == [PATH] * 3


def test_format_of_a_newer_version_is_said_at_once(world: World) -> None:
    world.root.mkdir()
    revision = world.commit({PATH: b'{"format": 99}'})
    kept: list[Wrapped] = []
    with pytest.raises(ManifestError) as failure:
        read(world, revision, wrapping(Wrapped, kept))
    assert not failure.value.damage
    assert kept[0].asked == [PATH]


# Progress, and an end to it


def test_progress_moves_and_is_told_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.recovery.staging.BATCH_FILES", 2)
    monkeypatch.setattr("sidecar.recovery.staging.PARALLEL", 1)
    monkeypatch.setattr("sidecar.recovery.meter.TICK_S", 0)
    files = {f"f{n}": str(n) * 1000 for n in range(10)}
    revision, manifest = lost_disk(world, files)
    seen: list[tuple[int, int, int, int]] = []
    shown = world.progress

    def alive() -> None:
        seen.append((shown.files_done, shown.files_total, shown.bytes_done, shown.bytes_total))

    world.restore(revision, manifest, alive=alive)
    assert seen[-1] == (10, 10, 10_000, 10_000)
    assert len({s[0] for s in seen}) >= 4, "more than nothing and all"
    assert [s[0] for s in seen] == sorted(s[0] for s in seen)
    assert all(s[2] <= s[3] for s in seen)


def test_attempts_that_bring_nothing_are_no_progress(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a store that refuses would never run into the restore timeout."""
    monkeypatch.setattr("sidecar.recovery.meter.TICK_S", 0)
    monkeypatch.setattr("sidecar.recovery.tree._SETTLED_NS", 0)
    revision, manifest = lost_disk(world, {**THREE, "mine": "unchanged"})
    fill(world.root, {"mine": "unchanged"})
    wrap = wrapping(Raising, [], error=Denied("no"), times=99, partly=("data/a",))
    moved: list[int] = []
    for _ in range(4):
        before = len(moved)
        with pytest.raises(Denied):
            world.restore(revision, manifest, wrap=wrap, alive=lambda: moved.append(1))
        wrap = wrapping(Raising, [], error=Denied("no"), times=99)
    assert before > 0, "the first attempts brought something, or read it for the first time"
    assert len(moved) == before, "the last one did neither"
    assert world.progress.files_done == 2


def test_cancelled_while_it_fetches_it_ends_at_once_and_goes_on_later(world: World) -> None:
    revision, manifest = lost_disk(world, THREE)

    class Hanging(Wrapped):
        async def after(self, paths: list[str], into: Path) -> None:
            await asyncio.sleep(60)

    async def run() -> None:
        from sidecar.recovery.restore import restore
        from sidecar.state import RestoreProgress
        from tests.recovery.world import STORE_ID

        store = world.open_store()
        try:
            with closing(world.index()) as index:
                await asyncio.wait_for(
                    restore(
                        *(Hanging(store), revision, manifest, world.roots),
                        index=index,
                        store_id=STORE_ID,
                        state_dir=world.state,
                        progress=RestoreProgress(),
                        instance="i",
                    ),
                    0.5,
                )
        finally:
            await store.close()

    loop_time = asyncio.run(timed(run()))
    assert loop_time < 3
    assert not (world.root / "a").exists()
    assert world.restore(revision, manifest).files == 3
    assert sorted(os.listdir(world.root)) == ["a", "b", "c"]


async def timed(work: object) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(TimeoutError):
        await work  # type: ignore[misc]
    return loop.time() - start


def test_staging_that_is_cleaned_up_under_us_is_a_failure_not_a_loss(world: World) -> None:
    """Somebody's tmp cleaner: what was fetched is gone before it is in its place."""
    revision, manifest = lost_disk(world, THREE)

    class Cleaning(Wrapped):
        async def after(self, paths: list[str], into: Path) -> None:
            shutil.rmtree(into.parent)

    with pytest.raises(RestoreFailed):
        world.restore(revision, manifest, wrap=Cleaning)
    assert not (world.root / "a").exists()
    assert world.restore(revision, manifest).fetched == 3
