"""A progress bar: one line on a terminal while a transfer takes long, nothing anywhere else."""

from __future__ import annotations

import os
import shutil
import sys
import time
from types import TracebackType

from sidecar.commands.words import size
from sidecar.state import RestoreProgress

PATIENCE_S = 0.7
"""What is over sooner needs no bar."""
EVERY_S = 0.1


class Bar:
    """Shows ``progress`` whenever ``alive`` is called; as a context manager it wipes itself away at the end."""

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self.progress = RestoreProgress()
        self._on = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._next = time.monotonic() + PATIENCE_S
        self._shown = False

    def alive(self) -> None:
        now = time.monotonic()
        if self._on and now >= self._next:
            self._next, self._shown = now + EVERY_S, True
            line = self.line()[: shutil.get_terminal_size().columns - 1]
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    def line(self) -> str:
        p = self.progress
        share = p.bytes_done / p.bytes_total if p.bytes_total else 0.0
        full = round(share * 24)
        bar = "#" * full + "." * (24 - full)
        counted = f"{size(p.bytes_done)} of {size(p.bytes_total)}, {p.files_done:,} of {p.files_total:,} files"
        return f"{self.doing} [{bar}] {share:4.0%}  {counted}"

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
