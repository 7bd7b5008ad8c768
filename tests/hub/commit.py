"""Preupload and commit: who decides how a file travels, and the one place where a repo's head moves."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.responses import Response

from tests.hub.paths import check_path, ignored, looks_binary, tracked_by_lfs
from tests.hub.repo import Commit, Entry, Repo
from tests.hub.state import Hub
from tests.hub.wire import Call, HubError, answer, entry_not_found, revision_not_found, stamp

HEAD_MOVED = "A commit has happened since. Please refresh and try again."
IN_PROGRESS = "Another commit is in progress on this repository. Please retry later."
NO_SUCH_FILE = "A file with this name doesn't exist"
QUOTA = "Private repository storage limit reached, please upgrade your plan to increase your private storage limit."


async def preupload(call: Call) -> Response:
    repo = call.repo("write")
    body = await call.json()
    sha = repo.resolve(call.params["rev"])
    tree = repo.tree(sha)
    attributes = _text(call.hub, tree.get(".gitattributes"))
    ignores = {
        path[: -len("/.gitignore")] if "/" in path else "": _text(call.hub, entry)
        for path, entry in tree.items()
        if path == ".gitignore" or path.endswith("/.gitignore")
    }
    if body.get("gitIgnore") is not None:
        ignores[""] = body["gitIgnore"]
    files = []
    for item in body["files"]:
        path, size = item["path"], item["size"]
        large = (
            size > call.hub.settings.lfs_above
            or looks_binary(base64.b64decode(item.get("sample", "")))
            or tracked_by_lfs(path, attributes)
        )
        reply = {
            "path": path,
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": ignored(path, ignores),
        }
        if (known := tree.get(path)) is not None:
            reply["oid"] = known.sha256 if known.lfs else known.oid
        files.append(reply)
    return answer({"files": files, "commitOid": sha})


def _text(hub: Hub, entry: Entry | None) -> str:
    if entry is None or entry.lfs:
        return ""
    return hub.store.blobs.read(entry.sha256).decode("utf-8", "replace")


@contextmanager
def exclusive(repo: Repo) -> Iterator[None]:
    """One change of a repo at a time. Raises HubError 409 where another is under way, as the Hub does."""
    if repo.busy:
        raise HubError(409, IN_PROGRESS)
    repo.busy = True
    try:
        yield
    finally:
        repo.busy = False


async def commit(call: Call) -> Response:
    repo = call.repo("write")
    if call.request.query_params.get("create_pr"):
        raise HubError(403, "This local Hub has no pull requests")
    branch = call.params["rev"].removeprefix("refs/heads/")
    if branch not in repo.branches:
        raise revision_not_found(branch)
    who = call.hub.identity.who(call.token)
    assert who is not None
    with exclusive(repo):
        lines = _lines(await call.request.body())
        if call.hub.settings.commit_seconds:
            await asyncio.sleep(call.hub.settings.commit_seconds)
        done = apply(call.hub, repo, branch, lines, who.user)
    reply = {
        "success": True,
        "commitOid": done.sha,
        "commitUrl": f"{call.base}/{repo.prefix}/commit/{done.sha}",
        "hookOutput": "",
    }
    return answer(reply)


def _lines(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    try:
        return [(item["key"], item["value"]) for item in map(json.loads, body.splitlines()) if item]
    except (ValueError, KeyError, TypeError) as exc:
        raise HubError(400, f"Invalid commit payload: {exc!r}") from None


@dataclass(slots=True)
class _Draft:
    """A tree in the making: `put` and `drop` are the difference to `tree`."""

    tree: dict[str, Entry]
    put: dict[str, Entry] = field(default_factory=dict)
    drop: set[str] = field(default_factory=set)

    def add(self, path: str, entry: Entry) -> None:
        self.put[path] = entry

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.put.pop(path, None)
            if path in self.tree:
                self.drop.add(path)

    def has(self, path: str) -> bool:
        return path in self.put or (path in self.tree and path not in self.drop)

    def under(self, folder: str) -> list[str]:
        start = "" if folder in ("", ".") else folder.rstrip("/") + "/"
        inside = [p for p in self.tree if p.startswith(start) and p not in self.drop]
        return inside + [p for p in self.put if p.startswith(start) and p not in self.tree]

    def result(self) -> dict[str, Entry]:
        tree = {p: e for p, e in self.tree.items() if p not in self.drop}
        tree.update(self.put)
        return tree


def apply(hub: Hub, repo: Repo, branch: str, lines: list[tuple[str, dict[str, Any]]], author: str) -> Commit:
    """Check a commit's lines and make it the head of `branch`: all of it or nothing.

    Raises HubError: 412 where the named parent is not the head, 429 over the hourly limit, 404 for a deletion
    of what is not there, 403 over quota, 400 for anything malformed.
    """
    header = next((value for key, value in lines if key == "header"), None)
    if header is None or not header.get("summary"):
        raise HubError(400, "Invalid commit payload: no header with a summary")
    head = repo.branches[branch]
    parent = header.get("parentCommit")
    if parent is not None and not head.startswith(parent):
        raise HubError(412, HEAD_MOVED)
    _check_rate(hub, repo, branch)
    draft = _Draft(repo.tree(head))
    for key, value in lines:
        if key != "header":
            _apply_line(hub, repo, draft, key, value)
    if draft.put:
        _check_shape(draft.result(), draft.put, hub.settings.folder_limit)
        grown = sum(e.size for e in draft.put.values() if not e.lfs)
        check_quota(hub, repo, grown)
    description = header.get("description") or ""
    return repo.add_commit(
        branch, header["summary"], author, draft.put, tuple(sorted(draft.drop)), description=description
    )


def _apply_line(hub: Hub, repo: Repo, draft: _Draft, key: str, value: dict[str, Any]) -> None:
    path = str(value.get("path", ""))
    match key:
        case "file":
            check_path(path)
            content = value["content"]
            try:
                data = base64.b64decode(content) if value.get("encoding") == "base64" else content.encode()
            except binascii.Error:
                raise HubError(400, f"Invalid base64 content of {path}") from None
            draft.add(path, hub.store.regular(data))
        case "lfsFile":
            check_path(path)
            sha256 = value["oid"]
            known = repo.lfs.get(sha256)
            if known is None:
                raise HubError(
                    400,
                    "Your push was rejected because an LFS pointer pointed to a file that does not exist: "
                    f"{sha256} ({path})",
                )
            if value.get("size", known.size) != known.size:
                raise HubError(400, f"LFS pointer of {path} says {value['size']} bytes, not {known.size}")
            draft.add(path, hub.store.large(repo, sha256, known.size))
        case "deletedFile":
            if not draft.has(path):
                raise entry_not_found(f"{NO_SUCH_FILE}: {path}")
            draft.remove([path])
        case "deletedFolder":
            inside = draft.under(path)
            if not inside:
                raise entry_not_found(f"{NO_SUCH_FILE}: {path}")
            draft.remove(inside)
        case _:
            raise HubError(400, f"Invalid commit payload: unknown key {key!r}")


def _check_shape(tree: dict[str, Entry], put: dict[str, Entry], limit: int) -> None:
    """Raises HubError 400 where a path is both file and folder, or a touched folder holds too many files."""
    counts = Counter(path.rpartition("/")[0] for path in tree)
    folders = set(counts)
    for folder in counts:
        folders.update(_parents(folder))
    for path in put:
        if path in folders:
            raise HubError(400, f"Your push was rejected: {path} is a folder in this repo")
        for parent in _parents(path):
            if parent in tree:
                raise HubError(400, f"Your push was rejected: {parent} is a file in this repo")
    for folder in {path.rpartition("/")[0] for path in put}:
        if counts[folder] > limit:
            raise HubError(
                400,
                f"Your push was rejected because directory {folder or '/'} contains more than {limit} files",
            )


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def check_quota(hub: Hub, repo: Repo, more: int) -> None:
    """Raises HubError 403 where `more` bytes would exceed the owner's private storage."""
    limit = hub.settings.private_quota
    if limit is None or not repo.private:
        return
    owner = repo.id.split("/")[0]
    used = sum(r.used for r in hub.store.repos() if r.private and r.id.split("/")[0] == owner)
    if used + more > limit:
        raise HubError(403, QUOTA)


