"""What a path and a sample decide, and that a range header never reads outside a file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hub.app import route
from tests.hub.paths import check_path, ignored, looks_binary
from tests.hub.serve import parse_ranges
from tests.hub.wire import HubError


@given(st.text(min_size=1, max_size=600))
def test_text_is_never_binary_however_the_sample_cuts_it(text: str) -> None:
    data = text.replace("\0", "x").encode("utf-8", "ignore") * 2
    assert not looks_binary(data[:512])


@given(st.binary(min_size=1, max_size=100))
def test_bytes_that_are_no_text_are_binary(data: bytes) -> None:
    assert looks_binary(data + b"\xff")
    assert looks_binary(b"\0" + data)


@given(st.text(alphabet="0123456789-,= bytes", max_size=30), st.integers(0, 100))
def test_ranges_stay_inside(text: str, size: int) -> None:
    for start, end in parse_ranges("bytes=" + text, size) or []:
        assert 0 <= start < end <= size


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "a/./b", "../a", "a/.git/b", ".GIT/x", "a\0b"])
def test_bad_paths(path: str) -> None:
    with pytest.raises(HubError):
        check_path(path)


def test_the_deepest_gitignore_decides() -> None:
    rules = {"": "*.log\n", "a/b": "!x.log\n"}
    assert ignored("x.log", rules)
    assert ignored("a/x.log", rules)
    assert not ignored("a/b/x.log", rules)
    assert ignored("a/b/y.log", rules)
    assert not ignored("a/bx.txt", rules)


def test_a_quoted_slash_is_part_of_the_branch() -> None:
    found = route("GET", "/api/datasets/a/b/tree/refs%2Fx%2Fy/d%2Fe")
    assert found is not None
    assert (found[0].endpoint, found[1]["rev"], found[1]["path"]) == ("tree", "refs/x/y", "d/e")
    model = route("HEAD", "/a/b/resolve/main/c/d%0Ae")
    assert model is not None
    assert (model[1]["kind"], model[1]["path"]) == ("models", "c/d\ne")
