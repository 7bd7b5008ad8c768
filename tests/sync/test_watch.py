"""The watcher over a real inotify: what it tells, what it does where it can't, and how little of it is kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.sync import watch
from sidecar.sync.watch import MOST, Hints, Watcher
from tests.snapshot.alone import ROOT


@contextmanager
def watching(*roots: Path, ignore: Callable[[str], bool] = lambda path: False) -> Iterator[tuple[Watcher, Hints]]:
    hints = Hints(lambda: None)
    watcher = Watcher([str(root) for root in roots], hints, ignore)
    watcher.start()
    try:
        assert watcher.kind == "inotify"
        yield watcher, hints
    finally:
        watcher.stop()


def seen(hints: Hints, *wanted: Path, within: float = 5.0) -> set[str]:
    """What was hinted, once all of ``wanted`` is among it."""
    until, found = time.monotonic() + within, set[str]()
    while time.monotonic() < until:
        paths, _ = hints.take()
        found |= paths
        if {str(path) for path in wanted} <= found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"never hinted: { ({str(path) for path in wanted} - found) }, but {found}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "d").mkdir(parents=True)
    (tmp_path / "root" / "a").write_text("a")
    return tmp_path / "root"


# What is told


@pytest.mark.parametrize(
    ("do", "told"),
    [
        (lambda r: (r / "new").write_text("x"), ["new"]),
        (lambda r: (r / "a").write_text("x"), ["a"]),
        (lambda r: (r / "a").unlink(), ["a"]),
        (lambda r: (r / "a").rename(r / "d" / "b"), ["a", "d/b"]),
        (lambda r: (r / "d").rename(r / "e"), ["d", "e"]),
        (lambda r: (r / "a").chmod(0o600), ["a"]),
        (lambda r: (r / "d").chmod(0o700), ["d"]),
        (lambda r: os.utime(r / "a", ns=(1, 1)), ["a"]),
        (lambda r: (r / "link").symlink_to("a"), ["link"]),
        (lambda r: shutil.rmtree(r / "d"), ["d"]),
        (lambda r: (r / os.fsdecode(b"\xff")).write_text("x"), ["\udcff"]),
        (lambda r: os.truncate(r / "a", 0), ["a"]),
    ],
)
def test_every_kind_of_change_is_told(root: Path, do: Callable[[Path], object], told: list[str]) -> None:
    with watching(root) as (_, hints):
        do(root)
        seen(hints, *(root / name for name in told))


def test_a_new_folder_is_watched_with_what_came_into_it_at_once(root: Path) -> None:
    with watching(root) as (_, hints):
        (root / "x" / "y").mkdir(parents=True)
        (root / "x" / "y" / "z").write_text("1")
        seen(hints, root / "x", root / "x" / "y" / "z")
        (root / "x" / "y" / "later").write_text("1")
        seen(hints, root / "x" / "y" / "later")


def test_what_is_ignored_is_not_told(root: Path) -> None:
    with watching(root, ignore=lambda path: "/own" in path) as (_, hints):
        (root / "own").write_text("1")
        (root / "b").write_text("1")
        assert str(root / "own") not in seen(hints, root / "b")


def test_reading_is_no_change(root: Path) -> None:
    with watching(root) as (_, hints):
        (root / "a").read_text()
        os.listdir(root / "d")
        time.sleep(0.2)
        assert hints.take() == (set(), False)


# Roots that come and go


def test_a_root_that_comes_is_told_and_then_watched(tmp_path: Path) -> None:
    root = tmp_path / "not" / "yet"
    with watching(root) as (watcher, hints):
        assert not watcher.stale()
        (tmp_path / "beside").write_text("1")
        root.mkdir(parents=True)
        assert seen(hints, root) == {str(root)}
        assert watcher.stale()
        watcher.refresh()
        assert not watcher.stale()
        (root / "a").write_text("1")
        seen(hints, root / "a")


def test_two_roots_that_wait_at_the_same_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second.json"
    with watching(first, second) as (_, hints):
        second.write_text("{}")
        first.mkdir()
        seen(hints, first, second)


def test_a_root_that_goes_is_told_and_waited_for(root: Path) -> None:
    with watching(root) as (watcher, hints):
        shutil.rmtree(root)
        seen(hints, root)
        assert watcher.stale()
        watcher.refresh()
        root.mkdir()
        seen(hints, root)


def test_a_folder_in_the_place_of_the_root_is_noticed(root: Path) -> None:
    with watching(root) as (watcher, _):
        other = root.with_name("other")
        other.mkdir()
        root.rename(root.with_name("old"))
        other.rename(root)
        assert watcher.stale()


def test_a_single_file_and_what_sqlite_keeps_beside_it(tmp_path: Path) -> None:
    root = tmp_path / "x.db"
    root.write_text("1")
    with watching(root) as (_, hints):
        (tmp_path / "x.dbother").write_text("1")
        (tmp_path / "another").write_text("1")
        root.write_text("2")
        assert seen(hints, root) == {str(root)}
        (tmp_path / "new").write_text("3")
        os.replace(tmp_path / "new", root)
        seen(hints, root)
        (tmp_path / "x.db-wal").write_text("1")
        seen(hints, root)
        root.unlink()
        seen(hints, root)


def test_roots_that_are_links_are_told_by_the_path_that_was_declared(root: Path) -> None:
    link, file = root.with_name("link"), root.with_name("file")
    link.symlink_to(root)
    file.symlink_to(root / "a")
    with watching(link, file, ignore=lambda path: path == str(root / "own")) as (watcher, hints):
        (root / "own").write_text("1")
        (root / "d" / "b").write_text("1")
        assert str(link / "own") not in seen(hints, link / "d" / "b")
        (root / "a").write_text("2")
        seen(hints, link / "a", file)
        assert not watcher.stale()
        root.with_name("other").mkdir()
        link.unlink()
        link.symlink_to(root.with_name("other"))
        assert watcher.stale(), "it leads elsewhere"


# Bounds


def test_what_waits_is_bounded() -> None:
    hints = Hints(lambda: None)
    for n in range(MOST + 100):
        hints.add(str(n))
    assert hints.waiting() == MOST + 1
    assert len(hints.peek()) == MOST
    paths, everything = hints.take()
    assert (len(paths), everything) == (MOST, True)
    assert hints.take() == (set(), False)
    assert (hints.waiting(), hints.peek()) == (0, set())


def test_a_stream_of_events_wakes_now_and_then() -> None:
    woken: list[float] = []
    hints = Hints(lambda: woken.append(time.monotonic()))
    began = time.monotonic()
    while time.monotonic() - began < 0.4:
        hints.add("a")
    took = time.monotonic() - began
    assert 2 <= len(woken) <= took / watch.WAKE_S + 1
    assert hints.last >= began + took - 0.01
    hints.take()
    before = len(woken)
    hints.add("b")
    assert len(woken) == before + 1, "the first after a sync wakes at once"


def test_hints_may_come_from_any_thread() -> None:
    hints = Hints(lambda: None)

    def add(n: int) -> None:
        for i in range(500):
            hints.add(f"{n}/{i}")

    threads = [threading.Thread(target=add, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    found: set[str] = set()
    while any(thread.is_alive() for thread in threads):
        found |= hints.take()[0]
    for thread in threads:
        thread.join()
    assert len(found | hints.take()[0]) == 2000


# Where it can't


DEAF = """
import sys, time
from sidecar.sync.watch import Hints, Watcher
hints = Hints(lambda: None)
watcher = Watcher([sys.argv[1]], hints, lambda path: False)
watcher.start()
print("ready", flush=True)
until = time.monotonic() + 20
while time.monotonic() < until and not hints.take()[1]:
    time.sleep(0.01)