def _check_rate(hub: Hub, repo: Repo, branch: str) -> None:
    limit = hub.settings.commits_per_hour
    if limit is None:
        return
    since = stamp(datetime.now(UTC) - timedelta(hours=1))
    recent = sum(1 for c in repo.history(repo.branches[branch]) if c.date > since)
    if recent >= limit:
        lying = hub.settings.commit_retry_after
        headers = {} if lying is None else {"Retry-After": lying}
        raise HubError(
            429,
            "You have exceeded our hourly quotas for action: commit. We invite you to retry later.",
            headers=headers,
        )


def check_api_rate(hub: Hub, bucket: str, caller: str) -> dict[str, str]:
    """The Hub's own rate limit, as headers for the reply. Raises HubError 429 once the window is used up."""
    limit = hub.settings.api_limit if bucket == "api" else hub.settings.resolve_limit
    if limit is None:
        return {}
    window, now = hub.settings.limit_window, time.monotonic()
    start, used = hub.limits.get(f"{bucket}:{caller}", (now, 0))
    if now - start >= window:
        start, used = now, 0
    hub.limits[f"{bucket}:{caller}"] = (start, used + 1)
    left = max(0, limit - used - 1)
    headers = {
        "RateLimit": f'"{bucket}";r={left};t={int(start + window - now)}',
        "RateLimit-Policy": f'"fixed window";"{bucket}";q={limit};w={window}',
    }
    if used >= limit:
        raise HubError(429, f"We had to rate limit you ({bucket}).", headers=headers)
    return headers
