"""Time limits, threads and repetitions of one call."""

from __future__ import annotations

import asyncio
import threading
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.stores.hubcall import Answered, Call, Late, Lost, Patience, again, current, in_thread, root

PATIENCE = Patience(tries=3, pause=0.001, longest=0.01)
FOREVER = float("inf")


def answered(status: int, **headers: str) -> Answered:
    return Answered(status, {name.replace("_", "-"): value for name, value in headers.items()}, "", "h", "/")


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (answered(429), None),
        (answered(429, retry_after="7"), 7),
        (answered(503, retry_after="0"), 0),
        (answered(429, retry_after="soon"), None),
        (answered(429, retry_after="-3"), None),
        (answered(429, ratelimit='"api";r=0;t=55', retry_after="9"), 55),
        # The header comes with every reply; with something left in the window it isn't what the 429 is about.
        (answered(429, ratelimit='"api";r=12;t=55', retry_after="9"), 9),
        (answered(503, ratelimit='"api";r=0;t=55'), None),
    ],
)
def test_retry_after_is_read_as_the_hub_sends_it(answer: Answered, seconds: float | None) -> None:
    assert answer.retry_after == seconds


def test_retry_after_as_a_date() -> None:
    later = answered(503, retry_after=formatdate(time.time() + 90, usegmt=True)).retry_after
    assert later is not None
    assert 85 < later <= 91
    assert answered(503, retry_after=formatdate(0, usegmt=True)).retry_after == 0


@given(st.text(max_size=40))
def test_any_retry_after_is_a_number_or_nothing(text: str) -> None:
    found = answered(429, retry_after=text, ratelimit=text).retry_after
    assert found is None or found >= 0


class Flaky:
    """Fails as told, then returns how often it was called."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.calls


@pytest.mark.parametrize("failure", [Lost("cut", sent=True), answered(500), answered(429), answered(503)])
def test_what_time_may_mend_is_repeated(failure: Exception) -> None:
    assert again(Flaky(failure, failure), Call(PATIENCE, 5, FOREVER)) == 3


def test_repetition_has_an_end() -> None:
    work = Flaky(*[Lost("cut", sent=True)] * 9)
    with pytest.raises(Lost):
        again(work, Call(PATIENCE, 5, FOREVER))
    assert work.calls == PATIENCE.tries


@pytest.mark.parametrize("failure", [answered(403), answered(404), answered(412), ValueError("no"), Late()])
def test_what_time_cant_mend_is_not_repeated(failure: Exception) -> None:
    work = Flaky(failure)
    with pytest.raises(type(failure)):
        again(work, Call(PATIENCE, 5, FOREVER))
    assert work.calls == 1


def test_a_long_retry_after_is_for_the_caller() -> None:
    work = Flaky(answered(429, retry_after="300"))
    with pytest.raises(Answered):
        again(work, Call(PATIENCE, 5, FOREVER))
    assert work.calls == 1


def test_what_the_client_wraps_is_still_seen() -> None:
    def work() -> int:
        try:
            return flaky()
        except Lost as error:
            raise RuntimeError("Error while uploading") from error

    flaky = Flaky(Lost("cut", sent=True))
    assert again(work, Call(PATIENCE, 5, FOREVER)) == 2


def test_root_ends_in_a_circle_of_causes() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert root(one) is None


def test_no_repetition_past_the_deadline() -> None:
    call = Call(Patience(tries=5, pause=30, longest=60), 0.2, FOREVER)
    begin = time.monotonic()
    with pytest.raises(Lost):
        again(Flaky(*[Lost("cut", sent=True)] * 5), call)
    assert time.monotonic() - begin < 0.2


def test_a_hung_thread_holds_nobody_up() -> None:
    release = threading.Event()
    seen: list[Any] = []

    async def main() -> None:
        call = Call(PATIENCE, 0.05, FOREVER)
        begin = time.monotonic()
        with pytest.raises(Late):
            await in_thread(lambda: release.wait(20), call)
        seen.append(time.monotonic() - begin)
        assert call.over.is_set()

    begin = time.monotonic()
    asyncio.run(main())
    assert seen[0] < 1
    assert time.monotonic() - begin < 2, "the end of the loop waited for the thread"
    release.set()


def test_progress_moves_the_deadline_but_not_past_the_hard_limit() -> None:
    def work(call: Call) -> str:
        for _ in range(8):
            time.sleep(0.05)
            call.moved()
        return "done"

    async def main(hard: float) -> str:
        call = Call(PATIENCE, 0.2, time.monotonic() + hard, stall=True)
        return await in_thread(lambda: work(call), call)

    assert asyncio.run(main(FOREVER)) == "done"
    with pytest.raises(Late):
        asyncio.run(main(0.05))


def test_cancelling_gives_the_thread_up() -> None:
    ended: list[str] = []
    running = threading.Event()

    def work(call: Call) -> None:
        running.set()
        try:
            call.sleep(30)
        except Late:
            ended.append("late")

    async def main() -> None:
        call = Call(PATIENCE, 60, FOREVER)
        task = asyncio.create_task(in_thread(lambda: work(call), call))
        await asyncio.to_thread(running.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    deadline = time.monotonic() + 5
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == ["late"]


def test_a_thread_of_the_clients_own_belongs_to_a_call() -> None:
    found: list[Call | None] = []

    def work() -> None:
        helper = threading.Thread(target=lambda: found.append(current()))
        helper.start()
        helper.join()

    async def main() -> Call:
        call = Call(PATIENCE, 5, FOREVER)
        await in_thread(work, call)
        return call

    call = asyncio.run(main())
    assert found == [call]
    assert current() is None
