"""Agents that fail in every way, while main goes on and the last sync is made all the same."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keeper import Pace, pause
from tests.supervisor.life import SOUND, Life, alive, order, seconds_after

SH = ("sh", "-c")
LONG = ["sh", "-c", "echo up; exec sleep 600"]
READY = "hello:2:5 ready"


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_pause_doubles_up_to_a_ceiling_and_is_spread(failures: int, chance: float) -> None:
    expected = min(30.0, 2.0 ** (failures - 1)) if failures < 6 else 30.0
    assert 0.79 * expected < pause(Pace(), failures, chance) < 1.21 * expected
    assert pause(Pace(), failures, 0.0) < pause(Pace(), failures, 1.0)


def test_a_dead_agent_is_replaced_while_main_goes_on(tmp_path: Path) -> None:
    first = "hello:2:5 keep:epoch:7 keep:base:0.42 keep:epoch:8 ready until:main kill"
    with Life(tmp_path, LONG, first, "hello:2:5 keep:mode:normal ready sleep:0.1 exit:0", SOUND) as life:
        third = life.until_agents(3, "argv")
        life.signal(signal.SIGTERM)
        assert life.end() == 143
    one, two, three = life.agents()
    main = one.split("main started ")[1].split()[0]
    instance = re.findall(r"--instance (\w+)", one)
    for notes, kept in (
        (two, "epoch=8 --keep base=0.42"),
        (three, "epoch=8 --keep base=0.42 --keep mode=normal"),
    ):
        assert re.findall(r"--instance (\w+)", notes) == instance
        assert f"--main-pid {main} --keep {kept}" in notes
        assert "--main-exit" not in notes
    assert "--main-pid" not in one
    assert "--main-pid" in third
    assert life.said() == "up\n", "main was started more than once, or disturbed"
    assert order(three, "main exited 143", "final ", "said done")
    log = life.log()
    assert "sidecar WARNING the agent ended by SIGKILL; main goes on untouched; a new one starts in 0.1 s" in log
    assert "sidecar WARNING the agent ended with 0; main goes on untouched; a new one starts in 0.2 s" in log


def test_a_hung_agent_is_killed_with_its_children_and_replaced(tmp_path: Path) -> None:
    with Life(tmp_path, LONG, f"{READY} child sleep:0.1 hang", SOUND, pace={"silence": 0.5}) as life:
        life.until_agents(2, "argv")
        child = int(life.agents()[0].split("child ")[1].split()[0])
        assert not alive(child)
        life.signal(signal.SIGTERM)
        assert life.end() == 143
    assert "sidecar WARNING the agent was killed (silent for 0.5 s); main goes on untouched" in life.log()


def test_what_a_crashed_agent_leaves_behind_is_killed(tmp_path: Path) -> None:
    """It may be in the middle of an upload that the next agent knows nothing of."""
    with Life(tmp_path, LONG, f"{READY} child sleep:0.2 kill", SOUND) as life:
        life.until_agents(2, "argv")
        assert not alive(int(life.agents()[0].split("child ")[1].split()[0]))
        life.signal(signal.SIGTERM)
        assert life.end() == 143


def test_a_stopped_agent_counts_as_hung(tmp_path: Path) -> None:
    with Life(tmp_path, LONG, f"{READY} serve", pace={"silence": 0.5}) as life:
        life.until_said("up")
        os.kill(int(life.agents()[0].split(" pid ")[1].split()[0]), signal.SIGSTOP)
        life.until_agents(2, "argv")
        life.signal(signal.SIGTERM)
        assert life.end() == 143


def test_a_container_that_was_frozen_is_no_hung_agent(tmp_path: Path) -> None:
    with Life(tmp_path, LONG, pace={"silence": 0.6}) as life:
        life.until_said("up")
        time.sleep(0.2)
        pids = [int(life.agents()[0].split(" pid ")[1].split()[0]), life.process.pid]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.8)
        os.kill(life.process.pid, signal.SIGCONT)
        time.sleep(0.1)
        os.kill(pids[0], signal.SIGCONT)
        time.sleep(0.2)
        life.signal(signal.SIGTERM)
        assert life.end() == 143
    assert len(life.agents()) == 1


def test_an_agent_that_closes_its_socket_is_replaced(tmp_path: Path) -> None:
    with Life(tmp_path, LONG, f"{READY} close hang", SOUND, pace={"leave": 0.3}) as life:
        life.until_agents(2, "argv")
        life.signal(signal.SIGTERM)
        assert life.end() == 143
    assert "it closed its socket and did not exit" in life.log()


def test_an_agent_without_hello_is_replaced(tmp_path: Path) -> None:
    with Life(tmp_path, ["true"], "alive sleep:600", SOUND, pace={"hello": 0.3}) as life:
        assert life.end() == 0
    assert "sidecar WARNING the agent was killed (no hello within 0.3 s); main waits" in life.log()


@pytest.mark.parametrize("code", [69, 75, 78])
@pytest.mark.parametrize("way", ["fail", "exit"])
def test_a_verdict_before_ready_is_our_exit_code(tmp_path: Path, code: int, way: str) -> None:
    script = f"hello:2:5 fail:{code} exit:0" if way == "fail" else f"exit:{code}"
    with Life(tmp_path, ["touch", "ran"], script) as life:
        assert life.end() == code
    assert not (tmp_path / "ran").exists()
    assert len(life.agents()) == 1
    assert life.log() == f"sidecar ERROR main was not started ({code}): touch ran\n"


@pytest.mark.parametrize("given_code", ["0", "x"])
def test_a_verdict_that_is_none_is_a_failure(tmp_path: Path, given_code: str) -> None:
    with Life(tmp_path, ["touch", "ran"], f"hello:2:5 fail:{given_code} exit:0") as life:
        assert life.end() == 1
    assert not (tmp_path / "ran").exists()


def test_an_agent_that_failed_but_does_not_exit_is_not_waited_for(tmp_path: Path) -> None:
    with Life(tmp_path, ["true"], "hello:2:5 fail:75 mute", pace={"leave": 0.3}) as life:
        assert life.end(5) == 75
    assert not alive(int(life.agents()[0].split(" pid ")[1].split()[0]))


def test_a_crash_before_ready_is_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    with Life(tmp_path, ["touch", "ran"], "hello:2:5 kill", "exit:3", pace={"backoff": 0.02}) as life:
        assert life.end() == 1
    assert len(life.agents()) == 6
    assert not (tmp_path / "ran").exists()
    assert "sidecar ERROR the agent ended with 3: 6 failures in a row before recovery was done" in life.log()


def test_a_crash_before_ready_and_then_a_sound_agent(tmp_path: Path) -> None:
    with Life(tmp_path, ["true"], "hello:2:5 keep:epoch:3 kill", "exit:1", SOUND) as life:
        assert life.end() == 0
    assert "--main-pid" not in life.agents()[2]
    assert "--keep epoch=3" in life.agents()[2]


def test_fail_and_a_second_ready_beside_a_living_main_are_ignored(tmp_path: Path) -> None:
    with Life(tmp_path, [*SH, "echo up; sleep 0.3; exit 4"], f"{READY} until:main fail:69 ready done serve") as life:
        assert life.end() == 4
    assert life.said() == "up\n"
    assert order(life.agents()[0], "main exited 4", "final ", "said done")


def test_done_before_final_is_no_last_sync(tmp_path: Path) -> None:
    script = "trap 'sleep 0.3; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    with Life(tmp_path, [*SH, script], f"{READY} until:stop done exit:0", SOUND) as life:
        life.until_said("up")
        life.signal(signal.SIGTERM)
        assert life.end() == 0
    assert order(life.agents()[1], "stop ", "main exited 0", "final ", "said done")


def test_an_agent_that_is_dead_when_final_is_due_is_replaced_at_once(tmp_path: Path) -> None:
    script = f"{READY} until:main kill"
    with Life(tmp_path, [*SH, "sleep 0.5; exit 6"], script, SOUND, pace={"backoff": 25}) as life:
        assert life.end() == 6
        assert life.took < 4
    assert "--main-exit 6" in life.agents()[1]
    assert order(life.agents()[1], "final ", "said done")


def test_an_agent_that_dies_of_final_is_replaced_at_once(tmp_path: Path) -> None:
    with Life(tmp_path, [*SH, "exit 6"], f"{READY} until:final kill", "hello:2:5 until:final exit:1", SOUND) as life:
        assert life.end() == 6
    assert len(life.agents()) == 3
    assert "--main-exit 6" in life.agents()[2]
    assert order(life.agents()[2], "final ", "said done")
    assert "ERROR" not in life.log()


def test_an_agent_that_hangs_at_final_is_replaced_in_time(tmp_path: Path) -> None:
    with Life(tmp_path, [*SH, "exit 6"], "hello:1:3 ready hang", SOUND, pace={"hush": 0.5}) as life:
        assert life.end() == 6
        assert life.took < 3
    assert order(life.agents()[1], "final ", "said done")
    assert "silent for 1 s" in life.log()


def test_a_refusal_at_final_is_not_tried_again(tmp_path: Path) -> None:
    with Life(tmp_path, [*SH, "exit 6"], f"{READY} until:final exit:69") as life:
        assert life.end() == 6
        assert life.took < 3
    assert "sidecar ERROR the last sync was not made: the agent ended with 69" in life.log()


@pytest.mark.parametrize("last", ["mute", "hang", "until:final kill"])
def test_the_grace_bounds_everything(tmp_path: Path, last: str) -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    scripts = [f"hello:0.4:1.5 ready {last}"]
    with Life(tmp_path, [*SH, stubborn], *scripts, pace={"backoff": 0.2}) as life:
        life.until_said("up")
        began = time.monotonic()
        life.signal(signal.SIGTERM)
        assert life.end() == 137
        assert 1.2 < time.monotonic() - began < 1.7
    for notes in life.agents():
        assert not alive(int(notes.split(" pid ")[1].split()[0]))
    assert "sidecar ERROR the last sync was not over within 1.5 s (SIDECAR_SHUTDOWN_GRACE)." in life.log()


def test_a_stop_timeout_beyond_the_grace_leaves_time_for_the_last_sync(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    with Life(tmp_path, [*SH, stubborn], "hello:600:1 ready serve") as life:
        life.until_said("up")
        life.signal(signal.SIGTERM)
        assert life.end() == 137
    assert order(life.agents()[0], "stop ", "main exited 137", "final ", "said done")


def test_an_agent_that_is_done_but_does_not_exit_is_not_waited_for(tmp_path: Path) -> None:
    with Life(tmp_path, ["true"], "hello:2:20 ready until:final done mute", pace={"leave": 0.3}) as life:
        assert life.end(5) == 0
    assert "ERROR" not in life.log()


def test_locks_are_held_by_us_and_by_main_and_handed_on(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    look = "ls -l /proc/$$/fd >fds; echo up; exec sleep 600"
    first = f"hello:2:5 locks:{lock} ready until:main kill"
    with Life(tmp_path, [*SH, look], first, f"hello:2:5 locks:{tmp_path}/other serve") as life:
        life.until_said("up")
        notes = life.until_agents(2, "argv")
        number = int(notes.split("--locks ")[1].split()[0])
        assert str(lock) in os.readlink(f"/proc/{life.process.pid}/fd/{number}")
        assert str(lock) in os.readlink(f"/proc/{int(notes.split(' pid ')[1].split()[0])}/fd/{number}")
        life.signal(signal.SIGTERM)
        assert life.end() == 143
    mains = (tmp_path / "fds").read_text()
    assert f"-> {lock}\n" in mains
    assert "socket:" not in mains
    assert "pipe:" not in mains


def test_a_lock_survives_us_in_main(tmp_path: Path) -> None:
    import fcntl

    lock = tmp_path / "lock"
    with Life(tmp_path, [*SH, "echo $$; exec sleep 600"], f"hello:2:5 locks:{lock} ready serve") as life:
        life.until_said("\n")
        main = int(life.said())
        life.process.kill()
        life.process.wait()
        life.until_agents(1, "gone")
        with lock.open() as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.kill(main, signal.SIGKILL)


def test_garbage_and_floods_hurt_nobody(tmp_path: Path) -> None:
    main = [*SH, "trap 'echo usr; exit 3' USR1; echo up; while :; do sleep 0.02; done"]
    with Life(tmp_path, main, "hello:2:5 garbage ready garbage flood:1 serve") as life:
        life.until_said("up")
        time.sleep(0.2)
        cpu = _cpu(life.process.pid)
        time.sleep(0.5)
        assert _cpu(life.process.pid) - cpu < 0.25, "a flood made the supervisor spin"
        life.signal(signal.SIGUSR1)
        assert life.end() == 3
    assert order(life.agents()[0], "main exited 3", "final ", "said done")
    assert len(life.agents()) == 1


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_agent_that_reads_nothing_does_not_block_us(tmp_path: Path) -> None:
    with Life(tmp_path, [*SH, "exit 4"], "hello:0.5:1 ready sleep:600", pace={"hush": 60}) as life:
        assert life.end() == 4
        assert life.took < 4


def test_the_agent_is_shielded_from_the_terminal_and_from_stdin(tmp_path: Path) -> None:
    with Life(tmp_path, LONG) as life:
        life.until_said("up")
        pid = int(life.agents()[0].split(" pid ")[1].split()[0])
        assert f"pid {pid} session {pid}" in life.agents()[0]
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
        assert os.readlink(f"/proc/{pid}/fd/1") == os.readlink(f"/proc/{pid}/fd/2") == str(life.stderr)
        ignored = int(Path(f"/proc/{pid}/status").read_text().split("SigIgn:\t")[1].split()[0], 16)
        for number in (signal.SIGINT, signal.SIGTERM):
            assert ignored & 1 << number - 1
        os.kill(pid, signal.SIGTERM)
        life.signal(signal.SIGTERM)
        assert life.end() == 143
    assert len(life.agents()) == 1


def test_final_waits_for_the_kill_of_main(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    with Life(tmp_path, [*SH, stubborn], "hello:0.5:5 ready serve") as life:
        life.until_said("up")
        life.signal(signal.SIGTERM)
        assert life.end() == 137
    assert 0.4 < seconds_after(life.agents()[0], "stop ", "final ") < 2
