"""The folder store when its process dies: at every step that it takes on the disk, and at any moment."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.stores.base import Store
from tests.stores.folders import leftovers, needed, on_disk, put, read, run

PROJECT = Path(__file__).parents[2]

PARTS = [f"r/part-{n}" for n in range(8)]

# A process that forks a child a line ("what steps root"): importing anew for each death would take most of the
# time. With ``steps`` 0 the child isn't counted down.
NURSERY = r"""
import asyncio, os, signal, sys
from pathlib import Path
from sidecar.stores.folder import FolderStore

parts = sys.argv[1:]

def say(*words):
    # One write: a death between two would leave half a line, and print makes several where output is unbuffered.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())

async def commits(s, count):
    for n in range(count):
        head = await s.head()
        last = int((await s.history(1))[0].title)
        files = {part: b"%d " % (last + 1) * 2000 for part in parts}
        files["r/of-%d" % (last + 1)] = b"new"
        await s.commit(head, files, ["r/of-%d" % last], str(last + 1))
        say(last + 1)

async def compact(s):
    await s.compact()
    say("compacted")

async def prune(s):
    await s.compact((await s.history(2))[1].revision)
    say("pruned")

async def keep(s):
    await s.keep(await s.head(), "kept")
    say("kept")

async def create(s):
    await s.check(create=True)

async def main(work, root):
    s = FolderStore(root, grace=0)
    await work(s)
    await s.close()

def count_down(steps):
    # Die before the system call that would change the disk for this many-th time: audit events come first.
    left = [steps]
    def hook(event, args):
        if event == "open":
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            writes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime")
        if writes:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for line in sys.stdin:
    what, steps, root = line.split()
    child = os.fork()
    if child == 0:
        if int(steps):
            count_down(int(steps))
        works = {"commits": lambda s: commits(s, 1000), "commit": lambda s: commits(s, 1),
                 "compact": compact, "prune": prune, "keep": keep, "create": create}
        asyncio.run(main(works[what], root))
        os._exit(0)
    say("child", child)
    say("ended", os.waitpid(child, 0)[1])
