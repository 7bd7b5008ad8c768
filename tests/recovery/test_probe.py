"""Checks of real files and a real server, by the child process that makes them; nothing appears beside a file."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sidecar.recovery import probe
from sidecar.recovery.checks import examine
from sidecar.recovery.verdict import Verdict
from tests.recovery.logins import SECRET, chromium, jwt, netscape, storage_state

DAY = 86400.0


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def checked(kind: str, subject: str | Path, scratch: Path, limit_s: float = 30) -> Verdict:
    """What the child does, in this process: starting one for each costs more than all that it does."""
    scratch.mkdir(exist_ok=True)
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv(probe.SUBJECT, str(subject))
        assert probe.main([kind, str(scratch), str(limit_s)]) == 0
    for left in scratch.iterdir():
        left.unlink()
    assert SECRET not in out.getvalue()
    return Verdict(**json.loads(out.getvalue()))


def by_a_child(kind: str, subject: str | Path, scratch: Path, limit_s: float = 30, mark: str = "") -> Verdict:
    verdict = asyncio.run(examine(kind, str(subject), scratch, limit_s, mark))
    assert not any(scratch.iterdir()), "the scratch folder is cleared"
    return verdict


def test_a_child_says_what_it_found(disk: Path, tmp_path: Path) -> None:
    one_database(disk / "app.db").close()
    (disk / "named\udcff").write_text("{}")
    assert by_a_child("sqlite", disk / "app.db", tmp_path / "scratch").result == "pass"
    assert by_a_child("json", disk / "named\udcff", tmp_path / "scratch").result == "pass"
    assert by_a_child("json", disk / "none", tmp_path / "scratch").absent


def one_database(path: Path, journal: str = "delete") -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA journal_mode={journal}")
    db.execute("BEGIN")
    db.execute("CREATE TABLE jobs(id INTEGER PRIMARY KEY, what TEXT)")
    db.executemany("INSERT INTO jobs(what) VALUES(?)", [(f"{SECRET} {n}",) for n in range(2000)])
    db.execute("CREATE INDEX whats ON jobs(what)")
    db.execute("COMMIT")
    return db


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {name: ((s := os.stat(folder / name)).st_size, s.st_mtime_ns) for name in sorted(os.listdir(folder))}


# --- SQLite ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("use", ["closed", "open", "writing"])
def test_a_sound_database_passes_however_it_is_in_use(journal: str, use: str, disk: Path, tmp_path: Path) -> None:
    with contextlib.closing(one_database(disk / "app.db", journal)) as db:
        if use == "closed":
            db.close()
        elif use == "writing":
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO jobs(what) VALUES('half done')")
        before = listing(disk)
        verdict = checked("sqlite", disk / "app.db", tmp_path / "scratch")
        assert listing(disk) == before
        assert verdict.result == "pass", verdict
        if use == "writing":
            db.execute("COMMIT")  # nobody was in its way


def test_a_database_kept_locked_can_be_checked(disk: Path, tmp_path: Path) -> None:
    """As Chromium keeps its own: locking_mode=EXCLUSIVE."""
    with contextlib.closing(one_database(disk / "app.db")) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("INSERT INTO jobs(what) VALUES('locks it')")
        before = listing(disk)
        verdict = checked("sqlite", disk / "app.db", tmp_path / "scratch")
        assert verdict.result == "pass", verdict
        assert listing(disk) == before


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_an_unchanged_database_is_not_read_again(journal: str, disk: Path, tmp_path: Path) -> None:
    with contextlib.closing(one_database(disk / "app.db", journal)) as db:
        scratch = tmp_path / "scratch"
        first = by_a_child("sqlite", disk / "app.db", scratch)
        again = by_a_child("sqlite", disk / "app.db", scratch, mark=first.mark)
        assert (again.result, again.reason.endswith("unchanged since it was found sound")) == ("pass", True)
        db.execute("INSERT INTO jobs(what) VALUES('changed')")
        changed = by_a_child("sqlite", disk / "app.db", scratch, mark=first.mark)
        assert (changed.result, changed.reason.endswith("sound")) == ("pass", True)
        assert "unchanged" not in changed.reason
        assert changed.mark != first.mark


def torn(data: bytes) -> bytes:
    return data[: len(data) // 2]


def scrambled(data: bytes) -> bytes:
    """Pages of zeros in the middle of the tree."""
    at = len(data) // 4096 // 2 * 4096
    return data[:at] + bytes(8192) + data[at + 8192 :]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (torn, "damaged"),
        (scrambled, "damaged"),
        (lambda data: b"", "is empty (0 bytes)"),
        (lambda data: b"<!DOCTYPE html>" + data, "is no SQLite database"),
        (lambda data: data[:20], "damaged"),
    ],
)
def test_a_spoilt_database_fails(spoil: Callable[[bytes], bytes], says: str, disk: Path, tmp_path: Path) -> None:
    one_database(disk / "app.db").close()
    (disk / "app.db").write_bytes(spoil((disk / "app.db").read_bytes()))
    before = listing(disk)
    verdict = checked("sqlite", disk / "app.db", tmp_path / "scratch")
    assert (verdict.result, says in verdict.reason) == ("fail", True), verdict
    assert listing(disk) == before


# --- any file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "json", "cookies", "jwt"])
def test_what_is_no_readable_file_fails(kind: str, disk: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    assert checked(kind, disk / "none", scratch) == Verdict("fail", "isn't there", absent=True)
    assert checked(kind, disk, scratch).result == "fail"
    os.mkfifo(disk / "pipe")  # nobody ever writes to it
    began = time.monotonic()
    assert checked(kind, disk / "pipe", scratch).result == "fail"
    assert time.monotonic() - began < 10
    (disk / "empty").write_bytes(b"")
    assert checked(kind, disk / "empty", scratch).result == "fail"
    (disk / "link").symlink_to(disk / "empty")
    assert checked(kind, disk / "link", scratch).result == "fail"


@pytest.mark.parametrize(
    ("data", "result", "says"),
    [
        (b'{"a": [1, 2], "b": null}', "pass", "2 entries"),
        (b"\xef\xbb\xbf[1]", "pass", "1 entries"),
        (b'{"loss": NaN}', "pass", "1 entries"),  # as Python writes it
        (b'{"password": "' + SECRET.encode() + b'", }', "fail", "line 1, column"),
        (b'{"a": 1}\n{"a": 2}\n', "fail", "Extra data (line 2, column 1)"),
        (b'{"a": "half', "fail", "Unterminated string"),
        (b"\x00\x80\xff\xfe", "fail", "is no JSON"),
        (b"[" * 200_000, "warn", "nested too deeply"),
        (b" \n", "fail", "is empty"),
    ],
)
def test_json(data: bytes, result: str, says: str, disk: Path, tmp_path: Path) -> None:
    (disk / "a.json").write_bytes(data)
    verdict = checked("json", disk / "a.json", tmp_path / "scratch")
    assert (verdict.result, says in verdict.reason) == (result, True), verdict


# --- logins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "result"), [(40 * DAY, "pass"), (-DAY, "fail")])
def test_cookies_in_every_form(left: float | None, result: str, disk: Path, tmp_path: Path) -> None:
    kept = [("session", ".example.com", left, True)]
    storage_state(disk / "state.json", kept)
    netscape(disk / "cookies.txt", kept)
    chromium(disk / "Cookies", kept).close()
    for name in ("state.json", "cookies.txt", "Cookies"):
        verdict = checked("cookies", disk / name, tmp_path / "scratch")
        assert verdict.result == result, (name, verdict)
        assert "'session' of example.com" in verdict.reason


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_running_browsers_database_is_read_and_left_as_it_is(journal: str, disk: Path, tmp_path: Path) -> None:
    with contextlib.closing(chromium(disk / "Cookies", [("SID", ".example.com", 40 * DAY, True)], journal)) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("UPDATE cookies SET last_access_utc = last_access_utc + 1")
        before = listing(disk)
        verdict = checked("cookies", disk / "Cookies", tmp_path / "scratch")
        assert listing(disk) == before
        assert verdict.result == "pass" or (journal == "wal" and "can't be judged" in verdict.reason), verdict
        db.execute("UPDATE cookies SET last_access_utc = last_access_utc + 1")
    left = listing(disk)
    assert checked("cookies", disk / "Cookies", tmp_path / "scratch").result == "pass"
    assert listing(disk) == left


def test_what_holds_no_cookies_is_said(disk: Path, tmp_path: Path) -> None:
    (disk / "a").write_text("Dear diary")
    (disk / "b").write_text('{"theme": "dark"}')
    one_database(disk / "c").close()
    for name, says in {"a": "no storage state", "b": "no list of cookies", "c": "not Chromium's"}.items():
        verdict = checked("cookies", disk / name, tmp_path / "scratch")
        assert (verdict.result, says in verdict.reason) == ("fail", True), verdict


def test_tokens(disk: Path, tmp_path: Path) -> None:
    now = time.time()
    (disk / "old").write_text(jwt({"exp": int(now) - 90_000}))
    (disk / "new").write_text(json.dumps({"token": jwt({"exp": int(now) + 3600}), "key": SECRET}))
    old = checked("jwt", disk / "old", tmp_path / "scratch")
    new = checked("jwt", disk / "new", tmp_path / "scratch")
    assert (old.result, new.result) == ("fail", "pass")
    assert old.reason == "expired 1 day ago (the signature is not checked)"
    assert "eyJ" not in old.reason + new.reason


# --- HTTP ------------------------------------------------------------------------------------------------------------


class App(BaseHTTPRequestHandler):
    """Answers with what its path says; ``/later`` is away for the first two requests."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        what = self.path.strip("/").partition("?")[0]
        if what == "private":
            good = "Basic " + b64encode(f"me:{SECRET}".encode()).decode()
            what = "200" if self.headers["Authorization"] == good else "401"
        if what == "later":
            what = "200" if len(self.seen) > 2 else "503"
        if what == "hang":
            time.sleep(8)
        if what == "drops":
            with contextlib.suppress(OSError):
                for byte in b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.1)
            return
        self.send_response(int(what) if what.isdigit() else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def app() -> Iterator[str]:
    App.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), App)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "result", "says"),
    [("", "pass", "answers 200"), ("204", "pass", "204"), ("302", "pass", "302"), ("404", "fail", "answers 404")],
)
def test_http_goes_by_the_status(path: str, result: str, says: str, app: str, tmp_path: Path) -> None:
    verdict = checked("http", f"http://{app}/{path}", tmp_path / "scratch", 0.9)
    assert (verdict.result, says in verdict.reason) == (result, True), verdict


