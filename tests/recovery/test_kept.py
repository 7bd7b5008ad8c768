"""What an entry keeps comes back: mode with set-uid and the like, owner, times, links, empty folders, hard links."""

from __future__ import annotations

import pytest

from tests.recovery.kept import SCENARIOS
from tests.snapshot.alone import run_alone


@pytest.mark.parametrize("name", SCENARIOS)
def test_kept(name: str) -> None:
    run_alone(name, "tests.recovery.kept")
