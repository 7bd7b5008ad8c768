"""Posting to a real HTTP server: where, what, how often, and what is said when it can't be."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from sidecar import posting
from sidecar.posting import QUEUE, TRIES, Event, Posting, Undelivered, post, target
from sidecar.state import State
from tests.heard import Heard, hearing


@pytest.fixture
def heard() -> Iterator[Heard]:
    with hearing() as place:
        yield place


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "PAUSE_S", 0.02)


def a_state() -> State:
    return State("me", "0.1", "local", "file:///s", True)


def posted(url: str | None, work: Callable[[Posting], Awaitable[Any]], state: State | None = None) -> State:
    """Let a Posting run while ``work`` goes on, and until all is sent."""
    state = state or a_state()

    async def main() -> None:
        one = Posting(url, state)
        running = asyncio.create_task(one.run())
        await work(one)
        await one.flush(10)
        running.cancel()

    asyncio.run(main())
    return state


@pytest.mark.parametrize(
    ("url", "start", "success", "fail", "recovery"),
    [
        ("https://hc-ping.com/u-u", "https://hc-ping.com/u-u/start", "https://hc-ping.com/u-u", "/u-u/fail", None),
        ("https://hc-ping.com/u-u/", "https://hc-ping.com/u-u/start", "https://hc-ping.com/u-u", "/u-u/fail", None),
        ("https://hc-ping.com/key/slug?create=1", "/key/slug/start?create=1", "/slug?create=1", "/fail?create=1", None),
        ("https://health.me/ping/u-u", "https://health.me/ping/u-u/start", "/ping/u-u", "/ping/u-u/fail", None),
        ("https://n8n.me/webhook/u-u", *["https://n8n.me/webhook/u-u"] * 4),
        ("https://me.app/pingpong?x=/ping/", *["https://me.app/pingpong?x=/ping/"] * 4),
    ],
)
def test_where_an_event_goes(url: str, start: str, success: str, fail: str, recovery: str | None) -> None:
    wanted: dict[Event, str | None] = {"start": start, "success": success, "fail": fail, "recovery": recovery}
    for event, where in wanted.items():
        found = target(url, event)
        assert found == where if where is None else (found is not None and found.endswith(where)), (event, found)


def test_events_come_in_order_as_json(heard: Heard) -> None:
    async def work(one: Posting) -> None:
        one.send("start", {"event": "start", "name": "data/\udcff"})
        one.send("recovery", {"event": "recovery"})
        one.send("success", {"event": "success"})

    state = posted(f"{heard.url}/ping/u-u", work)
    assert heard.paths() == ["/ping/u-u/start", "/ping/u-u"]
    assert heard.calls[0].body["name"] == "data/\udcff"
    assert heard.calls[0].headers["Content-Type"] == "application/json"
    assert heard.calls[0].headers["User-Agent"] == "space-sidecar/0.1"
    assert state.heartbeat is not None
    assert (state.heartbeat["event"], state.heartbeat["error"]) == ("success", None)


def test_who_posts_with_a_password_says_it_in_a_header(heard: Heard) -> None:
    post(heard.url.replace("//", "//me:p%40ss@") + "/hook", b"{}", "x")
    assert heard.calls[0].headers["Authorization"] == "Basic bWU6cEBzcw=="
    assert "me" not in heard.calls[0].headers["Host"]


@pytest.mark.parametrize("answers", [[500], [503, 429], [408, 500, 502]])
def test_what_time_mends_is_tried_again(heard: Heard, answers: list[int]) -> None:
    heard.answers = list(answers)

    async def work(one: Posting) -> None:
        one.send("fail", {"event": "fail"})

    state = posted(f"{heard.url}/hook", work)
    assert len(heard.calls) == len(answers) + 1
    assert state.heartbeat is not None
    assert state.heartbeat["error"] is None


def test_it_is_given_up_after_a_few_times_and_the_next_one_is_sent(
    heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sidecar")
    heard.answers = [500] * TRIES + [404]

    async def work(one: Posting) -> None:
        for n in range(3):
            one.send("success", {"event": "success", "n": n})

    state = posted(f"{heard.url}/hook/very-secret", work)
    assert [c.body["n"] for c in heard.calls] == [0] * TRIES + [1, 2], "a 404 is not tried again"
    assert state.heartbeat is not None
    assert state.heartbeat["error"] is None
    said = [r.getMessage() for r in caplog.records if r.levelname in ("INFO", "WARNING")]
    assert len(said) == 2, said
    assert "it answers 500" in said[0]
    assert said[1] == "heartbeat: posted again"
    assert "very-secret" not in caplog.text


@pytest.mark.parametrize(
    ("where", "why", "again"),
    [
        ("http://127.0.0.1:{closed}/very-secret", "can't be reached (Connection refused)", True),
        ("http://no.invalid/very-secret", "can't be reached", True),
        ("{heard}/very-secret", "no answer within 0.2 s", True),
        ("http://127.0.0.1:{mute}/very-secret", "can't be reached (TimeoutError)", True),
        ("{heard}/very\x7fsecret", "no proper answer (InvalidURL)", True),
    ],
)
def test_why_it_could_not_be_posted_is_said_without_the_url(heard: Heard, where: str, why: str, again: bool) -> None:
    heard.answers = [0]
    with socket.socket() as closed, socket.socket() as mute:
        closed.bind(("127.0.0.1", 0))
        mute.bind(("127.0.0.1", 0))
        mute.listen(0)
        filling = [socket.socket() for _ in range(3)]
        for one in filling:  # from here on nobody is even accepted by the kernel
            one.setblocking(False)
            one.connect_ex(mute.getsockname())
        url = where.format(closed=closed.getsockname()[1], mute=mute.getsockname()[1], heard=heard.url)
        began = time.monotonic()
        with pytest.raises(Undelivered) as raised:
            post(url, b"{}", "x", 0.2)
        for one in filling:
            one.close()
    assert why in str(raised.value)
    assert "secret" not in str(raised.value)
    assert raised.value.again is again
    assert time.monotonic() - began < 10


def test_a_place_that_never_answers_holds_up_nobody_and_the_newest_wait(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard.answers = [0]

    async def main() -> None:
        one = Posting(f"{heard.url}/hook", a_state())
        running = asyncio.create_task(one.run())
        one.send("start", {"event": "start"})
        while not heard.calls:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        for n in range(QUEUE + 9):
            one.send("success", {"event": "success", "n": n})
        await one.flush(0.1)
        assert time.monotonic() - began < 5
        heard.gone.set()  # the connection is closed without an answer: tried again
        await one.flush(10)
        running.cancel()

    asyncio.run(main())
    assert heard.events()[:2] == ["start", "start"]
    assert [c.body["n"] for c in heard.calls[2:]] == list(range(9, QUEUE + 9))


def test_a_body_is_bounded_and_keeps_what_matters(heard: Heard) -> None:
    async def work(one: Posting) -> None:
        one.send("fail", {"event": "fail", "epoch": 7, "recovery": {"x": "y" * 100_000}})
        one.send("fail", {"event": "fail", "message": "y" * 100_000})

    posted(f"{heard.url}/hook", work)
    assert [c.body for c in heard.calls] == [{"event": "fail", "epoch": 7}, {"event": "fail"}]


def test_without_a_url_nothing_is_done() -> None:
    async def work(one: Posting) -> None:
        one.send("start", {"event": "start"})
        await asyncio.wait_for(one.run(), 1)

    assert posted(None, work).heartbeat is None
