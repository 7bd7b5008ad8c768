"""Containers that overlap while all of them write, and people who edit the dataset: nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

from sidecar.snapshot.manifest import SnapshotId, snapshot_in
from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.space import Space, living

REPO = "alice/overlap"
APPENDER = Path(__file__).with_name("appender.py")


def appending(space: Space, tag: str) -> list[str]:
    """The command of a main program that writes without a pause."""
    return [sys.executable, str(APPENDER), str(space.disk), str(space.port), str(space.home / "ledger"), tag]


def ledger(space: Space) -> list[tuple[str, int]]:
    """What it wrote, and how each checkpoint was answered."""
    path = space.home / "ledger"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(name, int(status)) for name, _, status in (line.partition(" ") for line in lines)]


def acknowledged(space: Space) -> list[str]:
    return [name for name, status in ledger(space) if status == 200]


def wait_for(what: Callable[[], object], *spaces: Space, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "\n".join(space.said() for space in spaces)
        time.sleep(0.05)


def one_line(hub: LocalHub) -> list[SnapshotId]:
    """The main line's snapshots in order. Each is newer than the one before it."""
    found = [snapshot_in(c["title"]) for c in reversed(hub.commits(REPO))]
    numbers = [SnapshotId.parse(n) for n in found if n is not None]
    assert numbers == sorted(set(numbers))
    return numbers


@contextlib.contextmanager
def containers(tmp: Path, *names: str, **settings: str) -> Iterator[tuple[LocalHub, list[Space]]]:
    with LocalHub(tmp / "hub", process=True) as hub, contextlib.ExitStack() as stack:
        settings = {"SIDECAR_HANDOFF_WAIT": "20s", "SIDECAR_COMMITS_PER_HOUR": "100000", **settings}
        spaces = [past.hub_space(hub, tmp / name, REPO, **settings) for name in names]
        for space in spaces:
            space.hurry(LEASE_YOUNG_S=0.5)
            stack.enter_context(living(space))
        yield hub, spaces


def overlap(tmp: Path, later_s: float = 1.0) -> None:
    """The old one writes all the time, hands over to the new one that writes too, and is ended some time later."""
    with containers(tmp, "old", "new", "third") as (hub, (old, new, third)):
        old.start(*appending(old, "old"))
        wait_for(lambda: len(acknowledged(old)) >= 3, old)
        new.start(*appending(new, "new"))
        new.running(40)
        wait_for(lambda: any(status == 409 for _, status in ledger(old)), old, new)
        wait_for(lambda: len(acknowledged(new)) >= 3, old, new)
        before = acknowledged(old)
        restored = {path.name for path in (new.disk / "data").iterdir()}
        assert set(before) <= restored, "its last acknowledged write is in what the new one restored"
        first_409 = next(n for n, (_, status) in enumerate(ledger(old)) if status == 409)
        assert all(status != 200 for _, status in ledger(old)[first_409:]), "fenced for good"
        assert "taken for dead" not in new.said()
        assert old.get()["lease"]["state"] == "fenced"
        time.sleep(later_s)
        assert old.end() == 143, old.said()
        count = len(acknowledged(new))
        wait_for(lambda: len(acknowledged(new)) > count + 2, new)
        assert new.end() == 143, new.said()
        third.start()
        third.running(40)
        there = {path.name for path in (third.disk / "data").iterdir()}
        lost = (set(acknowledged(old)) | set(acknowledged(new))) - there
        assert not lost, lost
        for name in acknowledged(new):
            assert (third.disk / "data" / name).read_text() == name * 50
        numbers = one_line(hub)
        assert {n.epoch for n in numbers} >= {1, 2}
        fenced = next(name for name in hub.branches(REPO) if name.startswith("fenced/"))
        left = {e["path"] for e in past.manifest_of(hub, REPO, fenced)["entries"]}
        assert f"data/{ledger(old)[first_409][0]}" in left, "what it wrote afterwards is on a branch of its own"
        assert "Traceback" not in old.said() + new.said() + third.said()


def overtaken(tmp: Path) -> None:
    """One that took the lease is frozen before its main begins, and wakes up when another one has it, and writes."""
    with containers(tmp, "first", "slow", "next", "last", SIDECAR_HANDOFF_WAIT="1s") as (hub, (first, slow, new, last)):
        past.write(first.disk, {"data/kept": b"kept"})
        first.start()
        first.running()
        first.checkpoint()
        assert first.end() == 143
        gate = tmp / "gate"
        slow.env["SIDECAR_VERIFY"] = f"command: until [ -e {gate} ]; do sleep 0.1; done"
        slow.start(*appending(slow, "slow"))
        assert slow.wait(lambda status: status["phase"] == "verifying")["lease"]["state"] == "held"
        new.start(*appending(new, "new"))
        new.running(40)
        wait_for(lambda: len(acknowledged(new)) >= 3, new)
        gate.touch()
        slow.running(40)
        wait_for(lambda: any(status == 409 for _, status in ledger(slow)), slow)
        assert not acknowledged(slow), "nothing is acknowledged to who was overtaken"
        assert slow.get()["lease"]["state"] == "fenced"
        assert new.get()["lease"]["state"] == "held"
        assert new.end() == 143, new.said()
        slow.kill()
        last.start()
        last.running(40)
        there = {path.name for path in (last.disk / "data").iterdir()}
        assert {"kept", *acknowledged(new)} <= there
        assert not any(name.startswith("slow") for name in there), "what it wrote is on a branch of its own"
        one_line(hub)


