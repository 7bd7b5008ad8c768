"""The shell scripts: readable by a plain POSIX sh, and the set-up does nothing where nothing changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [ROOT / "entrypoint.sh", ROOT / ".ci" / "run", *sorted((ROOT / "scripts").iterdir())]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_sh_can_read_it(script: Path) -> None:
    check = subprocess.run(["sh", "-n", script], capture_output=True, text=True, timeout=20)
    assert (check.returncode, check.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    check = subprocess.run(
        ["shellcheck", "--external-sources", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert check.stdout == ""


@pytest.mark.parametrize("script", ["entrypoint.sh", ".ci/run", "scripts/setup", "scripts/lock"])
def test_is_executable_in_git(script: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "--stage", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert listed.stdout.startswith("100755 ")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the set-up looks at, with a lock that asks for nothing, and a venv whose stamps it can compare."""
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


FAKE_PYTHON = """#!/bin/sh
[ "$1" = -c ] || echo "$@" >>calls
"""


def stamp(project: Path) -> None:
    """Mark a venv as fresh the way scripts/setup does, without the downloads; its Python notes its calls."""
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    stamps = [
        line
        for line in (project / "scripts" / "setup").read_text().splitlines()
        if line.startswith(("lock_stamp=", "project_stamp="))
    ]
    assert len(stamps) == 2
    script = [
        "venv=.venv lock=requirements/dev.lock",
        *stamps,
        'printf "%s\\n" "$lock_stamp" >.venv/.lock-stamp',
        'printf "%s\\n" "$project_stamp" >.venv/.project-stamp',
    ]
    subprocess.run(["sh", "-euc", "\n".join(script)], cwd=project, check=True, timeout=20)


def setup(project: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [project / "scripts" / "setup"],
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        timeout=20,
    )


COMPILE = "-m compileall -q sidecar\n"


def test_setup_only_compiles_what_is_stale_when_nothing_changed(project: Path) -> None:
    stamp(project)
    run = setup(project)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert (project / "calls").read_text() == COMPILE


def test_setup_installs_only_the_project_when_only_it_changed(project: Path) -> None:
    stamp(project)
    with (project / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert setup(project).returncode == 0
    calls = (project / "calls").read_text()
    assert "--editable ." in calls
    assert "--require-hashes" not in calls
    assert (setup(project).stderr, (project / "calls").read_text()) == ("", calls + COMPILE)


def test_setup_starts_over_when_the_lock_changed(project: Path) -> None:
    stamp(project)
    with (project / "requirements" / "dev.lock").open("a") as file:
        file.write("# changed\n")
    run = setup(project, PYTHON="/nowhere/python3")
    assert run.returncode == 1
    assert "no Python 3.11 or newer found (tried /nowhere/python3)" in run.stderr


PYTHON_WITHOUT_ENSUREPIP = """#!/bin/sh
case "$2" in
    *ensurepip*) exit 1 ;;
    *print*) echo python3.11-venv ;;
esac
"""


def test_setup_names_the_package_that_debian_left_out(project: Path) -> None:
    python = project / "python-without-ensurepip"
    python.write_text(PYTHON_WITHOUT_ENSUREPIP)
    python.chmod(0o755)
    fake = project / "fake"
    fake.mkdir()
    (fake / "id").write_text("#!/bin/sh\necho 1000\n")
    (fake / "apt-get").write_text(f"#!/bin/sh\necho apt-get >>{project}/calls\n")
    for each in fake.iterdir():
        each.chmod(0o755)
    run = setup(project, PYTHON=str(python), PATH=f"{fake}:/usr/bin:/bin")
    assert run.returncode == 1
    assert "sudo apt-get install python3.11-venv" in run.stderr
    assert not (project / "calls").exists()
