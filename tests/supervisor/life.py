"""A supervisor as a real process, with a scripted agent: what the tests of this folder start and look at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sidecar import family

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).with_name("fake_agent.py")
SOUND = "hello:2:5 ready serve"
PATIENCE = 15.0


def wait_until(what: Callable[[], object], why: Callable[[], str] = lambda: "waited too long") -> None:
    """Until ``what`` is true; fails the test after PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, why()
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """True unless the process is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class Life:
    """``run -- command`` under way; everything it started is killed at the end of ``with``."""

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        *scripts: str,
        pace: Mapping[str, float] | None = None,
        env: Mapping[str, str] | None = None,
        wrap: Sequence[str] = (),
        stdin: int = subprocess.DEVNULL,
        cwd: Path | None = None,
    ) -> None:
        self.folder = folder
        agent = [sys.executable, "-I", "-S", str(FAKE), str(folder), *(scripts or (SOUND,))]
        waits = {"backoff": 0.1, "leave": 2.0, **(pace or {})}
        code = (
            "import sys; from sidecar.supervisor import run; from sidecar.keeper import Pace; "
            f"sys.exit(run({['--', *command]!r}, agent={agent!r}, pace=Pace(**{waits!r})))"
        )
        self.stderr = folder / "stderr"
        self.stdout = folder / "stdout"
        self.began = time.monotonic()
        with self.stderr.open("wb") as err, self.stdout.open("wb") as out:
            self.process = subprocess.Popen(
                [*wrap, sys.executable, "-c", code],
                stdin=stdin,
                stdout=out,
                stderr=err,
                cwd=cwd or folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            )

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            below = family.left_of_main(family.everyone(), self.process.pid, -1, 0, -1)
            self.process.kill()
            self.process.wait()
            for proc in below:
                family.send(proc.pid, signal.SIGKILL)

    def agents(self) -> list[str]:
        """What each agent noted, the first one first."""
        paths = sorted(self.folder.glob("agent.*"), key=lambda p: int(p.suffix[1:]))
        return [path.read_text() for path in paths]

    def log(self) -> str:
        """All that stands on stderr by now."""
        return self.stderr.read_text()

    def said(self) -> str:
        """All that main wrote to stdout by now."""
        return self.stdout.read_text()

    def until_said(self, text: str) -> None:
        """Until main has written ``text``."""
        wait_until(lambda: text in self.said(), lambda: f"main never wrote {text!r}; log:\n{self.log()}")

    def until_logged(self, text: str) -> None:
        """Until the log holds ``text``."""
        wait_until(lambda: text in self.log(), lambda: f"never logged {text!r}:\n{self.log()}")

    def until_agents(self, number: int, having: str = "argv") -> str:
        """Until agent ``number`` has noted ``having``; its notes."""
        wait_until(
            lambda: len(self.agents()) >= number and having in self.agents()[number - 1],
            lambda: f"agent {number} never noted {having!r}; log:\n{self.log()}",
        )
        return self.agents()[number - 1]

    def signal(self, number: int) -> None:
        """Signal the supervisor."""
        self.process.send_signal(number)

    def end(self, timeout: float = PATIENCE) -> int:
        """Its exit code; its length is then in ``took``."""
        code = self.process.wait(timeout)
        self.took = time.monotonic() - self.began
        return code


def seconds_after(notes: str, first: str, then: str) -> float:
    """Between the first note with ``first`` and the first with ``then``."""

    def at(what: str) -> float:
        return next(float(line.split()[0]) for line in notes.splitlines() if what in line)

    return at(then) - at(first)


def order(notes: str, *what: str) -> bool:
    """True where these are noted, in this order."""
    at = [notes.find(w) for w in what]
    return -1 not in at and at == sorted(at)