"""


class Nursery:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def line(self) -> list[str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().split()
        assert line, "the nursery died"
        return line

    def bear(self, what: str, root: Path, steps: int = 0) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {steps} {root}\n")
        self._process.stdin.flush()
        while (line := self.line())[0] != "child":
            pass
        return int(line[1])

    def done(self) -> tuple[list[str], int]:
        """What the child said, and its wait status."""
        said = []
        while (line := self.line())[0] != "ended":
            said.append(line[0])
        return said, int(line[1])


@contextmanager
def nursery() -> Iterator[Nursery]:
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY, *PARTS],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    with process:
        try:
            yield Nursery(process)
        finally:
            process.kill()


def state(root: Path, into: Path) -> int:
    """The number that the whole of the head agrees on."""
    found = read(root, into)
    title = run(root, lambda s: s.history(1))[0].title
    assert found.pop(f"r/of-{title}") == b"new"
    assert found == dict.fromkeys(PARTS, b"%d " % int(title) * 2000)
    return int(title)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where there is such a folder: a death needs no disk, and hundreds of them would wait for it long."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="sidecar-test-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    put(root, {**dict.fromkeys(PARTS, b"0 " * 2000), "r/of-0": b"new"}, title="0")
    return root


def clean(root: Path, *, pruned: bool = True) -> None:
    """After the next commit nothing is left of those that died; old history only where pruning was cut off."""
    title = run(root, lambda s: s.history(1))[0].title
    put(root, {"r/clean": b""}, title=title)
    assert leftovers(root) == []
    assert on_disk(root) == needed(root) if pruned else on_disk(root) >= needed(root)
    put(root, {}, ("r/clean",), title=title)


def test_killed_at_any_moment_the_head_is_whole(root: Path, tmp_path: Path) -> None:
    rng = random.Random(7)
    deaths, interrupted, newest = 0, 0, 0
    with nursery() as children:
        for turn in range(36):
            pid = children.bear("commits", root)
            time.sleep(rng.uniform(0.0, 0.12))
            os.kill(pid, signal.SIGKILL)
            said, status = children.done()
            deaths += os.WIFSIGNALED(status)
            interrupted += leftovers(root) != []
            acknowledged = max([newest, *map(int, said)])
            newest = state(root, tmp_path / f"into-{turn}")
            assert acknowledged <= newest <= acknowledged + 1, "what was acknowledged is there"
            # A child's leftovers go with the next child's first commit; they never pile up.
            assert len(leftovers(root)) < 30
            if turn % 6 == 5:
                clean(root)
    assert deaths == 36
    assert interrupted > 5, "hardly one was killed within a commit"
    assert newest > 10, "hardly one got anywhere"


@pytest.mark.parametrize(("what", "least"), [("commit", 30), ("compact", 15), ("prune", 16), ("keep", 5)])
def test_killed_before_each_step_it_is_all_or_nothing(root: Path, tmp_path: Path, what: str, least: int) -> None:
    for n in range(4 if what == "prune" else 0):
        put(root, {"r/older": b"%d" % n}, title="0")
    put(root, {"r/old": b"to be pruned"}, ("r/older",), title="0")
    put(root, {}, ("r/old",), title="0")
    outcomes: dict[tuple[int, bool], int] = {}
    with nursery() as children:
        for step in range(1, 300):
            copy = tmp_path / f"{step}"
            shutil.copytree(root, copy)
            children.bear(what, copy, step)
            said, status = children.done()
            after = state(copy, tmp_path / f"into-{step}")
            assert after == 1 or what != "commit" or not said, "acknowledged and lost"
            assert after == 0 or what == "commit"
            if what == "prune":
                kept = run(copy, lambda s: s.history(2))[1].revision
                assert read(copy, tmp_path / f"kept-{step}", kept)["r/old"] == b"to be pruned"
            outcomes[after, bool(said)] = outcomes.get((after, bool(said)), 0) + 1
            if step % 6 == 0:
                clean(copy, pruned=what not in ("compact", "prune"))
                run(copy, lambda s: s.compact(), grace=0)
                assert on_disk(copy) == needed(copy)
                assert list((copy / "trash").iterdir()) == []
            if not os.WIFSIGNALED(status):
                break
            shutil.rmtree(copy)
    assert status == 0, "it never got to its end"
    assert said
    assert step > least
    if what == "commit":
        assert outcomes[0, False] > 10
        assert outcomes[1, False], "landed, and died before it could say so"


def test_whatever_a_ref_names_is_on_the_disk_before_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power loss can't be staged here, so this looks at the order of syncs and renames, which is what it tests."""
    events: list[tuple[str, Path, Path]] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def seen_fsync(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)
        events.append(("sync", path, path))

    def seen_rename(self: Path, target: Path) -> Path:
        events.append(("rename", self, target))
        return rename(self, target)

    def seen_replace(self: Path, target: Path) -> Path:
        events.append(("rename", self, target))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "rename", seen_rename)
    monkeypatch.setattr(Path, "replace", seen_replace)
    before = on_disk(root)
    put(root, {f"r/{n}": os.urandom(100) for n in range(5)}, title="1")
    new = {root / kind / oid[:2] / oid[2:] for kind, oid in on_disk(root) - before}
    assert len(new) == 5 + 1 + 1

    def when(what: str, path: Path, *, to: bool = False, last: bool = False) -> int:
        found = [
            i for i, (event, source, target) in enumerate(events) if (event, target if to else source) == (what, path)
        ]
        assert found, (what, path)
        return found[-1 if last else 0]

    pointed = when("rename", root / "refs/main", to=True)
    for path in new:
        named = when("rename", path, to=True)
        assert when("sync", events[named][1]) < named, "a name before its bytes"
        assert named < when("sync", path.parent, last=True) < pointed, "a ref before the names that it needs"
        if path.parent.stat().st_nlink == 2 and len(list(path.parent.iterdir())) == 1:
            assert when("sync", path.parent.parent, last=True) < pointed, "the folder was new"
    assert when("sync", root / "tmp/locked-ref") < pointed < when("sync", root / "refs", last=True)


def test_killed_while_it_makes_the_store_the_next_one_makes_it(tmp_path: Path) -> None:
    async def scenario(s: Store) -> None:
        access = await s.check(create=True)
        assert access.exists != access.created
        assert await s.head() is None
        await s.commit(None, {"r/a": b"1"}, [], "one")

    with nursery() as children:
        for step in range(1, 100):
            root = tmp_path / f"{step}" / "store"
            children.bear("create", root, step)
            _, status = children.done()
            run(root, scenario)
            assert leftovers(root) == []
            assert read(root, tmp_path / f"into-{step}") == {"r/a": b"1"}
            if not os.WIFSIGNALED(status):
                break
    assert status == 0
    assert step > 10
