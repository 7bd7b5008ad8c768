"""The Hub store when nothing goes wrong: what it keeps, how it reads, and what that costs."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session

from sidecar.stores.base import Conflict, Denied, NotFound, Source, Unavailable
from sidecar.stores.hub import HubStore
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.stores.hubs import HASTY, REPO, fails, local_hub, run, store

BINARY = bytes(range(256)) * 8


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with local_hub() as hub:
        yield hub


def test_head_is_the_repos_whatever_it_holds(hub: LocalHub) -> None:
    first = hub.head(REPO)
    assert run(store(hub).head()) == first
    hub.edit(REPO, {".sidecar/lease.json": b"{}"})
    assert run(store(hub).head()) == hub.head(REPO) != first


def test_reading_the_head_is_one_download_request(hub: LocalHub) -> None:
    s = store(hub)
    for put in ({}, {".sidecar/lease.json": b"{}"}, {".sidecar/lease.json": BINARY}):
        hub.edit(REPO, put or {"x": b"1"})
        hub.reset()
        assert run(s.head()) == hub.head(REPO)
        assert [(r["endpoint"], r["method"]) for r in hub.requests()] == [("resolve", "HEAD")]


def test_first_commit_without_a_parent(hub: LocalHub) -> None:
    s = store(hub)
    revision = run(s.commit(None, {"a/x": b"1"}, [], "sidecar: snapshot 0.1"))
    assert revision == hub.head(REPO)
    assert hub.files(REPO) == {"a/x": b"1"}
    fails(Conflict, s.commit(None, {"a/x": b"2"}, [], "sidecar: snapshot 0.1"), REPO)
    # A squashed history is one commit long, but not an empty one.
    hub.squash(REPO)
    fails(Conflict, s.commit(None, {"a/x": b"2"}, [], "sidecar: snapshot 0.1"), REPO)
    assert hub.files(REPO) == {"a/x": b"1"}


def test_message_becomes_title_and_description(hub: LocalHub) -> None:
    run(store(hub).commit(hub.head(REPO), {"x": b"1"}, [], "sidecar: snapshot 0.1\n\n2 files\n"))
    newest = hub.commits(REPO)[0]
    assert (newest["title"], newest["description"]) == ("sidecar: snapshot 0.1", "2 files")


@pytest.mark.parametrize("xet_from", [0, 1 << 20], ids=["apart", "here"])
def test_bytes_and_files_large_and_small(hub: LocalHub, tmp_path: Path, xet_from: int) -> None:
    big = os.urandom(300_000)
    (tmp_path / "big").write_bytes(big)
    (tmp_path / "text").write_text("text\n" * 100)
    put: dict[str, Source] = {
        "r/empty": b"",
        "r/bytes.txt": b"hello",
        "r/bytes.bin": BINARY,
        "r/same.bin": BINARY,
        "r/file.bin": tmp_path / "big",
        "r/deep/er/text.txt": tmp_path / "text",
        "r/odd name 'ü\n%20?#.txt": b"odd",
    }
    s = store(hub, large=xet_from)
    revision = run(s.commit(hub.head(REPO), put, ["r/never-there"], "one"))
    expected = {p: b if isinstance(b, bytes) else b.read_bytes() for p, b in put.items()}
    assert hub.files(REPO) == expected
    listing = run(s.listing(revision))
    assert {p: n for p, n in listing.items() if p != ".gitattributes"} == {p: len(b) for p, b in expected.items()}
    into = tmp_path / "into"
    into.mkdir()
    arrived: list[int] = []
    run(s.fetch(revision, put, into, arrived.append))
    assert {p: (into / p).read_bytes() for p in put} == expected
    assert sum(arrived) == sum(map(len, expected.values()))
    assert sum(1 for p in into.rglob("*") if p.is_file()) == len(put), "something else was left behind"


def test_deletes_only_what_is_there(hub: LocalHub) -> None:
    head = hub.edit(REPO, {"a": b"1", "b": b"2", "d/c": b"3"})
    revision = run(store(hub).commit(head, {"e": b"4"}, ["a", "nope", "d/nope", "d", "a", "b\0"], "one"))
    assert hub.files(REPO, revision) == {"b": b"2", "d/c": b"3", "e": b"4"}


def test_a_put_of_what_is_deleted_too_is_a_put(hub: LocalHub) -> None:
    head = hub.edit(REPO, {"a": b"1"})
    run(store(hub).commit(head, {"a": b"2"}, ["a"], "one"))
    assert hub.files(REPO) == {"a": b"2"}


def test_nothing_to_change_is_no_commit(hub: LocalHub) -> None:
    s = store(hub)
    head = run(s.commit(hub.head(REPO), {"a": b"1", "b.bin": BINARY}, [], "one"))
    for put, delete in (({"a": b"1", "b.bin": BINARY}, ["nope"]), ({}, ["nope"]), ({}, [])):
        assert run(s.commit(head, put, delete, "again")) == head
    moved = hub.edit(REPO, {"z": b"9"})
    for put, delete in (({"a": b"1"}, ["nope"]), ({}, [])):
        fails(Conflict, s.commit(head, put, delete, "again"))
    assert hub.head(REPO) == moved


def test_a_small_commit_costs_three_requests(hub: LocalHub) -> None:
    head, s = hub.head(REPO), store(hub)
    hub.reset()
    run(s.commit(head, {"m.json": b"{}"}, [], "one"))
    assert [r["endpoint"] for r in hub.requests()] == ["preupload", "commit", "paths_info"]


def test_many_paths_in_one_commit(hub: LocalHub, tmp_path: Path) -> None:
    put = {f"d{n % 7}/{n}.txt": b"%d" % n for n in range(600)}
    s = store(hub)
    one = run(s.commit(hub.head(REPO), put, [], "many"))
    hub.settings(tree_page=50)
    assert len(run(s.listing(one))) == 601
    two = run(s.commit(one, {"x": b"1"}, put, "none"))
    assert hub.files(REPO, two) == {"x": b"1"}


def test_what_another_part_commits_is_an_edit_to_this_one(hub: LocalHub) -> None:
    """Two Spaces in one dataset: neither takes the other's snapshots, numbers or epochs for its own."""
    one, two, whole = store(hub, prefix="one"), store(hub, prefix="tw o/2"), store(hub)

    async def scenario() -> None:
        title = "sidecar: snapshot 1.1"
        first = await one.commit(await one.head(), {"r/a": b"1"}, [], f"{title}\n\nfiles: 1")
        second = await two.commit(first, {"r/a": b"2"}, [], title)
        assert [c.title for c in await one.history(2)] == [f"tw o/2: {title}", title]
        assert [c.title for c in await two.history(2)] == [title, f"one: {title}"]
        assert [c.title for c in await whole.history(2)] == [f"tw o/2: {title}", f"one: {title}"]
        assert (await one.history(2))[1].body.startswith("files: 1\n")
        third = await whole.commit(second, {"r/a": b"3"}, [], title)
        assert (await one.history(1))[0].title == f"the whole dataset: {title}"
        with pytest.raises(Conflict):  # the same title on the same parent, but it isn't ours
            await one.commit(second, {"r/b": b"1"}, [], title)
        assert await one.head() == third

    try:
        run(scenario())
    finally:
        for each in (one, two, whole):
            run(each.close())