def test_http_takes_a_password_and_never_tells_it(app: str, tmp_path: Path) -> None:
    url = f"http://me:{SECRET}@{app}/private?token={SECRET}"
    assert checked("http", url, tmp_path / "scratch", 3).result == "pass"
    assert App.seen == [f"/private?token={SECRET}"]
    assert checked("http", f"http://me:{SECRET}-no@{app}/private", tmp_path / "scratch", 0.9).result == "fail"


def test_http_waits_for_an_app_that_is_still_coming_up(app: str, tmp_path: Path) -> None:
    assert checked("http", f"http://{app}/later", tmp_path / "scratch", 20).result == "pass"
    assert len(App.seen) == 3


def test_http_says_why_nobody_answers(app: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    assert "Connection refused" in checked("http", "http://127.0.0.1:9/", scratch, 0.9).reason
    assert "nothing came in time" in checked("http", f"http://{app}/hang", scratch, 0.9).reason
    assert checked("http", f"https://{app}/", scratch, 0.9).result == "fail"


def test_an_answer_that_comes_drop_by_drop_is_none(app: str, tmp_path: Path) -> None:
    verdict = by_a_child("http", f"http://{app}/drops", tmp_path / "scratch", limit_s=2.0)
    assert verdict == Verdict("fail", "no answer: nothing whole came within 2 s")


def command_lines() -> Iterator[tuple[str, bytes]]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            yield pid, Path(f"/proc/{pid}/cmdline").read_bytes()


def test_no_argument_of_a_process_holds_what_is_checked(app: str, tmp_path: Path) -> None:
    async def main() -> None:
        task = asyncio.create_task(examine("http", f"http://me:{SECRET}@{app}/hang", tmp_path / "scratch", 5))
        until = time.monotonic() + 10
        while not App.seen and time.monotonic() < until:
            await asyncio.sleep(0.02)
        assert App.seen
        assert not [pid for pid, words in command_lines() if SECRET.encode() in words]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not any((tmp_path / "scratch").iterdir())


# --- the limit -------------------------------------------------------------------------------------------------------


def test_what_takes_too_long_is_not_judged(disk: Path, tmp_path: Path) -> None:
    (disk / "a.json").write_text("{}")
    verdict = by_a_child("json", disk / "a.json", tmp_path / "scratch", limit_s=0.0)
    assert verdict == Verdict("warn", "can't be judged: no result within 0 s")


def test_it_ends_with_its_agent(app: str, tmp_path: Path) -> None:
    code = (
        "import asyncio, pathlib, sys\n"
        "from sidecar.recovery.checks import examine\n"
        "asyncio.run(examine('http', sys.argv[1], pathlib.Path(sys.argv[2]), 100))\n"
    )
    url = f"http://{app}/404"
    with subprocess.Popen([sys.executable, "-c", code, url, str(tmp_path / "scratch")]) as agent:
        until = time.monotonic() + 20
        while not App.seen and time.monotonic() < until:
            time.sleep(0.02)
        agent.kill()
    assert App.seen
    ours, until = str(tmp_path / "scratch").encode(), time.monotonic() + 10
    while (left := [pid for pid, words in command_lines() if ours in words]) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []
