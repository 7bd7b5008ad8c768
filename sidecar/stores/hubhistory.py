"""What a dataset keeps besides its head, and letting go of it. All of it blocks, in a ``hubcall.Call``."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import quote

from sidecar.stores import hubclient
from sidecar.stores.base import Revision, Usage
from sidecar.stores.hubcall import Answered, Call, again
from sidecar.stores.hubread import history
from sidecar.stores.hubrepo import Repo


def branches(repo: Repo, call: Call) -> dict[str, Revision]:
    """Every branch, by name, and its head."""
    refs: Any = again(partial(repo.api.list_repo_refs, repo.id, repo_type="dataset"), call)
    return {ref.name: ref.target_commit for ref in refs.branches}


def drop(repo: Repo, name: str, call: Call) -> None:
    """Delete a branch; one that isn't there is no error."""
    try:
        again(partial(repo.api.delete_branch, repo.id, branch=name, repo_type="dataset"), call)
    except Answered as answer:
        if answer.status != 404 or answer.code == "RepoNotFound":
            raise


def squash(repo: Repo, branch: str, title: str, call: Call) -> None:
    """Make one commit of a branch, with ``title``, else the newest one's.

    It has no parent check: what comes between is in it.
    """
    commits = history(repo, 2, branch, call)
    if len(commits) > 1:
        message = title or commits[0].title
        repo.api.super_squash_history(repo.id, branch=branch, commit_message=message, repo_type="dataset")


def usage(repo: Repo, call: Call) -> Usage:
    """The branch's commits and the dataset's bytes, in two requests.

    The number of commits is a header that huggingface.js reads too (``count-commits.ts``); the Python client has no
    call for it.
    """
    url = f"{repo.endpoint}/api/datasets/{repo.id}/commits/{quote(repo.branch, safe='')}?limit=1"
    reply = again(partial(hubclient.session().get, url, headers=hubclient.headers(repo.token)), call)
    total = str(reply.headers.get("x-total-count", ""))
    info = again(partial(repo.api.dataset_info, repo.id, expand=["usedStorage"]), call)
    stored = getattr(info, "used_storage", None)
    if stored is None:
        stored = getattr(info, "usedStorage", None)  # the oldest clients that we take have no field for it
    return Usage(int(total) if total.isdecimal() else None, stored if isinstance(stored, int) else None)
