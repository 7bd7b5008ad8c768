from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.masking import mask, mask_path, shown

TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"use {TOKEN} now", "use *** now"),
        ("https://me:pw@host/x", "https://***@host/x"),
        ("https://me:p/w@host/x", "https://***@host/x"),
        ("https://me:p?w#@host/x", "https://***@host/x"),
        ("https://host:8080/x@y", "https://host:8080/x@y"),
        ("hf://datasets/me/x@branch/prefix", "hf://datasets/me/x@branch/prefix"),
        ("git+ssh://git@github.com/x", "git+ssh://git@github.com/x"),
        ("command: curl -H 'Authorization: Bearer abc' x", "command: curl -H 'Authorization: Bearer ***' x"),
        ("API_KEY=abc ./x --password=def --token ghi", "API_KEY=*** ./x --password=*** --token ***"),
        ("https://h/x?access_token=abc&full=1", "https://h/x?access_token=***&full=1"),
        ("AGE-SECRET-KEY-1QQPZ", "***"),
        ("keys=/data/keys?layout=auto", "keys=/data/keys?layout=auto"),
        ("/data/hf_transformers_cache_dir", "/data/hf_transformers_cache_dir"),
    ],
)
def test_what_looks_like_a_secret(text, expected):
    assert mask(text) == expected
    assert mask(expected) == expected


@given(st.text(min_size=6, max_size=30).filter(lambda s: s.strip() and "*" not in s), st.text(max_size=20))
def test_a_known_secret_never_shows(secret, around):
    for text in (mask(around + secret + around, [secret]), shown(around + secret + around, [secret])):
        assert secret not in text


def test_a_secret_is_hidden_before_a_long_value_is_cut():
    text = shown("x" * 190 + "my secret is long", ["my secret is long"])
    assert "my" not in text
    assert len(shown("x" * 5000)) < 220


def test_shown_is_one_line():
    assert "\n" not in shown("a\nb\x1b[0m")
    assert "\x1b" not in shown("a\nb\x1b[0m")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://hc-ping.com/uuid", "https://hc-ping.com/***"),
        ("https://host", "https://host"),
        ("https://host/", "https://host"),
        ("https://host?key=x", "https://host/***"),
        ("https://me:pw@host/x", "***"),
        ("uuid", "***"),
    ],
)
def test_a_webhook_shows_its_host_only(url, expected):
    assert mask_path(url) == expected
