from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from sidecar.web.pages import door
from tests.web.serving import state_of

BROWSER = [(b"accept", b"text/html,*/*;q=0.8")]


def page(why: str, method: str = "GET") -> tuple[int, dict[bytes, bytes], str]:
    status, headers, body = door.answer(why, state_of(phase="restoring"), method, BROWSER)
    named = dict(headers)
    assert named[b"content-length"] == str(len(body)).encode()
    return status, named, body.decode()


@pytest.mark.parametrize(("why", "status"), [("recovering", 503), ("starting", 503), ("gone", 502)])
def test_the_policy_allows_what_is_on_the_page_and_nothing_else(why, status):
    code, headers, text = page(why)
    assert code == status
    policy = headers[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'; ")
    for inside in re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", text, re.DOTALL):
        assert base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() in policy
    assert not re.search(r"(?:src|href)=\"[^\"]|style=|onclick=|url\(", text)


@pytest.mark.parametrize("why", ["recovering", "starting"])
def test_it_loads_anew_by_itself_only_where_nothing_was_sent(why):
    _, headers, text = page(why)
    assert headers[b"retry-after"].decode() in re.findall(
        r'<noscript><meta http-equiv="refresh" content="(\d+)">', text
    )
    assert text.count("http-equiv") == 1, "with a script it is loaded once, when the app is there"
    assert "<script>" in text
    _, _, posted = page(why, "POST")
    assert "http-equiv" not in posted
    assert "<script>" not in posted
    assert "did not reach the app" in posted


def test_a_page_of_an_app_that_is_gone_makes_no_loop():
    _, headers, text = page("gone")
    assert b"retry-after" not in headers
    assert "http-equiv" not in text
    assert "<script>" not in text
    assert "can't be told" in page("gone", "POST")[2]


def test_programs_get_json_and_no_file_names():
    state = state_of(phase="restoring", detail="restoring secret/name.txt", recovery_error="secret/name.txt is gone")
    for why in ("recovering", "starting", "gone"):
        status, headers, body = door.answer(why, state, "GET", [])
        assert dict(headers)[b"content-type"] == b"application/json"
        assert json.loads(body)["error"] == why
        assert b"secret" not in body
        assert b"secret" not in door.answer(why, state, "GET", BROWSER)[2]
        assert status in (502, 503)
