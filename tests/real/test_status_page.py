"""The status page in a real Chromium: what a person sees, what a screen reader meets, and what does not run."""

from __future__ import annotations

import http.server
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.measures import Seen
from tests.journeys.space import Space, living
from tests.real import axe, samples
from tests.real.chromium import browser
from tests.web.serving import Served, serving

pytestmark = pytest.mark.real

TOKEN = "s3cret-token"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, samples.away(), api_token=TOKEN) as one:
        yield one


def url(one: Served) -> str:
    return f"http://127.0.0.1:{one.port}/status"


def watched(page: Any) -> list[str]:
    """Fills with whatever a page says that it should not: errors, refusals of its policy, requests elsewhere."""
    said: list[str] = []

    def dialog_said(dialog: Any) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", dialog_said)
    page.on("request", lambda r: None if r.url.startswith(("http://127.0.0.1:", "data:,")) else said.append(r.url))
    return said


@pytest.mark.parametrize("make", [samples.well, samples.restoring, samples.away], ids=lambda make: make.__name__)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 320), ("dark", 320)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(chromium, tmp_path, make, scheme, width):
    with serving(tmp_path, make(), api_token=TOKEN) as one:
        page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        said = watched(page)
        page.goto(url(one))
        assert axe.findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert said == []
        page.close()


def test_what_changes_is_taken_over_without_a_reload(chromium, tmp_path):
    state = samples.restoring()  # asked every 2 s
    with serving(tmp_path, state, api_token=TOKEN) as one:
        page = chromium.new_page()
        said = watched(page)
        page.goto(url(one))
        page.evaluate("window.mark = 1")
        page.get_by_label("API token").focus()
        assert page.get_by_role("progressbar").count() == 1
        state.restore.files_done = 900
        page.get_by_text("900 of 1,291 files are back").wait_for(timeout=10_000)
        state.phase, state.recovered, state.main_state = "running", True, "running"
        state.measures.seen(Seen("7.200", None, 1291, 40_400_000, 3))
        page.get_by_text("All is well.").first.wait_for(timeout=10_000)
        assert page.get_by_role("rowheader", name="7.200").count() == 1
        assert page.get_by_role("progressbar").count() == 0
        assert page.get_by_role("status").text_content() == "All is well.", "a change is read out"
        assert page.title().startswith("All is well")
        assert page.evaluate("window.mark") == 1
        assert page.evaluate("document.activeElement.id") == "token", "what has the focus keeps it"
        assert said == []
        page.close()


def test_without_a_script_it_is_whole_and_reloads_itself(chromium, served):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(url(served))
    assert page.get_by_text("Works, but needs attention").first.is_visible()
    assert page.get_by_role("img", name="Sync lag").is_visible()
    assert not page.get_by_label("API token").is_visible(), "a form that can't work is not shown"
    served.state.sync.pending = 32
    page.get_by_text("32 changes").wait_for(timeout=20_000)
    context.close()


def test_a_file_that_is_called_like_markup_is_shown_to_the_owner_as_text(chromium, served):
    page = chromium.new_page()
    said = watched(page)
    page.goto(url(served))
    hostile = served.state.sync.files[0]["path"]
    assert page.get_by_text(hostile).count() == 0
    page.get_by_label("API token").fill("wrong")
    page.get_by_role("button", name="Show file names").press("Enter")
    page.get_by_text("That is not the API token.").wait_for(timeout=10_000)
    page.get_by_label("API token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_text(hostile, exact=True).wait_for(timeout=10_000)
    assert page.locator("main img[src]").count() == 0
    assert "pwned" not in page.title()
    assert axe.findings(page) == []
    assert said == []
    page.reload()
    assert page.get_by_text(hostile).count() == 0, "the token was kept nowhere"
    page.close()


def test_an_agent_that_is_gone_is_said(chromium, tmp_path):
    with serving(tmp_path, samples.restoring()) as one:
        page = chromium.new_page()
        page.goto(url(one))
    page.get_by_text("No answer: this is how it was.").wait_for(timeout=15_000)
    assert page.get_by_text("812 of 1,291 files are back").is_visible()
    page.close()


def test_strangers_can_not_frame_it(chromium, served):
    frame = f'<iframe src="{url(served)}"></iframe>'.encode()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(frame)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page = chromium.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"http://127.0.0.1:{other.server_address[1]}/")
        page.wait_for_timeout(1000)
        assert any("frame-ancestors" in text for text in said), said
        assert page.frames[1].get_by_text("needs attention").count() == 0
        page.close()
        other.shutdown()


def test_a_real_agent_shows_a_real_file_of_that_name_to_its_owner_only(chromium, tmp_path):
    """A file that is written all the time is in trouble, so its name is on the page of a real agent."""
    name = "<img src=x onerror=document.title='pwned'>"
    over = threading.Event()
    with living(Space(tmp_path / "space", f"file://{tmp_path}/store", SIDECAR_API_TOKEN=TOKEN)) as space:
        (space.disk / "data").mkdir()
        file = space.disk / "data" / name
        file.write_bytes(b"")

        def write() -> None:
            with file.open("r+b") as out:
                while not over.is_set():
                    out.seek(random.randrange(8 << 20))
                    out.write(os.urandom(4096))
                    out.flush()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            space.start()
            space.wait(lambda status: status["sync"]["unsettled"] == 1, 60)
            page = chromium.new_page()
            said = watched(page)
            page.goto(f"http://127.0.0.1:{space.port}/status")
            assert "onerror" not in page.content()
            page.get_by_label("API token").fill(TOKEN)
            page.keyboard.press("Enter")
            page.get_by_text(f"data/{name}", exact=True).wait_for(timeout=20_000)
            assert "pwned" not in page.title()
            assert axe.findings(page) == []
            assert said == []
            page.close()
        finally:
            over.set()
            writer.join(10)
