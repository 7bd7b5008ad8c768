"""Over real HTTP, on both listeners."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import SidecarError, TryLater
from sidecar.state import RootState, SyncState
from sidecar.web.accept import prefers_html
from sidecar.web.app import PAGE_S
from sidecar.web.verbs import Answer
from tests.web.serving import Verbs, serving, state_of

TOKEN = "s3cret-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
SECRET = "salaries.xlsx"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One server for whatever changes nothing."""
    state = state_of(
        detail=f"copying {SECRET}", sync=SyncState(error=f"lost {SECRET}", files=[{"path": SECRET}], pending=1)
    )
    with serving(tmp_path_factory.mktemp("web"), state, api_token=TOKEN) as one:
        yield one


def test_health_over_get_and_head(served):
    reply = served.ask("/health")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/health+json"
    assert reply.json["status"] == "warn"
    assert SECRET.encode() not in reply.body
    head = served.ask("/health", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == reply.headers["content-length"]


def test_health_answers_503_while_recovery_runs(tmp_path):
    with serving(tmp_path, state_of(recovered=False, phase="restoring", main_state="waiting")) as one:
        reply = one.ask("/health")
        assert (reply.status, reply.json["status"], reply.json["notes"]) == (503, "fail", ["recovering"])
        assert one.ask("/livez").status == 200
        assert one.ask("/readyz").status == 503
        one.state.recovered, one.state.main_state = True, "running"
        assert one.ask("/health").status == 200
        assert one.ask("/readyz").json == {"ready": True, "waits_for": None}


def test_heartbeat(served):
    body = served.ask("/heartbeat").json
    assert body.keys() == {"ok", "instance", "epoch", "at"}
    assert (body["ok"], body["instance"], body["epoch"]) == (True, "i-1", 7)
    assert body["at"].endswith("Z")


def test_status_is_json_unless_html_is_preferred(served):
    for accept in ("*/*", "application/json", "text/html, application/json", ""):
        assert served.ask("/status", headers={"Accept": accept}).headers["content-type"] == "application/json"
    reply = served.ask("/status", headers={"Accept": BROWSER})
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert b"<!doctype html>" in reply.body
    assert "frame-ancestors 'self' https://huggingface.co" in reply.headers["content-security-policy"]
    assert "default-src 'none'" in reply.headers["content-security-policy"]


def test_strangers_share_a_page_for_a_moment_and_owners_never_do(tmp_path):
    state = state_of(sync=SyncState(pending=1, files=[{"path": SECRET}]))
    with serving(tmp_path, state, api_token=TOKEN) as one:
        owner = one.ask("/status", headers={"Accept": BROWSER, **BEARER})
        first = one.ask("/status", headers={"Accept": BROWSER})
        state.sync.pending = 17
        assert SECRET.encode() in owner.body
        assert SECRET.encode() not in first.body
        assert one.ask("/status", headers={"Accept": BROWSER}).body == first.body
        assert b"17 changes" in one.ask("/status", headers={"Accept": BROWSER, **BEARER}).body
        assert one.ask("/status").json["sync"]["pending"] == 17, "programs are never told what was"
        time.sleep(PAGE_S + 0.1)
        assert b"17 changes" in one.ask("/status", headers={"Accept": BROWSER}).body


def test_names_of_files_go_to_the_token_and_the_unix_socket_only(served):
    for accept in ("*/*", BROWSER):
        assert SECRET.encode() not in served.ask("/status", headers={"Accept": accept}).body
        assert SECRET.encode() in served.ask("/status", headers={"Accept": accept, **BEARER}).body
        assert SECRET.encode() in served.ask_unix("/status", headers={"Accept": accept}).body
    for wrong in ("Bearer nope", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
        assert SECRET.encode() not in served.ask("/status", headers={"Authorization": wrong}).body


def test_a_root_whose_name_is_markup_or_no_utf_8(tmp_path):
    state = state_of()
    for name in ("<img onerror=alert(1)>", "caf\udce9"):
        state.roots[name] = RootState(name)
    with serving(tmp_path, state) as one:
        page = one.ask("/status", headers={"Accept": "text/html"})
        assert page.status == 200
        assert b"<img" not in page.body
        assert b"&lt;img onerror=alert(1)&gt;" in page.body
        names = [root["name"] for root in one.ask("/status").json["roots"]]
        assert names == ["data", "<img onerror=alert(1)>", "caf?"]


@pytest.mark.parametrize("target", ["/health", "/status", "/nothing", "/sync", "/livez", "/readyz", "/heartbeat"])
def test_every_answer_has_the_security_headers_and_is_not_kept(served, target):
    headers = served.ask(target).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["date"].endswith("GMT")
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


def test_unknown_paths_and_methods(served):
    for target in ("/", "/nothing", "/health/", "//health", "/status/../health", "/_sidecar", "/Health"):
        reply = served.ask(target)
        assert (reply.status, reply.json["error"]) == (404, "not-found"), target
        assert "/status" in reply.json["detail"]
        assert "location" not in reply.headers
    for target, method, allow in (
        ("/health", "POST", "GET, HEAD"),
        ("/status", "DELETE", "GET, HEAD"),
        ("/sync", "GET", "POST"),
        ("/checkpoint", "OPTIONS", "POST"),
    ):
        reply = served.ask(target, method)
        assert (reply.status, reply.headers["allow"]) == (405, allow)
        assert reply.json["error"] == "method"
    assert served.verbs.asked == []


def test_a_prefix_moves_every_path_and_one_place_always_answers(tmp_path):
    with serving(tmp_path, prefix="/ops/side") as one:
        for path in ("/health", "/livez", "/readyz", "/status", "/heartbeat"):
            assert one.ask(path).status == 404
            assert one.ask("/ops/side" + path).status == 200
            assert one.ask("/_sidecar" + path).status == 200
        assert one.ask("/sync", "POST").status == 404
        assert one.ask("/ops/side/sync", "POST").status == 200
        assert "/ops/side/status" in one.ask("/").json["detail"]


@pytest.mark.parametrize("prefix", ["", "/", "/_sidecar", "/_sidecar/"])
def test_a_prefix_that_is_none_or_the_one_that_always_is(tmp_path, prefix):
    with serving(tmp_path, prefix=prefix) as one:
        assert one.ask("/_sidecar/health").status == 200
        assert one.ask("/health").status == (404 if "_" in prefix else 200)


def test_pings_from_outside_are_remembered(tmp_path):
    with serving(tmp_path) as one:
        seen = one.state.keepalive
        one.ask("/health", headers={"User-Agent": "local"})
        one.ask("/livez", headers={"X-Forwarded-For": "8.8.8.8"})
        one.ask_unix("/health", headers={"X-Forwarded-For": "8.8.8.8"})
        one.ask("/health", headers={"X-Forwarded-For": "10.1.2.3", "User-Agent": "kube-probe/1.31"})
        assert seen.last is None
        assert one.ask("/status").json["keepalive"]["state"] == "unknown"
        before = time.time()
        one.ask("/_sidecar/health", "HEAD", {"X-Forwarded-For": "8.8.8.8", "User-Agent": "n8n\x01" + "y" * 500})
        assert seen.last is not None
        assert before <= seen.last <= time.time()
        assert seen.agent == "n8n?" + "y" * 116
        assert one.ask("/status").json["keepalive"]["state"] == "ok"


def test_in_a_space_only_visitors_that_the_proxy_names_are_pings(tmp_path):
    with serving(tmp_path) as one:
        one.state.in_space = True
        for chain in ({}, {"X-Forwarded-For": "10.0.0.7"}, {"X-Forwarded-For": "127.0.0.1, 10.0.0.7"}):
            one.ask("/health", headers={"User-Agent": "platform", **chain})
        assert one.state.keepalive.last is None
        one.ask("/health", headers={"X-Forwarded-For": "203.0.113.9, 10.0.0.7"})
        assert one.state.keepalive.agent == "-"


def test_checkpoint_and_sync_over_both_listeners(tmp_path):
    with serving(tmp_path) as one:
        for ask in (one.ask, one.ask_unix):
            reply = ask("/checkpoint?root=data&root=data&timeout=1m", "POST")
            assert (reply.status, reply.json) == (200, {"snapshot": "7.1", "revision": "abc"})
            assert ask("/sync", "POST").status == 200
        assert one.verbs.asked == [(("data",), 60.0), "sync"] * 2
        one.ask("/checkpoint", "POST")
        assert one.verbs.asked[-1] == ((), 30.0)


def test_a_body_is_ignored_and_a_large_one_turned_away(tmp_path):
    with serving(tmp_path) as one:
        head = f"POST /sync HTTP/1.1\r\nHost: 127.0.0.1:{one.port}\r\nConnection: close\r\n"
        ignored = one.raw(f"{head}Content-Length: 5\r\n\r\nhello".encode())
        assert b" 200 " in ignored.split(b"\r\n")[0]
        chunked = one.raw(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode())
        assert b" 200 " in chunked.split(b"\r\n")[0]
        large = one.raw(f"{head}Content-Length: 99999999\r\n\r\n".encode())
        assert b" 413 " in large.split(b"\r\n")[0]
        assert one.verbs.asked == ["sync"] * 2


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ({"Origin": "http://localhost"}, 403, "browser"),
        ({"Sec-Fetch-Site": "none"}, 403, "browser"),
        ({"Origin": "null", **BEARER}, 403, "browser"),
        ({"Host": "evil.example"}, 401, "unauthorized"),
        ({"X-Forwarded-For": "127.0.0.1"}, 401, "unauthorized"),
        ({"Forwarded": "for=127.0.0.1"}, 401, "unauthorized"),
        ({"Authorization": "Bearer nope"}, 401, "unauthorized"),
    ],
)
def test_forged_requests_reach_no_verb(served, headers, status, error):
    for target in ("/checkpoint", "/sync", "/_sidecar/sync"):
        reply = served.ask(target, "POST", headers)
        assert (reply.status, reply.json["error"]) == (status, error)
        assert reply.json["detail"]
        assert TOKEN not in reply.body.decode()
        assert ("www-authenticate" in reply.headers) == (status == 401)
    assert served.verbs.asked == []


def test_behind_the_front_door_nobody_is_local(tmp_path):
    with serving(tmp_path, api_token=TOKEN, upstream=True) as one:
        assert one.ask("/sync", "POST").status == 401
        assert one.ask("/sync", "POST", {**BEARER, "X-Forwarded-For": "8.8.8.8"}).status == 200
        assert one.ask_unix("/sync", "POST").status == 200
        assert one.ask_unix("/sync", "POST", {"Origin": "x"}).status == 403


def test_what_destroys_is_for_owners_and_stands_in_no_apps_way(tmp_path):
    with serving(tmp_path, api_token=TOKEN, upstream=False) as one:
        for target in ("/_sidecar/forget?path=data", "/_sidecar/prune?keep-last=3"):
            reply = one.ask(target, "POST")
            assert (reply.status, reply.json["error"]) == (403, "not-yours"), "local is not enough"
            assert one.ask(target, "POST", {**BEARER, "Origin": "x"}).status == 403
            assert one.ask(target, "GET", BEARER).status == 405
            assert one.ask(target.removeprefix("/_sidecar"), "POST", BEARER).status == 404, "the app's own, perhaps"
        assert one.verbs.asked == []
        assert one.ask("/_sidecar/forget?path=data/x&dry-run=1", "POST", BEARER).status == 200
        assert one.ask_unix("/_sidecar/forget?path=a%20b%FF%2Bc", "POST").status == 200
        assert one.ask_unix("/_sidecar/prune?keep-last=3&keep-within=1d12h&dry-run=0", "POST").status == 200
        assert one.ask_unix("/_sidecar/prune?dry-run=1", "POST").status == 200
        assert one.verbs.asked == [
            ("forget", "data/x", True),
            ("forget", "a b\udcff+c", False),
            ("prune", 3, 129600.0, False),
            ("prune", None, None, True),
        ]
        for query in ("forget", "forget?path=/", "forget?path=", "forget?path=a%00b"):
            assert one.ask_unix(f"/_sidecar/{query}", "POST").status == 400
        for query in ("keep-last=0", "keep-last=x", "keep-within=30", "keep-last=-1"):
            assert one.ask_unix(f"/_sidecar/prune?{query}", "POST").status == 400
        assert len(one.verbs.asked) == 4


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("/checkpoint?timeout=121s", "at most 120s"),
        ("/checkpoint?timeout=0", "at most 120s"),
        ("/checkpoint?timeout=30", "30s"),
        ("/checkpoint?timeout=soon", "duration"),
        ("/checkpoint?timeout=-1s", "duration"),
        ("/checkpoint?root=dta", "keeps: data"),
        ("/checkpoint?root=", "keeps: data"),
    ],
)
def test_a_question_that_makes_no_sense(served, target, says):
    reply = served.ask(target, "POST", BEARER)
    assert reply.status == 400
    assert says in reply.json["detail"]
    assert served.verbs.asked == []


