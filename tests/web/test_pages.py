from __future__ import annotations

import base64
import hashlib
import itertools
import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.measures import Sample, Seen
from sidecar.state import Keepalive, RootState, SyncState
from sidecar.web.pages.markup import VOID, Html, tag
from sidecar.web.pages.plot import ceiling, runs
from sidecar.web.pages.status import CSP, SCRIPT, STYLE, page
from sidecar.web.status import status
from tests.web.serving import state_of

NOW = 1_700_000_000.0
HOSTILE = "<img onerror=alert(1) src=x>\"'><script>alert(2)</script>&amp;"
ALLOWED = {
    "a", "b", "body", "br", "button", "caption", "circle", "code", "dd", "div", "dl", "dt", "figcaption", "figure",
    "footer", "form", "g", "h1", "h2", "h3", "head", "header", "html", "input", "label", "li", "line", "link", "main",
    "meta", "noscript", "ol", "p", "polygon", "polyline", "progress", "rect", "script", "section", "small", "span",
    "strong", "style", "svg", "table", "tbody", "td", "text", "th", "thead", "time", "title", "tr", "ul",
}  # fmt: skip


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and the text; and whether it is whole."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "an element is not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def values(self, name: str) -> list[str | None]:
        return [value for _, key, value in self.attributes if key == name]


def hostile(text: str, names: bool) -> Reader:
    state = state_of(
        detail=text,
        main_state="exited",
        main_exit=1,
        lease_holder=text,
        notes={text: text},
        failed_checks=[text],
        checks=[{"check": text, "kind": text, "must": True, "result": "fail", "reason": text}],
        recovery={
            text: text, "at": text, "deep": {text: {text: [text]}}, "steps": [{"step": text, "ms": 3, text: text}, text]
        },
        keepalive=Keepalive(last=time.time(), last_mono=time.monotonic(), agent=text),
        sync=SyncState(snapshot=text, revision=text, error=text, files=[{"path": text, "state": text}, {text: text}]),
    )  # fmt: skip
    state.version = state.instance = state.space = state.store = text
    state.roots = {text: RootState(text, state=text)}
    state.measures.seen(Seen(text, NOW, 1, 1, 1, text))
    body = status(state, time.monotonic(), names=names)
    body["checklist"] = [{"id": text, "state": text, "text": text, "fix": text}]
    return Reader(page(body, now=NOW, owner=names))


def test_what_comes_from_outside_is_text_wherever_it_stands():
    read = hostile(HOSTILE, names=True)
    assert set(read.tags) <= ALLOWED
    assert "img" not in read.tags
    assert read.tags.count("script") == 1
    assert not [name for _, name, _ in read.attributes if name.startswith("on") or name in ("src", "style", "action")]
    assert set(read.values("href")) == {"#content", "data:,"}
    assert sum(HOSTILE in piece for piece in read.text) > 15, "shown as it is"


@settings(deadline=None, max_examples=60)  # a busy machine is no finding
@given(st.text(st.sampled_from("<>\"'&/= ainoscript!-[]\x00\n\udc80é")), st.booleans())
def test_no_text_becomes_an_element(text, names):
    read = hostile("<" + text, names)
    plain = hostile("<x", names)
    assert read.tags == plain.tags
    assert [name for _, name, _ in read.attributes] == [name for _, name, _ in plain.attributes]


@given(st.text(), st.text())
def test_text_is_escaped_and_markup_is_not_escaped_twice(inner, attribute):
    inside = tag("i", inner, title=attribute)
    read = Reader(tag("p", inside, Html("<br>"), [inner, None, 3], hidden=True, id=None))
    assert read.tags == ["p", "i", "br"]
    assert [name for _, name, _ in read.attributes] == ["hidden", "title"]


def test_the_policy_allows_exactly_the_style_and_the_script_that_are_in_the_page():
    text = page(status(state_of(), time.monotonic(), names=False), now=NOW)
    for kind, name in (("style", "style-src"), ("script", "script-src")):
        found = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert len(found) == 1
        digest = base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in CSP
    assert "default-src 'none'" in CSP
    assert "unsafe" not in CSP
    assert " style=" not in text, "an inline style would be blocked"
    assert not re.search(r"https?://", text), "nothing comes from elsewhere"
    assert "</" not in STYLE + SCRIPT, "neither may end its element early"
    frame = CSP.partition("frame-ancestors ")[2].split()
    assert frame == ["'self'", "https://huggingface.co", "https://*.hf.space"], "where the Hub shows a Space"


def test_a_screen_reader_finds_its_way():
    read = hostile("x", names=True)
    assert [read.tags.count(each) for each in ("h1", "main", "header", "footer")] == [1, 1, 1, 1]
    ids = read.values("id")
    assert len(ids) == len(set(ids))
    assert set(read.values("aria-labelledby")) <= set(ids)
    assert set(read.values("for")) <= set(ids)
    assert ("html", "lang", "en") in read.attributes
    tables, captions = read.tags.count("table"), read.tags.count("caption")
    assert tables == captions > 1
    assert all(value in ("col", "row") for value in read.values("scope"))
    levels = [int(each[1]) for each in read.tags if re.fullmatch("h[1-6]", each)]
    assert all(deeper - level <= 1 for level, deeper in itertools.pairwise(levels)), "no level is left out"


