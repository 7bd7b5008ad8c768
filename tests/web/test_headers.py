from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.web.headers import HOP_BY_HOP, Framing, framing, switching, to_client, to_upstream, wants_websocket

NAMES = st.sampled_from([*HOP_BY_HOP, b"x-a", b"x-b", b"host", b"cookie", b"x-forwarded-for", b"x-forwarded-proto"])
HEADERS = st.lists(st.tuples(NAMES, st.sampled_from([b"x-a", b"x-b, keep-alive", b"host", b"close", b"7", b""])))


def sent(*given: tuple[bytes, bytes], peer: str | None = "10.0.0.9", websocket: bool = False) -> list:
    return to_upstream(list(given), peer=peer, default_host=b"127.0.0.1:7861", websocket=websocket)


def test_the_platforms_word_counts_and_ours_is_added():
    given_ = ((b"host", b"a"), (b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-host", b"b"))
    assert sent(*given_) == [
        (b"host", b"a"),
        (b"x-forwarded-host", b"b"),
        (b"x-forwarded-for", b"1.2.3.4, 10.0.0.9"),
        (b"x-forwarded-proto", b"http"),
    ]


def test_http_1_0_without_a_host_gets_the_apps_own():
    assert sent(peer=None) == [
        (b"host", b"127.0.0.1:7861"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"127.0.0.1:7861"),
    ]


@pytest.mark.parametrize("name", [b"host", b"content-length", b"cookie", b"authorization", b"content-type"])
def test_connection_can_not_take_away_what_the_request_means(name):
    kept = sent((b"host", b"a"), (name, b"1"), (b"connection", name))
    assert (name, b"1") in kept


@given(HEADERS)
def test_nothing_of_the_hop_is_passed_on_and_nothing_else_is_lost(headers):
    named = {word.strip() for name, value in headers if name == b"connection" for word in value.split(b",")}
    for out in (sent(*headers), to_client(headers, 200)):
        names = [name for name, _ in out]
        assert not (set(names) & HOP_BY_HOP) - {b"transfer-encoding"}
        for number, (name, value) in enumerate(headers):
            if name in (b"x-a", b"x-b", b"cookie") and name not in named:
                assert out.count((name, value)) == headers.count((name, value)), number
    order = [header for header in headers if header[0] in (b"x-a", b"cookie") and header[0] not in named]
    assert [header for header in to_client(headers, 200) if header in order] == order


def test_an_answers_framing_is_left_to_our_server():
    length, more = (b"content-length", b"3"), (b"x", b"y")
    assert to_client([(b"transfer-encoding", b"chunked"), length, more], 200) == [more]
    assert to_client([length, more], 204) == [more], "a reader that believed it would wait for a body"
    assert to_client([length], 200) == to_client([length], 304) == [length]


def test_a_requests_framing():
    assert framing([(b"content-length", b"0")]) == Framing(0, False)
    assert not framing([(b"content-length", b"0")]).has_body
    assert not framing([]).has_body
    assert framing([(b"content-length", b"5")]).has_body
    assert framing([(b"transfer-encoding", b"chunked")]) == Framing(None, True)
    assert (b"transfer-encoding", b"chunked") in sent((b"transfer-encoding", b"chunked"))


@pytest.mark.parametrize(
    ("method", "connection", "upgrade", "more", "wants"),
    [
        ("GET", b"Upgrade", b"websocket", [], True),
        ("GET", b"keep-alive, Upgrade", b"WebSocket", [], True),
        ("GET", b"keep-alive", b"websocket", [], False),
        ("GET", b"Upgrade", b"h2c", [], False),
        ("GET", b"Upgrade", b"h2c, websocket", [], False),
        ("POST", b"Upgrade", b"websocket", [], False),
        ("GET", b"Upgrade", b"websocket", [(b"content-length", b"5")], False),
    ],
)
def test_only_a_websocket_handshake_switches(method, connection, upgrade, more, wants):
    assert wants_websocket(method, [(b"connection", connection), (b"upgrade", upgrade), *more]) is wants


def test_a_handshake_keeps_what_belongs_to_it():
    given_ = ((b"host", b"a"), (b"connection", b"Upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-key", b"k"))
    out = sent(*given_, websocket=True)
    assert out[-2:] == [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    assert (b"sec-websocket-key", b"k") in out
    head = switching([(b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-accept", b"z")])
    assert head == (
        b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: z\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
