"""The apps of examples/front-door under `sidecar run`, used through the front door by a real Chromium."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.journeys.space import REPO, Space, free_port, living
from tests.real.axe import findings
from tests.real.chromium import browser
from tests.web.serving import serving, state_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.real
EXAMPLES = REPO / "examples/front-door"
NARROW: Any = {"width": 320, "height": 600}
SLOW_MS = 60_000
"""Gradio and Streamlit take their time to be imported."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@contextlib.contextmanager
def space_of(folder: Path, **settings: str) -> Iterator[tuple[Space, int]]:
    """A Space with one root, and the port where its app has to listen."""
    port = free_port()
    space = Space(
        folder / "space",
        f"file://{folder}/store",
        paths=f"data={folder}/space/disk/data",
        SIDECAR_UPSTREAM=f"http://127.0.0.1:{port}",
        PORT=str(port),
        DATA_DIR=f"{folder}/space/disk/data",
        HOME=str(folder),
        **settings,
    )
    (space.disk / "data").mkdir()
    with living(space):
        yield space, port


@contextlib.contextmanager
def page_of(chromium: Browser, *, javascript: bool = True) -> Iterator[Page]:
    context = chromium.new_context(java_script_enabled=javascript)
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    try:
        yield page
    finally:
        context.close()


def url(space: Space, path: str = "/") -> str:
    return f"http://127.0.0.1:{space.port}{path}"


def counted(page: Page, pattern: str) -> None:
    """Wait for the counter to show such a number. Not by a script, which the waiting page's policy forbids."""
    page.locator("#count", has_text=re.compile(f"^({pattern})$")).wait_for()


def open_when_up(page: Page, space: Space) -> None:
    """What a visitor does: open it, and wait for the page to become the app."""
    end = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(url(space, "/_sidecar/livez"), timeout=2).close()
            break
        except OSError:
            assert time.monotonic() < end, space.said()
            time.sleep(0.02)
    page.goto(url(space))


def test_events_reach_a_browser_and_a_waiting_page_turns_into_the_app(tmp_path: Path, chromium: Browser) -> None:
    app = (sys.executable, str(EXAMPLES / "starlette/app.py"))
    with space_of(tmp_path, SIDECAR_HANDOFF_WAIT="4s") as (space, _), page_of(chromium) as page:
        space.start(*app)
        open_when_up(page, space)
        counted(page, r"[3-9]|\d\d+")
        assert space.sidecar("checkpoint").returncode == 0
        kept = int((space.disk / "data/count").read_text())
        space.kill()
        (space.disk / "data/count").unlink()

        space.start(*app)
        space.wait(lambda s: s["phase"] == "claiming")
        navigations: list[str] = []
        page.on("framenavigated", lambda frame: navigations.append(frame.url))
        answer = page.goto(url(space, "/?a=b#c"))
        assert answer is not None
        assert answer.status == 503
        assert page.title() == "Waking up"
        with page_of(chromium, javascript=False) as plain:
            plain.goto(url(space))
            assert plain.title() == "Waking up"
            counted(page, r"\d+")
            assert int(page.text_content("#count") or "0") >= kept - 2, "it goes on from the restored count"
            assert navigations == [url(space, "/?a=b#c")] * 2, "opened once, loaded once"
            plain.wait_for_selector("#count", state="attached")
            assert plain.title() == "Counter"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("why", ["recovering", "starting", "gone"])
