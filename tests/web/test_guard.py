from __future__ import annotations

import contextlib
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.web.guard import HEAD_MAX, Strict, why_refused
from tests.web.serving import Served, serving

HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\n%b\r\n"
TWO_READINGS = [
    b"Content-Length: 3\r\nContent-Length: 3\r\n",
    b"Content-Length: 3\r\nContent-Length: 4\r\n",
    b"Content-Length: 3, 3\r\n",
    b"Content-Length: +3\r\n",
    b"Content-Length: 0x3\r\n",
    b"Content-Length: -3\r\n",
    b"Content-Length: 3 \t4\r\n",
    b"Content-Length: \r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length : 3\r\n",
    b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding\t: chunked\r\n",
    b"X: y\r\n Transfer-Encoding: chunked\r\n",
    b" Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"X: y\nTransfer-Encoding: chunked\r\n",
    b"X: y\rTransfer-Encoding: chunked\r\n",
    b"X: y\r\r\nTransfer-Encoding: chunked\r\n",
    b"X: y\0z\r\n",
    b"X\r\n",
    b": x\r\n",
    b"X Y: z\r\n",
    b"Host: other\r\n",
]
NO_HOSTS = [b"a b", b"a/b", b"a\\b", b"u@a", b"a?b", b"a#b", b'a"b', b"<a>", b"a\x01", b"a\x7f", b"a\tb"]
ODD_CHUNKS = [
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"-1\r\nabc\r\n0\r\n\r\n",
    b"3\nabc\r\n0\r\n\r\n",
    b"3\r\nabcde\r\n0\r\n\r\n",
    b"3\r\nabcXX0\r\n\r\n",
    b"fffffffffffffffffffff\r\nabc",
    b"\r\n\r\n",
]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    # Nothing listens there: a request that got through would be answered 502 or 503, never 400.
    with serving(tmp_path_factory.mktemp("guard"), app_url="http://127.0.0.1:1") as served:
        yield served


def answer_to(one: Served, said: bytes) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        return one.raw(said)
    return b""


@pytest.mark.parametrize("lines", TWO_READINGS)
def test_a_head_with_two_readings_is_refused_and_not_passed_on(one, lines):
    before = one.state.door.requests
    answer = answer_to(one, HEAD % lines + b"3\r\nabc\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1, "what follows it is no second request"
    assert one.state.door.requests == before


@pytest.mark.parametrize("body", ODD_CHUNKS)
def test_odd_chunks_are_refused(one, body):
    answer = answer_to(one, HEAD % b"Transfer-Encoding: chunked\r\n" + body)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 50")), answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "said",
    [
        b"POST /x HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /x HTTP/1.1\nHost: x\n\n",
        b"GET  /x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /x y HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /x\r\n\r\n",
        b"GET /x HTTP/2.0\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nX: " + b"y" * HEAD_MAX + b"\r\n\r\n",
        b"\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G\xffT /x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(one, said):
    assert answer_to(one, said).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("host", NO_HOSTS)
def test_a_host_that_is_none_is_refused(one, host):
    assert answer_to(one, b"GET /x HTTP/1.1\r\nhOST: \t%b \r\n\r\n" % host).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("host", [b"", b"a", b"me-x.hf.space:443", b"[::1]:80", b"1.2.3.4", b"x_y.example", b"a%20b"])
def test_a_host_that_is_one_passes(one, host):
    head = b"GET /livez HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host
    assert answer_to(one, head).startswith(b"HTTP/1.1 200")


def test_long_heads_of_real_visitors_pass(one):
    cookies = b"Cookie: a=" + b"y" * 30_000 + b"\r\n"
    answer = one.raw(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + cookies + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_each_looked_at(one):
    good, bad = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", HEAD % TWO_READINGS[0]
    for said in (good + bad + b"abc", good + good + bad + b"abc"):
        answer = answer_to(one, said)
        assert answer.count(b"HTTP/1.1 200") == said.count(b"GET")
        assert answer.count(b"HTTP/1.1 400") == 1
    body = b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc\n\n"
    assert answer_to(one, body + bad + b"abc").count(b"HTTP/1.1 400") == 1


@given(cut=st.lists(st.integers(0, 120), max_size=6), lines=st.sampled_from([*TWO_READINGS, b"X: y\r\n", b""]))
def test_however_it_arrives_it_is_judged_the_same(cut, lines):
    whole = HEAD % lines

    def verdict(parts: list[bytes]) -> str:
        conn = Strict()
        for part in parts:
            if not part:
                continue
            conn.receive_data(part)
            try:
                event = conn.next_event()
            except h11.RemoteProtocolError:
                return "refused"
            if event is not h11.NEED_DATA:
                return f"{type(event).__name__} {conn.target!r}"
        return "waiting"

    at = [0, *sorted(min(place, len(whole)) for place in cut), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(at)]
    assert verdict(pieces) == verdict([whole]) == ("refused" if lines in TWO_READINGS else "Request b'/x'")


@given(st.binary(max_size=200))
def test_it_judges_anything(junk):
    refused = why_refused(b"GET / HTTP/1.1\r\nX: " + junk + b"\r\n\r\n")
    if b"\n" in junk.replace(b"\r\n", b""):
        assert refused is not None
    elif b"\r" not in junk and b"\0" not in junk:
        assert refused is None
