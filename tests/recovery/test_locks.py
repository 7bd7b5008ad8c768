from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.errors import EX_TEMPFAIL, RestoreFailed, TryLater
from sidecar.recovery import locks
from sidecar.recovery.locks import RootLocks
from sidecar.roots import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "data").mkdir()
    return Root("data", str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /tmp of this test's own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(locks, "SHARED", str(folder))
    return folder


@contextmanager
def holding(fds: tuple[int, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing but inherited copies of ``fds``, as main does."""
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=fds
    ) as main:
        try:
            yield main
        finally:
            assert main.stdin is not None
            main.stdin.close()
            main.wait(10)


def test_second_agent_with_another_state_dir_is_refused_and_told_who_holds_it(root: Root, tmp_path: Path) -> None:
    first = RootLocks.acquire([root], tmp_path / "one", None)
    with pytest.raises(TryLater) as refused:
        RootLocks.acquire([root], tmp_path / "two", None)
    assert refused.value.exit_code == EX_TEMPFAIL
    assert root.path in refused.value.message
    assert f"process {os.getpid()}" in refused.value.message
    first.release()
    first.release()
    RootLocks.acquire([root], tmp_path / "two", None).release()


def test_the_same_root_by_another_path_is_the_same_lock(root: Root, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root.path)
    held = RootLocks.acquire([root], tmp_path, None)
    with pytest.raises(TryLater):
        RootLocks.acquire([Root("other", str(tmp_path / "link"))], tmp_path, None)
    held.release()


def test_main_that_inherited_the_lock_keeps_it_after_the_agent_closed_its_copy(root: Root, tmp_path: Path) -> None:
    held = RootLocks.acquire([root], tmp_path, None)
    with holding(held.fds) as main:
        held.release()
        with pytest.raises(TryLater) as refused:
            RootLocks.acquire([root], tmp_path, None)
        assert f"process {main.pid} (" in refused.value.message
        assert "sys.stdin" not in refused.value.message, "arguments may hold secrets"
    RootLocks.acquire([root], tmp_path, None).release()


def test_next_agent_takes_the_handed_over_descriptors(root: Root, tmp_path: Path) -> None:
    held = RootLocks.acquire([root], tmp_path, None)
    with holding(held.fds):
        again = RootLocks.acquire([root], tmp_path, list(held.fds))
        assert again.fds == held.fds
        assert all(os.get_inheritable(fd) for fd in again.fds)
        again.release()
        with pytest.raises(TryLater):
            RootLocks.acquire([root], tmp_path, None)


def test_handed_descriptors_that_are_something_else_are_left_alone(root: Root, tmp_path: Path) -> None:
    with open(tmp_path / "else", "wb") as other:
        held = RootLocks.acquire([root], tmp_path, [other.fileno(), 9999])
        assert other.fileno() not in held.fds
        other.write(b"still open")
    held.release()


def test_nothing_is_held_where_one_of_several_roots_is_taken(root: Root, tmp_path: Path) -> None:
    second = Root("second", str(tmp_path / "second"))
    held = RootLocks.acquire([second], tmp_path, None)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(TryLater):
        RootLocks.acquire([root, second], tmp_path, None)
    assert set(os.listdir("/proc/self/fd")) == before
    RootLocks.acquire([root], tmp_path, None).release()
    held.release()


@pytest.mark.parametrize("planted", ["link", "file"])
def test_folder_that_somebody_planted_is_not_used(root: Root, tmp_path: Path, shared: Path, planted: str) -> None:
    ours = shared / f"sidecar-{os.geteuid()}"
    trap = tmp_path / "trap"
    trap.mkdir()
    if planted == "link":
        ours.symlink_to(trap)
    else:
        ours.write_text("")
    held = RootLocks.acquire([root], tmp_path, None)
    assert os.listdir(trap) == []
    assert len(os.listdir(tmp_path / "locks")) == 1
    held.release()


def test_no_folder_at_all_is_said_in_words(root: Root, tmp_path: Path, shared: Path) -> None:
    (shared / f"sidecar-{os.geteuid()}").write_text("")
    (tmp_path / "locks").write_text("")
    with pytest.raises(RestoreFailed, match="SIDECAR_STATE_DIR"):
        RootLocks.acquire([root], tmp_path, None)


def test_folder_that_others_could_enter_is_closed(root: Root, tmp_path: Path, shared: Path) -> None:
    ours = shared / f"sidecar-{os.geteuid()}"
    ours.mkdir()
    ours.chmod(0o777)
    RootLocks.acquire([root], tmp_path, None).release()
    assert ours.stat().st_mode & 0o777 == 0o700


def test_lock_survives_the_death_of_its_holder_only_in_its_children(root: Root, tmp_path: Path) -> None:
    """kill -9 of an agent alone frees the root: nothing has to be cleaned up by hand."""
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from sidecar.recovery import locks
        from sidecar.roots import Root
        locks.SHARED = sys.argv[1]
        held = locks.RootLocks.acquire([Root("data", sys.argv[2])], Path(sys.argv[1]), None)
        print("held", flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, locks.SHARED, root.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"held\n"
        with pytest.raises(TryLater, match=f"process {agent.pid} "):
            RootLocks.acquire([root], tmp_path, None)
        agent.kill()
        agent.wait(10)
    RootLocks.acquire([root], tmp_path, None).release()


def test_file_that_was_cleaned_up_meanwhile_is_locked_anew(root: Root, tmp_path: Path, shared: Path) -> None:
    held = RootLocks.acquire([root], tmp_path, None)
    for path in (shared / f"sidecar-{os.geteuid()}").iterdir():
        path.unlink()
    again = RootLocks.acquire([root], tmp_path, list(held.fds))
    with pytest.raises(TryLater):
        RootLocks.acquire([root], tmp_path, None)
    again.release()
    held.release()


def test_file_that_is_cleaned_up_while_it_is_locked_is_no_lock(
    root: Root, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between open and flock somebody removes it: whoever comes next would lock another file."""
    lock = fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        for path in (shared / f"sidecar-{os.geteuid()}").iterdir():
            path.unlink()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    held = RootLocks.acquire([root], tmp_path, None)
    with pytest.raises(TryLater):
        RootLocks.acquire([root], tmp_path, None)
    held.release()
