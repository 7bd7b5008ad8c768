"""The command line itself: help, exit codes, streams, signals, and what a command may import."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sidecar
from sidecar import cli
from sidecar.commands.table import COMMANDS
from tests.cli.conftest import Kept
from tests.cli.desk import REPO, Desk
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub

HEAVY = {"huggingface_hub", "starlette", "uvicorn", "watchdog", "zstandard", "orjson", "sqlite3", "asyncio", "httpx"}


def test_help_names_every_command_in_a_width_that_fits(desk: Desk) -> None:
    answer = desk("--help")
    assert (answer.code, answer.err) == (0, "")
    for name in [*COMMANDS, "run --", "agent"]:
        assert re.search(rf"^  {name} ", answer.out, re.MULTILINE), name
    assert "Exit codes: 0 done" in answer.out
    assert "Examples:" in answer.out
    assert max(map(len, answer.lines)) <= 120
    assert desk("-h").out == answer.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_help(desk: Desk, name: str) -> None:
    answer = desk(name, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"usage: sidecar {name} ")
    assert COMMANDS[name].what[1:] in " ".join(answer.out.split())


def test_the_examples_in_the_help_can_be_typed() -> None:
    lines = [line.strip() for line in cli.overview().splitlines() if re.match(r"  \S*.*sidecar [a-z]+ ", line)]
    typed = [re.split(r"sidecar (?=[a-z]+ )", line, maxsplit=1)[1].split(" && ")[0].split() for line in lines]
    assert len(typed) >= 3
    for words in typed:
        if words[0] != "run":
            cli.parse(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no command was given"),
        (["frobnicate"], "there is no command 'frobnicate'"),
        (["sttaus"], "did you mean `sidecar status`?"),
        (["fleeet"], "there is no command 'fleeet'"),
        (["--frobnicate"], "--help"),
        (["cat"], "PATH"),
        (["snapshots", "--limit", "none"], "--limit"),
        (["ls", "--jso"], "--jso"),
    ],
)
def test_a_mistake_on_the_command_line_exits_with_2(desk: Desk, words: list[str], said: str) -> None:
    answer = desk(*words)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err or said == "--help"
    assert "usage: sidecar" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["restore", "--help"], ["config"], ["frobnicate"]])
def test_small_commands_import_little(desk: Desk, words: list[str]) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from sidecar.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", code, str(REPO), *words], capture_output=True, text=True, timeout=30, check=True
    )
    assert set(run.stderr.splitlines()[-1].split()) & HEAVY == set()
    if words == ["--version"]:
        assert run.stdout == f"sidecar {sidecar.__version__}\n"


def test_python_m_sidecar_is_the_same(desk: Desk) -> None:
    run = desk.start("config", "--json")
    out, err = run.communicate(timeout=30)
    assert (run.returncode, err) == (0, b"")
    assert out.startswith(b"[")


def test_a_reader_that_has_enough_is_no_error(desk: Desk, world: Kept) -> None:
    (world.root / "large").write_bytes(os.urandom(1 << 20))
    world.keep()
    for words in (["cat", "data/large"], ["config"]):
        run = desk.start(*words)
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.wait(30) == 128 + signal.SIGPIPE
        assert run.stderr.read() == b""
        run.stderr.close()


def test_a_full_disk_behind_stdout_is_said(desk: Desk, shelf: Kept) -> None:
    with open("/dev/full", "wb") as full:
        run = desk.start("ls", "--json", stdout=full)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 1
    assert b"No space left" in err
    assert b"Traceback" not in err


def test_a_setting_that_is_wrong_is_one_line_and_78(desk: Desk) -> None:
    desk.set(SIDECAR_STORE="ftp://nowhere")
    for words in (["ls"], ["restore", "--to", "/nowhere"], ["verify"]):
        answer = desk(*words)
        assert (answer.code, answer.out) == (78, "")
        assert "SIDECAR_STORE" in answer.err
        assert "Traceback" not in answer.err
    desk.set(SIDECAR_STORE="postgresql://host/db")
    answer = desk("snapshots")
    assert answer.code == 78
    assert "not in this version" in answer.err


def test_json_log_lines_where_they_are_asked_for(desk: Desk, shelf: Kept) -> None:
    import json

    desk.set(SIDECAR_LOG="json")
    line = json.loads(desk("verify").err)
    assert line["level"] == "info"
    assert "verified 1.2" in line["message"]


def test_ctrl_c_and_sigterm_end_a_command_that_waits_for_a_store(desk: Desk, tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        desk.set(HF_ENDPOINT=hub.url, HF_TOKEN=DEFAULT_TOKEN, SIDECAR_STORE="hf://datasets/alice/x")
        desk.set(SIDECAR_STATE_DIR=str(tmp_path / "state"), TMPDIR=str(tmp_path))
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            hub.reset()
            rule = hub.fault("hang", times=None)
            run = desk.start("snapshots")
            until = time.monotonic() + 20
            while not hub.fired(rule) and time.monotonic() < until:
                time.sleep(0.05)
            assert run.poll() is None, run.communicate()
            run.send_signal(number)
            out, err = run.communicate(timeout=10)
            assert (run.returncode, out) == (code, b"")
            assert b"Traceback" not in err
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("sidecar-")] == []
