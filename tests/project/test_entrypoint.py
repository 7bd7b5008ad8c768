"""entrypoint.sh as an image runs it: by sh, as user 1000, with no Python anywhere on PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AS_ROOT = os.geteuid() == 0

FAKE_SIDECAR = """#!/bin/sh
printf '%s\\0' "$$" "$(/usr/bin/id -u)" "$0" "$@"
"""


@pytest.fixture
def image() -> Iterator[Path]:
    """A folder that user 1000 may look into (pytest's own may not be), with the entrypoint in it."""
    folder = Path(tempfile.mkdtemp(prefix="sidecar-entrypoint-"))
    try:
        folder.chmod(0o755)
        shutil.copy(ROOT / "entrypoint.sh", folder / "entrypoint.sh")
        (folder / "bin").mkdir()
        (folder / "bin" / "sh").symlink_to("/bin/sh")
        yield folder
    finally:
        shutil.rmtree(folder)


def fake_sidecar(at: Path) -> Path:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_text(FAKE_SIDECAR)
    at.chmod(0o755)
    return at


def enter(image: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [image / "entrypoint.sh", *command],
        env={"PATH": str(image / "bin"), **env},
        user=1000 if AS_ROOT else None,
        group=1000 if AS_ROOT else None,
        extra_groups=[] if AS_ROOT else None,
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_no_python_is_on_path(image: Path) -> None:
    assert shutil.which("python3", path=str(image / "bin")) is None


def test_hands_the_command_over_unchanged(image: Path) -> None:
    sidecar = fake_sidecar(image / "env" / "bin" / "sidecar")
    command = ["node", "a b", "", "--", "-x", "*", "$HOME", "two\nlines", "'\""]
    run = enter(image, *command, SPACE_SIDECAR_BIN=str(sidecar))
    assert (run.returncode, run.stderr) == (0, "")
    _, uid, name, *arguments = run.stdout.split("\0")[:-1]
    assert uid == ("1000" if AS_ROOT else str(os.geteuid()))
    assert name == str(sidecar)
    assert arguments == ["run", "--", *command]


def test_becomes_the_sidecar(image: Path) -> None:
    sidecar = fake_sidecar(image / "env" / "bin" / "sidecar")
    with subprocess.Popen(
        [image / "entrypoint.sh", "true"],
        env={"PATH": str(image / "bin"), "SPACE_SIDECAR_BIN": str(sidecar)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said, _ = process.communicate(timeout=20)
    assert said.split("\0")[0] == str(process.pid)


def test_passes_the_exit_code_on(image: Path) -> None:
    sidecar = fake_sidecar(image / "env" / "bin" / "sidecar")
    sidecar.write_text("#!/bin/sh\nexit 75\n")
    assert enter(image, "true", SPACE_SIDECAR_BIN=str(sidecar)).returncode == 75


def test_finds_a_sidecar_on_path(image: Path) -> None:
    if Path("/opt/sidecar/bin/sidecar").exists():
        pytest.skip("/opt/sidecar is there and comes first")
    sidecar = fake_sidecar(image / "bin" / "sidecar")
    run = enter(image, "true")
    assert run.returncode == 0
    assert run.stdout.split("\0")[2:-1] == [str(sidecar), "run", "--", "true"]


@pytest.mark.skipif(not AS_ROOT, reason="laying something else over /opt takes root")
def test_opt_sidecar_comes_before_path(image: Path) -> None:
    fake_sidecar(image / "bin" / "sidecar")
    inside = f"""
        mount -t tmpfs tmpfs /opt && mkdir -p /opt/sidecar/bin && cp {image}/bin/sidecar /opt/sidecar/bin &&
        exec setpriv --reuid 1000 --regid 1000 --clear-groups \\
            env -i PATH={image}/bin {image}/entrypoint.sh true
    """
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", inside], capture_output=True, text=True, timeout=20, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.split("\0")[1:-1] == ["1000", "/opt/sidecar/bin/sidecar", "run", "--", "true"]


def test_without_a_sidecar_it_says_which_lines_bring_it(image: Path) -> None:
    if Path("/opt/sidecar/bin/sidecar").exists():
        pytest.skip("/opt/sidecar is there")
    run = enter(image, "node", "server.js")
    assert run.returncode == 127
    assert run.stdout == ""
    assert "/opt/sidecar/bin/sidecar" in run.stderr
    assert all(line.startswith("sidecar ERROR ") for line in run.stderr.splitlines())
    snippet = (ROOT / "Dockerfile.snippet").read_text()
    told = [line.removeprefix("sidecar ERROR").strip() for line in run.stderr.splitlines()]
    docker_lines = [line for line in told if line.startswith(("COPY ", "RUN "))]
    assert len(docker_lines) == 2
    assert [line in snippet.replace("--no-cache-dir ", "") for line in docker_lines] == [True, True]


@pytest.mark.parametrize("at", ["missing", "folder", "not-executable"])
def test_a_named_sidecar_that_cannot_run_is_not_passed_over(image: Path, at: str) -> None:
    fake_sidecar(image / "bin" / "sidecar")  # would be taken if the name were ignored
    (image / "folder").mkdir()
    (image / "not-executable").touch()
    run = enter(image, "true", SPACE_SIDECAR_BIN=str(image / at))
    assert run.returncode == 127
    assert f"SPACE_SIDECAR_BIN says {image / at}" in run.stderr


def test_an_environment_without_its_python_is_told_apart(image: Path) -> None:
    sidecar = fake_sidecar(image / "env" / "bin" / "sidecar")
    (image / "env" / "pyvenv.cfg").touch()
    (sidecar.parent / "python").symlink_to("/nowhere/python3.11")
    run = enter(image, "true", SPACE_SIDECAR_BIN=str(sidecar))
    assert run.returncode == 127
    assert "the Python that its environment was made with is not" in run.stderr
    assert run.stdout == ""


def test_no_command_is_a_usage_error(image: Path) -> None:
    sidecar = fake_sidecar(image / "env" / "bin" / "sidecar")
    run = enter(image, SPACE_SIDECAR_BIN=str(sidecar))
    assert run.returncode == 2
    assert "Usage: entrypoint.sh COMMAND" in run.stderr
    assert run.stdout == ""
