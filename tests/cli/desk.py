"""Where somebody sits who types commands: an environment, and what each command answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar import cli, log

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Desk:
    """``desk("ls", "head")`` runs the command in this process: its exit code, stdout and stderr."""

    def __init__(self, capture: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capture, self._monkeypatch = capture, monkeypatch
        for name in [n for n in os.environ if n.startswith(("SIDECAR_", "HF_", "SPACE_"))]:
            monkeypatch.delenv(name)

    def set(self, **settings: str | None) -> None:
        for name, value in settings.items():
            if value is None:
                self._monkeypatch.delenv(name, raising=False)
            else:
                self._monkeypatch.setenv(name, value)

    def __call__(self, *argv: str | os.PathLike[str]) -> Answer:
        self._capture.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = cli.main([os.fspath(word) for word in argv])
        except SystemExit as leave:  # argparse's way
            code = leave.code if isinstance(leave.code, int) else 1
        finally:
            signal.signal(signal.SIGTERM, before)
            log.logger.handlers.clear()
            log.logger.propagate = True
        out, err = self._capture.readouterr()
        return Answer(code, out, err.decode())

    def start(self, *argv: str, **how: Any) -> subprocess.Popen[bytes]:
        """The same in a process of its own."""
        env = {**os.environ, "PYTHONPATH": str(REPO)}
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        return subprocess.Popen([sys.executable, "-m", "sidecar", *argv], env=env, **how)
