"""Which cookies make a login, and what their expiry says of it: in all three forms that cookies are kept in."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.recovery import cookies
from sidecar.recovery.cookies import SOON_S, Cookie, Unknown, judge, logins, of_chromium, of_netscape, of_state
from tests.recovery.logins import SECRET, Crumb, chromium, netscape, storage_state

DAY = 86400.0
NOW = 1_800_000_000.0


def from_state(path: Path, kept: Sequence[Crumb]) -> list[Cookie]:
    storage_state(path, kept)
    return of_state(json.loads(path.read_text()))


def from_netscape(path: Path, kept: Sequence[Crumb]) -> list[Cookie]:
    netscape(path, kept)
    return of_netscape(path.read_text())


def from_chromium(path: Path, kept: Sequence[Crumb]) -> list[Cookie]:
    with contextlib.closing(chromium(path, kept)) as db:
        return of_chromium(db)


FORMS: dict[str, Callable[[Path, Sequence[Crumb]], list[Cookie]]] = {
    "storage state": from_state,
    "netscape": from_netscape,
    "chromium": from_chromium,
}

KEPT: Sequence[Crumb] = [
    ("sid", ".example.com", 40 * DAY, True),
    ("_ga", ".example.com", -DAY, False),
    ("theme", "www.example.org", None, False),
]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_alike(form: str, tmp_path: Path) -> None:
    found = FORMS[form](tmp_path / "cookies", KEPT)
    assert [(c.name, c.domain, c.http_only) for c in found] == [(n, d, h) for n, d, _, h in KEPT]
    for cookie, (_, _, left, _) in zip(found, KEPT, strict=True):
        assert (cookie.expires is None) is (left is None)
        if left is not None:
            assert cookie.expires == pytest.approx(time.time() + left, abs=60)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kept", "result", "says"),
    [
        ([("sid", ".example.com", 40 * DAY, True)], "pass", "1 login cookie; the first to expire: 'sid' of"),
        ([("sid", ".example.com", -2.5 * DAY, True)], "fail", "expired: 'sid' of example.com, 2 days ago"),
        ([("sid", ".example.com", 20 * 3600.0, True)], "warn", "about to expire: 'sid' of example.com, in 19 hours"),
        ([("sid", ".example.com", None, True)], "warn", "can't be judged: its login cookies ('sid' of"),
        ([], "fail", "holds no cookie"),
        # Whatever is no login's doesn't count, as long as there is a login.
        ([("session", "a.b", 9 * DAY, False), ("_ga", "a.b", -DAY, False), ("x", "a.b", 60.0, False)], "pass", "1 log"),
        ([("session", "a.b", 9 * DAY, False), ("__cf_bm", "a.b", 60.0, True)], "pass", "1 login cookie"),
        ([("session", "a.b", 9 * DAY, False), ("csrf_token", "a.b", -60.0, True)], "pass", "1 login cookie"),
        ([("session", "a.b", None, True), ("li_at", "c.d", -DAY, True)], "fail", "'li_at' of c.d, 1 day ago"),
        # Where none looks like one, all that might be count.
        ([("zq", "a.b", -DAY, False), ("_ga", "a.b", 9 * DAY, False)], "fail", "expired: 'zq' of a.b, 1 day ago"),
        ([("_ga", "a.b", 9 * DAY, False)], "warn", "none of its cookies looks like a login"),
    ],
)  # fmt: skip
def test_verdicts(form: str, kept: Sequence[Crumb], result: str, says: str, tmp_path: Path) -> None:
    verdict = judge(FORMS[form](tmp_path / "cookies", kept), time.time())
    assert (verdict.result, says in verdict.reason) == (result, True), verdict
    assert SECRET not in verdict.reason


def test_many_are_counted_not_listed() -> None:
    many = [Cookie(f"session{n}", ".example.com", NOW - n * DAY, True) for n in range(1, 9)]
    verdict = judge(many, NOW)
    assert verdict.reason.count(" of example.com") == cookies.NAMED
    assert verdict.reason.endswith("; and 5 more")
    assert "'session8' of example.com, 8 days ago" in verdict.reason  # the one that expired first


def test_a_name_is_said_on_one_line_and_not_at_any_length() -> None:
    verdict = judge([Cookie("sid\n\x1b[2J" + "x" * 9000, "\x1b[2J" + "e" * 9000, NOW - 1, True)], NOW)
    assert verdict.reason.isprintable()
    assert len(verdict.reason) < 300


@pytest.mark.parametrize("value", [{"a": 1}, {"cookies": 5}, 7, "text", None])
def test_json_without_cookies_is_said(value: object) -> None:
    with pytest.raises(Unknown):
        of_state(value)


def test_a_plain_list_of_cookies_is_read_too() -> None:
    exported = [{"name": "sid", "domain": "a.b", "expirationDate": NOW, "httpOnly": True}, "junk", {"name": 5}]
    assert of_state(exported) == [Cookie("sid", "a.b", NOW, True), Cookie("5", "", None)]


@pytest.mark.parametrize("expires", [-1, 0, None, math.nan, math.inf, True, "soon", [1]])
def test_what_is_no_time_is_none(expires: object) -> None:
    assert of_state([{"name": "sid", "domain": "a.b", "expires": expires}])[0].expires is None


def test_a_cookie_file_may_be_empty_but_not_just_any_text() -> None:
    assert of_netscape("# Netscape HTTP Cookie File\n\n") == []
    with pytest.raises(Unknown):
        of_netscape("Dear diary,\n\ttoday\tI\n")


def test_another_database_is_no_cookies(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.execute("CREATE TABLE moz_cookies(name, host, expiry)")
        with pytest.raises(Unknown, match="not Chromium's"):
            of_chromium(db)


COOKIES = st.lists(
    st.builds(
        Cookie,
        st.sampled_from(["sid", "session", "_ga", "x", "lang", "auth_token"]),
        st.sampled_from(["a.b", ".c.d"]),
        st.none() | st.floats(NOW - 9 * DAY, NOW + 30 * DAY),
        st.booleans(),
    ),
    max_size=6,
)


@given(COOKIES)
def test_a_login_holds_only_where_no_part_of_it_has_ended(kept: list[Cookie]) -> None:
    ends = [cookie.expires for cookie in logins(kept) if cookie.expires is not None]
    result = judge(kept, NOW).result
    assert (result == "fail") is (not kept or any(at <= NOW for at in ends))
    assert (result == "pass") is (bool(ends) and all(at > NOW + SOON_S for at in ends))
