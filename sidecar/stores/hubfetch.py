"""Downloads from the Hub: plain GETs of the resolve address, straight into the caller's folder.

Why not ``hf_hub_download`` or hf_xet: the first keeps a second copy in a shared cache, or its own files beside
ours, and doesn't repeat a connection that was reset; the second costs memory and a chunk cache. The Hub serves
files in Xet storage over plain HTTP as well, to any client that only speaks HTTP
(https://huggingface.co/docs/hub/xet/legacy-git-lfs). One GET per file: its redirect tells what a HEAD would.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from sidecar.stores import hubclient
from sidecar.stores.base import Corrupt, NotFound, Progress, Revision
from sidecar.stores.hubcall import Answered, Call, Lost, again, during
from sidecar.stores.hubread import Repo

PARALLEL = 8
_FRESH = 3
"""How often bytes that don't match are fetched, the later times over a fresh connection."""

_RESUMES = 50
"""How many cuts in a row one try survives, each with some progress."""

_HASH = re.compile(r'(?:W/)?"?([0-9a-f]{64}|[0-9a-f]{40})"?')


def fetch(
    repo: Repo, revision: Revision, paths: Iterable[str], into: Path, progress: Progress | None, call: Call
) -> None:
    """Write ``paths`` of ``revision`` below ``into``; the first failure ends all of it.

    Raises ``NotFound`` and ``Corrupt`` with the path, or what ``hubcall`` raises.
    """
    names = list(paths)
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
                part = into / f".sidecar-part-{number}"
                try:
                    _one(repo, revision, path, into, part, progress, call)
                except Exception as error:
                    failures.append(error)
                finally:
                    part.unlink(missing_ok=True)

    helpers = [
        threading.Thread(target=work, name="sidecar-fetch", daemon=True)
        for _ in range(min(PARALLEL, len(names)) - 1)
    ]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]


def _one(
    repo: Repo, revision: Revision, path: str, into: Path, part: Path, progress: Progress | None, call: Call
) -> None:
    if not path or path.startswith("/") or any(p in ("", ".", "..") for p in path.split("/")):
        raise NotFound(f"{path!r} is no path of a store.")
    url = f"{repo.endpoint}/datasets/{repo.id}/resolve/{quote(revision, safe='')}/{quote(repo.path(path))}"
    seen = 0

    def arrived(end: int) -> None:
        nonlocal seen
        if progress is not None and end > seen:
            progress(end - seen)
            seen = end

    for turn in range(_FRESH):
        with open(part, "wb") as file:
            client = hubclient.session() if turn == 0 else hubclient.new_client()
            try:
                want = _download(client, url, repo, file, arrived, call)
            except Answered as answer:
                if answer.status == 404 and answer.code in ("EntryNotFound", ""):
                    raise NotFound(f"{path} is not in revision {revision} of {repo.id}.") from answer
                raise
            finally:
                if turn:
                    client.close()
        if _matches(part, want):
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, target)
            return
    raise Corrupt(f"{repo.id} gives wrong bytes for {path} at revision {revision}, {_FRESH} times over.")


def _download(
    client: Any, url: str, repo: Repo, file: Any, arrived: Callable[[int], None], call: Call
) -> str:
    """Fill ``file``, going on where a cut left it; returns the hash that the Hub keeps for these bytes, or ""."""

    def once() -> str:
        for turn in range(_RESUMES):
            start = file.tell()
            try:
                return _get(client, url, repo, file, arrived, call)
            except Lost:
                # A cut that brought something new costs no try: a long file may meet many of them.
                if file.tell() <= start or turn == _RESUMES - 1:
                    raise
            except Answered as answer:
                # A signed address of the storage host has run out: the Hub gives a new one.
                if answer.status in (401, 403) and answer.host != urlsplit(repo.endpoint).netloc:
                    raise Lost(f"the storage host answers {answer.status}", sent=True) from answer
                if answer.status == 416:
                    file.seek(0)
                    file.truncate()
                    raise Lost("the file changed its length", sent=True) from answer
                raise
        raise AssertionError("unreachable")

    return again(once, call)


def _get(client: Any, url: str, repo: Repo, file: Any, arrived: Callable[[int], None], call: Call) -> str:
    headers = {**hubclient.headers(repo.token), "Accept-Encoding": "identity"}
    if start := file.tell():
        headers["Range"] = f"bytes={start}-"
    # Redirects leave the token behind where they leave the Hub: that is httpx's own rule.
    with client.stream("GET", url, headers=headers, follow_redirects=True) as reply:
        if start and reply.status_code != 206:
            file.seek(0)
            file.truncate()
            start = 0
        replies = [*reply.history, reply]
        size = _size(replies, start)
        for chunk in reply.iter_bytes():
            file.write(chunk)
            call.moved()
            arrived(file.tell())
    if size is not None and file.tell() < size:
        raise Lost("the answer ended early", sent=True)
    # The storage host's own ETag may be any hash of anything.
    ours = [r.headers for r in replies if r.url.netloc.decode() == urlsplit(repo.endpoint).netloc]
    return next((h[name] for name in ("x-linked-etag", "etag") for h in ours if name in h), "")


def _size(replies: list[Any], start: int) -> int | None:
    for reply in replies:
        if reply.headers.get("x-linked-size", "").isdigit():
            return int(reply.headers["x-linked-size"])
    last = replies[-1].headers
    if last.get("content-encoding", "identity") == "identity" and last.get("content-length", "").isdigit():
        return start + int(last["content-length"])
    return None


def _matches(part: Path, etag: str) -> bool:
    """LFS files carry their sha256 as ETag, others their git blob's sha1; the caller checks its own sha256 too."""
    found = _HASH.fullmatch(etag)
    if not found:
        return True
    with open(part, "rb") as file:
        if len(found[1]) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest() == found[1]
        blob = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while chunk := file.read(1 << 18):
            blob.update(chunk)
        return blob.hexdigest() == found[1]
