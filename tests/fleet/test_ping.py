"""Pings over real HTTP: what each answer means, and how patient a ping is."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

from sidecar.fleet.ping import How, Seen, ask, each, ping
from sidecar.fleet.roster import Space
from tests.fleet.spaces import WELL, Served, serving
from tests.journeys.space import free_port

QUICK = How(limit_s=2.0, tries=3, pause_s=0.01, jitter_s=0.01)


def pinged(served: Served, how: How = QUICK, **more: Any) -> Seen:
    with serving(served):
        return asyncio.run(ping(Space("me/a", served.url, **more), how))


@pytest.mark.parametrize(
    ("answer", "state", "said"),
    [
        ((200, WELL), "pass", "running"),
        ((200, {**WELL, "status": "warn", "notes": ["not-durable", "x\x1b[31m"]}), "warn", "not-durable, x?[31m"),
        ((503, {**WELL, "status": "fail", "notes": ["recovering"]}), "fail", "recovering"),
        ((200, b"<html>sleeping</html>"), "unreachable", "not as a sidecar"),
        ((404, b"Not Found"), "unreachable", "is it private"),
        ((302, b""), "unreachable", "HTTP 302"),
        ((200, {"status": "great"}), "unreachable", "HTTP 200"),
        ((200, ["pass"]), "unreachable", "HTTP 200"),
        ((200, b"x" * (5 << 20)), "unreachable", "longer than"),
    ],
)
def test_what_an_answer_means(answer, state, said):
    seen = pinged(Served([answer]))
    assert (seen.id, seen.state) == ("me/a", state)
    assert said in seen.text


def test_it_says_who_it_is_and_where_it_goes():
    served = Served()
    assert pinged(served).tries == 1
    ((method, path, headers, _),) = served.asked
    assert (method, path) == ("GET", "/health")
    assert headers["user-agent"].startswith("space-sidecar-fleet/")
    assert headers["host"] == served.url.removeprefix("http://")
    assert "authorization" not in headers


def test_what_may_pass_is_tried_again_and_what_is_said_is_not():
    seen = pinged(Served([(502, b"bad gateway"), (503, b"waking"), (200, WELL)]))
    assert (seen.state, seen.tries) == ("pass", 3)
    assert pinged(Served([(502, b"bad gateway")])).tries == 3
    assert pinged(Served([(503, {**WELL, "status": "fail"})])).tries == 1
    assert pinged(Served([(401, b"")])).tries == 1


def test_a_space_that_hangs_or_is_not_there_costs_its_time_limit_only():
    began = time.monotonic()
    seen = pinged(Served([3.0]), How(limit_s=0.2, tries=2, pause_s=0.01))
    assert (seen.state, seen.http, seen.tries) == ("unreachable", None, 2)
    assert "0.2 s" in seen.text
    assert time.monotonic() - began < 2.5
    nobody = asyncio.run(ping(Space("me/a", f"http://127.0.0.1:{free_port()}"), QUICK))
    assert (nobody.state, nobody.tries) == ("unreachable", 3)
    assert nobody.text == "Connection refused"
    lost = asyncio.run(ping(Space("me/a", "http://no-such-host.invalid"), How(5.0, tries=1)))
    assert lost.state == "unreachable"
    assert "not known" in lost.text or "resolution" in lost.text


def test_what_answers_slowly_byte_by_byte_meets_the_limit_too():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n" * 9:
                        connection.sendall(bytes([byte]))
                        time.sleep(0.05)
                except OSError:
                    pass

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        began = time.monotonic()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        seen = asyncio.run(ping(Space("me/a", url), How(limit_s=0.4, tries=1)))
        assert seen.state == "unreachable"
        assert time.monotonic() - began < 3
        thread.join(5)


def test_what_speaks_no_http_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            connection.sendall(b"220 mail.example.org ESMTP\r\n")
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert "doesn't speak HTTP" in asyncio.run(ping(Space("me/a", url), How(2.0, tries=1))).text
        thread.join(5)


def test_a_token_is_sent_from_its_variable(monkeypatch):
    served = Served()
    monkeypatch.setenv("BOT_TOKEN", " hf_secret\n")
    assert pinged(served, token_env="BOT_TOKEN").state == "pass"
    assert served.asked[0][2]["authorization"] == "Bearer hf_secret"
    monkeypatch.delenv("BOT_TOKEN")
    seen = pinged(served, token_env="BOT_TOKEN")
    assert (seen.state, len(served.asked)) == ("unreachable", 1)
    assert "BOT_TOKEN is not set" in seen.text


def test_another_version_than_is_expected_is_a_warning():
    status = (200, {"health": "pass", "phase": "running", "version": "0.1.0"})
    assert pinged(Served(paths={"/status": status}), version="0.1.0").state == "pass"
    seen = pinged(Served(paths={"/status": status}), version="0.2.0")
    assert (seen.state, seen.text) == ("warn", "runs 0.1.0, 0.2.0 is expected")


def test_a_bounded_number_is_asked_at_a_time_and_answers_keep_their_order():
    now, most, lock = 0, 0, threading.Lock()

    def count() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1

    served = Served(hold=count)
    with serving(served):
        spaces = [Space(f"me/{n}", served.url) for n in range(12)]
        how = How(limit_s=5.0, at_once=3, jitter_s=0.02)
        seen = asyncio.run(each(spaces, lambda space: ask(space, "/health", how), how))
    assert [one.id for one in seen] == [space.id for space in spaces]
    assert {one.state for one in seen} == {"pass"}
    assert most == 3
