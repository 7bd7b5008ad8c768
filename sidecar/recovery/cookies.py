"""Whether a login that is kept in cookies still holds, by their expiry: values are never looked at.

Three ways to keep them: a Playwright storage state (JSON), a Netscape cookie file (curl, wget, yt-dlp), and the
database ``Cookies`` of a Chromium profile, of which a copy is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.masking import shown
from sidecar.recovery.verdict import Verdict, when

if TYPE_CHECKING:
    from sqlite3 import Connection

SOON_S = 3 * 86400.0
"""A login that ends within this time is warned of."""

NAMED = 3
"""So many cookies are named in a reason; more are counted."""

_CHROMIUM_EPOCH_S = 11_644_473_600
"""Seconds from 1601, where Chromium's clock begins, to 1970."""

# Of load balancers, bot filters, consent banners, measurement and forgery protection. Many of them live for minutes.
_OTHERS = re.compile(
    r"(__cf|_cf|cf_|aws-?alb|awsalb|ak_bmsc|bm_|_abck|incap_|visid_|nlbi_|datadome|__utm|_ga|_gid|_gat|_gcl|_fbp|_hj"
    r"|optanon|__stripe|_dd_s|.*(csrf|xsrf|consent|captcha))",
    re.IGNORECASE,
)
_LOGIN = re.compile(
    r"sess|sid$|^sid|auth|token|login|logged|log_in|jwt|remember|identity|sso|user|account|^(li_at|xs|c_user)$",
    re.IGNORECASE,
)


class Unknown(Exception):
    """No cookies in any form that is known here; the message says what it is instead."""


@dataclass(frozen=True, slots=True)
class Cookie:
    """``expires`` is in seconds since the epoch, None for one that ends with its browser."""

    name: str
    domain: str
    expires: float | None
    http_only: bool = False

    def __str__(self) -> str:
        domain = "".join(c for c in self.domain.lstrip(".")[:80] if c.isprintable())
        return f"{shown(self.name[:60])} of {domain or '?'}"


def of_state(value: Any) -> list[Cookie]:
    """The cookies of a storage state, ``{"cookies": […]}``, or of a plain list of cookies. Raises Unknown."""
    found = value.get("cookies") if isinstance(value, dict) else value
    if not isinstance(found, list):
        raise Unknown("it is JSON, but holds no list of cookies")
    return [
        Cookie(
            str(item.get("name", "")),
            str(item.get("domain", "")),
            _seconds(item.get("expires", item.get("expirationDate"))),
            item.get("httpOnly") is True,
        )
        for item in found
        if isinstance(item, dict)
    ]


def of_netscape(text: str) -> list[Cookie]:
    """The cookies of a Netscape cookie file: seven fields a line, with tabs between them. Raises Unknown."""
    cookies = []
    for line in text.splitlines():
        http_only = line.startswith("#HttpOnly_")
        fields = line.removeprefix("#HttpOnly_").split("\t")
        if (line.startswith("#") and not http_only) or len(fields) != 7 or not _NUMBER.fullmatch(fields[4]):
            continue
        cookies.append(Cookie(fields[5], fields[0], _seconds(float(fields[4])), http_only))
    if not cookies and not _HEADER.match(text):
        raise Unknown("it is no storage state, no Netscape cookie file and no Chromium database")
    return cookies


_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,9})?")
_HEADER = re.compile(r"# (Netscape )?HTTP Cookie File", re.IGNORECASE)


def of_chromium(db: Connection) -> list[Cookie]:
    """The cookies in (a copy of) a profile's ``Cookies``. Raises Unknown for another database."""
    from sqlite3 import OperationalError

    db.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        rows = db.execute("SELECT name, host_key, expires_utc, is_httponly FROM cookies").fetchall()
    except OperationalError:
        raise Unknown("it is a database, but not Chromium's Cookies") from None
    return [
        Cookie(str(name), str(host), expires / 1e6 - _CHROMIUM_EPOCH_S if expires else None, bool(http_only))
        for name, host, expires, http_only in rows
        if isinstance(expires, int)
    ]


def _seconds(value: Any) -> float | None:
    """An expiry as these files have it: none, 0 and -1 mean that the cookie ends with the browser."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return None
    return float(value)


def logins(cookies: Iterable[Cookie]) -> list[Cookie]:
    """Those that make a login, as far as that can be told: closed to scripts, or named so; else all that might."""
    candidates = [cookie for cookie in cookies if not _OTHERS.match(cookie.name)]
    likely = [cookie for cookie in candidates if cookie.http_only or _LOGIN.search(cookie.name)]
    return likely or candidates


def judge(cookies: Sequence[Cookie], now: float, soon_s: float = SOON_S) -> Verdict:
    """``now`` in seconds since the epoch. One login cookie that has expired fails it, one that is about to warns."""
    if not cookies:
        return Verdict("fail", "holds no cookie: nobody is logged in")
    found = logins(cookies)
    dated = sorted(((c.expires, c) for c in found if c.expires is not None), key=lambda pair: pair[0])
    if not dated:
        which = f"its login cookies ({_named([str(c) for c in found])}) end with the browser" if found else ""
        return Verdict("warn", f"can't be judged: {which or 'none of its cookies looks like a login'}")
    expired = [f"{cookie}, {when(at, now)}" for at, cookie in dated if at <= now]
    if expired:
        return Verdict("fail", f"expired: {_named(expired)}")
    ending = [f"{cookie}, {when(at, now)}" for at, cookie in dated if at - now <= soon_s]
    if ending:
        return Verdict("warn", f"about to expire: {_named(ending)}")
    at, first = dated[0]
    count = f"{len(dated):,} login cookie{'' if len(dated) == 1 else 's'}"
    return Verdict("pass", f"{count}; the first to expire: {first}, {when(at, now)}")


def _named(items: Sequence[str]) -> str:
    more = f"; and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
    return "; ".join(items[:NAMED]) + more
