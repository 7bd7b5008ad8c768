"""Logins as the programs that keep them write them: Chromium's database, a storage state, a cookie file, a token."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SECRET = "hunter2-never-to-be-seen"

# `.schema` of Default/Cookies as Chromium 130 and later make it (meta: version 24).
CHROMIUM = """
CREATE TABLE meta(key LONGVARCHAR NOT NULL UNIQUE PRIMARY KEY, value LONGVARCHAR);
INSERT INTO meta VALUES('mmap_status','-1'),('version','24'),('last_compatible_version','24');
CREATE TABLE cookies(creation_utc INTEGER NOT NULL,host_key TEXT NOT NULL,top_frame_site_key TEXT NOT NULL,
name TEXT NOT NULL,value TEXT NOT NULL,encrypted_value BLOB NOT NULL,path TEXT NOT NULL,expires_utc INTEGER NOT NULL,
is_secure INTEGER NOT NULL,is_httponly INTEGER NOT NULL,last_access_utc INTEGER NOT NULL,has_expires INTEGER NOT NULL,
is_persistent INTEGER NOT NULL,priority INTEGER NOT NULL,samesite INTEGER NOT NULL,source_scheme INTEGER NOT NULL,
source_port INTEGER NOT NULL,last_update_utc INTEGER NOT NULL,source_type INTEGER NOT NULL,
has_cross_site_ancestor INTEGER NOT NULL);
CREATE UNIQUE INDEX cookies_unique_index ON cookies(host_key, top_frame_site_key, has_cross_site_ancestor, name, path,
source_scheme, source_port);
"""

Crumb = tuple[str, str, float | None, bool]
"""(name, domain, seconds from now until it expires or None, closed to scripts)."""


def chromium_time(at: float) -> int:
    """Microseconds since 1601."""
    return int((at + 11_644_473_600) * 1e6)


def chromium(path: Path, cookies: Sequence[Crumb], journal: str = "delete") -> sqlite3.Connection:
    """A profile's database with ``cookies``, as Chromium leaves it open: closed by the caller."""
    now = time.time()
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA journal_mode={journal}")
    db.executescript(CHROMIUM)
    for n, (name, domain, left, http_only) in enumerate(cookies):
        made = chromium_time(now - 86400) + n
        ends = 0 if left is None else chromium_time(now + left)
        dated = int(left is not None)
        db.execute(
            "INSERT INTO cookies VALUES(?,?,'',?,'',?,'/',?,1,?,?,?,?,1,0,2,443,?,0,0)",
            (made, domain, name, b"v10" + SECRET.encode(), ends, http_only, made, dated, dated, made),
        )
    return db


def storage_state(path: Path, cookies: Sequence[Crumb]) -> None:
    """As ``context.storage_state(path=…)`` of Playwright writes it."""
    now = time.time()
    rows = [
        {
            "name": name,
            "value": SECRET,
            "domain": domain,
            "path": "/",
            "expires": -1 if left is None else now + left,
            "httpOnly": http_only,
            "secure": True,
            "sameSite": "Lax",
        }
        for name, domain, left, http_only in cookies
    ]
    origins = [{"origin": "https://example.com", "localStorage": [{"name": "theme", "value": "dark"}]}]
    path.write_text(json.dumps({"cookies": rows, "origins": origins}, indent=2))


def netscape(path: Path, cookies: Sequence[Crumb]) -> None:
    """As curl and yt-dlp write it."""
    now = time.time()
    lines = ["# Netscape HTTP Cookie File", "# https://curl.se/docs/http-cookies.html", ""]
    for name, domain, left, http_only in cookies:
        sub = "TRUE" if domain.startswith(".") else "FALSE"
        ends = 0 if left is None else int(now + left)
        head = "#HttpOnly_" if http_only else ""
        lines.append(f"{head}{domain}\t{sub}\t/\tTRUE\t{ends}\t{name}\t{SECRET}")
    path.write_text("\n".join(lines) + "\n")


def jwt(claims: dict[str, Any], head: dict[str, Any] | None = None) -> str:
    """A token with a signature that nobody made."""
    parts = [_part(head or {"alg": "HS256", "typ": "JWT"}), _part(claims), "c2lnbmF0dXJlLW9mLW5vYm9keQ"]
    return ".".join(parts)


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
