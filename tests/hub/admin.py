"""The side door for tests, /__admin__/…: counters, faults, tokens, outside edits. Never subject to faults."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.responses import Response

from tests.hub.commit import exclusive
from tests.hub.faults import Rule
from tests.hub.identity import Token
from tests.hub.repo import Repo
from tests.hub.wire import Call, HubError, answer, repo_not_found


async def ping(call: Call) -> Response:
    return answer({"ok": True, "cdn": call.hub.cdn})


async def counters(call: Call) -> Response:
    return answer({name: asdict(c) for name, c in call.hub.counters.items()})


async def reset(call: Call) -> Response:
    """Forget counters, the request log, faults and the rate limits' windows."""
    call.hub.counters.clear()
    call.hub.requests.clear()
    call.hub.faults.rules.clear()
    call.hub.limits.clear()
    return answer({})


async def requests(call: Call) -> Response:
    return answer(list(call.hub.requests))


async def settings(call: Call) -> Response:
    if call.request.method == "POST":
        call.hub.settings.change(await call.json())
        call.hub.save()
    return answer(asdict(call.hub.settings))


async def tokens(call: Call) -> Response:
    """POST adds or replaces a token, DELETE revokes it: to its holder it never existed."""
    body = await call.json()
    if call.request.method == "DELETE":
        call.hub.identity.tokens.pop(body["token"], None)
    else:
        token = Token.from_json(body)
        call.hub.identity.tokens[token.value] = token
    call.hub.save()
    return answer({})


async def orgs(call: Call) -> Response:
    body = await call.json()
    call.hub.identity.orgs[body["user"]] = body["orgs"]
    call.hub.save()
    return answer({})


async def add_fault(call: Call) -> Response:
    rule = Rule.from_json(await call.json())
    call.hub.faults.rules.append(rule)
    return answer({"id": rule.id})


async def faults(call: Call) -> Response:
    """GET lists the rules with how often each fired; DELETE takes away one (`?id=`) or all."""
    rules = call.hub.faults.rules
    if call.request.method == "DELETE":
        which = call.request.query_params.get("id")
        rules[:] = [r for r in rules if which is not None and r.id != int(which)]
    return answer([asdict(r) for r in rules])


def _repo(call: Call, given: dict[str, Any] | None = None) -> Repo:
    values = given if given is not None else dict(call.request.query_params)
    repo = call.hub.store.find(f"{values.get('type', 'dataset')}s", values["repo"])
    if repo is None:
        raise repo_not_found()
    return repo


async def repos(call: Call) -> Response:
    """POST makes a repo, DELETE removes it, GET lists all: whatever the caller's rights."""
    if call.request.method == "GET":
        rows = [
            {"type": r.kind.removesuffix("s"), "repo": r.id, "private": r.private, "branches": r.branches}
            for r in call.hub.store.repos()
        ]
        return answer(rows)
    body = await call.json()
    if call.request.method == "DELETE":
        call.hub.store.delete(_repo(call, body))
        return answer({})
    kind = f"{body.get('type', 'dataset')}s"
    if call.hub.store.find(kind, body["repo"]) is not None:
        raise HubError(409, f"{body['repo']} already exists")
    author = body["repo"].split("/")[0]
    repo = call.hub.store.create(kind, body["repo"], private=body.get("private", True), author=author)
    return answer({"sha": repo.branches["main"]})


async def visibility(call: Call) -> Response:
    body = await call.json()
    repo = _repo(call, body)
    repo.private = body["private"]
    repo.save()
    return answer({})


async def rename(call: Call) -> Response:
    body = await call.json()
    call.hub.store.move(_repo(call, body), body["to"])
    return answer({})


async def commits(call: Call) -> Response:
    repo = _repo(call)
    sha = repo.resolve(call.request.query_params.get("revision", "main"))
    rows = [
        {
            "sha": c.sha,
            "parent": c.parent,
            "title": c.title,
            "description": c.description,
            "author": c.author,
            "date": c.date,
            "put": sorted(c.put),
            "drop": list(c.drop),
        }
        for c in repo.history(sha)
    ]
    return answer(rows)


async def files(call: Call) -> Response:
    repo = _repo(call)
    sha = repo.resolve(call.request.query_params.get("revision", "main"))
    return answer({path: asdict(e) for path, e in sorted(repo.tree(sha).items())}, headers={"X-Repo-Commit": sha})


async def content(call: Call) -> Response:
    """One file's bytes, wherever they are stored."""
    repo = _repo(call)
    query = call.request.query_params
    entry = repo.entry(repo.resolve(query.get("revision", "main")), query["path"])
    if not call.hub.store.blobs.has(entry.sha256):
        call.hub.cas.materialize(entry.sha256)
    return Response(call.hub.store.blobs.read(entry.sha256), media_type="application/octet-stream")


async def edit(call: Call) -> Response:
    """A commit from outside, past every check: put {path: base64}, delete [paths or folders/]."""
    body = await call.json()
    repo = _repo(call, body)
    branch = body.get("branch", "main")
    repo.resolve(branch)
    put = {path: call.hub.store.regular(base64.b64decode(data)) for path, data in (body.get("put") or {}).items()}
    tree = repo.tree(repo.branches[branch])
    drop = [
        path
        for path in tree
        if any(path == gone or (gone.endswith("/") and path.startswith(gone)) for gone in body.get("delete", []))
    ]
    with exclusive(repo):
        done = repo.add_commit(
            branch,
            body.get("title", "Edit from outside"),
            body.get("author", "someone"),
            put,
            tuple(drop),
            date=body.get("date"),
        )
    return answer({"sha": done.sha})


async def squash(call: Call) -> Response:
    body = await call.json()
    repo = _repo(call, body)
    with exclusive(repo):
        done = repo.squash(body.get("branch", "main"), body.get("title", "Squashed from outside"), "someone")
    return answer({"sha": done.sha})


async def branches(call: Call) -> Response:
    """POST points a branch (made if missing) at a revision, DELETE removes it."""
    body = await call.json()
    repo = _repo(call, body)
    if call.request.method == "DELETE":
        repo.branches.pop(body["branch"], None)
    else:
        repo.branches[body["branch"]] = repo.resolve(body["revision"])
    repo.save()
    return answer(repo.branches)


async def usage(call: Call) -> Response:
    repo = _repo(call)
    return answer({"used": repo.used, "lfs": {sha: asdict(o) for sha, o in repo.lfs.items()}})


ROUTES: tuple[tuple[str, str, str, Callable[[Call], Awaitable[Response]]], ...] = (
    ("ping", "GET", "ping", ping),
    ("counters", "GET", "counters", counters),
    ("reset", "POST", "reset", reset),
    ("requests", "GET", "requests", requests),
    ("settings", "GET POST", "settings", settings),
    ("tokens", "POST DELETE", "tokens", tokens),
    ("orgs", "POST", "orgs", orgs),
    ("add_fault", "POST", "faults", add_fault),
    ("faults", "GET DELETE", "faults", faults),
    ("repos", "GET POST DELETE", "repos", repos),
    ("visibility", "POST", "visibility", visibility),
    ("rename", "POST", "rename", rename),
    ("commits", "GET", "commits", commits),
    ("files", "GET", "files", files),
    ("content", "GET", "content", content),
    ("edit", "POST", "edit", edit),
    ("squash", "POST", "squash", squash),
    ("branches", "POST DELETE", "branches", branches),
    ("usage", "GET", "usage", usage),
)
