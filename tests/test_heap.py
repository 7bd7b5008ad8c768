"""Python's collector is left alone only while a snapshot is in the making, and as it was afterwards."""

from __future__ import annotations

import gc

import pytest

from sidecar import heap


def test_it_is_as_it_was_after_the_last_of_several() -> None:
    before = gc.get_threshold()
    first, second = heap.unhurried(), heap.unhurried()
    with first:
        assert gc.get_threshold() == heap.RARELY
        second.__enter__()
    assert gc.get_threshold() == heap.RARELY, "the other one is still at it"
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before


def test_it_is_as_it_was_after_a_failure() -> None:
    before = gc.get_threshold()
    with pytest.raises(OSError, match="full"), heap.unhurried():
        raise OSError("full")
    assert gc.get_threshold() == before


def test_it_still_collects() -> None:
    with heap.unhurried():
        assert gc.isenabled()
