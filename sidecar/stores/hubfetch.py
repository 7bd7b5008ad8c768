"""Downloads from the Hub: plain GETs of the resolve address, straight into the caller's folder.

Neither ``hf_hub_download`` nor hf_xet: the first keeps a second copy in a shared cache, or files of its own
beside ours, and doesn't repeat a connection that was reset; the second costs memory and a chunk cache. The
Hub serves files in Xet storage over plain HTTP too (https://huggingface.co/docs/hub/xet/legacy-git-lfs).
One GET per file: its first reply tells what a HEAD would.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sidecar.masking import shown
from sidecar.stores import hubclient
from sidecar.stores.base import Corrupt, NotFound, Progress, Revision
from sidecar.stores.disk import Sink
from sidecar.stores.hubcall import Answered, Call, Lost, again, during
from sidecar.stores.hubrepo import Repo
from sidecar.stores.paths import why_not

PARALLEL = 8

_FRESH = 3
"""How often bytes that don't match are fetched, the later times over a fresh connection."""

_RESUMES = 50
"""How many cuts one try survives, each after some progress."""

_PIECE = 1 << 20
_SHOWN_S = 0.2

_HASH = re.compile(r'(?:W/)?"?([0-9a-f]{64}|[0-9a-f]{40})"?')


@dataclass(slots=True)
class _Order:
    repo: Repo
    revision: Revision
    into: Path
    progress: Progress | None
    call: Call
    name: str = field(default_factory=lambda: f".sidecar-part-{secrets.token_hex(6)}")
    """Of the partial files: never that of an earlier call, whose thread may still be about to end."""


def fetch(
    repo: Repo, revision: Revision, paths: Iterable[str], into: Path, progress: Progress | None, call: Call
) -> None:
    """Write ``paths`` of ``revision`` below ``into``; the first failure ends all of it.

    Raises ``NotFound`` and ``Corrupt`` with the path, or what ``hubcall`` raises.
    """
    names = list(paths)
    order = _Order(repo, revision, into, progress, call)
    todo = iter(enumerate(names))
    lock = threading.Lock()
    failures: list[Exception] = []

    def work() -> None:
        with during(call):
            while not failures:
                with lock:
                    number, path = next(todo, (0, None))
                if path is None:
                    return
                part = into / f"{order.name}-{number}"
                try:
                    _one(order, path, part)
                except Exception as error:
                    failures.append(error)
                finally:
                    part.unlink(missing_ok=True)

    helpers = [
        threading.Thread(target=work, name="sidecar-fetch", daemon=True) for _ in range(min(PARALLEL, len(names)) - 1)
    ]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]


def fetch_range(revision: Revision, path: str, sink: Sink, progress: Progress | None, repo: Repo, call: Call) -> None:
    """Fill ``sink`` from ``path``; see ``Ranged``."""
    if why := why_not(path):
        raise NotFound(f"{shown(path)} is in no dataset: {why}.")
    order = _Order(repo, revision, sink.path.parent, progress, call)
    _download(hubclient.session(), order, path, sink, _counter(order, sink.at))


_ALL = sys.maxsize
"""As the end of a sink: that of the file."""


def _counter(order: _Order, seen: int) -> Callable[[int], None]:
    """Called with how far a file has come; tells whoever counts what is new of it."""

    def arrived(end: int) -> None:
        nonlocal seen
        if order.progress is not None and end > seen:
            order.progress(end - seen)
        seen = max(seen, end)

    return arrived


def _one(order: _Order, path: str, part: Path) -> None:
    if why := why_not(path):
        raise NotFound(f"{shown(path)} is in no dataset: {why}.")
    arrived = _counter(order, 0)
    for turn in range(_FRESH):
        client = hubclient.new_client() if turn else hubclient.session()
        try:
            part.unlink(missing_ok=True)
            sink = Sink(part, range(_ALL))
            try:
                sink.open()  # an empty file is one too
                etag = _download(client, order, path, sink, arrived)
            finally:
                sink.close()
        finally:
            if turn:
                client.close()
        if _matches(part, etag):
            target = order.into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            order.call.left()  # nobody may wait for it any more
            os.replace(part, target)
            return
    raise Corrupt(
        f"{order.repo.id} gives wrong bytes for {shown(path)} at revision {order.revision}, {_FRESH} times over."
    )


