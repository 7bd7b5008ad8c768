"""How it is called: usage, ``python -m``, ``launch``; and how little it costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.supervisor.life import ROOT, Life

HEAVY = {"argparse", "logging", "subprocess", "pathlib", "dataclasses", "re", "json", "socket", "tempfile"}


def sidecar(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *argv],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("argv", [["run"], ["run", "--"], ["run", "--nonsense", "x"], ["run", "-x"]])
def test_no_command_prints_usage_and_exits_2(argv: list[str]) -> None:
    done = sidecar(*argv)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: sidecar run -- CMD" in done.stderr


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_goes_to_stdout(option: str) -> None:
    done = sidecar("run", option)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: sidecar run -- CMD")
    assert done.stderr == ""


ECHO = "import sys; import sidecar.supervisor as s; s.Life.live = lambda self: print(self.command) or 0; "


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["--", "a", "--", "-b"], ["a", "--", "-b"]),
        (["a", "--help"], ["a", "--help"]),
        (["--", "--help"], ["--help"]),
        (["a", "--", "b"], ["a", "--", "b"]),
    ],
)
def test_the_command_is_what_stands_behind_run(argv: list[str], command: list[str]) -> None:
    code = ECHO + f"sys.exit(s.run({argv!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=20)
    assert done.stdout == f"{command}\n"


def test_run_imports_little(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['sidecar', 'run']; from sidecar.__main__ import main; main(); "
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=20, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & HEAVY
    ours = {name for name in loaded if name.startswith("sidecar.")}
    assert ours == {
        f"sidecar.{name}" for name in ["__main__", "supervisor", "keeper", "pipe", "pid1", "family", "stderr"]
    }


def test_launch_replaces_the_process(tmp_path: Path) -> None:
    app, spy = tmp_path / "app", tmp_path / "spy"
    app.mkdir()
    spy.mkdir()
    (app / "app.py").write_text(
        "import os, sidecar\nprint(os.getpid())\nsidecar.launch('a b', '--', '')\nprint('not replaced')\n"
    )
    # Python imports this one in each process, before anything of ours.
    (spy / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'run' in sys.orig_argv:\n    print(os.getpid(), sys.orig_argv[1:], flush=True)\n    os._exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "app.py"],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=app,
        env={**os.environ, "PYTHONPATH": f"{spy}{os.pathsep}{ROOT}"},
    )
    assert done.returncode == 3, done.stderr
    pid, line = done.stdout.splitlines()
    assert line == f"{pid} {['-P', '-m', 'sidecar', 'run', '--', 'a b', '--', '']}"


def test_an_apps_own_modules_do_not_take_the_standard_librarys_place(tmp_path: Path) -> None:
    """The working directory of `python -m` comes first on the path, and many an app has a `queue.py`."""
    for name in ("signal", "select", "time", "os", "ctypes"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the app's own module was imported')\n")
    launcher = tmp_path / "elsewhere.py"
    launcher.write_text("import sidecar\nsidecar.launch()\n")
    done = subprocess.run(
        [sys.executable, "-P", str(launcher)],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert "usage: sidecar run" in done.stderr


def _kb(pid: int, key: str) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(key))


def test_memory_is_at_most_12_mb(tmp_path: Path) -> None:
    """After a life with two agents, and against a bare interpreter beside it: pages are shared either way."""
    bare = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    main = ["sh", "-c", "echo up; exec sleep 600"]
    try:
        with Life(tmp_path, main, "hello:2:5 ready until:main kill", "hello:2:5 ready serve") as life:
            life.until_agents(2, "argv")
            life.until_said("up")
            pss, rss = _kb(life.process.pid, "Pss:"), _kb(life.process.pid, "Rss:")
            assert pss <= 12 * 1024
            assert rss - _kb(bare.pid, "Rss:") <= 3.7 * 1024
            life.signal(signal.SIGTERM)
            assert life.end() == 143
    finally:
        bare.communicate(b"\n")
