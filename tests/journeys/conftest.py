"""Journeys that don't disturb each other run side by side: they wait for processes most of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

AT_ONCE = 5


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[None]]]:
    """Every selected one of the module's ``JOBS`` (name -> what to do in a folder of its own), under way.

    A test is parametrised with the name, and asks for the result.
    """
    jobs: Mapping[str, Callable[[Path], None]] = request.module.JOBS
    ids = {
        item.name.partition("[")[2].rstrip("]")
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(job, tmp_path_factory.mktemp(name)) for name, job in jobs.items() if name in ids}
        pool.shutdown(cancel_futures=True)
