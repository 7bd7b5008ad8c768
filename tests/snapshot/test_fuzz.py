"""A little of what `make soak` does for minutes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.snapshot.fuzz import PROPERTIES


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda p: p.__name__)
def test_readers_refuse_or_read_safely(holds: Callable[[st.DataObject], None]) -> None:
    limits = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    limits(given(st.data())(holds))()
