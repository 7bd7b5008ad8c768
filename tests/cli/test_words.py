"""How commands show names, sizes and times."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sidecar.commands import words


@given(some.binary().map(os.fsdecode))
def test_any_name_is_shown_on_one_line_and_can_be_encoded(name: str) -> None:
    shown = words.name(name)
    assert shown.isprintable()
    shown.encode()
    assert name != shown or name.isprintable()


def test_escapes_name_the_byte() -> None:
    assert words.name("a\udcff\n\x1b\u2028ü") == r"a\xff\x0a\x1b\u2028ü"


@given(some.binary().map(os.fsdecode))
def test_json_carries_any_name(name: str) -> None:
    (key, value), *rest = words.named(name).items()
    assert rest == []
    back = value if key == "path" else os.fsdecode(base64.b64decode(value))
    assert back == name
    value.encode()


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.2 KB"), (38_000_000, "38 MB"), (5e9, "5.0 GB"), (2e13, "20000.0 GB")],
)
def test_sizes(count: float, shown: str) -> None:
    assert words.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-1, "0 s"), (3.4, "3 s"), (240, "4 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_ages(seconds: float, shown: str) -> None:
    assert words.age(seconds) == shown