def test_what_a_verb_comes_to_is_passed_on(tmp_path):
    verbs = Verbs(Answer(429, {"error": "ceiling"}, retry_after=12.2))
    with serving(tmp_path, verbs=verbs) as one:
        reply = one.ask("/checkpoint", "POST")
        assert (reply.status, reply.json, reply.headers["retry-after"]) == (429, {"error": "ceiling"}, "13")
        verbs.answer = Answer(503, {"error": "away"}, retry_after=0.0)
        assert one.ask("/sync", "POST").headers["retry-after"] == "1"
        verbs.answer = Answer(409, {"error": "fenced"})
        assert "retry-after" not in one.ask("/sync", "POST").headers
        verbs.error = TryLater("later, please")
        reply = one.ask("/sync", "POST")
        assert (reply.status, reply.json["detail"], reply.headers["retry-after"]) == (503, "later, please", "5")
        verbs.error = SidecarError("no way")
        assert (one.ask("/sync", "POST").status, one.ask("/sync", "POST").json["detail"]) == (500, "no way")


def test_a_bug_is_one_line_in_the_log_and_no_traceback(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("sidecar").propagate = True
    with serving(tmp_path, verbs=Verbs(error=ZeroDivisionError("oops"))) as one:
        reply = one.ask("/sync", "POST")
        assert (reply.status, reply.json["error"]) == (500, "bug")
        assert "oops" not in reply.body.decode()
        assert reply.headers["cache-control"] == "no-store"
        assert one.ask("/livez").status == 200
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["/sync failed: ZeroDivisionError: oops; the rest goes on"]


def test_reading_never_waits_for_a_verb_and_verbs_are_bounded(tmp_path):
    """64 checkpoints hang: health answers at once, the 65th is told to come back, and none is cut off."""

    async def an_event() -> asyncio.Event:
        return asyncio.Event()

    with serving(tmp_path) as one:
        hold = one.verbs.hold = asyncio.run_coroutine_threadsafe(an_event(), one.loop).result(5)
        replies: list[int] = []
        waiting = [
            threading.Thread(target=lambda: replies.append(one.ask_unix("/checkpoint", "POST").status))
            for _ in range(64)
        ]
        for thread in waiting:
            thread.start()
        deadline = time.monotonic() + 10
        while len(one.verbs.asked) < 64 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(one.verbs.asked) == 64
        began = time.monotonic()
        assert one.ask("/health").status == one.ask("/status").status == 200
        assert time.monotonic() - began < 1
        busy = one.ask("/checkpoint", "POST")
        assert (busy.status, busy.headers["retry-after"]) == (429, "1")
        one.loop.call_soon_threadsafe(hold.set)
        for thread in waiting:
            thread.join(10)
        assert replies == [200] * 64
        assert one.ask("/checkpoint", "POST").status == 200


def test_a_verb_that_takes_too_long_is_answered_for_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("sidecar.web.verbs._GRACE_S", 0.0)
    ended: list[str] = []

    class Slow(Verbs):
        async def checkpoint(self, roots, timeout_s):
            try:
                await asyncio.sleep(0.3)
                ended.append("committed")
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return self.answer

    with serving(tmp_path, verbs=Slow()) as one:
        reply = one.ask("/checkpoint?timeout=50ms", "POST")
        assert (reply.status, reply.json["error"]) == (504, "time-limit")
        time.sleep(0.5)
        assert ended == ["committed"]


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        (BROWSER, True),
        ("text/html", True),
        ("text/*", True),
        ("TEXT/HTML;Q=0.9", True),
        ("text/html,application/json", False),
        ("text/html;q=0.5,application/json", False),
        ("text/html,application/json;q=0.9", True),
        ("text/html;q=0,*/*", False),
        ("application/*;q=0.2,text/html;q=0.1", False),
        ("text/html;q=nan", False),
        ("text/html;q=x", False),
        (",;,text/html;level=1;q=0.3", True),
        ("application/xhtml+xml", False),
    ],
)
def test_who_prefers_html(accept, html):
    assert prefers_html(accept) is html


@settings(deadline=None)  # a busy machine is no finding
@given(st.text(st.sampled_from("texhml/*,;q=0.19 apicon+js"), max_size=60))
def test_no_accept_header_is_too_odd(accept):
    assert prefers_html(accept) in (True, False)
    assert not prefers_html(accept + ",application/json;q=1") or "text/" in accept


def test_health_is_tiny(served):
    assert len(json.dumps(served.ask("/health").json)) < 300
