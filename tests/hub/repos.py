"""Accounts and repos as wholes: whoami, create, delete, move, settings, info, branches, tags, squash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from starlette.responses import Response

from tests.hub.commit import exclusive
from tests.hub.repo import Repo
from tests.hub.store import KINDS
from tests.hub.wire import Call, HubError, answer, repo_not_found, revision_not_found


async def whoami(call: Call) -> Response:
    token = call.hub.identity.who(call.token)
    if token is None:
        raise HubError(401, "Invalid username or password.")
    access: dict[str, Any] = {"displayName": token.name, "role": token.role}
    if token.expiration:
        access["expiration"] = token.expiration
    if token.role == "fineGrained":
        scoped = [
            {"entity": {"type": s.entity, "name": s.name}, "permissions": list(s.permissions)} for s in token.scopes
        ]
        access["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
    names = call.hub.identity.orgs.get(token.user, [])
    orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in names]
    return answer(
        {
            "type": "user",
            "id": "0" * 24,
            "name": token.user,
            "fullname": token.user,
            "isPro": False,
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": access},
        }
    )


async def auth_check(call: Call) -> Response:
    call.repo("write" if call.endpoint.endswith("write") else "read")
    return answer({})


async def create_repo(call: Call) -> Response:
    body = await call.json()
    kind, repo_id, caller = _named(call, body)
    call.hub.identity.check_create(call.hub.identity.who(call.token), kind, repo_id.split("/")[0])
    known = call.hub.store.find(kind, repo_id)
    if known is not None:
        raise _Exists(known, call.base)
    # 2.x sends `visibility`, 1.x `private`; neither means public.
    private = body.get("visibility") == "private" or bool(body.get("private"))
    repo = call.hub.store.create(kind, repo_id, private=private, author=caller)
    return answer({"url": f"{call.base}/{repo.prefix}", "name": repo.id, "id": "0" * 24})


class _Exists(HubError):
    """409 with the repo's url: `exist_ok=True` reads it from there."""

    def __init__(self, repo: Repo, base: str) -> None:
        super().__init__(409, f"You already created this {repo.kind.removesuffix('s')} repo: {repo.id}")
        self.url = f"{base}/{repo.prefix}"

    def response(self) -> Response:
        return answer({"error": self.message, "url": self.url}, 409, {"X-Error-Message": self.message})


async def delete_repo(call: Call) -> Response:
    kind, repo_id, _ = _named(call, await call.json())
    repo = call.hub.identity.open_repo(call.token, call.hub.store.find(kind, repo_id), "write")
    call.hub.store.delete(repo)
    return answer({})


async def move_repo(call: Call) -> Response:
    body = await call.json()
    kind = f"{body.get('type', 'model')}s"
    repo = call.hub.identity.open_repo(call.token, call.hub.store.find(kind, body["fromRepo"]), "write")
    call.hub.identity.check_create(call.hub.identity.who(call.token), kind, body["toRepo"].split("/")[0])
    call.hub.store.move(repo, body["toRepo"])
    return answer({})


def _named(call: Call, body: dict[str, Any]) -> tuple[str, str, str]:
    """Kind, full id and calling user of a request that names a repo in its body."""
    token = call.hub.identity.who(call.token)
    if token is None:
        raise HubError(401, "Invalid username or password.")
    kind = f"{body.get('type') or 'model'}s"
    if kind not in KINDS or not body.get("name"):
        raise HubError(400, f"Invalid repo type or name: {body.get('type')} {body.get('name')}")
    return kind, f"{body.get('organization') or token.user}/{body['name']}", token.user


async def settings(call: Call) -> Response:
    repo = call.repo("write")
    body = await call.json()
    if "visibility" in body or "private" in body:
        repo.private = body.get("visibility") == "private" or bool(body.get("private"))
    if "gated" in body:
        repo.gated = body["gated"]
    repo.save()
    return answer({"private": repo.private, "gated": repo.gated})


