"""What the kernel doesn't tell is found all the same: a queue that overflows, and watches that run out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.space import Space, agent_of, living, tree

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


@contextlib.contextmanager
def small_queue(events: int) -> Iterator[None]:
    """Whoever asks for an inotify instance meanwhile gets a queue of ``events``; nobody else's changes."""
    before = QUEUE.read_text()
    try:
        QUEUE.write_text(str(events))
    except OSError as error:
        pytest.skip(f"{QUEUE} can't be set here: {error.strerror}")
    try:
        yield
    finally:
        QUEUE.write_text(before)


def restored(space: Space, into: Path) -> Path:
    """The root as a fresh machine has it."""
    done = space.sidecar("restore", "--to", str(into))
    assert done.returncode == 0, done.stderr
    return into / "data"


def folders(root: Path, count: int) -> None:
    for number in range(count):
        (root / f"{number:02}").mkdir(parents=True)


def burst(root: Path, written: int) -> None:
    """Files that come, go and are written over in many folders at once."""
    for number in range(written):
        (root / f"{number % 20:02}" / f"{number}").write_text(f"{number}")
    for number in range(0, written, 7):
        (root / f"{number % 20:02}" / f"{number}").write_text("written over")
    for number in range(0, written, 11):
        (root / f"{number % 20:02}" / f"{number}").unlink()
    (root / "19").rename(root / "moved")


HURRIED = """
import sys
if "agent" in sys.orig_argv:
    import sidecar.sync.loop
    import sidecar.sync.watch
    sidecar.sync.loop.CHECK_S = sidecar.sync.watch.POLL_S = 0.5
"""
DEAF = """
    import watchdog.observers.inotify_c as inotify
    handle = inotify.InotifyFD.handle_event
    inotify.InotifyFD.handle_event = lambda self, event: None if event.wd == -1 else handle(self, event)
"""
"""The watching library says and does nothing about an overflow, as its versions before 7.1."""


def patched(space: Space, script: str) -> None:
    """Let the agent run ``script`` before anything else: tests can't wait as long as a user can."""
    (space.home / "site").mkdir()
    (space.home / "site/sitecustomize.py").write_text(script)
    space.env["PYTHONPATH"] = f"{space.home}/site:{space.env['PYTHONPATH']}"


@pytest.mark.parametrize("told", [True, False], ids=["as-the-kernel-tells-it", "nobody-tells"])
def test_a_burst_that_overflows_the_queue_is_durable_within_a_rescan(tmp_path: Path, told: bool) -> None:
    space = Space(tmp_path / "space", f"file://{tmp_path}/store", SIDECAR_COMMITS_PER_HOUR="100000")
    space.env["SIDECAR_RESCAN"] = "1h" if told else "2s"
    patched(space, HURRIED if told else HURRIED + DEAF)
    root = space.disk / "data"
    folders(root, 20)
    with living(space):
        with small_queue(16):
            space.start()
            space.wait(lambda s: s["sync"]["watcher"] == "inotify" and s["sync"]["snapshot"] is not None)
        agent = agent_of(space)
        os.kill(agent, signal.SIGSTOP)  # what a machine without CPU to spare does to it
        try:
            burst(root, 600)
        finally:
            os.kill(agent, signal.SIGCONT)
        space.wait(lambda s: s["roots"][0]["files"] == 600 - len(range(0, 600, 11)), seconds=2 * 1.1 + 10)
        assert tree(restored(space, tmp_path / "elsewhere")) == tree(root)


def test_without_watches_it_polls_says_so_and_loses_nothing(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-Ur", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs a user namespace, whose limit is nobody else's")
    space = Space(tmp_path / "space", f"file://{tmp_path}/store")
    space.within = ["unshare", "-Ur", "sh", "-c", 'echo 10 > /proc/sys/user/max_inotify_watches && exec "$@"', "sh"]
    patched(space, HURRIED)
    root = space.disk / "data"
    folders(root, 20)
    with living(space):
        space.start()
        status = space.wait(lambda s: s["sync"]["watcher"] == "polling" and s["sync"]["snapshot"] is not None)
        assert "polling every" in space.said()
        assert "polling" in space.sidecar("status").stdout
        before = status["sync"]["snapshot"]
        (root / "19" / "new").write_text("new")
        space.wait(lambda s: s["sync"]["snapshot"] != before and not s["sync"]["pending"])
        assert tree(restored(space, tmp_path / "elsewhere")) == tree(root)