def test_prefix(hub: LocalHub, tmp_path: Path) -> None:
    hub.edit(REPO, {"other/x": b"0"})
    s = store(hub, prefix="deep/er")
    head = run(s.head())
    assert head == hub.head(REPO)
    assert run(s.listing(head)) == {}
    one = run(s.commit(head, {"a/x": b"1", "y": BINARY}, ["nope"], "one"))
    assert run(s.listing(one)) == {"a/x": 1, "y": len(BINARY)}
    two = run(s.commit(one, {}, ["y"], "two"))
    assert hub.files(REPO) == {"other/x": b"0", "deep/er/a/x": b"1"}
    run(s.fetch(one, ["a/x", "y"], tmp_path))
    assert (tmp_path / "y").read_bytes() == BINARY
    fails(NotFound, s.fetch(two, ["y"], tmp_path), "'y' is not in revision", two)
    fails(NotFound, s.fetch(two, ["other/x"], tmp_path))


def test_another_branch_as_main_line(hub: LocalHub) -> None:
    hub.edit(REPO, {"main": b"0"})
    s = store(hub, branch="state/v1")
    assert run(s.head()) is None
    assert run(s.history(5)) == []
    one = run(s.commit(None, {"x": b"1"}, [], "one"))
    assert run(s.head()) == one == hub.branches(REPO)["state/v1"]
    assert hub.files(REPO, one) == {"x": b"1"}
    fails(Conflict, s.commit(None, {"x": b"1"}, [], "one"))
    assert [c.title for c in run(s.history(5))] == ["one", "initial commit"]
    run(s.compact())
    assert [c.title for c in run(s.history(5))] == ["one"]
    assert hub.files(REPO) == {"main": b"0"}


