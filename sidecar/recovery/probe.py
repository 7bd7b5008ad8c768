"""One check of a file or an address, in a process of its own: ``child([PARENT, KIND, SCRATCH, SECONDS])``.

So that a disk or a server that hangs holds up nobody, a file of any size costs the agent no memory, and the limit is
one: whoever started it kills it. Standard library only. What is checked stands in the environment, as a URL may hold a
password; the last line of output is the verdict, as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sidecar.recovery import cookies, jwt
from sidecar.recovery.verdict import Verdict

SUBJECT = "PROBE_SUBJECT"
"""The path or URL, as an environment variable."""

MARK = "PROBE_MARK"
"""The ``mark`` of the verdict before, if that was a pass."""

MOST = 64 * 1024 * 1024
"""Bytes of a file that is read as a whole."""

_MAGIC = b"SQLite format 3\0"
_REPEAT_S = 1.0
_ANSWER_S = 10.0


class Not(Exception):
    """The check ends here, with ``verdict``."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def child(argv: list[str]) -> int:
    """In a process group of its own: ``main``, for as long as the process PARENT lives."""
    threading.Thread(target=_end_with, args=(int(argv[0]),), daemon=True).start()
    return main(argv[1:])


def main(argv: list[str]) -> int:
    kind, argument, scratch, seconds = argv[0], os.environ[SUBJECT], Path(argv[1]), float(argv[2])
    try:
        verdict = _look(kind, argument, scratch, time.monotonic() + seconds)
    except Not as end:
        verdict = end.verdict
    except FileNotFoundError:
        verdict = Verdict("fail", "isn't there", absent=True)
    except OSError as error:
        verdict = Verdict("fail", f"can't be read: {error.strerror or type(error).__name__}")
    except MemoryError:
        verdict = Verdict("warn", "can't be judged: too little memory")
    print(json.dumps(dataclasses.asdict(verdict)))
    return 0


def _end_with(parent: int) -> None:
    """Nobody would ever take the verdict, nor clear up the scratch folder, once the agent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def _look(kind: str, argument: str, scratch: Path, until: float) -> Verdict:
    match kind:
        case "http":
            return http(argument, until)
        case "sqlite":
            return sqlite(argument, scratch)
        case "json":
            return parsed(argument)
        case "cookies":
            return login(argument, scratch)
        case "jwt":
            data, written = read(argument)
            return jwt.judge(jwt.find(data.decode("utf-8", "replace")), time.time(), written)
        case _:
            raise ValueError(kind)


def read(path: str) -> tuple[bytes, float]:
    """The regular file at ``path`` and when it was written. Raises Not, OSError."""
    # A pipe would be waited for.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Not(Verdict("fail", "is no file"))
        if found.st_size > MOST:
            raise Not(Verdict("warn", f"can't be judged: it is larger than {MOST >> 20} MB"))
        data = file.read(MOST + 1)
    if not data.strip():
        raise Not(Verdict("fail", "is empty"))
    return data, found.st_mtime


def parsed(path: str) -> Verdict:
    """Is it one JSON document? As Python's own reader has it, NaN and a byte order mark included."""
    data, _ = read(path)
    try:
        value = json.loads(data)
    except json.JSONDecodeError as error:
        return Verdict("fail", f"is no JSON: {error.msg} (line {error.lineno}, column {error.colno})")
    except UnicodeDecodeError:
        return Verdict("fail", "is no JSON: it is no text")
    except RecursionError:
        return Verdict("warn", "can't be judged: it is nested too deeply")
    size = f", {len(value):,} entries" if isinstance(value, dict | list) else ""
    return Verdict("pass", f"{len(data):,} bytes{size}")


def sqlite(path: str, scratch: Path) -> Verdict:
    """Does SQLite find a copy of it sound? Nothing is created beside the database, and no writer waits."""
    from sidecar.snapshot.sqlite_files import state

    size, mark = os.stat(path).st_size, state(os.path.realpath(path))
    if mark and mark == os.environ.get(MARK):
        return Verdict("pass", f"{size:,} bytes, unchanged since it was found sound", mark=mark)
    copied(path, scratch)
    return Verdict("pass", f"{size:,} bytes, sound", mark=mark)


def copied(path: str, scratch: Path) -> Path:
    """A consistent copy of the database at ``path`` that passed ``quick_check``. Raises Not, OSError."""
    from sidecar.snapshot.sqlite import copy

    path = os.path.realpath(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Not(Verdict("fail", "is no file"))
        head = file.read(len(_MAGIC))
    if not head:
        raise Not(Verdict("fail", "is empty (0 bytes)"))
    if head != _MAGIC:
        raise Not(Verdict("fail", "is no SQLite database"))
    target = scratch / "copy.db"
    outcome = copy(path, target, lock=False)
    if outcome.vanished:
        raise FileNotFoundError
    if outcome.damaged:
        raise Not(Verdict("fail", f"is damaged: {outcome.reason}"))
    if not outcome.ok:
        why = "there is no room for a copy" if outcome.no_room else outcome.reason
        raise Not(Verdict("warn", f"can't be judged: {why}"))
    return target


def login(path: str, scratch: Path) -> Verdict:
    """Do the login cookies in it still hold?"""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        database = stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(len(_MAGIC)) == _MAGIC
    try:
        found = _of_database(copied(path, scratch)) if database else _of_text(read(path)[0])
    except cookies.Unknown as unknown:
        return Verdict("fail", f"holds no cookies: {unknown}")
    return cookies.judge(found, time.time())


def _of_database(path: Path) -> list[cookies.Cookie]:
    from sqlite3 import connect

    db = connect(path)
    try:
        return cookies.of_chromium(db)
    finally:
        db.close()


def _of_text(data: bytes) -> list[cookies.Cookie]:
    try:
        value = json.loads(data)
    except ValueError:
        return cookies.of_netscape(data.decode("utf-8", "replace"))
    return cookies.of_state(value)


def http(url: str, until: float) -> Verdict:
    """Does it answer with 2xx or 3xx? Asked again, up to ``until`` (monotonic), for as long as it doesn't."""
    while True:
        began = time.monotonic()
        try:
            status = _ask(url, max(0.5, min(_ANSWER_S, until - began)))
            verdict = Verdict("pass" if 200 <= status < 400 else "fail", f"answers {status}")
        except OSError as error:
            verdict = Verdict("fail", f"no answer: {_why(error)}")
        if verdict.result == "pass" or time.monotonic() + _REPEAT_S >= until:
            return verdict
        time.sleep(max(0.0, began + _REPEAT_S - time.monotonic()))


def _ask(url: str, seconds: float) -> int:
    from base64 import b64encode
    from http import client

    parts = urlsplit(url)
    kind = client.HTTPSConnection if parts.scheme == "https" else client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    headers = {"User-Agent": "space-sidecar", "Accept": "*/*", "Connection": "close"}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + b64encode(pair.encode()).decode()
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=headers)
        return connection.getresponse().status
    except (client.HTTPException, ValueError) as error:
        raise OSError(0, f"it is no HTTP ({type(error).__name__})") from None
    finally:
        connection.close()


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came in time"
    verify = getattr(error, "verify_message", None)
    return f"its certificate is not trusted ({verify})" if verify else error.strerror or type(error).__name__
