"""What a repo holds: tree and paths-info with paging by Link, and the list of commits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode

from starlette.responses import Response

from tests.hub.repo import Commit, Entry, Repo
from tests.hub.repos import pointer_size
from tests.hub.wire import Call, HubError, answer, entry_not_found

T = TypeVar("T")


async def tree(call: Call) -> Response:
    repo = call.repo()
    sha = repo.resolve(call.params["rev"])
    folder = call.params.get("path", "").strip("/")
    query = call.request.query_params
    recursive, expand = _yes(query.get("recursive")), _yes(query.get("expand"))
    files = repo.tree(sha)
    start = f"{folder}/" if folder else ""
    inside = {path: entry for path, entry in files.items() if path.startswith(start)}
    if folder and not inside:
        raise entry_not_found(f'{folder} does not exist on "{call.params["rev"]}"', {"X-Repo-Commit": sha})
    names: set[str] = set()
    for path in inside:
        parts = path[len(start) :].split("/")
        names.add(start + parts[0])
        if recursive:
            names.update(start + "/".join(parts[:n]) for n in range(2, len(parts) + 1))
    oids = _folder_oids(inside)
    size = call.hub.settings.tree_page
    if query.get("limit", "").isdigit():
        size = min(size, int(query["limit"]))

    def row(name: str) -> dict[str, Any]:
        return _row(call, repo, sha, name, files.get(name) or oids[name], expand)

    return _page(call, sorted(names), size, row)


async def paths_info(call: Call) -> Response:
    repo = call.repo()
    sha = repo.resolve(call.params["rev"])
    if call.request.headers.get("content-type", "").startswith("application/json"):
        body = await call.json()
        paths, expand = body.get("paths", []), bool(body.get("expand"))
    else:
        form = parse_qs((await call.request.body()).decode(), keep_blank_values=True)
        paths, expand = form.get("paths", []), _yes(form.get("expand", [""])[0])
    files = repo.tree(sha)
    wanted = dict.fromkeys(path.strip("/") for path in paths)
    oids = {} if all(path in files for path in wanted) else _folder_oids(files)
    found = {path: files.get(path) or oids.get(path) for path in wanted}
    return answer([_row(call, repo, sha, path, what, expand) for path, what in found.items() if what])


async def commits(call: Call) -> Response:
    repo = call.repo()
    history = list(repo.history(repo.resolve(call.params["rev"])))
    return _page(call, history, call.hub.settings.commits_page, _commit_row, {"X-Total-Count": str(len(history))})


def _commit_row(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.sha,
        "title": commit.title,
        "message": commit.description,
        "date": commit.date,
        "authors": [{"user": commit.author}],
    }


def _folder_oids(files: dict[str, Entry]) -> dict[str, str]:
    """An id for each folder that changes with what it holds; unlike git's it can't be computed elsewhere."""
    digests: dict[str, Any] = {}
    for path in sorted(files):
        folder = path
        while "/" in folder:
            folder = folder.rpartition("/")[0]
            digest = digests.setdefault(folder, hashlib.sha1(usedforsecurity=False))
            digest.update(f"{path}\0{files[path].oid}\0".encode())
    return {folder: digest.hexdigest() for folder, digest in digests.items()}


def _row(call: Call, repo: Repo, sha: str, path: str, what: Entry | str, expand: bool) -> dict[str, Any]:
    """A file, or a folder where `what` is its oid."""
    if isinstance(what, str):
        row: dict[str, Any] = {"type": "directory", "oid": what, "size": 0, "path": path}
    else:
        entry = what
        row = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        if entry.lfs:
            row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": pointer_size(entry.size)}
            if (xet := call.hub.cas.by_sha256.get(entry.sha256)) is not None:
                row["xetHash"] = xet
    if expand:
        last = repo.last_change(sha, path)
        row["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
        if isinstance(what, Entry):
            row["securityFileStatus"] = {
                "status": "unscanned",
                "avScan": None,
                "pickleImportScan": None,
            }
    return row


def _yes(value: str | None) -> bool:
    return (value or "").lower() in ("true", "1")


def _page(
    call: Call, items: Sequence[T], size: int, row: Callable[[T], Any], headers: dict[str, str] | None = None
) -> Response:
    """One page from the cursor in the query, with a Link to the next as GitHub writes it."""
    query = call.request.query_params
    cursor = query.get("cursor", "0")
    if not cursor.isdigit():
        raise HubError(400, f"Invalid cursor: {cursor}")
    at = int(cursor)
    page = items[at : at + size]
    headers = dict(headers or {})
    if at + size < len(items):
        params = [(k, v) for k, v in query.multi_items() if k != "cursor"] + [("cursor", str(at + size))]
        raw = call.request.scope["raw_path"].decode()
        headers["Link"] = f'<{call.base}{raw}?{urlencode(params)}>; rel="next"'
    return answer([row(item) for item in page], headers=headers)


async def lfs_files(call: Call) -> Response:
    repo = call.repo("write")
    rows = [
        {
            "fileOid": sha256,
            "oid": sha256,
            "filename": o.filename,
            "size": o.size,
            "pushedAt": o.pushed,
            "ref": o.ref,
        }
        for sha256, o in repo.lfs.items()
    ]
    return _page(call, rows, call.hub.settings.lfs_page, lambda row: row)
