from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.units import MAX_DURATION_S, MAX_SIZE, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("2s", 2.0),
        ("0.2s", 0.2),
        ("500ms", 0.5),
        ("5m", 300.0),
        ("5ms", 0.005),
        ("1h30m", 5400.0),
        ("1d2h3m4s5ms", 93784.005),
        ("1.5h", 5400.0),
        ("90m", 5400.0),
        ("0s", 0.0),
        ("366d", MAX_DURATION_S),
    ],
)
def test_durations_as_people_write_them(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "30",
        "1.5",
        "-2s",
        "+2s",
        "2 s",
        "2S",
        "30m1h",
        "1h1h",
        "2sec",
        "1e3s",
        ".5s",
        "5.s",
        "٢s",
        "inf",
        "nan",
        "367d",
        "9" * 400 + "s",
        "2s\n",
    ],
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match=r"."):
        parse_duration(text)


def test_a_number_without_a_unit_is_told_which_to_add():
    with pytest.raises(ValueError, match="is it 30s"):
        parse_duration("30")


@given(st.integers(0, int(MAX_DURATION_S) * 1000))
def test_a_duration_survives_being_written_and_read(ms):
    assert parse_duration(format_duration(ms / 1000)) == ms / 1000


@given(st.text(alphabet="0123456789.dhms ", max_size=12))
def test_any_text_is_a_bounded_duration_or_an_error(text):
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds <= MAX_DURATION_S
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=0.0005)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("64MB", 64_000_000),
        ("1GiB", 2**30),
        ("1.5KiB", 1536),
        ("1.5 kB", 1500),
        ("12B", 12),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64", "MB", "-1MB", "64mb", "1.5B", "1e3MB", "64M", "9999999TB", "1MB\n", "٢MB"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match=r"."):
        parse_size(text)


@given(st.integers(0, MAX_SIZE))
def test_a_size_survives_being_written_and_read(size):
    assert parse_size(format_size(size)) == size


def test_a_size_is_written_as_short_as_it_goes():
    assert [format_size(n) for n in (64_000_000, 2**30, 1000, 1536, 7)] == [
        "64MB",
        "1GiB",
        "1kB",
        "1536B",
        "7B",
    ]
