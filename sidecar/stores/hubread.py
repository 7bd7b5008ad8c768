"""Reading a dataset on the Hub: its head, its tree, its history. All of it blocks, in a ``hubcall.Call``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from sidecar.stores import hubclient
from sidecar.stores.base import Commit, Revision
from sidecar.stores.hubcall import Answered, Call, Lost, again
from sidecar.stores.hubrepo import Repo

BATCH = 400
"""Paths in one paths-info request; the Hub takes 1,000 parameters (huggingface_hub issue 1503)."""


_PART = "prefix: "
_SIDECARS = "sidecar: "


@dataclass(frozen=True, slots=True)
class Known:
    """What a revision holds at a path: size, the git sha1 of its blob, the sha256 where it is an LFS file."""

    size: int
    blob: str
    sha256: str | None


def head(repo: Repo, probe: str, call: Call) -> Revision | None:
    """The head of the branch, None where there is no such branch.

    It costs a download request (5,000 in 5 minutes), not an API call (1,000): every reply to a resolve
    address names the commit that it speaks of, a 404 for the file too, and the client itself reads it there
    (``file_download.py``). ``probe`` is any path. Where no reply names it, the API is asked.
    """
    start = repo.resolve(repo.branch, probe)

    def ask() -> str | None:
        target = start
        for _ in range(5):
            made = hubclient.headers(repo.token)
            reply = hubclient.session().head(target, headers=made, follow_redirects=False)
            if "x-repo-commit" in reply.headers:
                return str(reply.headers["x-repo-commit"])
            target = urljoin(target, reply.headers.get("location", ""))
            # Only within the Hub: the token goes nowhere else.
            if target == start or not _at_hub(target, repo):
                return None
        return None

    try:
        found = again(ask, call)
    except Answered as answer:
        if answer.code == "RevisionNotFound":
            return None
        if answer.code != "EntryNotFound":
            raise
        found = answer.headers.get("x-repo-commit")
    if found is None:
        newest = history(repo, 1, repo.branch, call)
        return newest[0].revision if newest else None
    return found


def _at_hub(url: str, repo: Repo) -> bool:
    return urlsplit(url)[:2] == urlsplit(repo.endpoint)[:2]


def history(repo: Repo, limit: int, branch: str, call: Call) -> list[Commit]:
    """The newest ``limit`` commits of ``branch``, none where it doesn't exist.

    What the sidecar of another part of the dataset committed says so in its title: to this part it is an edit like any
    other. The client's own method would fetch every page of a long history.
    """
    try:
        return [_commit(item, repo.prefix) for item in islice(_commits(repo, branch, call), limit)]
    except Answered as answer:
        if answer.code == "RevisionNotFound":
            return []
        raise


def marked(prefix: str, body: str) -> str:
    """The body of a commit's message, with a line that says to which part of the dataset it belongs."""
    return f"{body}\n{_PART}{quote(prefix)}".strip("\n") if prefix else body


def _commit(item: Any, prefix: str) -> Commit:
    title, body = str(item["title"]), str(item.get("message") or "").strip()
    part = next((line for line in body.splitlines() if line.startswith(_PART)), _PART).removeprefix(_PART)
    if title.startswith(_SIDECARS) and part != quote(prefix):
        title = f"{unquote(part) or 'the whole dataset'}: {title}"
    return Commit(item["id"], title, _seconds(item.get("date")), body)


def _commits(repo: Repo, branch: str, call: Call) -> Iterator[Any]:
    url = f"{repo.endpoint}/api/datasets/{repo.id}/commits/{quote(branch, safe='')}"
    while url:
        reply = again(partial(hubclient.session().get, url, headers=hubclient.headers(repo.token)), call)
        yield from reply.json()
        following = urljoin(url, reply.links.get("next", {}).get("url", ""))
        url = following if following != url and _at_hub(following, repo) else ""


def _seconds(date: str | None) -> float | None:
    try:
        return datetime.fromisoformat(date).timestamp() if date else None
    except ValueError:
        return None


def listing(repo: Repo, revision: Revision, call: Call) -> Mapping[str, int]:
    """Every path below the prefix with its size; empty where nothing lies there."""
    return {path: item.size for path, item in _files(repo, revision, call).items()}


def identities(repo: Repo, revision: Revision, call: Call) -> Mapping[str, str]:
    """Every path below the prefix with the id of its blob; of a large file that is its pointer's."""
    return {path: item.blob_id for path, item in _files(repo, revision, call).items()}


def _files(repo: Repo, revision: Revision, call: Call) -> Mapping[str, Any]:
    start = len(repo.prefix) + 1 if repo.prefix else 0
    ask = partial(repo.api.list_repo_tree, repo.id, recursive=True, revision=revision, repo_type="dataset")

    def walk() -> dict[str, Any]:
        tree = ask(path_in_repo=repo.prefix or None)
        return {item.path[start:]: item for item in tree if hasattr(item, "blob_id")}

    try:
        return again(walk, call)
    except Answered as answer:
        if repo.prefix and answer.code == "EntryNotFound":
            return {}
        raise


def untouched(repo: Repo, revision: Revision, call: Call) -> bool:
    """Does ``revision`` hold nothing but what the Hub puts into a new repo?"""
    ask = partial(repo.api.list_repo_tree, repo.id, revision=revision, repo_type="dataset")
    return {item.path for item in again(lambda: list(ask()), call)} <= {".gitattributes", "README.md"}


def known(
    repo: Repo,
    revision: Revision,
    paths: Iterable[str],
    call: Call,
    *,
    new: bool = False,
    folders: set[str] | None = None,
) -> dict[str, Known]:
    """What ``revision`` holds at each of ``paths``; those that aren't there are left out.

    ``new``: the revision was made just now, and may not be visible everywhere yet. ``folders`` takes those of
    ``paths`` that are folders.
    """

    def ask(names: list[str]) -> Any:
        try:
            return repo.api.get_paths_info(repo.id, names, revision=revision, repo_type="dataset")
        except Answered as answer:
            if new and answer.code == "RevisionNotFound":
                raise Lost("the commit just made isn't visible yet", sent=True) from answer
            raise

    todo = list(paths)
    found: dict[str, Known] = {}
    for start in range(0, len(todo), BATCH):
        names = {repo.path(path): path for path in todo[start : start + BATCH]}
        for item in again(partial(ask, list(names)), call):
            if not hasattr(item, "blob_id"):
                if folders is not None:
                    folders.add(names[item.path])
            elif item.path in names:
                sha256 = item.lfs.sha256 if item.lfs else None
                found[names[item.path]] = Known(item.size, item.blob_id, sha256)
    return found