print("everything" if time.monotonic() < until else "nothing", flush=True)
watcher.stop()
"""


def test_events_that_the_kernel_dropped_are_a_reason_to_look_everywhere(root: Path) -> None:
    # Another test may have made it small for a moment.
    queue = max(16384, int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()))
    if queue > 20_000:
        pytest.skip("takes too many events here")
    argv = [sys.executable, "-c", DEAF, str(root)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        assert app.stderr is not None
        try:
            assert app.stdout.readline() == "ready\n"
            app.send_signal(signal.SIGSTOP)
            for n in range(queue // 2 + 500):  # names in turn: equal events in a row are one; fewer names than we keep
                os.close(os.open(root / f"{n % 1000}", os.O_WRONLY | os.O_CREAT))
                os.close(os.open(root / "d" / f"{n % 1000}", os.O_WRONLY | os.O_CREAT))
            app.send_signal(signal.SIGCONT)
            assert app.stdout.readline() == "everything\n"
            assert app.wait(10) == 0
            assert app.stderr.read() == "", "it is no line in the user's log"
        finally:
            app.kill()


LIMITED = """
import sys, time
from pathlib import Path
from sidecar.sync import watch
watch.POLL_S = 0.1
root = Path(sys.argv[1])
hints = watch.Hints(lambda: None)
watcher = watch.Watcher([str(root)], hints, lambda path: False)
watcher.start()
assert watcher.kind == "polling", watcher.kind
time.sleep(0.3)
(root / "a").write_text("changed")
until = time.monotonic() + 10
while str(root / "a") not in hints.peek():
    assert time.monotonic() < until, hints.peek()
    time.sleep(0.02)
watcher.refresh()
assert watcher.kind == "polling", watcher.kind
watcher.stop()
"""


@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_without_watches_it_polls_and_says_so(root: Path, limit: str) -> None:
    if subprocess.run(["unshare", "-Ur", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs user namespaces")
    for n in range(10):
        (root / str(n)).mkdir()
    script = f'echo 1 > /proc/sys/user/{limit} && exec "$@"'
    if limit == "max_inotify_instances":
        script = script.replace("echo 1", "echo 0")
    argv = ["unshare", "-Ur", "sh", "-c", script, "sh", sys.executable, "-c", LIMITED, str(root)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "polling every" in done.stderr