def test_what_visitors_see_meanwhile_is_for_everybody(tmp_path: Path, chromium: Browser, why: str, scheme: str) -> None:
    state = state_of(upstream_seen=why == "gone")
    if why == "recovering":
        state.recovered, state.phase, state.main_state = False, "restoring", "waiting"
        state.restore.bytes_done, state.restore.bytes_total = 25_000_000, 100_000_000
    context = chromium.new_context(color_scheme="dark" if scheme == "dark" else "light", viewport=NARROW)
    with contextlib.closing(context), serving(tmp_path, state, app_url=f"http://127.0.0.1:{free_port()}") as one:
        page = context.new_page()
        failed: list[str] = []
        page.on("console", lambda message: failed.append(message.text) if message.type == "error" else None)
        page.goto(f"http://127.0.0.1:{one.port}/")
        assert findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if why == "recovering":
            assert page.locator("progress").get_attribute("value") == "25000000"
            state.restore.bytes_done = 80_000_000
            page.locator("progress[value='80000000']").wait_for()
            page.get_by_text("80 MB of 100 MB").wait_for()
        assert [each for each in failed if "Content Security Policy" in each] == []


def test_a_form_a_redirect_and_an_apps_own_health(tmp_path: Path, chromium: Browser) -> None:
    with space_of(tmp_path, SIDECAR_PREFIX="/_sidecar") as (space, _), page_of(chromium) as page:
        space.start("node", str(EXAMPLES / "node/server.js"))
        open_when_up(page, space)
        page.locator("input").wait_for()
        page.fill("input", "grüße & <more>")
        page.click("button")
        page.locator("pre", has_text="<more>").wait_for()
        assert page.url == url(space)
        assert (space.disk / "data/notes.txt").read_text() == "grüße & <more>\n"
        with urllib.request.urlopen(url(space, "/health"), timeout=5) as reply:
            assert reply.read() == b"the app says: well"
        with urllib.request.urlopen(url(space, "/_sidecar/health"), timeout=5) as reply:
            assert reply.headers["content-type"] == "application/health+json"


def test_gradio_with_its_queue_its_streams_and_an_upload(tmp_path: Path, chromium: Browser) -> None:
    pytest.importorskip("gradio")
    from playwright.sync_api import expect

    given = os.urandom(3_000_000)
    (tmp_path / "given.bin").write_bytes(given)
    with space_of(tmp_path, GRADIO_ANALYTICS_ENABLED="False") as (space, _), page_of(chromium) as page:
        space.start(sys.executable, str(EXAMPLES / "gradio/app.py"))
        open_when_up(page, space)
        page.get_by_label("Text", exact=True).fill("streamed letters")
        page.get_by_role("button", name="Spell").click()
        steps = set()
        spelt = page.get_by_label("Spelt")
        while (now := spelt.input_value()) != "STREAMED LETTERS":
            steps.add(now)
            page.wait_for_timeout(20)
        assert len(steps - {""}) >= 2, "the letters come one by one"
        page.set_input_files("input[type=file]", tmp_path / "given.bin")
        want = f"3000000 bytes, {hashlib.sha256(given).hexdigest()[:16]}"
        expect(page.get_by_label("Weight")).to_have_value(want, timeout=SLOW_MS)
        assert space.get("/_sidecar/status")["phase"] == "running"


def test_streamlit_with_its_websocket_and_an_upload(tmp_path: Path, chromium: Browser) -> None:
    pytest.importorskip("streamlit")
    (tmp_path / "given.bin").write_bytes(os.urandom(2_000_000))
    with space_of(tmp_path) as (space, port), page_of(chromium) as page:
        options = ["--server.address=127.0.0.1", f"--server.port={port}", "--server.headless=true"]
        space.start(sys.executable, "-m", "streamlit", "run", str(EXAMPLES / "streamlit/app.py"), *options)
        sockets: list[str] = []
        page.on("websocket", lambda ws: sockets.append(ws.url))
        open_when_up(page, space)
        page.get_by_text("Clicked 0 times").wait_for()
        page.get_by_role("button", name="Count").click()
        page.get_by_text("Clicked 1 times").wait_for()
        page.set_input_files("input[type=file]", tmp_path / "given.bin")
        page.get_by_text("2000000 bytes came").wait_for()
        assert any(f":{space.port}/" in each for each in sockets)
        assert (space.disk / "data/clicks").read_text() == "1"
