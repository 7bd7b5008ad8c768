"""What every test starts from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sidecar import log


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """A command run in this process sets the log up for itself; the next test finds it untouched."""
    handlers, level, propagate = log.logger.handlers[:], log.logger.level, log.logger.propagate
    yield
    log.logger.handlers[:], log.logger.propagate = handlers, propagate
    log.logger.setLevel(level)
