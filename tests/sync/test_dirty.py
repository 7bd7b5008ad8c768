from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.roots import Root
from sidecar.sync.dirty import Dirty, below_roots, by_root

ROOTS = [Root("data", "/data"), Root("data2", "/data2"), Root("conf", "/home/app/conf")]
PATHS = st.sampled_from(["/data/a", "/data/d/b", "/data", "/data2/a", "/home/app/conf/x", "/elsewhere"])


def dirty() -> Dirty:
    return Dirty(ROOTS, lambda: None)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/data", {"data": {""}}),
        ("/data/d/a", {"data": {"d/a"}}),
        ("/data2/a", {"data2": {"a"}}),
        ("/data3", {}),
        ("/home/app", {}),
    ],
)
def test_a_path_belongs_to_the_root_that_it_lies_in(path: str, found: dict[str, set[str]]) -> None:
    assert by_root([path], iter(ROOTS)) == found


def test_entries_are_taken_apart_at_the_name_of_their_root() -> None:
    names = iter(["data", "data2"])
    assert below_roots(["data/d/a", "data2/b", "data", "gone/c"], names) == {"data": {"d/a", ""}, "data2": {"b"}}


@given(st.lists(PATHS), st.lists(PATHS))
def test_what_a_failed_sync_puts_back_waits_with_what_came_meanwhile(before: list[str], meanwhile: list[str]) -> None:
    waits = dirty()
    for path in before:
        waits.hints.add(path)
    taken, first = waits.take()
    for path in meanwhile:
        waits.hints.add(path)
    waits.put_back(taken, first)
    assert waits.due(1, 10) is not None
    assert waits.take() == (by_root([*before, *meanwhile], ROOTS), first)
    assert waits.take()[0] == {}


def test_where_everything_may_differ_no_path_is_told_apart() -> None:
    waits = dirty()
    waits.everything()
    waits.hints.add("/data/a")
    waits.entries(["data/b"], time.monotonic())
    taken, first = waits.take()
    assert taken is None
    waits.hints.add("/data/c")
    waits.put_back(taken, first)
    assert waits.waiting() == 2
    assert waits.take()[0] is None


def test_nothing_is_due_until_something_is_told_and_then_once_it_is_quiet() -> None:
    waits = dirty()
    assert waits.due(1, 10) is None
    waits.hinted()
    first = waits.first
    assert waits.due(1, 10) == pytest.approx(first + 1)
    waits.last = 0.0  # nobody is waited for
    assert (waits.due(1, 10) or 0) <= first
    waits.last = first + 60
    assert waits.due(1, 10) == pytest.approx(first + 10)
