"""`sidecar demo`, as `make demo` runs it: it tells the truth, is quick, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from sidecar.commands import demo_life
from tests.journeys.space import REPO, descendants

SECONDS = 30.0
"""What the demo is promised to stay under; a busy machine gets twice that before a test fails."""


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """The caller's, with settings of the caller's own that the demo must not follow."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SIDECAR_", "HF_", "SPACE_"))}
    return {
        **clean,
        "PYTHONPATH": str(REPO),
        "TMPDIR": str(tmp_path),
        "SIDECAR_STORE": "hf://datasets/somebody/production",
        "SIDECAR_PATHS": "/nowhere",
        "SIDECAR_MISSPELT": "1",
        "HF_TOKEN": "hf_" + "x" * 34,
        "SPACE_ID": "somebody/production",
    }


@contextlib.contextmanager
def started(environment: Mapping[str, str], *more: str) -> Iterator[subprocess.Popen[str]]:
    run = subprocess.Popen(
        [sys.executable, "-P", "-m", "sidecar", "demo", *more],
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield run
    finally:
        if run.poll() is None:
            for pid in [run.pid, *descendants(run.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        run.communicate()


def nothing_is_left(temporary: Path) -> bool:
    """No folder, and no process of any container below ``temporary``."""
    mark = os.fsencode(f"{demo_life.MARK}={temporary}/")
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and mark in Path(f"/proc/{name}/environ").read_bytes():
                return False
    return list(temporary.glob("sidecar-demo-*")) == []


@pytest.mark.parametrize("more", [[], ["--hub"]], ids=["folder", "hub"])
def test_the_whole_story(environment: Mapping[str, str], tmp_path: Path, more: list[str]) -> None:
    began = time.monotonic()
    with started(environment, *more) as run:
        told, _ = run.communicate(timeout=2 * SECONDS)
    assert run.returncode == 0, told
    assert time.monotonic() - began < 2 * SECONDS
    in_order = [
        "1. Two folders are declared",
        "| sidecar ready; starting:",
        "| app: wrote notes, and 500 orders",
        "2. What the app wrote becomes durable",
        "snapshot 1.",
        "3. Everything is killed",
        "killed sidecar run (pid",
        "4. The disk is lost",
        "5. The same container starts again",
        "SIDECAR_HANDOFF_WAIT=1s",
        "| sidecar restored 16 files",
        "| app: found my notes, and 500 orders",
        "integrity_check: ok",
        '"phase": "running"',
        "8. SIGTERM",
        "lease released",
        "exit code 0",
        "written after SIGTERM",
        "All of it came back",
    ]
    at = 0
    for part in in_order:
        found = told.find(part, at)
        assert found >= 0, f"{part!r} is missing or out of order\n{told}"
        at = found
    for name in ("sidecar agent", "demo_app.py"):
        assert f"killed {name} (pid" in told
    assert "Traceback" not in told
    assert "production" not in told
    assert "xxxx" not in told
    assert ("hf://datasets/demo" in told) == bool(more)
    assert nothing_is_left(tmp_path)


WORSE = """
import sys
from sidecar.cli import main
from sidecar.commands.demo_life import Container
pictures = []
picture = Container.picture
def second_is_worse(self):
    if pictures:
        (self.notes / "2026/01/note 0.md").write_text("not what it was")
        (self.data / "run.sh").unlink()
    pictures.append(picture(self))
    return pictures[-1]
Container.picture = second_is_worse
sys.exit(main(["demo"]))
"""


def test_it_fails_when_something_does_not_come_back(environment: Mapping[str, str], tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WORSE], env=dict(environment), capture_output=True, text=True, timeout=2 * SECONDS
    )
    assert run.returncode == 1, run.stdout
    assert "DIFFERENT  notes/2026/01/note 0.md" in run.stdout
    assert "DIFFERENT  data/run.sh: missing" in run.stdout
    assert "NOT all of it came back: 2 differences" in run.stdout
    assert "All of it came back" not in run.stdout
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_cleans_up(environment: Mapping[str, str], tmp_path: Path, number: int, code: int) -> None:
    with started(environment) as run:
        assert run.stdout is not None
        assert any("2. What the app" in line for line in run.stdout)
        run.send_signal(number)
        told, _ = run.communicate(timeout=30)
    assert run.returncode == code
    assert "Traceback" not in told
    assert "came back" not in told
    assert nothing_is_left(tmp_path)


def test_without_the_source_tree_hub_is_refused_with_what_to_do(environment: Mapping[str, str], tmp_path: Path) -> None:
    shutil.copytree(REPO / "sidecar", tmp_path / "site" / "sidecar", ignore=shutil.ignore_patterns("__pycache__"))
    with started({**environment, "PYTHONPATH": str(tmp_path / "site")}, "--hub") as run:
        told, _ = run.communicate(timeout=SECONDS)
    assert run.returncode == 1
    assert "source tree" in told
    assert "Traceback" not in told
    assert nothing_is_left(tmp_path)


def test_a_difference_of_any_kind_is_one(tmp_path: Path) -> None:
    entry = ("file", 0o644, 1, 3, "sha")
    before = demo_life.Picture({"a": entry, "b": ("link", "a")}, [(1, "x", 5)], "ok")
    assert demo_life.differences(before, before) == []
    for entries, rows, integrity in (
        ({"a": entry}, before.rows, "ok"),
        ({**before.entries, "c": entry}, before.rows, "ok"),
        ({**before.entries, "a": ("file", 0o600, 1, 3, "sha")}, before.rows, "ok"),
        ({**before.entries, "a": ("file", 0o644, 2, 3, "sha")}, before.rows, "ok"),
        (before.entries, [(1, "x", 6)], "ok"),
        (before.entries, before.rows, "malformed"),
    ):
        assert len(demo_life.differences(before, demo_life.Picture(entries, rows, integrity))) == 1
