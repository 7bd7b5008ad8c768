"""A real Chromium profile as a root, under load: each snapshot opens with what it had, or was flagged."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.space import Space, descendants, living
from tests.real.chromium import profile

pytestmark = pytest.mark.real

SNAPSHOTS = 6
PAGE = b"""<!doctype html><title>load</title><script>
let n = Number(localStorage.getItem("n") || 0), hold = false;
const opened = new Promise((done) => {
  const ask = indexedDB.open("load", 1);
  ask.onupgradeneeded = () => ask.result.createObjectStore("rows");
  ask.onsuccess = () => done(ask.result);
});
const put = (base, key, value) => new Promise((done, failed) => {
  const deal = base.transaction("rows", "readwrite", {durability: "strict"});
  deal.objectStore("rows").put(value, key);
  deal.oncomplete = done; deal.onabort = deal.onerror = () => failed(deal.error);
});
const rows = (base) => new Promise((done, failed) => {
  const ask = base.transaction("rows").objectStore("rows").getAllKeys();
  ask.onsuccess = () => done(ask.result); ask.onerror = () => failed(ask.error);
});
async function load(until) {
  const base = await opened;
  while (n < until) {
    n += 1;
    localStorage.setItem("n", n);
    localStorage.setItem("k" + n % 50, "x".repeat(500));
    document.cookie = "n=" + n + "; max-age=86400";
    await put(base, n, "y".repeat(2000));
    do await new Promise((done) => setTimeout(done, 5)); while (hold);
  }
}
async function found() {
  const keys = await rows(await opened);
  const whole = keys.every((key, at) => key === at + 1);
  return {rows: keys.length, whole, local: Number(localStorage.getItem("n") || 0), cookie: document.cookie};
}
</script>"""


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("set-cookie", "login=kept; Max-Age=86400; HttpOnly")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def opened(playwright: Any, folder: Path, site: str) -> dict[str, Any]:
    """What a Chromium on the profile ``folder`` finds of what the page has written."""
    # What says that a browser still runs is no part of a profile; Chromium itself takes over where it is stale.
    with profile(folder, playwright) as context:
        login = [cookie for cookie in context.cookies(site) if cookie["name"] == "login"]
        page = context.new_page()
        page.goto(site)
        return {**page.evaluate("found()"), "login": len(login)}


def kill(pid: int) -> None:
    for each in [pid, *descendants(pid)]:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue


def browser_of(folder: Path) -> int:
    """The pid of the Chromium whose profile is ``folder``, by its own lock."""
    return int(os.readlink(folder / "SingletonLock").rpartition("-")[2])


def test_each_snapshot_under_load_opens_with_what_it_had_or_is_flagged(tmp_path, site):
    from playwright.sync_api import sync_playwright

    root = tmp_path / "space" / "disk" / "profile"
    store = f"file://{tmp_path}/store"
    taken: list[tuple[str, dict[str, Any], bool]] = []
    with sync_playwright() as playwright, living(Space(tmp_path / "space", store, f"profile={root}")) as space:
        space.start()
        space.running()
        with profile(root, playwright) as context:
            page = context.new_page()
            page.goto(site)
            page.evaluate("load(1)")
            page.evaluate("void load(1e9)")
            for number in range(SNAPSHOTS):
                rests = number % 2 == 1
                page.wait_for_timeout(1000)
                page.evaluate(f"hold = {str(rests).lower()}")
                page.wait_for_timeout(1500)  # what it has written lies on the disk by then
                before = page.evaluate("found()")
                status, body = space.post("/checkpoint")
                assert status in (200, 422), (status, body, space.said())
                taken.append((body["snapshot"], before, status == 422))
                page.evaluate("hold = false")
            kill(browser_of(root))
        space.kill()
        for number, (snapshot, before, flagged) in enumerate(taken):
            to = tmp_path / f"restored-{number}"
            done = space.sidecar("restore", "--revision", snapshot, "--to", str(to))
            assert done.returncode == 0, done.stderr
            try:
                after = opened(playwright, to / "profile", site)
            except Exception:
                assert flagged, f"{snapshot} does not open, and nothing said so"
                continue
            # Chromium itself writes cookies and localStorage out many seconds late: rows are what it said was done.
            if not flagged:
                assert after["whole"], (snapshot, before, after)
                assert after["rows"] >= before["rows"] - 1, (snapshot, before, after)
                assert after["login"] == 1, (snapshot, before, after)
            print(f"{snapshot} {'flagged' if flagged else 'settled'}: {before} -> {after}")
    assert any(not flagged for *_, flagged in taken), "a browser that rests for a second is captured as one"


def test_the_whole_life_killed_and_restored_on_a_fresh_disk(tmp_path, site):
    """As a Space with a browser in it: logged in, killed with all that runs, its disk lost, and still logged in."""
    from playwright.sync_api import sync_playwright

    root = tmp_path / "space" / "disk" / "profile"
    with (
        sync_playwright() as playwright,
        living(Space(tmp_path / "space", f"file://{tmp_path}/store", f"profile={root}")) as space,
    ):
        space.start()
        space.running()
        with profile(root, playwright) as context:
            page = context.new_page()
            page.goto(site)
            page.evaluate("load(40)")
            before = page.evaluate("found()")
        space.checkpoint()
        space.kill()
        space.lose_disk()
        assert not root.exists()
        began = time.monotonic()
        space.start()
        space.running(60)
        assert time.monotonic() - began < 30
        after = opened(playwright, root, site)
        assert after == {**before, "login": 1}
        assert space.end() in (0, 143)


def test_debian_s_chromium_is_what_runs():
    version = subprocess.run(["chromium", "--version"], capture_output=True, text=True, timeout=30).stdout
    assert version.startswith("Chromium ")
