from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.web.access import (
    LISTENER,
    TCP,
    UNIX,
    Caller,
    caller,
    has_token,
    is_loopback,
    outside_ping,
    refusal,
    sees_names,
)

TOKEN = "s3cret-token"


def who(listener: str = TCP, peer: str | None = "127.0.0.1", host: str | None = "localhost:7861", **headers: str):
    named = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    if host is not None:
        named.append((b"host", host.encode("latin-1")))
    return Caller(listener, peer, tuple(named))


def status(caller: Caller, api_token: str | None = None, upstream: bool = False) -> int:
    refused = refusal(caller, api_token, upstream)
    return 200 if refused is None else refused.status


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1", "127.0.0.1:7861", "[::1]", "[::1]:80"])
def test_a_local_caller_who_names_a_local_host_is_let_in(host):
    assert status(who(host=host)) == 200
    assert status(who(host=host, peer="::1")) == 200
    assert status(who(host=host, peer="::ffff:127.0.0.1")) == 200


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost", "localhost:x",
     "localhost\n", "127.0.0.11", "0.0.0.0", "[::1", "localhost:123456", "localhost,evil", " localhost"],
)  # fmt: skip
def test_a_rebound_or_odd_host_is_not(host):
    assert status(who(host=host)) == 401


def test_two_hosts_are_not():
    twice = Caller(TCP, "127.0.0.1", ((b"host", b"localhost"), (b"host", b"localhost")))
    assert status(twice) == 401


@pytest.mark.parametrize(
    "name",
    ["x_forwarded_for", "x_forwarded_host", "x_forwarded_proto", "forwarded", "via", "x_real_ip", "cf_connecting_ip"],
)
def test_whoever_was_forwarded_is_not_local(name):
    assert status(who(**{name: "127.0.0.1"})) == 401
    assert status(who(**{name: "127.0.0.1"}, authorization=f"Bearer {TOKEN}"), TOKEN) == 200


@pytest.mark.parametrize("peer", ["10.0.0.7", "192.168.1.1", "8.8.8.8", "::2", "2001:db8::1", "128.0.0.1", None])
def test_another_machine_is_not(peer):
    assert status(who(peer=peer)) == 401


def test_with_an_upstream_only_the_unix_socket_and_the_token_count():
    assert status(who(), upstream=True) == 401
    assert status(who(authorization=f"Bearer {TOKEN}"), TOKEN, upstream=True) == 200
    assert status(who(UNIX, None), upstream=True) == 200


@pytest.mark.parametrize(
    "given_", [f"Bearer {TOKEN}x", "Bearer ", "Bearer", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN} x", "Bearer \xff"]
)
def test_a_wrong_token_is_refused_even_to_a_local_caller(given_):
    assert status(who(authorization=given_), TOKEN) == 401
    assert not has_token(who(authorization=given_), TOKEN)


def test_the_token_counts_from_anywhere():
    assert status(who(peer="8.8.8.8", host="x.hf.space", authorization=f"bearer {TOKEN}"), TOKEN) == 200
    assert has_token(who(authorization="Bearer pässwort".encode().decode("latin-1")), "pässwort")


def test_no_token_is_never_the_right_one():
    for unset in (None, ""):
        assert not has_token(who(authorization="Bearer "), unset)
        assert not has_token(who(authorization="Bearer None"), unset)
        assert not has_token(who(), unset)


def test_two_tokens_are_none():
    good = (b"authorization", f"Bearer {TOKEN}".encode())
    assert not has_token(Caller(TCP, "8.8.8.8", (good, good)), TOKEN)


@pytest.mark.parametrize("name", ["origin", "sec_fetch_site"])
def test_a_page_in_a_browser_is_refused_whatever_else_it_brings(name):
    for listener, peer in ((TCP, "127.0.0.1"), (UNIX, None)):
        for value in ("null", "http://localhost", "none", ""):
            assert status(who(listener, peer, authorization=f"Bearer {TOKEN}", **{name: value}), TOKEN) == 403


