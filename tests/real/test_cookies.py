"""`cookies:` on the database of a real Chromium profile, while the browser has it locked and after it was killed."""

from __future__ import annotations

import asyncio
import http.server
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidecar.recovery.checks import examine
from sidecar.recovery.verdict import Verdict
from tests.real.chromium import profile

pytestmark = pytest.mark.real

DAY_S = 86400
SITE = {
    "/": [f"sessionid=secret-1; Max-Age={30 * DAY_S}; HttpOnly", "_ga=x; Max-Age=60", "theme=dark"],
    "/short": ["sso_token=secret-2; Max-Age=3600; HttpOnly"],
    "/out": ["sessionid=; Max-Age=0", "sso_token=; Max-Age=0"],
}


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        for cookie in SITE.get(self.path, ()):
            self.send_header("set-cookie", cookie)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def kept(database: Path, wanted: set[str]) -> None:
    """Wait until Chromium has written out just these cookies of a login: it does so within half a minute."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            # It holds its lock all the time; `immutable` looks past that, and may meet a half-written page.
            with closing(sqlite3.connect(f"file:{database}?immutable=1", uri=True)) as db:
                names = {name for (name,) in db.execute("SELECT name FROM cookies")}
            if names & {"sessionid", "sso_token"} == wanted:
                return
        except sqlite3.Error:
            pass
        time.sleep(0.5)
    raise AssertionError(f"Chromium did not write {wanted} out")


def test_a_login_in_a_real_profile_is_judged_by_its_expiry(tmp_path):
    from playwright.sync_api import sync_playwright

    root, scratch = tmp_path / "profile", tmp_path / "scratch"
    scratch.mkdir()
    database = root / "Default" / "Cookies"

    def look() -> Verdict:
        # A thread of its own: Playwright's loop runs in this one.
        found: list[Verdict] = []
        work = examine("cookies", os.fspath(database), scratch, 20.0)
        thread = threading.Thread(target=lambda: found.append(asyncio.run(work)))
        thread.start()
        thread.join(40)
        return found[0]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_address[1]}"
        with profile(root, playwright) as context:
            page = context.new_page()
            page.goto(f"{site}/")
            kept(database, {"sessionid"})
            good = look()
            page.goto(f"{site}/short")
            kept(database, {"sessionid", "sso_token"})
            soon = look()
            os.kill(int(os.readlink(root / "SingletonLock").rpartition("-")[2]), signal.SIGKILL)
        killed = look()
        with profile(root, playwright) as context:
            context.new_page().goto(f"{site}/out")
        gone = look()
        server.shutdown()
    assert good.result == "pass", good
    assert "1 login cookie" in good.reason
    assert soon.result == "warn", soon
    assert "'sso_token' of 127.0.0.1" in soon.reason
    assert killed == soon or (killed.result == "warn" and "sso_token" in killed.reason)
    assert gone.result == "fail" or "can't be judged" in gone.reason, gone
    assert "secret" not in f"{good}{soon}{killed}{gone}"