def test_a_commit_makes_its_branch_at_its_parent(hub: LocalHub) -> None:
    one = hub.edit(REPO, {"a": b"1"})
    hub.edit(REPO, {"a": b"2"})
    s = store(hub)
    two = run(s.commit(one, {"b": b"1"}, [], "aside", branch="fenced/i-1"))
    assert hub.files(REPO, two) == {"a": b"1", "b": b"1"}
    three = run(s.commit(two, {}, ["a"], "aside 2", branch="fenced/i-1"))
    assert hub.branches(REPO)["fenced/i-1"] == three
    assert hub.files(REPO) == {"a": b"2"}
    assert [c.title for c in run(s.history(2, "fenced/i-1"))] == ["aside 2", "aside"]
    # Another process meets a branch that is there already.
    fails(Conflict, store(hub).commit(one, {"b": b"9"}, [], "late", branch="fenced/i-1"))


def test_history_reads_no_page_too_many(hub: LocalHub) -> None:
    hub.settings(commits_page=3)
    for n in range(9):
        hub.edit(REPO, {"x": b"%d" % n}, title=f"edit {n}", date=f"2026-11-24T10:0{n}:00.000Z")
    s = store(hub)
    hub.reset()
    found = run(s.history(2))
    assert [c.title for c in found] == ["edit 8", "edit 7"]
    assert found[0].at == 1795514880.0
    assert hub.count("commits") == 1
    assert len(run(s.history(100))) == 10
    assert hub.count("commits") == 1 + 4
    assert run(s.history(5, "nope")) == []


def test_keep_and_compact(hub: LocalHub, tmp_path: Path) -> None:
    old = hub.edit(REPO, {"x": b"old"}, title="sidecar: snapshot 0.1")
    hub.edit(REPO, {"x": b"new"}, title="sidecar: snapshot 0.2")
    s = store(hub)
    run(s.keep(old, "damaged/0.1"))
    run(s.keep(old, "damaged/0.1"))
    run(s.compact())
    assert [c.title for c in run(s.history(9))] == ["sidecar: snapshot 0.2"]
    assert hub.files(REPO) == {"x": b"new"}
    run(s.fetch(old, ["x"], tmp_path))
    assert (tmp_path / "x").read_bytes() == b"old"
    fails(NotFound, s.keep("0" * 40, "nope"))


def test_a_stale_parent_is_a_conflict(hub: LocalHub) -> None:
    old = hub.head(REPO)
    hub.edit(REPO, {"x": b"1"})
    s = store(hub)
    fails(Conflict, s.commit(old, {"y": b"1"}, [], "late"), REPO, "moved on")
    fails(Conflict, s.commit("0" * 40, {"y": b"1"}, ["x"], "gone"))
    hub.squash(REPO)
    fails(Conflict, s.commit(old, {"y": b"1"}, [], "squashed"))
    assert hub.files(REPO) == {"x": b"1"}


