"""Main's whole life with a sound agent: start, exit codes, signals, the terminal, the end."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.supervisor.life import Life, alive, order, seconds_after, wait_until

SH = ("sh", "-c")
TRAP = "trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM; sleep 600 & echo child $! up; wait; sleep 600"


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("kill -40 $$", 168)],
)
def test_exit_code_is_mains_and_the_last_sync_is_made_all_the_same(tmp_path: Path, script: str, code: int) -> None:
    with Life(tmp_path, [*SH, script]) as life:
        assert life.end() == code
    (notes,) = life.agents()
    assert order(notes, "main started ", f"main exited {code}\n", "final ", "said done")
    assert " stop " not in notes
    assert f"sidecar main ended with {code}" in life.log()


def test_a_main_that_ends_at_once_gets_its_last_sync_at_once(tmp_path: Path) -> None:
    with Life(tmp_path, ["true"]) as life:
        assert life.end() == 0
        assert life.took < 3
    assert seconds_after(life.agents()[0], "main started", "said done") < 1


def test_main_is_not_started_before_ready(tmp_path: Path) -> None:
    with Life(tmp_path, ["touch", "ran"], "hello:2:5 sleep:0.4 raw:unready serve") as life:
        life.until_agents(1, "argv")
        time.sleep(0.6)
        assert not (tmp_path / "ran").exists()
        assert "starting" not in life.log()
        life.signal(signal.SIGTERM)
        assert life.end() == 143
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "mode", "code"),
    [
        ("missing", None, 0, 127),
        ("not-executable", "#!/bin/sh\n", 0o644, 126),
        ("bad-interpreter", "#!/no/such/thing\n", 0o755, 127),
        ("no-shebang", "exit 9\n", 0o755, 9),
    ],
)
def test_what_cannot_be_executed(tmp_path: Path, name: str, content: str | None, mode: int, code: int) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    with Life(tmp_path, [f"./{name}"]) as life:
        assert life.end() == code
    (notes,) = life.agents()
    if code > 100:
        # Nothing ran: there is a claim to withdraw and nothing to sync.
        assert order(notes, "stop ", "said done")
        assert "main " not in notes
        assert f"sidecar ERROR can't execute './{name}': " in life.log()
        assert "Traceback" not in life.log()


def test_a_command_is_found_on_path_and_a_folder_is_not_executable(tmp_path: Path) -> None:
    with Life(tmp_path, ["no-such-command-anywhere"]) as life:
        assert life.end() == 127
    with Life(tmp_path, [str(tmp_path)]) as life:
        assert life.end() == 126


def test_main_has_our_environment_folder_and_arguments(tmp_path: Path) -> None:
    env = {"SPECIAL": "a b\nc", "LC_ALL": "", "LANG": "", "LC_CTYPE": ""}
    clean = {k: v for k, v in os.environ.items() if k not in ("LC_ALL", "LANG", "LC_CTYPE")}
    with Life(tmp_path, ["sh", "-c", 'env -0 >env; pwd; printf "%s|" "$@"', "x", "a b", "", "ü'"], env=env) as life:
        assert life.end() == 0
    assert life.said() == f"{tmp_path}\na b||ü'|"
    seen = dict(item.split("=", 1) for item in (tmp_path / "env").read_text().split("\0") if item)
    for shells_own in ("PWD", "OLDPWD", "SHLVL", "_"):
        seen.pop(shells_own, None)
        clean.pop(shells_own, None)
    assert seen == {**clean, **env, "PYTHONPATH": seen["PYTHONPATH"]}


def test_python_adds_nothing_to_mains_environment_in_the_c_locale(tmp_path: Path) -> None:
    unset = ["env", "-u", "LC_ALL", "-u", "LANG", "-u", "LC_CTYPE"]
    with Life(tmp_path, ["env"], wrap=unset) as life:
        assert life.end() == 0
    assert "LC_CTYPE" not in life.said()
    with Life(tmp_path, ["env"], wrap=[*unset, "LC_CTYPE=C.UTF-8"]) as life:
        assert life.end() == 0
    assert "LC_CTYPE=C.UTF-8\n" in life.said()


def test_signals_are_forwarded(tmp_path: Path) -> None:
    names = ["HUP", "QUIT", "USR1", "USR2", "WINCH", "ALRM", "CONT", "URG", "VTALRM", "IO", "PWR", "40"]
    traps = "\n".join([*(f"trap 'echo got {name}' {name}" for name in names), "trap 'exit 11' INT"])
    with Life(tmp_path, ["bash", "-c", f"{traps}\necho up; while :; do sleep 0.02; done"]) as life:
        life.until_said("up")
        for name in names:
            number = int(name) if name.isdigit() else signal.Signals[f"SIG{name}"]
            life.signal(number)
            life.until_said(f"got {name}\n")
        life.signal(signal.SIGINT)
        assert life.end() == 11
    assert order(life.agents()[0], "main started", "stop ", "main exited 11", "final ", "said done")


def test_stop_and_continue_reach_main(tmp_path: Path) -> None:
    def state() -> str:
        return Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()[0]

    with Life(tmp_path, ["sh", "-c", "echo $$; exec sleep 600"]) as life:
        life.until_said("\n")
        main = int(life.said())
        life.signal(signal.SIGTSTP)
        wait_until(lambda: state() == "T")
        life.signal(signal.SIGCONT)
        wait_until(lambda: state() == "S")
        life.signal(signal.SIGTSTP)
        wait_until(lambda: state() == "T")
        # A stopped main could not even die of SIGTERM.
        life.signal(signal.SIGTERM)
        assert life.end() == 143
        assert "killing" not in life.log()


def test_mains_signals_are_as_we_found_them(tmp_path: Path) -> None:
    # No shell: dash would clear its mask. `env` sets the scene in front of the supervisor.
    def shown(life: Life) -> dict[str, str]:
        return dict(line.split(":\t", 1) for line in life.said().splitlines())

    # Signals 32 and 33 are glibc's own: what its posix_spawn starts (as make does) ignores them for good.
    settable = sum(1 << number - 1 for number in signal.valid_signals())
    show = ["cat", "/proc/self/status"]
    with Life(tmp_path, show, wrap=["env", "--default-signal"]) as life:
        assert life.end() == 0
    status = shown(life)
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) & settable == 0
    assert status["NSpgid"] == status["Pid"], "main is not in a group of its own"
    wrap = ["env", "--default-signal", "--ignore-signal=HUP", "--block-signal=USR1"]
    with Life(tmp_path, show, wrap=wrap) as life:
        assert life.end() == 0
    assert int(shown(life)["SigBlk"], 16) == 1 << signal.SIGUSR1 - 1
    assert int(shown(life)["SigIgn"], 16) & settable == 1 << signal.SIGHUP - 1


def test_sigterm_lets_main_end_and_then_syncs(tmp_path: Path) -> None:
    with Life(tmp_path, [*SH, TRAP]) as life:
        life.until_said("up")
        life.signal(signal.SIGTERM)
        assert life.end() == 5
    (notes,) = life.agents()
    assert life.said() == "up\ngot\n"
    assert order(notes, "stop ", "main exited 5", "final ", "said done")
    left = float(notes.split(" stop ")[1].split()[0])
    assert 4 < left < 5


def test_a_main_that_ignores_sigterm_is_killed_with_its_descendants(tmp_path: Path) -> None:
    with Life(tmp_path, [*SH, STUBBORN], "hello:0.5:4 ready serve") as life:
        life.until_said("up")
        child = int(life.said().split("child ")[1].split()[0])
        began = time.monotonic()
        life.signal(signal.SIGTERM)
        assert life.end() == 137
        assert 0.4 < time.monotonic() - began < 3
    assert not alive(child)
    assert order(life.agents()[0], "stop ", "main exited 137", "final ", "said done")
    assert "sidecar WARNING main did not end within 0.5 s: killing main" in life.log()


def test_a_second_sigterm_kills_main_now_and_still_syncs(tmp_path: Path) -> None:
    with Life(tmp_path, [*SH, STUBBORN], "hello:60:80 ready serve") as life:
        life.until_said("up")
        life.signal(signal.SIGTERM)
        life.until_logged("SIGTERM: main has")
        began = time.monotonic()
        life.signal(signal.SIGTERM)
        assert life.end() == 137
        assert time.monotonic() - began < 3
    assert order(life.agents()[0], "stop ", "main exited 137", "final ", "said done")


def test_a_third_signal_does_not_cost_the_last_sync(tmp_path: Path) -> None:
    with Life(tmp_path, ["true"], "hello:2:5 ready until:final sleep:0.5 done exit:0") as life:
        life.until_agents(1, "final")
        for _ in range(3):
            life.signal(signal.SIGTERM)
            time.sleep(0.02)
        assert life.end() == 0
    assert "ERROR" not in life.log()
    assert "the last sync is under way" in life.log()


def test_what_main_leaves_behind_is_asked_to_end_before_the_last_sync(tmp_path: Path) -> None:
    script = (
        'setsid sh -c \'trap "sleep 0.3; echo bye >bye; exit" TERM; echo >set;'
        " while :; do sleep 0.05; done' & until [ -e set ]; do sleep 0.01; done; exit 3"
    )
    with Life(tmp_path, [*SH, script]) as life:
        assert life.end() == 3
    notes = life.agents()[0]
    assert (tmp_path / "bye").exists()
    assert seconds_after(notes, "main exited 3", "final ") >= 0.25
    assert "killing" not in life.log()


def test_a_daemon_that_will_not_end_is_killed_within_the_stop_timeout(tmp_path: Path) -> None:
    script = "setsid sh -c 'trap \"\" TERM; echo $$ >pid; sleep 600' & until [ -s pid ]; do sleep 0.01; done"
    with Life(tmp_path, [*SH, script], "hello:0.4:4 ready serve") as life:
        assert life.end() == 0
    assert not alive(int((tmp_path / "pid").read_text()))
    assert 0.3 < seconds_after(life.agents()[0], "main exited 0", "final ") < 2
    assert "sidecar WARNING killing what main left behind: sh (" in life.log()


def test_children_of_the_shell_that_execd_us_are_not_mains(tmp_path: Path) -> None:
    wrap = ["sh", "-c", f'sleep 600 & echo $! >{tmp_path}/older; sleep 0.05; exec "$@"', "x"]
    with Life(tmp_path, ["true"], wrap=wrap) as life:
        assert life.end() == 0
    older = int((tmp_path / "older").read_text())
    assert alive(older)
    os.kill(older, signal.SIGKILL)


def test_orphans_are_reaped(tmp_path: Path) -> None:
    # Each inner shell ends before its child does: a grandchild that only we can reap.
    script = "for i in 1 2 3; do (sh -c 'echo $$; sleep 0.1' &) ; done; sleep 0.5; echo up; sleep 600"
    with Life(tmp_path, [*SH, script]) as life:
        life.until_said("up")
        orphans = [int(pid) for pid in life.said().split()[:3]]
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
        life.signal(signal.SIGTERM)
        assert life.end() == 143


def test_as_pid_1(tmp_path: Path) -> None:
    unshare = ["unshare", "--fork", "--pid", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no right to make a pid namespace here (unshare --pid)")
    script = (
        "echo parent $PPID; (sh -c 'echo $$; sleep 0.1' &); sleep 0.5;"
        "cat /proc/[0-9]*/status | grep -c '^State:.Z';"
        "setsid sh -c 'trap \"echo daemon ended; exit\" TERM; echo >set; while :; do sleep 0.05; done' &"
        "trap 'echo stopped; exit 4' TERM; until [ -e set ]; do sleep 0.01; done; echo up; "
        "while :; do sleep 0.05; done"
    )
    with Life(tmp_path, [*SH, script], wrap=[*unshare, "--kill-child"]) as life:
        life.until_said("up")
        children = Path(f"/proc/{life.process.pid}/task/{life.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert life.end() == 4
    lines = life.said().split("\n")
    assert lines[0] == "parent 1"
    assert lines[2] == "0", "a zombie was left"
    assert lines[3:] == ["up", "stopped", "daemon ended", ""]
    assert order(life.agents()[0], "stop ", "main exited 4", "final ", "said done")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_before_main_withdraws_and_never_starts_it(tmp_path: Path, number: int, code: int) -> None:
    with Life(tmp_path, ["touch", "ran"], "hello:2:5 serve", wrap=["env", "--default-signal"]) as life:
        life.until_agents(1, "argv")
        time.sleep(0.1)
        life.signal(number)
        assert life.end() == code
    assert order(life.agents()[0], "stop ", "said done")
    assert not (tmp_path / "ran").exists()


def test_ready_after_sigterm_starts_nothing(tmp_path: Path) -> None:
    with Life(tmp_path, ["touch", "ran"], "hello:2:5 until:stop ready sleep:0.2 done exit:0") as life:
        life.until_agents(1, "argv")
        time.sleep(0.2)
        life.signal(signal.SIGTERM)
        assert life.end() == 143
    assert not (tmp_path / "ran").exists()


def test_an_agent_that_does_not_withdraw_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with Life(tmp_path, ["true"], "hello:0.5:1 mute") as life:
        life.until_agents(1, "argv")
        time.sleep(0.2)
        began = time.monotonic()
        life.signal(signal.SIGTERM)
        assert life.end() == 143
        assert 0.5 < time.monotonic() - began < 1.5


def test_a_signal_before_hello_reaches_the_agent_after_it(tmp_path: Path) -> None:
    with Life(tmp_path, ["true"], "sleep:0.4 hello:2:5 serve") as life:
        life.until_agents(1, "argv")
        life.signal(signal.SIGTERM)
        assert life.end() == 143
    assert order(life.agents()[0], "stop ", "said done")


def test_log_lines(tmp_path: Path) -> None:
    long = "x" * 300
    with Life(tmp_path, ["sh", "-c", "exit 3", "two\nlines", long]) as life:
        assert life.end() == 3
    lines = life.log().splitlines()
    assert lines[0].startswith("sidecar ready; starting: sh -c exit 3 two lines xxx")
    assert len(lines[0]) < 240
    assert lines[1] == "sidecar main ended with 3; last sync…"
    assert len(lines) == 2
    with Life(tmp_path, ["true"], env={"SIDECAR_LOG": "json", "SIDECAR_LOG_LEVEL": "warning"}) as life:
        assert life.end() == 0
    assert life.log() == ""


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    wrap = ["sh", "-c", f'exec "$@" 2>/proc/{os.getpid()}/fd/{writer}', "x"]
    with Life(tmp_path, ["sh", "-c", "exit 6"], wrap=wrap) as life:
        assert life.end() == 6
    os.close(reader)
    os.close(writer)


def test_closed_standard_streams(tmp_path: Path) -> None:
    wrap = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "x"]
    with Life(tmp_path, ["sh", "-c", "ls -l /proc/$$/fd >fds; exit 8"], wrap=wrap) as life:
        assert life.end() == 8
    assert "socket:" not in (tmp_path / "fds").read_text()


JOB_SHELL = """
import os, signal, sys, time
# A shell with job control, as small as it can be.
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
print("stopped", os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]), flush=True)
os.tcsetpgrp(0, os.getpgrp())
time.sleep(0.1)
os.tcsetpgrp(0, pid)
os.killpg(pid, signal.SIGCONT)
print("continued", flush=True)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print("foreground is ours again" if os.tcgetpgrp(0) == pid else "foreground is lost", flush=True)
sys.exit(code)
"""


def test_main_has_the_terminal_and_ctrl_z_and_ctrl_c_work(tmp_path: Path) -> None:
    """Without a terminal of its own, `read` in main would end with EIO or stop it (SIGTTIN)."""
    ours, theirs = pty.openpty()
    script = "echo up; read line; echo read $line; trap 'echo int; exit 9' INT; while :; do sleep 0.05; done"
    wrap = ["setsid", "--ctty", "--wait", sys.executable, "-c", JOB_SHELL]
    with Life(tmp_path, [*SH, script], wrap=wrap, stdin=theirs) as life:
        life.until_said("up")
        os.write(ours, b"\x1a")
        life.until_said("stopped True")
        life.until_said("continued")
        os.write(ours, b"hello\n")
        life.until_said("read hello")
        time.sleep(0.1)
        os.write(ours, b"\x03")
        assert life.end() == 9
    assert "int\n" in life.said()
    assert "foreground is ours again" in life.said()
    os.close(ours)
    os.close(theirs)


def test_main_is_left_alone_when_we_are_killed(tmp_path: Path) -> None:
    with Life(tmp_path, ["sh", "-c", "echo $$; exec sleep 600"]) as life:
        life.until_said("\n")
        main = int(life.said())
        life.process.kill()
        life.process.wait()
        life.until_agents(1, "gone")
        assert alive(main)
        os.kill(main, signal.SIGKILL)
