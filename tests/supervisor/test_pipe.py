"""What comes over the agent's socket: split, bounded, believed as little as possible."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sidecar.pipe import Kept, Lines, read_code, read_message, read_seconds


@given(st.binary(max_size=20_000), st.lists(st.integers(1, 9000), max_size=20))
def test_lines_are_the_same_however_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    expected = [line for line in data.split(b"\n")[:-1] if len(line) < 4096]
    lines, got, at = Lines(), [], 0
    for cut in [*cuts, len(data)]:
        got += lines.feed(data[at : at + cut])
        at += cut
    assert got == expected


@given(st.lists(st.integers(1, 12_000), max_size=8), st.integers(1, 5000))
def test_long_lines_are_dropped_and_the_next_one_is_read(lengths: list[int], step: int) -> None:
    data = b"".join(b"x" * n + b"\nalive\n" for n in lengths)
    lines, got = Lines(), []
    for at in range(0, len(data), step):
        got += lines.feed(data[at : at + step])
        assert len(lines._rest) < 4096
    assert got.count(b"alive") == len(lengths)
    assert len(got) == len(lengths) + sum(n < 4096 for n in lengths)


@given(st.binary(max_size=200))
def test_no_line_is_too_odd_to_be_read(line: bytes) -> None:
    message = read_message(line)
    assert message is None or message[0] in ("hello", "alive", "keep", "locks", "ready", "fail", "done")
    Kept().keep("k", line.decode("utf-8", "replace"))


def test_messages() -> None:
    assert read_message(b"hello 6 25.5") == ["hello", "6", "25.5"]
    assert read_message(b"keep base a b  c=d") == ["keep", "base", "a b  c=d"]
    assert read_message(b"ready and more") == ["ready"]
    for unknown in (
        b"",
        b"hello 6",
        b"keep base",
        b"readyy",
        b"READY",
        b"keep a b\x00c",
        b"keep a \x1b[2J",
        b"fail",
    ):
        assert read_message(unknown) is None


def test_numbers() -> None:
    assert [read_seconds(t) for t in ("6", "0", "2.5", "1e3")] == [6, 0, 2.5, 1000]
    assert [read_seconds(t) for t in ("-1", "nan", "inf", "86401", "", "six")] == [None] * 6
    assert [read_code(t) for t in ("69", "255", "001")] == [69, 255, 1]
    assert [read_code(t) for t in ("0", "256", "-1", "", "7.5", "9" * 4000, "²")] == [1] * 7


def test_what_is_kept_is_bounded_and_fits_on_a_command_line() -> None:
    kept = Kept()
    for number in range(1000):
        kept.keep(f"key{number}", "v" * 4000)
    kept.keep("key0", "again")
    kept.keep("a=b", "c")
    kept.keep("", "c")
    arguments = kept.arguments()
    assert arguments[:4] == ["--keep", "key0=again", "--keep", "key1=" + "v" * 4000]
    assert len(arguments) == 2 * 64


def test_a_lock_is_kept_once(tmp_path: Path) -> None:
    kept = Kept()
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    first, second, other = (os.open(tmp_path / name, os.O_RDONLY) for name in ("a", "a", "b"))
    kept.lock([first])
    kept.lock([second, other])
    assert kept.arguments() == ["--locks", f"{first},{other}"]
    assert not os.path.exists(f"/proc/self/fd/{second}")
    os.close(first)
    os.close(other)