def _download(client: Any, order: _Order, path: str, sink: Sink, arrived: Callable[[int], None]) -> str:
    """Fill ``sink``, going on where a cut left it; returns the hash that the Hub has for it, or ""."""

    def once() -> str:
        for turn in range(_RESUMES):
            start = sink.at
            try:
                return _get(client, order, path, sink, arrived)
            except Lost:
                # A cut that brought something new costs no try: a long file may meet many of them.
                if sink.at <= start or turn == _RESUMES - 1:
                    raise
            except Answered as answer:
                # A signed address of the storage host has run out: the Hub gives a new one.
                if answer.status in (401, 403) and answer.host != urlsplit(order.repo.endpoint).netloc:
                    raise Lost(f"the storage host answers {answer.status}", sent=True) from answer
                if answer.status == 416:
                    if sink.stop != _ALL:
                        raise _ends_early(order, path, sink.stop) from answer
                    sink.again()
                    raise Lost("the file changed its length", sent=True) from answer
                raise
        raise AssertionError("unreachable")

    try:
        return again(once, order.call)
    except Answered as answer:
        if answer.code == "EntryNotFound":
            raise NotFound(f"{shown(path)} is not in revision {order.revision} of {order.repo.id}.") from answer
        raise


def _ends_early(order: _Order, path: str, stop: int) -> Corrupt:
    return Corrupt(f"{shown(path)} ends before byte {stop:,} at revision {order.revision} of {order.repo.id}.")


def _get(client: Any, order: _Order, path: str, sink: Sink, arrived: Callable[[int], None]) -> str:
    headers = {**hubclient.headers(order.repo.token), "Accept-Encoding": "identity"}
    asked = sink.at > 0 or sink.stop != _ALL
    if asked:
        headers["Range"] = f"bytes={sink.at}-" + ("" if sink.stop == _ALL else str(sink.stop - 1))
    # A redirect that leaves the Hub leaves the token behind: httpx does so by itself.
    url = order.repo.resolve(order.revision, path)
    with client.stream("GET", url, headers=headers, follow_redirects=True) as reply:
        # Who ignores Range sends all of it: what we have is passed over.
        over = sink.at if asked and reply.status_code != 206 else 0
        replies = [*reply.history, reply]
        size = _size(replies, sink.at - over)
        if sink.stop != _ALL and size is not None and size < sink.stop:
            raise _ends_early(order, path, sink.stop)
        _pour(reply.iter_bytes(), over, sink, order.call, arrived)
    if (end := size if sink.stop == _ALL else sink.stop) is not None and sink.at < end:
        raise Lost("the answer ended early", sent=True)
    # Only the Hub's own: the storage host's ETag may be any hash of anything.
    hub = urlsplit(order.repo.endpoint).netloc
    ours = [r.headers for r in replies if r.url.netloc.decode() == hub]
    return next((known[name] for name in ("x-linked-etag", "etag") for known in ours if name in known), "")


def _pour(chunks: Iterator[bytes], over: int, sink: Sink, call: Call, arrived: Callable[[int], None]) -> None:
    """Write ``chunks``, the first ``over`` bytes of them left out, in pieces that cost little; also before a cut."""
    held: list[bytes] = []
    size, since = 0, time.monotonic()
    try:
        for chunk in chunks:
            call.moved()
            if over:
                chunk, over = chunk[over:], max(0, over - len(chunk))
            held.append(chunk)
            size += len(chunk)
            if size >= _PIECE or time.monotonic() - since >= _SHOWN_S:
                sink.write(held)
                arrived(sink.at)
                held, size, since = [], 0, time.monotonic()
            if sink.at + size >= sink.stop:
                break
    finally:
        sink.write(held)
        arrived(sink.at)


def _size(replies: list[Any], start: int) -> int | None:
    for reply in replies:
        if reply.headers.get("x-linked-size", "").isdigit():
            return int(reply.headers["x-linked-size"])
    last = replies[-1].headers
    if last.get("content-encoding", "identity") == "identity" and last.get("content-length", "").isdigit():
        return start + int(last["content-length"])
    return None


def _matches(part: Path, etag: str) -> bool:
    """LFS files have their sha256 as ETag, others their git blob's sha1; the caller checks its own too."""
    found = _HASH.fullmatch(etag)
    if not found:
        return True
    with open(part, "rb") as file:
        if len(found[1]) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest() == found[1]
        size = os.fstat(file.fileno()).st_size
        blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while chunk := file.read(1 << 18):
            blob.update(chunk)
        return blob.hexdigest() == found[1]
