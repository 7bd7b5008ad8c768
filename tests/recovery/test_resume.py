"""SIDECAR_RESUME: what its commands are told, how they run, and what is said of them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from sidecar.recovery import resume
from sidecar.recovery.resume import Command, Told, commands, failure, perform, shown, state_of
from sidecar.snapshot.manifest import Manifest, SnapshotId

TOLD = Told(7, "me", "abc", None, None, False)


def manifest(at: float) -> Manifest:
    return Manifest(SnapshotId(6, 113), None, "local", at, "other", "0", (), {})


def test_lines_become_commands() -> None:
    found = commands(("./a", "!command: ./b", "after-ready: ./c"))
    assert found == (Command(False, False, "./a"), Command(True, False, "./b"), Command(False, True, "./c"))
    assert [c.limit_s for c in found] == [resume.LIMIT_S, resume.LIMIT_S, resume.LATER_LIMIT_S]


def test_what_a_command_is_told_of_a_restored_start() -> None:
    told = Told(7, "me", "abc", manifest(1000.4), False, True).environment(1060.0)
    assert {name.removeprefix("SIDECAR_RECOVERY_"): value for name, value in told.items()} == {
        "EPOCH": "7",
        "INSTANCE": "me",
        "REVISION": "abc",
        "SNAPSHOT": "6.113",
        "SNAPSHOT_AGE": "60",
        "COLD_START": "0",
        "CLEAN": "0",
        "INTERRUPTED": "1",
    }


@pytest.mark.parametrize(
    ("at", "clean", "told"),
    [(None, None, "1"), (None, False, "0"), (1.0, None, "0"), (1.0, True, "1"), (1.0, False, "0")],
)
def test_an_end_that_nobody_knows_of_is_unclean_unless_there_was_nothing(
    at: float | None, clean: bool | None, told: str
) -> None:
    base = manifest(at) if at is not None else None
    environment = Told(1, "me", "abc", base, clean, False).environment(0.0)
    assert environment["SIDECAR_RECOVERY_CLEAN"] == told
    assert environment["SIDECAR_RECOVERY_SNAPSHOT_AGE"] == ("" if at is None else "0"), "a clock that went back"
    assert environment["SIDECAR_RECOVERY_COLD_START"] == ("1" if at is None else "0")
    assert (environment["SIDECAR_RECOVERY_REVISION"] == "") is (at is None)


def alive(pid: int) -> bool:
    """Not dead, be it that nobody has asked yet how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def done(command: Command, secrets: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
    row: dict[str, Any] = {}
    return asyncio.run(perform(command, TOLD, secrets, row)), row


def test_a_command_is_run_by_a_shell_with_what_it_is_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level("INFO", "sidecar")
    result, row = done(Command(False, False, "echo $SIDECAR_RECOVERY_EPOCH; echo hf_secret9 >&2"), ("hf_secret9",))
    assert (result, row["result"], row["code"]) == ("ok", "ok", 0)
    assert 0 <= row["ms"] < 20_000
    assert [r.getMessage() for r in caplog.records if r.levelname == "INFO"] == ["resume: 7", "resume: ***"]


def test_how_a_command_ended_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert done(Command(False, False, "exit 3"))[1] | {"ms": 0} == {"result": "failed", "code": 3, "ms": 0}
    monkeypatch.setattr(resume, "LIMIT_S", 0.2)
    began = time.monotonic()
    result, row = done(Command(True, False, "sleep 100"))
    assert (result, row["code"]) == ("timed out", None)
    assert time.monotonic() - began < 10


def test_a_command_that_is_cut_off_is_gone_and_recorded(tmp_path: Path) -> None:
    async def scenario() -> dict[str, Any]:
        row: dict[str, Any] = {}
        command = Command(False, False, f"echo $$ > {tmp_path}/pid; sleep 100")
        task = asyncio.create_task(perform(command, TOLD, (), row))
        until = time.monotonic() + 10
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return row

    assert asyncio.run(scenario())["result"] == "cut off"
    until = time.monotonic() + 10
    while alive(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_no_secret_and_no_essay_in_a_record() -> None:
    assert shown(Command(False, False, "curl -H 'Authorization: Bearer abcdef' x"), ()).count("abcdef") == 0
    assert shown(Command(False, False, "echo my-secret-1"), ("my-secret-1",)) == "echo ***"
    assert len(shown(Command(False, False, "x" * 1000), ())) == 200


def test_what_failed_in_words() -> None:
    assert failure("./a", {"result": "failed", "code": 3}, 300) == "resume command './a' failed (exit 3)"
    assert failure("./a", {"result": "failed", "why": "No space"}, 300) == "resume command './a' failed (No space)"
    assert failure("./a", {"result": "timed out"}, 300) == "resume command './a' was ended after 300 s"
    assert failure("./a", {"result": "cut off"}, 300) == "resume command './a' was cut off"


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ((), "ok"),
        (("ok", "ok"), "ok"),
        (("ok", "failed"), "failed"),
        (("timed out", "ok"), "failed"),
        (("failed", "not run"), "failed"),
        (("failed", None), "pending"),
        (("cut off", None), "cut off"),
    ],
)
def test_what_all_came_to(results: tuple[str | None, ...], state: str) -> None:
    assert state_of([{"result": r} if r else {} for r in results]) == state
