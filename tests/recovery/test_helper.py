"""The process that unpacks beside us: the same files with it, without it, and when it dies; and it never stays."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.recovery import helper as helpers
from sidecar.recovery import staging
from sidecar.recovery.helper import Helper
from sidecar.recovery.meter import Meter, Stopped
from sidecar.recovery.restore import Damaged
from sidecar.recovery.unpack import Member, Unpacker, groups
from sidecar.snapshot import bundle
from sidecar.snapshot.manifest import Entry, Manifest
from sidecar.state import RestoreProgress
from tests.recovery.world import World, fill, picture
from tests.snapshot.test_bundle import entry

FILES = 3000


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


class Watched(Helper):
    """Counts what it did, and is killed after so many frames."""

    dies_after = 1 << 30
    last: Watched

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0
        type(self).last = self
        wait_ready(self)

    def _heed(self, answer: object, into: Unpacker) -> None:
        super()._heed(answer, into)
        self.frames += answer != "ready"
        if self.frames >= self.dies_after and self._process is not None:
            self._process.kill()


def wait_ready(helper: Helper) -> None:
    """Only so that a test doesn't hang on how fast a process starts."""
    until = time.monotonic() + 20
    while not helper._ready:
        assert time.monotonic() < until
        helper._hear(0.1, deque(), None)  # type: ignore[arg-type]


def lost_disk(
    world: World, change: Callable[[Manifest], Manifest] = lambda m: m
) -> tuple[tuple[str, Manifest], dict[str, tuple[object, ...]]]:
    """A snapshot of many small files, all in bundles; and how its root looked."""
    rng = random.Random(7)
    fill(world.root, {f"{n // 50}/{n}": rng.randbytes(900) for n in range(FILES)})
    fill(world.root, {"a.db": b"SQLite format 3\0" + bytes(84)})
    before = picture(world.root)
    snapshot = world.snapshot(bundled=lambda path: True, change=change)
    world.empty_disk()
    return snapshot, before


def test_with_it_all_comes_back_and_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "Helper", Watched)
    world = World(tmp_path)
    snapshot, before = lost_disk(world)
    done = world.restore(*snapshot)
    assert picture(world.root) == before
    assert done.fetched == FILES + 1
    assert Watched.last.frames > 0, "it did nothing"
    assert Watched.last._process is None


@pytest.mark.parametrize("frames", [1, 3])
def test_when_it_is_killed_we_do_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    monkeypatch.setattr(Watched, "dies_after", frames)
    monkeypatch.setattr(staging, "Helper", Watched)
    world = World(tmp_path)
    snapshot, before = lost_disk(world)
    assert world.restore(*snapshot).fetched == FILES + 1
    assert picture(world.root) == before
    assert frames <= Watched.last.frames <= frames + helpers.AHEAD


def test_where_it_can_not_start_we_do_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "_BOOT", "raise SystemExit(1)")
    world = World(tmp_path)
    snapshot, before = lost_disk(world)
    assert world.restore(*snapshot).fetched == FILES + 1
    assert picture(world.root) == before