def test_nothing_touches_the_event_loop(hub: LocalHub) -> None:
    """Importing the client takes 0.3 s: not on the loop, and not at all before the first call."""
    code = (
        "import asyncio, sys, time\n"
        "from pathlib import Path\n"
        "from sidecar.stores.hub import HubStore\n"
        "async def main():\n"
        f"    s = HubStore({REPO!r}, token={DEFAULT_TOKEN!r}, endpoint={hub.url!r}, cache_dir=Path(sys.argv[1]))\n"
        "    assert not any(m.startswith(('huggingface_hub', 'httpx', 'hf_xet')) for m in sys.modules)\n"
        "    gaps, last, done = [], time.monotonic(), asyncio.Event()\n"
        "    async def tick():\n"
        "        last = time.monotonic()\n"
        "        while not done.is_set():\n"
        "            await asyncio.sleep(0.005)\n"
        "            gaps.append(time.monotonic() - last); last = time.monotonic()\n"
        "    ticking = asyncio.create_task(tick())\n"
        "    await asyncio.sleep(0.05)\n"
        "    head = await s.head()\n"
        "    await s.commit(head, {'x.bin': bytes(range(256)) * 100}, [], 'one')\n"
        "    done.set(); await ticking; await s.close()\n"
        "    import os\n"
        "    assert 'huggingface_hub' in sys.modules and 'hf_xet' not in sys.modules\n"
        "    assert not any(n.startswith(('HF_', 'HUGGING')) for n in os.environ), os.environ\n"
        "    print(sorted(gaps)[len(gaps) // 2] < 0.05, len(gaps) > 20)\n"
        "asyncio.run(main())\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    root = Path(__file__).parents[2]
    with_path = {**env, "PYTHONPATH": str(root)}
    cache = hub.data / "cache"
    done = subprocess.run(
        [sys.executable, "-c", code, str(cache)],
        capture_output=True, text=True, timeout=60, env=with_path, cwd=root,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True True\n", "")
    assert not cache.exists(), "the client's cache was filled"


def test_a_limit_holds_for_all_calls_together(hub: LocalHub) -> None:
    s = store(hub)
    hub.fault("hang", times=None)

    async def main() -> list[float]:
        took = []
        with s.limit(0.4):
            for _ in range(3):
                begin = asyncio.get_running_loop().time()
                with pytest.raises(Unavailable):
                    await s.head()
                took.append(asyncio.get_running_loop().time() - begin)
        return took

    took = run(main())
    assert sum(took) < 1.0
    assert took[2] < 0.35


def test_close_gives_up_what_runs(hub: LocalHub) -> None:
    s = store(hub)
    rule = hub.fault("hang", endpoint="tree", times=None)

    async def main() -> None:
        task = asyncio.create_task(s.listing(hub.head(REPO)))
        while not hub.fired(rule):
            await asyncio.sleep(0.01)
        begin = time.monotonic()
        await s.close()
        with pytest.raises(Unavailable):
            await task
        assert time.monotonic() - begin < 0.5
        assert await s.head()  # and the next call opens what it needs

    run(main())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"repo": "datasets/alice/x"}, ("hf://datasets/OWNER/NAME",)),
        ({"repo": "nameonly"}, ("hf://datasets/OWNER/NAME",)),
        ({"token": "hf_with\nnewline"}, ("HF_TOKEN", "Settings > Secrets")),
        ({"token": "hf_ümlaut"}, ("HF_TOKEN", "Settings > Secrets")),
    ],
)
def test_what_can_never_work_makes_no_request(hub: LocalHub, given: dict[str, Any], words: tuple[str, ...]) -> None:
    s = store(hub, **given)
    hub.reset()
    for call in (s.head(), s.check(), s.history(1)):
        error = fails(Denied, call, *words)
        assert given.get("token", "-").split("\n")[0] not in error.message
    assert hub.requests() == []


class _Proxy(BaseHTTPRequestHandler):
    """Answers for every host itself, and remembers what it was asked for."""

    seen: list[str] = []  # noqa: RUF012

    def do_HEAD(self) -> None:
        self.seen.append(f"{self.path} {'authorization' in self.headers}")
        self.send_response(200)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_a_proxy_is_used_as_the_environment_says(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        s = HubStore(REPO, token=DEFAULT_TOKEN, endpoint="http://hub.invalid", patience=HASTY)
        assert run(s.head()) == "c" * 40
        url = f"http://hub.invalid/datasets/{REPO}/resolve/main/.sidecar/lease.json"
        assert _Proxy.seen == [f"{url} True"]
        assert run(store(hub).head()) == hub.head(REPO), "NO_PROXY was not heeded"
    finally:
        server.shutdown()
        server.server_close()


def test_who_answers_over_tls_must_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"https://127.0.0.1:{server.server_port}"
        stranger = HubStore(REPO, token=DEFAULT_TOKEN, endpoint=url, patience=HASTY)
        fails(Unavailable, stranger.head(), "certificate")
        close_session()  # which all stores share, and with it whom they trust
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS))
        friend = HubStore(REPO, token=DEFAULT_TOKEN, endpoint=url, patience=HASTY)
        assert run(friend.head()) == "c" * 40
    finally:
        close_session()
        server.shutdown()
        server.server_close()


TLS = Path(__file__).with_name("tls.pem")
"""A key and a certificate of 127.0.0.1 that nobody trusts but who is told to."""


def test_url() -> None:
    assert HubStore("a/b", token=None).url == "hf://datasets/a/b"
    assert HubStore("a/b", token="hf_secret", branch="c", prefix="d/e").url == "hf://datasets/a/b@c/d/e"