def replicas(tmp: Path) -> None:
    """Three at the same moment: one writes; the others serve, and say that nothing of theirs is kept."""
    with containers(tmp, "first", "a", "b", "c") as (hub, (first, *three)):
        past.write(first.disk, {"data/kept": b"kept"})
        first.start()
        first.running()
        first.checkpoint()
        assert first.end() == 143
        for space in three:
            space.start()
        for space in three:
            space.running(60)

        def settled() -> bool:
            return sorted(space.get()["lease"]["state"] for space in three) == ["fenced", "fenced", "held"]

        wait_for(settled, *three, seconds=60)
        time.sleep(2)  # they take no turns
        assert settled()
        for space in three:
            assert (space.disk / "data/kept").read_bytes() == b"kept"
            assert space.get("/health")["status"] in ("pass", "warn")
            status, body = space.post("/checkpoint")
            if space.get()["lease"]["state"] == "held":
                assert status == 200, body
            else:
                assert (status, body["error"]) == (409, "fenced")
                assert "FENCED" in space.said()
                assert "fenced" in space.get("/health")["notes"]
        one_line(hub)


README = b"---\nviewer: false\n---\nMine now.\n"


def edited_in_life(tmp: Path) -> None:
    """Somebody changes, deletes and adds files, rewrites the README and deletes all of `.sidecar/`."""
    with containers(tmp, "one", "two") as (hub, (one, two)):
        files = {"data/a": b"a", "data/b": b"b", "data/c": b"c"}
        past.write(one.disk, files)
        one.start()
        one.running()
        one.checkpoint()
        by_hand = {"data/a": b"A by hand", "data/added": b"added", "notes.txt": b"notes", "README.md": README}
        hub.edit(REPO, by_hand, ["data/b"], title="Update files")
        one.checkpoint()
        assert "edited by somebody else" in one.said()
        (folder,) = (one.state / "conflicts").iterdir()
        copies = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert copies == {"data/a": b"A by hand"}
        assert str(folder) in one.said()
        now = {path: hub.read(REPO, path) for path in hub.entries(REPO) if not path.startswith(".")}
        assert now == {**by_hand, **files}, "ours is there again, what we don't name is as they left it"
        ours = [path for path in hub.entries(REPO) if path.startswith(".sidecar/")]
        hub.edit(REPO, {}, ours, title="Clean up")
        past.write(one.disk, {"data/d": b"d"})
        one.checkpoint()
        assert one.get()["lease"]["state"] == "held"
        assert one.end() == 143, one.said()
        two.start()
        two.running()
        there = {f"data/{p.name}": p.read_bytes() for p in (two.disk / "data").iterdir()}
        assert there == {**files, "data/d": b"d"}
        assert hub.read(REPO, "README.md") == README
        one_line(hub)
        assert "Traceback" not in one.said() + two.said()


def edited_between_lives(tmp: Path) -> None:
    """What nobody watched: an added file is nobody's, a changed one is damage that names its way out."""
    failing = {"SIDECAR_ON_RESTORE_FAILURE": "exit", "SIDECAR_RESTORE_TIMEOUT": "2s"}
    with containers(tmp, "one", "two", "three", "four") as (hub, (one, two, three, four)):
        past.write(one.disk, {"data/a": b"a", "data/b": b"b"})
        one.start()
        one.running()
        one.checkpoint()
        assert one.end() == 143, one.said()

        hub.edit(REPO, {"data/added": b"added", "README.md": README}, [], title="Add a file")
        two.start()
        two.running()
        assert sorted(p.name for p in (two.disk / "data").iterdir()) == ["a", "b"]
        two.checkpoint()
        assert two.end() == 143, two.said()
        assert hub.read(REPO, "README.md") == README
        assert hub.read(REPO, "data/added") == b"added"

        newest = str(one_line(hub)[-1])
        hub.edit(REPO, {"data/a": b"by hand"}, ["data/b"], title="Change a file")
        three.start(**failing)
        assert three.process is not None
        assert three.process.wait(40) != 0
        assert f"SIDECAR_REVISION={newest}" in three.said()
        three.start(SIDECAR_REVISION=newest)
        three.running(40)
        assert (three.disk / "data/a").read_bytes() == b"a"
        assert (three.disk / "data/b").read_bytes() == b"b"
        three.checkpoint()
        assert three.end() == 143, three.said()
        assert hub.read(REPO, "data/a") == b"a"
        assert hub.read(REPO, "data/a", f"damaged/{newest}") == b"by hand"

        newest = str(one_line(hub)[-1])
        ours = [path for path in hub.entries(REPO) if path.startswith(".sidecar/")]
        hub.edit(REPO, {}, ours, title="Clean up")
        four.start(**failing)
        assert four.process is not None
        assert four.process.wait(40) != 0
        assert f"SIDECAR_REVISION={newest}" in four.said(), four.said()
        four.start(SIDECAR_REVISION=newest)
        four.running(40)
        assert sorted(p.name for p in (four.disk / "data").iterdir()) == ["a", "b"]
        assert "Traceback" not in "".join(space.said() for space in (one, two, three, four))


JOBS: dict[str, Callable[[Path], None]] = {
    job.__name__: job for job in (overlap, overtaken, replicas, edited_in_life, edited_between_lives)
}


@pytest.mark.parametrize("how", JOBS)
def test_containers_and_people(how: str, outcomes: Mapping[str, Future[None]]) -> None:
    outcomes[how].result()