def test_it_is_only_started_for_many_files_and_a_second_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert helpers.worth(helpers.MANY)
    assert not helpers.worth(helpers.MANY - 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert not helpers.worth(1_000_000)


def members(folder: Path, count: int = 400, size: int = 5000) -> tuple[Path, list[Member]]:
    """A bundle of files that are to be staged in ``folder``."""
    rng, files = random.Random(1), {}
    for n in range(count):
        files[f"data/{n}"] = rng.randbytes(size)
    packed = folder / "packed"
    built = bundle.write([(entry(path, raw), raw) for path, raw in files.items()], packed)
    (folder / "staged").mkdir()
    return packed, [Member(e, folder / "staged", 1) for e in built.entries]


def test_what_it_finds_wrong_is_said_as_we_would(tmp_path: Path) -> None:
    packed, wanted = members(tmp_path)
    wrong = {m.entry.path for m in wanted[::7]}
    lying = [
        Member(Entry(e.path, "file", e.mode, e.uid, e.gid, e.mtime_ns, e.size, "0" * 64, "", e.frame), m.staging, 1)
        if (e := m.entry).path in wrong
        else m
        for m in wanted
    ]
    said: list[dict[str, str]] = []
    for with_it in (False, True):
        with Unpacker(packed, lambda *_: None, lambda: None) as into:
            todo = deque(groups(lying))
            if with_it:
                helper = Helper()
                wait_ready(helper)
                while todo or helper.busy:
                    helper.take(packed, todo, into)
                    helper.wait(todo, into, lambda: None)
                helper.end()
            for each in todo:
                into.frame(*each)
        said.append(into.bad)
        assert len(into.databases) == len(wanted) - len(wrong)
    assert said[0] == said[1]
    assert said[0].keys() == wrong


def test_a_disk_that_refuses_it_ends_the_restore_and_it(tmp_path: Path) -> None:
    packed, wanted = members(tmp_path)
    (tmp_path / "staged").rmdir()
    helper = Helper()
    wait_ready(helper)
    todo = deque(groups(wanted))

    def give(into: Unpacker) -> None:
        with helper:
            helper.take(packed, todo, into)
            helper.wait(todo, into, lambda: None)

    with Unpacker(packed, lambda *_: None, lambda: None) as into:
        with pytest.raises(FileNotFoundError):
            give(into)
        assert helper._process is None
        give(into)  # another bundle was waiting for its turn
    assert not helper.busy
    assert todo


def test_nobody_waits_any_more_so_it_writes_no_more(tmp_path: Path) -> None:
    """After a cancelled attempt the next one has staging to itself."""
    packed, wanted = members(tmp_path)

    async def run() -> None:
        meter = Meter(RestoreProgress(), None)
        helper = Helper()
        wait_ready(helper)
        assert helper._process is not None
        todo, pid = deque(groups(wanted)), helper._process.pid

        def give(into: Unpacker) -> None:
            with helper:
                helper.take(packed, todo, into)
                assert helper.busy
                meter.stop()
                helper.wait(todo, into, meter.check)

        with Unpacker(packed, meter.done, meter.tick) as into, pytest.raises(Stopped):
            give(into)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(run())


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    helper = Helper()
    wait_ready(helper)
    assert helper._process is not None
    assert helper._process.stdin is not None
    helper._process.stdin.close()  # as the kernel does for a process that was killed
    assert helper._process.wait(10) == 0
    helper.end()


def test_a_request_that_is_longer_than_a_pipe_stays_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of us might wait for the other to read."""
    monkeypatch.setattr(helpers, "MOST_BYTES", 100)
    packed, wanted = members(tmp_path)
    helper = Helper()
    wait_ready(helper)
    todo = deque(groups(wanted))
    with Unpacker(packed, lambda *_: None, lambda: None) as into, helper:
        helper.take(packed, todo, into)
    assert not helper.busy
    assert len(todo) == len(groups(wanted))
    helper.end()


def test_damage_in_its_part_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "Helper", Watched)
    world = World(tmp_path)

    def lie(manifest: Manifest) -> Manifest:
        path = f"data/{(FILES - 1) // 50}/{FILES - 1}"
        wrong = replace(manifest.entries[path], sha256="0" * 64)
        return replace(manifest, entries={**manifest.entries, path: wrong})

    with pytest.raises(Damaged, match=f"{FILES - 1}.*other bytes than were committed"):
        world.restore(*lost_disk(world, lie)[0])
    assert Watched.last._process is None


def test_what_is_half_there_gives_way_to_a_new_file(tmp_path: Path) -> None:
    """It may have a mode by now that its owner may not write to."""
    packed, wanted = members(tmp_path, 3)
    other = tmp_path / "other"
    other.write_text("not ours to write")
    os.link(other, tmp_path / "staged" / wanted[0].entry.sha256)
    with Unpacker(packed, lambda *_: None, lambda: None) as into:
        for each in groups(wanted):
            into.frame(*each)
    assert into.bad == {}
    assert other.read_text() == "not ours to write"


def test_one_that_is_stuck_is_not_waited_for_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers, "PATIENCE_S", 0.3)
    packed, wanted = members(tmp_path)
    helper = Helper()
    wait_ready(helper)
    assert helper._process is not None
    os.kill(helper._process.pid, signal.SIGSTOP)
    todo, began = deque(groups(wanted)), time.monotonic()
    with Unpacker(packed, lambda *_: None, lambda: None) as into, helper:
        helper.take(packed, todo, into)
        assert helper.busy
        helper.wait(todo, into, lambda: None)
    assert time.monotonic() - began < 5
    assert helper._process is None
    assert len(todo) == len(groups(wanted)), "all of it is ours again"


def test_it_needs_no_low_descriptors(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this machine allows too few")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    many = [os.dup(0) for _ in range(1100)]
    try:
        helper = Helper()
        wait_ready(helper)
        helper.end()
    finally:
        for fd in many:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_never_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    """Also where it was stalled when that happened: the next attempt has staging to itself."""
    script = "from tests.recovery.test_helper import *; h = Helper(); wait_ready(h); print(h._process.pid, flush=True)"
    parent = subprocess.Popen([sys.executable, "-c", f"{script}; time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    until = time.monotonic() + 10
    while (
        Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    ):
        assert time.monotonic() < until
        time.sleep(0.01)
