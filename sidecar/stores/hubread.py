"""Reading a dataset on the Hub: its head, its tree, its history. All of it blocks, inside a ``hubcall.Call``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from sidecar.stores import hubclient
from sidecar.stores.base import Commit, Revision
from sidecar.stores.hubcall import Answered, Call, again

BATCH = 400
"""Paths in one paths-info request; the Hub takes 1,000 parameters (huggingface_hub issue 1503)."""


@dataclass(frozen=True, slots=True)
class Repo:
    """A dataset as the client sees it: ``api`` is an ``HfApi`` with endpoint and token."""

    api: Any
    id: str
    branch: str
    prefix: str
    endpoint: str
    token: str | None

    def path(self, path: str) -> str:
        """Where the store's ``path`` lies in the repo."""
        return f"{self.prefix}/{path}" if self.prefix else path

    def url(self, kind: str, *parts: str) -> str:
        """An API address; each of ``parts`` becomes one segment."""
        return "/".join(
            [f"{self.endpoint}/api/datasets/{self.id}/{kind}", *(quote(p, safe="") for p in parts)]
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What a revision holds at a path: its size, the git sha1 of its blob, the sha256 where it is an LFS file."""

    size: int
    blob: str
    sha256: str | None


def head(repo: Repo, probe: str, call: Call) -> Revision | None:
    """The head of the branch, for the price of a download request (5,000 in 5 minutes) instead of an API call.

    Every reply to a resolve address names the commit that it speaks of, a 404 for the file too; the client itself
    reads it there (``file_download.py``). ``probe`` is any path. Where no reply names it, the API is asked.
    """
    url = (
        f"{repo.endpoint}/datasets/{repo.id}/resolve/{quote(repo.branch, safe='')}/{quote(repo.path(probe))}"
    )

    def ask() -> Revision | None:
        target = url
        for _ in range(5):
            try:
                reply = hubclient.session().head(
                    target, headers=hubclient.headers(repo.token), follow_redirects=False
                )
            except Answered as answer:
                if answer.status == 404 and answer.code == "EntryNotFound":
                    return answer.headers.get("x-repo-commit")
                raise
            if "x-repo-commit" in reply.headers:
                return str(reply.headers["x-repo-commit"])
            # Only within the Hub: the token goes nowhere else.
            target = urljoin(target, reply.headers.get("location", ""))
            if target == url or urlsplit(target)[:2] != urlsplit(url)[:2]:
                return None
        return None

    found = again(ask, call)
    if found is None:
        newest = history(repo, 1, repo.branch, call)
        return newest[0].revision if newest else None
    return found


def history(repo: Repo, limit: int, branch: str, call: Call) -> list[Commit]:
    """The newest ``limit`` commits; the client's own method would fetch every page of a long history."""
    commits = islice(_pages(repo.url("commits", branch), repo, call), limit)
    return [Commit(item["id"], item["title"], _seconds(item.get("date"))) for item in commits]


def _pages(url: str, repo: Repo, call: Call) -> Iterator[Any]:
    while url:
        reply = again(partial(hubclient.session().get, url, headers=hubclient.headers(repo.token)), call)
        call.moved()
        yield from reply.json()
        following = reply.links.get("next", {}).get("url", "")
        url = urljoin(url, following) if following else ""
        if url and urlsplit(url)[:2] != urlsplit(repo.endpoint)[:2]:
            return  # the token goes to the Hub and nowhere else


def _seconds(date: str | None) -> float | None:
    try:
        return datetime.fromisoformat(date).timestamp() if date else None
    except ValueError:
        return None


def listing(repo: Repo, revision: Revision, call: Call) -> Mapping[str, int]:
    """Every path below the prefix with its size; empty where nothing lies there."""
    start = len(repo.prefix) + 1 if repo.prefix else 0

    def ask() -> dict[str, int]:
        tree = repo.api.list_repo_tree(
            repo.id,
            path_in_repo=repo.prefix or None,
            recursive=True,
            revision=revision,
            repo_type="dataset",
        )
        return {item.path[start:]: item.size for item in tree if hasattr(item, "blob_id")}

    try:
        return again(ask, call)
    except Answered as answer:
        if repo.prefix and answer.status == 404 and answer.code == "EntryNotFound":
            return {}
        raise


def known(repo: Repo, revision: Revision, paths: Iterable[str], call: Call) -> dict[str, Known]:
    """What ``revision`` holds at each of ``paths``; those that aren't there are left out."""
    todo = list(paths)
    found: dict[str, Known] = {}
    for start in range(0, len(todo), BATCH):
        names = {repo.path(path): path for path in todo[start : start + BATCH]}
        ask = partial(repo.api.get_paths_info, repo.id, list(names), revision=revision, repo_type="dataset")
        items = again(ask, call)
        call.moved()
        for item in items:
            if hasattr(item, "blob_id") and item.path in names:
                sha256 = item.lfs.sha256 if item.lfs else None
                found[names[item.path]] = Known(item.size, item.blob_id, sha256)
    return found


def own_files(repo: Repo, revision: Revision, call: Call) -> set[str]:
    """The files of ``revision`` that the Hub didn't put there itself when the repo was made."""
    ask = partial(repo.api.list_repo_tree, repo.id, revision=revision, repo_type="dataset")
    return {item.path for item in again(lambda: list(ask()), call)} - {".gitattributes", "README.md"}
