"""The agent's end of the socket: every line that it may hear, in any pieces, and what it says."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.link import Link


def linked(scenario: Callable[[Link, socket.socket], Awaitable[Any]]) -> Any:
    """``scenario`` with a link that listens, and the supervisor's end of it."""

    async def main() -> Any:
        ours, theirs = socket.socketpair()
        with theirs:
            link = Link(ours.detach())
            assert link.supervised
            link.start()
            try:
                return await scenario(link, theirs)
            finally:
                theirs.close()
                await asyncio.wait_for(link.orders.gone.wait(), 5)
                link.close()

    return asyncio.run(main())


async def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_what_becomes_of_main_is_heard() -> None:
    async def scenario(link: Link, theirs: socket.socket) -> None:
        assert (link.main.pid, link.main.exited, link.main.started.is_set()) == (None, None, False)
        theirs.send(b"main started 4711\n")
        await asyncio.wait_for(link.main.started.wait(), 5)
        assert link.main.pid == 4711
        theirs.send(b"main exited 143\n")
        await until(lambda: link.main.exited == 143)

    linked(scenario)


@pytest.mark.parametrize("order", ["stop", "final"])
def test_orders_carry_a_deadline(order: str) -> None:
    async def scenario(link: Link, theirs: socket.socket) -> None:
        event = getattr(link.orders, order)
        theirs.send(f"{order} 12.5\n".encode())
        await asyncio.wait_for(event.wait(), 5)
        assert link.orders.until == pytest.approx(time.monotonic() + 12.5, abs=1)
        others = {"stop": link.orders.final, "final": link.orders.stop}
        assert not others[order].is_set()
        assert not link.orders.gone.is_set()

    linked(scenario)


def test_a_later_order_moves_the_deadline() -> None:
    async def scenario(link: Link, theirs: socket.socket) -> None:
        theirs.send(b"stop 25\nfinal 19\n")
        await asyncio.wait_for(link.orders.final.wait(), 5)
        assert link.orders.stop.is_set()
        assert link.orders.until == pytest.approx(time.monotonic() + 19, abs=1)

    linked(scenario)


NOISE = [b"", b" ", b"stop", b"stop x", b"stop nan", b"stop inf", b"stop -1", b"stop 1e9", b"main", b"main started"]
NOISE += [b"main started x", b"main exited", b"final", b"nonsense 5", b"\xff\xfe", b"\0", b"x" * 5000, b"STOP 5"]


@pytest.mark.parametrize("noise", NOISE)
def test_what_it_does_not_know_is_passed_over(noise: bytes) -> None:
    async def scenario(link: Link, theirs: socket.socket) -> None:
        theirs.send(noise + b"\nmain started 1\n")
        await asyncio.wait_for(link.main.started.wait(), 5)
        assert link.main.pid == 1
        assert not link.orders.stop.is_set()
        assert not link.orders.final.is_set()
        assert (link.orders.until, link.main.exited) == (None, None)

    linked(scenario)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=12))
def test_lines_may_come_in_any_pieces(cuts: list[int]) -> None:
    whole = b"main started 4711\nmain exited 7\nstop 3\nfinal 2\n"

    async def scenario(link: Link, theirs: socket.socket) -> None:
        at = 0
        for cut in cuts:
            theirs.send(whole[at : at + cut])
            at += cut
            await asyncio.sleep(0)
        theirs.send(whole[at:] or b"\n")
        await asyncio.wait_for(link.orders.final.wait(), 5)
        assert (link.main.pid, link.main.exited, link.orders.stop.is_set()) == (4711, 7, True)

    linked(scenario)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_supervisor_that_is_gone_is_noticed(how: str) -> None:
    async def scenario(link: Link, theirs: socket.socket) -> None:
        theirs.send(b"main started 1\nhalf a li")
        if how == "reset":
            link.say("alive")  # unread, so that the end is an error instead of an end of file
        theirs.close()
        await asyncio.wait_for(link.orders.gone.wait(), 5)
        assert link.main.started.is_set(), "what it said before that counts"
        link.say("alive")
        link.hand_over([0])

    linked(scenario)


def test_what_is_said_is_one_line() -> None:
    async def scenario(link: Link, theirs: socket.socket) -> None:
        link.say("hello", 6.0, 25.0)
        link.say("keep", "epoch", 7)
        link.say("done")
        assert theirs.recv(1000) == b"hello 6.0 25.0\nkeep epoch 7\ndone\n"

    linked(scenario)


def test_a_supervisor_that_does_not_read_stops_nobody() -> None:
    async def scenario(link: Link, theirs: socket.socket) -> None:
        began = time.monotonic()
        for _ in range(100_000):
            link.say("alive")
        assert time.monotonic() - began < 10
        theirs.settimeout(0.1)
        heard = b""
        while True:
            try:
                heard += theirs.recv(1 << 20)
            except TimeoutError:
                break
        assert set(heard.split(b"\n")) == {b"alive", b""}, "what is lost is lost in whole lines"

    linked(scenario)


def test_locks_are_handed_over_as_the_same_open_files(tmp_path: Path) -> None:
    async def scenario(link: Link, theirs: socket.socket) -> None:
        ours = [os.open(tmp_path / name, os.O_CREAT | os.O_RDWR) for name in "ab"]
        link.hand_over(ours)
        words, fds, _, _ = socket.recv_fds(theirs, 100, 10)
        assert words == b"locks\n"
        assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(fd).st_ino for fd in ours]
        for fd in (*ours, *fds):
            os.close(fd)
        link.hand_over([])
        link.say("ready")
        assert theirs.recv(100) == b"ready\n", "no locks, no line"

    linked(scenario)


def test_the_socket_is_not_inherited() -> None:
    async def scenario(link: Link, theirs: socket.socket) -> None:
        assert link._socket is not None
        assert not link._socket.get_inheritable()

    linked(scenario)


def test_without_a_socket_it_is_silent() -> None:
    async def main() -> None:
        link = Link(None)
        assert not link.supervised
        link.start()
        link.say("hello", 1)
        link.hand_over([0])
        await asyncio.sleep(0)
        assert not link.orders.gone.is_set()

    asyncio.run(main())