def text_of(state, samples=(), **changes) -> str:
    body = {**status(state, time.monotonic(), names=False), **changes}
    return "|".join(Reader(page(body, samples, now=NOW)).text)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "All is well.|The main program runs; its files are kept in sync. Everything that changed is saved."),
        ({"persistent": False}, "Works, but needs attention - NOT PERSISTED.|No store outlives this machine"),
        ({"main_state": "exited", "main_exit": 3}, "Not well.|The main program has ended."),
        ({"sync": SyncState(error="x", denied=True)}, "Works, but needs attention.|The store refuses access"),
    ],
)
def test_the_verdict_is_one_sentence_that_a_person_understands(changes, says):
    assert says in text_of(state_of(**changes))


def test_a_change_on_the_way_is_no_trouble():
    assert "1 change on the way." in text_of(state_of(sync=SyncState(pending=1, pending_since_mono=time.monotonic())))


def test_while_files_come_back_the_page_says_how_many():
    state = state_of(phase="restoring", recovered=False, main_state="waiting")
    state.restore.files_done, state.restore.files_total = 512, 1204
    state.restore.bytes_done, state.restore.bytes_total = 9_000_000, 38_000_000
    text = text_of(state)
    assert "Recovery is under way.|512 of 1,204 files are back." in text
    assert "9.0 MB of 38 MB" in text
    read = Reader(page(status(state, time.monotonic(), names=False), now=NOW))
    assert ("progress", "value", "9000000") in read.attributes
    assert ("meta", "http-equiv", "refresh") in read.attributes, "without a script the page reloads itself"


def test_the_checklist_is_shown_with_its_fixes_or_an_honest_line():
    lines = [
        {"id": "poller-seen", "state": "fail", "text": "no ping was seen", "fix": "let n8n call /health"},
        {"id": "drill", "state": "pass", "text": "a drill passed", "fix": None},
        {"id": "odd", "state": "sideways", "text": None},
    ]
    text = text_of(state_of(), checklist=lines)
    assert "To do| · no ping was seen |poller-seen|What to do: |let n8n call /health" in text
    assert "Good| · a drill passed |drill" in text
    assert "sideways| · - |odd" in text
    assert "Nothing was checked yet." in text_of(state_of(), checklist=[])


def test_snapshots_and_the_recovery_are_told():
    state = state_of(
        recovery={
            "at": "2023-11-14T22:03:20Z", "result": "ok", "bytes": 38_000_000, "snapshot_age_s": 250,
            "steps": [{"step": "claim", "ok": True, "ms": 412}, {"step": "verify", "ok": False, "ms": 9000}],
        }
    )  # fmt: skip
    state.measures.seen(Seen("7.1", NOW - 600, 3, 1234, 2))
    state.measures.seen(Seen("7.2", NOW - 60, 4, 5_300_000, 1, "fenced/a"))
    state.measures.seen(Seen("7.2", NOW, 4, 5_300_000, 1))
    text = text_of(state)
    assert "7.2|1 min ago|4|5.3 MB|1|fenced/a|7.1|10 min ago|3|1.2 KB|2|main line" in text
    assert "claim|412 ms" in text
    assert "verify|FAILED after 9,000 ms" in text
    assert "Started|10 min ago" in text
    assert "Its age|4 min" in text


def test_the_plot_shows_every_sample_and_a_gap_where_nobody_looked():
    samples = [Sample(NOW - 60 * n, 45.0 if n == 30 else 2.0, 3, 3) for n in range(100, 0, -1) if not 40 < n < 50]
    state = state_of(commits_paced=5, commits_per_hour=30)
    read = Reader(page(status(state, time.monotonic(), names=False), samples, now=NOW))
    lines = [value for tag_, name, value in read.attributes if tag_ == "polyline" and name == "points"]
    assert len(lines) == 4, "two plots, two runs each"
    assert sum(len(str(line).split()) for line in lines[:2]) == len(samples) + 1, "the present moment besides"
    text = "".join(read.text)
    assert "At worst 45 s, 30 min ago; now 0.0 s." in text
    assert "at most 5 snapshots, now 5 of 30." in text
    assert ("line", "class", "bound") in read.attributes
    heights = [float(point.split(",")[1]) for line in lines for point in str(line).split()]
    assert all(0 <= height <= 150 for height in heights)
    assert "first sample comes within a minute" in text_of(state_of())


@given(st.floats(0, 1e12))
def test_an_axis_ends_at_a_round_number_at_or_above_the_highest_value(value):
    top = ceiling(value)
    assert value <= top * 1.002
    assert top <= max(1.0, 2.6 * value)
    assert f"{top:.0e}"[0] in "125"


@given(st.lists(st.floats(0, 10_000), max_size=20))
def test_runs_lose_no_point(times):
    points = [(at, 1.0) for at in times]
    assert [point for run in runs(points) for point in run] == points


def test_the_form_for_the_token_is_there_only_where_there_is_a_token_and_a_script():
    body = status(state_of(), time.monotonic(), names=False)
    assert "<form" not in page(body, owner=None)
    for owner, says in ((True, "yes"), (False, "no")):
        read = Reader(page(body, owner=owner))
        assert ("form", "hidden", None) in read.attributes
        assert ("html", "data-names", says) in read.attributes
