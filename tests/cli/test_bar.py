"""The progress bar: on a terminal, for what takes long, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from sidecar.commands import bar
from sidecar.commands.bar import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def draw(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, patience: float = 0.0) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(bar, "PATIENCE_S", patience)
    monkeypatch.setattr(bar, "EVERY_S", 0.0)
    monkeypatch.setenv("COLUMNS", "70")
    with Bar("restoring") as shown:
        shown.alive()
        shown.progress.files_total, shown.progress.bytes_total = 10, 4_000_000
        shown.progress.files_done, shown.progress.bytes_done = 3, 1_000_000
        shown.alive()
    return stream.getvalue()


def test_on_a_terminal_it_is_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    drawn = draw(monkeypatch, Terminal())
    assert "restoring [######..................]  25%  1.0 MB of 4.0 MB, 3 o" in drawn
    assert "\n" not in drawn
    assert drawn.endswith("\r\x1b[K")
    assert all(len(line.replace("\x1b[K", "")) < 70 for line in drawn.split("\r"))


def test_elsewhere_and_for_what_is_over_soon_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert draw(monkeypatch, io.StringIO()) == ""
    assert draw(monkeypatch, Terminal(), 60.0) == ""
    monkeypatch.setenv("TERM", "dumb")
    assert draw(monkeypatch, Terminal()) == ""


def test_nothing_to_do_is_no_division_by_zero() -> None:
    assert "0%" in Bar("x").line()
