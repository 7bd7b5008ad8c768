"""Tokens: found in files as programs write them, judged by their expiry alone."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.recovery.jwt import UNCHECKED, Token, find, judge
from tests.recovery.logins import jwt

NOW = 1_800_000_000.0
HOUR, DAY = 3600.0, 86400.0


def test_a_bare_token() -> None:
    token = jwt({"sub": "me", "exp": NOW, "iat": NOW - DAY})
    assert find(token) == [Token("", NOW, NOW - DAY)]
    assert find(f"  {token}\n") == find(f"Authorization: Bearer {token}") == find(f"TOKEN={token}\n") == find(token)
    assert find(json.dumps(token)) == find(token)


def test_json_at_any_depth_and_by_its_key() -> None:
    access, refresh = jwt({"exp": NOW + HOUR}), jwt({"exp": NOW + 30 * DAY})
    auths = {"hosts": [{"user": "me", "access_token": access}, {"oauth": {"refresh": refresh}}], "n": 5}
    assert find(json.dumps(auths)) == [Token("access_token", NOW + HOUR), Token("refresh", NOW + 30 * DAY)]
    # As single-page apps keep it: JSON within a string.
    stored = {"localStorage": [{"name": "auth", "value": json.dumps({"t": access})}]}
    assert find(json.dumps(stored)) == [Token("value", NOW + HOUR)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello.world.again",
        "1.2.3",
        "eyJhbGciOiJIUzI1NiJ9",
        "www.example.com",
        jwt({}, {"typ": "no algorithm"}),
        "eyJhbGciOiJIUzI1NiJ9.!!!!.x",
        "eyJhbGciOiJIUzI1NiJ9.bm90IGpzb24.x",
        "[" * 100_000,
    ],
)
def test_what_is_none(text: str) -> None:
    assert find(text) == []
    assert judge(find(text), NOW, NOW).result == "fail"


@pytest.mark.parametrize(
    ("tokens", "result", "says"),
    [
        ([Token("", NOW - 2 * DAY)], "fail", "expired 2 days ago"),
        ([Token("", NOW)], "fail", "expired 0 s ago"),
        ([Token("", NOW + 30 * DAY)], "pass", "expires in 30 days"),
        ([Token("", NOW + 2 * DAY, NOW - 28 * DAY)], "warn", "expires in 2 days"),
        # A token made for an hour is well for most of that.
        ([Token("", NOW + 0.9 * HOUR, NOW - 0.1 * HOUR)], "pass", "expires in 54 minutes"),
        ([Token("", NOW + 0.1 * HOUR, NOW - 0.9 * HOUR)], "warn", "expires in 6 minutes"),
        ([Token("", NOW + DAY)], "pass", "expires in 1 day"),  # its file was written just now
        ([Token("", None)], "pass", "never expires"),
        ([Token("access", NOW - HOUR), Token("refresh", NOW + 30 * DAY)], "pass", "'refresh' expires in 30 days"),
        ([Token("access", NOW - HOUR), Token("refresh", NOW - DAY)], "fail", "'access' expired 1 hour ago"),
        ([Token("x", None, sealed=True)], "warn", "can't be judged: its expiry can't be read"),
    ],
)
def test_verdicts(tokens: list[Token], result: str, says: str) -> None:
    verdict = judge(tokens, NOW, NOW)
    assert (verdict.result, says in verdict.reason) == (result, True), verdict
    assert (UNCHECKED in verdict.reason) is not tokens[0].sealed


def test_an_old_file_tells_that_the_token_in_it_is_old() -> None:
    assert judge([Token("", NOW + DAY)], NOW, NOW - 30 * DAY).result == "warn"


def test_an_encrypted_one_is_known_by_its_five_parts() -> None:
    head = jwt({}, {"alg": "RSA-OAEP", "enc": "A256GCM"}).split(".")[0]
    assert find(f"{head}.AAAA.BBBB.CCCC.DDDD") == [Token("", None, sealed=True)]


def test_an_expiry_in_quotes_is_one() -> None:
    assert find(jwt({"exp": "1800000000"})) == [Token("", NOW)]
    assert find(jwt({"exp": None})) == find(jwt({})) == [Token("", None)]


@pytest.mark.parametrize("exp", ["tomorrow", True, [], 10**400, math.nan])
def test_an_expiry_that_is_no_time_is_not_taken_for_none(exp: object) -> None:
    assert find(jwt({"exp": exp})) == [Token("", None, sealed=True)]
    assert judge(find(jwt({"exp": exp})), NOW, NOW).result == "warn"


@settings(max_examples=40)
@given(st.text(max_size=80) | st.from_regex(r"[\w-]{4,9}\.[\w-]{0,9}\.[\w-]{0,9}"), st.floats(allow_nan=False))
def test_no_text_is_too_odd(text: str, now: float) -> None:
    judge(find(text), NOW, now)


def test_much_text_is_read_in_little_time() -> None:
    began = time.monotonic()
    for text in ("a." * 200_000, "a" * 500_000, "eyJhbGciOiJIUzI1NiJ9." * 20_000):
        find(text)
    assert time.monotonic() - began < 5
