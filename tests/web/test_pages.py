from __future__ import annotations

import base64
import hashlib
import re
import time
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.state import Keepalive, RootState, SyncState
from sidecar.web.pages.status import CSP, page
from sidecar.web.status import status
from tests.web.serving import state_of

ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr", "th", "td", "br", "small",
    "progress",
}  # fmt: skip
HOSTILE = "<img onerror=alert(1) src=x>\"'><script>alert(2)</script>&amp;"


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text.append(data)


def hostile(text: str, names: bool) -> Reader:
    state = state_of(
        detail=text,
        main_state="exited",
        main_exit=1,
        lease_holder=text,
        notes={text: text},
        failed_checks=[text],
        recovery={text: text, "at": text, "deep": {text: {text: [text]}}},
        keepalive=Keepalive(last=time.time(), last_mono=time.monotonic(), agent=text),
        sync=SyncState(snapshot=text, revision=text, error=text, files=[{text: text}]),
    )
    state.version = state.instance = state.space = state.store = text
    state.roots = {text: RootState(text, state=text)}
    return Reader(page(status(state, time.monotonic(), names=names)))


def test_what_comes_from_outside_is_text_wherever_it_stands():
    read = hostile(HOSTILE, names=True)
    assert read.tags == ALLOWED - {"progress"}
    assert not {name for name in read.attributes if name.startswith("on")} | read.attributes & {"src", "href"}
    assert any(HOSTILE in piece for piece in read.text), "shown as it is"


@settings(deadline=None, max_examples=60)  # a busy machine is no finding
@given(st.text(st.sampled_from("<>\"'&/= ainoscript!-[]\x00\n\udc80é")), st.booleans())
def test_no_text_becomes_an_element(text, names):
    read = hostile(text, names)
    assert read.tags <= ALLOWED
    assert read.attributes <= {"lang", "charset", "name", "content", "http-equiv", "class", "max", "value"}


def test_the_policy_allows_exactly_the_style_that_is_in_the_page():
    text = page(status(state_of(), time.monotonic(), names=False))
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(style) == 1
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in CSP
    assert "default-src 'none'" in CSP
    assert "unsafe" not in CSP
    assert "style=" not in text, "an inline style would be blocked"
    assert "<script" not in text
