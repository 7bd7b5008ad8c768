"""A command beside the agent: real shells, real signals, a real process group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar import log
from sidecar.recovery.command import LONGEST, MOST, Lines, Logged, run, shell


def ran(line: str, limit_s: float = 10, grace_s: float = 2) -> tuple[int | None, list[str]]:
    said: list[str] = []
    return asyncio.run(run(shell(line), limit_s, said.append, grace_s=grace_s)), said


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("echo one; echo two >&2; exit 3", 3, ["one", "two"]),
        ("printf 'no newline'", 0, ["no newline"]),
        ("kill -9 $$", 137, []),
        ("echo $HOME_OF_TEST; true", 0, ["here"]),
        ("cat; echo end of input", 0, ["end of input"]),
        ("no-such-program-at-all", 127, None),
    ],
)
def test_code_and_output(line: str, code: int, said: list[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_OF_TEST", "here")
    found = ran(line)
    assert found[0] == code
    assert said is None or found[1] == said


def test_at_the_limit_it_is_asked_to_end(tmp_path: Path) -> None:
    began = time.monotonic()
    code, said = ran("trap 'echo asked; exit 0' TERM; while :; do sleep 0.05; done", limit_s=0.4)
    assert (code, said[-1:]) == (None, ["asked"])
    assert 0.4 <= time.monotonic() - began < 2


def test_who_does_not_end_is_killed_with_all_of_its_group(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    line = f"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > {pid}; while :; do sleep 0.05; done' & wait"
    began = time.monotonic()
    assert ran(line, limit_s=0.4, grace_s=0.2)[0] is None
    assert time.monotonic() - began < 3
    assert gone(int(pid.read_text()))


def test_what_it_leaves_behind_is_killed_and_not_waited_for(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    assert ran(f"sleep 1000 & echo $! > {pid}; echo done") == (0, ["done"])
    assert time.monotonic() - began < 3
    assert gone(int(pid.read_text()))


def test_who_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    async def main() -> None:
        task = asyncio.create_task(run(shell(f"echo $$ > {pid}; exec sleep 1000"), 100, lambda line: None))
        until = time.monotonic() + 10
        while not (pid.exists() and pid.read_text()) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert gone(int(pid.read_text()))


def test_signals_are_as_any_program_has_them_though_the_agent_ignores_them() -> None:
    code = (
        "import asyncio, signal\n"
        "from sidecar.recovery.command import run, shell\n"
        "for n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, signal.SIG_IGN)\n"
        "asyncio.run(run(shell('grep SigIgn /proc/self/status'), 10, print))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    ignored = int(done.stdout.split()[1], 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        assert not ignored & 1 << (number - 1), number


def test_it_ends_with_its_agent(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import asyncio, sys\n"
        "from sidecar.recovery.command import run, shell\n"
        "asyncio.run(run(shell('sleep 1000 & echo $! $$ > ' + sys.argv[1] + '; sleep 1000'), 100, print))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(pids)], stdout=subprocess.PIPE) as agent:
        until = time.monotonic() + 20
        while not (pids.exists() and pids.read_text()) and time.monotonic() < until:
            time.sleep(0.02)
        agent.kill()
    assert [gone(int(pid)) for pid in pids.read_text().split()] == [True, True]


def test_a_program_that_is_not_there_raises() -> None:
    with pytest.raises(FileNotFoundError):
        asyncio.run(run(["/no/such/program"], 1, lambda line: None))


def test_the_loop_goes_on_while_somebody_writes_without_end() -> None:
    async def main() -> tuple[int | None, float]:
        longest, seen, count = 0.0, time.monotonic(), 0

        def said(line: str) -> None:
            nonlocal count
            count += 1

        task = asyncio.create_task(run(shell("exec yes"), 0.5, said))
        while not task.done():
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, seen = max(longest, now - seen), now
        assert count > 1000
        return await task, longest

    code, longest = asyncio.run(main())
    assert code is None
    assert longest < 2


def test_lines_are_cut_and_none_is_lost_between_reads() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    for piece in (b"a", b"b\nc\r\n\n", b"x" * LONGEST * 9, b"y" * 50, b"\n", b"\xff\xfe\n", b"last"):
        lines.feed(piece)
    lines.end()
    assert said == ["ab", "c", "x" * LONGEST + "…", "��", "last"]


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    log.logger.propagate = True
    with caplog.at_level(logging.DEBUG, logger="sidecar"):
        yield caplog


def test_the_log_has_no_secret_and_an_end(heard: pytest.LogCaptureFixture) -> None:
    out = Logged("check 1: ", ["swordfish"])
    for n in range(MOST + 5):
        out(f"{n} the password is swordfish, also at https://me:hush@host/")
    out.end()
    said = [record.getMessage() for record in heard.records]
    assert len(said) == MOST + 1
    assert said[0] == "check 1: 0 the password is ***, also at https://***@host/"
    assert said[-1] == "check 1: (5 more lines are left out)"


def gone(pid: int) -> bool:
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except OSError:
            return True
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return False