@settings(deadline=None)  # a busy machine is no finding
@given(
    st.sampled_from(["127.0.0.1", "10.1.1.1", None]),
    st.lists(
        st.tuples(
            st.sampled_from([b"host", b"x-forwarded-for", b"authorization", b"origin", b"via", b"cookie"]),
            st.sampled_from([b"localhost", b"evil", b"Bearer nope", b""]),
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_no_mix_of_headers_gets_more_than_the_bare_rule(peer, headers, upstream):
    caller_ = Caller(TCP, peer, tuple(headers))
    names = {name for name, _ in headers}
    if refusal(caller_, TOKEN, upstream) is None:
        assert peer == "127.0.0.1"
        assert not upstream
        assert [value for name, value in headers if name == b"host"] == [b"localhost"]
        assert not names & {b"x-forwarded-for", b"via", b"origin", b"authorization"}
    assert not sees_names(caller_, TOKEN)


def test_every_refusal_says_what_to_do():
    for token in (None, TOKEN):
        refused = refusal(who(peer="8.8.8.8"), token, False)
        assert refused is not None
        assert "SIDECAR_API_TOKEN" in refused.detail
        assert TOKEN not in refused.detail


def test_names_are_for_the_unix_socket_and_the_token_only():
    assert sees_names(who(UNIX, None), None)
    assert sees_names(who(peer="8.8.8.8", authorization=f"Bearer {TOKEN}"), TOKEN)
    assert not sees_names(who(), TOKEN)
    assert not sees_names(who(), None)


def test_the_listener_is_what_the_server_says_never_the_absence_of_a_peer():
    scope = {"headers": [(b"Host", b"localhost")], "client": None, "state": {LISTENER: UNIX}}
    assert caller(scope) == Caller(UNIX, None, ((b"host", b"localhost"),))
    for state in ({}, None, {LISTENER: "tcp"}, {LISTENER: None}):
        assert status(caller({**scope, "state": state})) == 401
    assert status(caller({"headers": [], "client": None})) == 401


def test_pings_from_outside_are_told_from_our_own():
    ping = {"user_agent": "n8n"}
    assert outside_ping(who(peer="8.8.8.8", **ping)) == "n8n"
    assert outside_ping(who(peer="10.0.0.1")) == "-"
    assert outside_ping(who(**ping)) is None
    assert outside_ping(who(UNIX, None, x_forwarded_for="8.8.8.8")) is None
    assert outside_ping(who(x_forwarded_for="8.8.8.8, 127.0.0.1", **ping)) == "n8n"
    assert outside_ping(who(x_forwarded_for="127.0.0.1, ::1", **ping)) is None
    assert outside_ping(who(via="1.1 proxy", **ping)) == "n8n"


def test_behind_a_spaces_proxy_only_who_is_named_as_a_visitor_counts():
    assert outside_ping(who(peer="10.0.0.1", x_forwarded_for="203.0.113.9", user_agent="n8n"), True) == "n8n"
    assert outside_ping(who(peer="10.0.0.1", x_forwarded_for="2001:db8::1, 10.1.2.3"), True) == "-"
    assert outside_ping(who(peer="10.0.0.1", x_forwarded_for="somebody"), True) == "-"
    assert outside_ping(who(peer="10.0.0.1", x_forwarded_for="203.0.113.9:4711, [fd00::1]:80"), True) == "-"
    assert outside_ping(who(peer="10.0.0.1", x_forwarded_for="10.2.3.4:4711, [fd00::1]:80, unknown"), True) is None
    assert outside_ping(who(peer="10.0.0.1"), True) is None
    assert outside_ping(who(peer="10.0.0.1", x_forwarded_for="10.2.3.4, ::ffff:127.0.0.1, fd00::1"), True) is None
    assert outside_ping(who(x_forwarded_for=" , "), True) is None
    assert outside_ping(who(UNIX, None, x_forwarded_for="203.0.113.9"), True) is None


@pytest.mark.parametrize("agent", ["kube-probe/1.30", "GoogleHC/1.0", "ELB-HealthChecker/2.0"])
def test_a_platforms_own_probe_is_no_ping(agent):
    assert outside_ping(who(peer="10.0.0.1", user_agent=agent)) is None


@settings(deadline=None)  # a busy machine is no finding
@given(st.binary(max_size=400))
def test_a_user_agent_is_kept_printable_and_short(raw):
    agent = outside_ping(Caller(TCP, "8.8.8.8", ((b"user-agent", raw),)))
    assert agent is None or (0 < len(agent) <= 120 and agent.isascii() and agent.isprintable())


def test_loopback_addresses():
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]))
    assert not any(map(is_loopback, [None, "", "10.0.0.1", "::", "::ffff:10.0.0.1", "1127.0.0.1"]))