async def info(call: Call) -> Response:
    repo = call.repo()
    sha = repo.resolve(call.params.get("rev", "main"))
    query = call.request.query_params
    wanted = query.getlist("expand") + query.getlist("expand[]")
    whole: dict[str, Any] = {
        "author": repo.id.split("/")[0],
        "sha": sha,
        "lastModified": repo.commits[repo.branches["main"]].date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "usedStorage": repo.used,
    }
    if "siblings" in wanted or not wanted:
        blobs = query.get("blobs", "").lower() in ("true", "1")
        whole["siblings"] = [_sibling(path, e, blobs) for path, e in sorted(repo.tree(sha).items())]
    if wanted:
        unknown = [w for w in wanted if w not in whole and w not in ("cardData", "siblings", "resourceGroup")]
        if unknown:
            raise HubError(400, f"Invalid expand: {', '.join(unknown)}")
        whole = {name: whole[name] for name in wanted if name in whole}
    return answer({"_id": "0" * 24, "id": repo.id, **whole})


def _sibling(path: str, entry: Any, blobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": path}
    if blobs:
        row |= {"size": entry.size, "blobId": entry.oid}
        if entry.lfs:
            row["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": pointer_size(entry.size)}
    return row


def pointer_size(size: int) -> int:
    """Length in bytes of the LFS pointer of a file with `size` bytes."""
    return 121 + len(str(size)) + 2


async def refs(call: Call) -> Response:
    repo = call.repo()

    def rows(kind: str, refs: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in refs.items()]

    branches, tags = rows("heads", repo.branches), rows("tags", repo.tags)
    return answer({"branches": branches, "converts": [], "tags": tags, "pullRequests": []})


async def create_branch(call: Call) -> Response:
    repo = call.repo("write")
    body = await call.json()
    branch = call.params["branch"]
    start = repo.resolve(body.get("startingPoint") or "main")
    if branch in repo.branches and not body.get("overwrite"):
        raise HubError(409, f"Reference already exists: refs/heads/{branch}")
    with exclusive(repo):
        repo.branches[branch] = start
        repo.save()
    return answer({})


async def delete_branch(call: Call) -> Response:
    repo = call.repo("write")
    branch = call.params["branch"]
    if branch == "main":
        raise HubError(403, "The branch main is protected and cannot be deleted")
    if branch not in repo.branches:
        raise revision_not_found(branch)
    with exclusive(repo):
        del repo.branches[branch]
        repo.save()
    return answer({})


async def create_tag(call: Call) -> Response:
    repo = call.repo("write")
    body = await call.json()
    sha = repo.resolve(call.params["rev"])
    if body["tag"] in repo.tags:
        raise HubError(409, f"Reference already exists: refs/tags/{body['tag']}")
    repo.tags[body["tag"]] = sha
    repo.save()
    return answer({})


async def delete_tag(call: Call) -> Response:
    repo = call.repo("write")
    if repo.tags.pop(call.params["rev"], None) is None:
        raise revision_not_found(call.params["rev"])
    repo.save()
    return answer({})


async def super_squash(call: Call) -> Response:
    repo = call.repo("write")
    branch = call.params["branch"]
    if branch not in repo.branches:
        raise revision_not_found(branch)
    body = await call.json()
    who = call.hub.identity.who(call.token)
    assert who is not None
    message = body.get("message") or "Super-squash branch"
    with exclusive(repo):
        repo.squash(branch, message, who.user)
    return answer({})


async def validate_yaml(call: Call) -> Response:
    body = await call.json()
    call.hub.identity.who(call.token)
    content = str(body.get("content", ""))
    if not content.startswith("---"):
        message = "empty or missing yaml metadata in repo card"
        return answer({"errors": [], "warnings": [{"message": message}]})
    front = content[3:].partition("\n---")[0]
    try:
        value = yaml.safe_load(front)
    except yaml.YAMLError as exc:
        return answer({"errors": [{"message": f"Invalid YAML: {exc}"}], "warnings": []}, 400)
    if value is not None and not isinstance(value, dict):
        return answer({"errors": [{"message": "metadata must be a mapping"}], "warnings": []}, 400)
    return answer({"errors": [], "warnings": []})


def missing(call: Call) -> HubError:
    """What a path that the Hub does not know answers."""
    return repo_not_found() if "/api/" in call.request.url.path else HubError(404, "Not Found")
