"""Git LFS: the batch call, uploads to the CDN's origin in one piece or in parts, verify, deletion."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from starlette.responses import Response

from tests.hub.commit import check_quota, exclusive
from tests.hub.resolve import refuse_auth
from tests.hub.wire import Call, HubError, answer


async def batch(call: Call) -> Response:
    body = await call.json()
    upload = body.get("operation") == "upload"
    repo = call.repo("write" if upload else "read")
    objects = [(o["oid"], o["size"]) for o in body.get("objects", [])]
    if upload:
        check_quota(call.hub, repo, sum(size for oid, size in objects if oid not in repo.lfs))
    if upload and "xet" in body.get("transfers", []):
        # How 1.x asks for the way to go; 2.x takes Xet without asking.
        known = [{"oid": oid, "size": size} for oid, size in objects]
        return _reply("xet", known)
    transfer = "basic"
    rows: list[dict[str, Any]] = []
    for oid, size in objects:
        row: dict[str, Any] = {"oid": oid, "size": size}
        if not upload:
            row |= _download(call, oid) if oid in repo.lfs else {"error": {"code": 404, "message": "Not found"}}
        elif oid not in repo.lfs:
            parts = size > call.hub.settings.multipart_above and "multipart" in body.get("transfers", [])
            row["actions"] = _upload(call, oid, size, parts)
            transfer = "multipart" if parts else transfer
        rows.append(row)
    return _reply(transfer, rows)


def _reply(transfer: str, rows: list[dict[str, Any]]) -> Response:
    media = {"Content-Type": "application/vnd.git-lfs+json"}
    return answer({"transfer": transfer, "objects": rows}, headers=media)


def _download(call: Call, oid: str) -> dict[str, Any]:
    href = f"{call.hub.cdn}/cdn/repos/{oid}?{call.hub.sign(f'get {oid}')}"
    return {"actions": {"download": {"href": href}}}


def _upload(call: Call, oid: str, size: int, parts: bool) -> dict[str, Any]:
    hub = call.hub
    place = f"{call.params['kind']}/{call.params['ns']}/{call.params['name']}"
    verify = {"href": f"{call.base}/{_prefix(call)}.git/info/lfs/verify", "header": {}}
    put = f"{hub.cdn}/cdn/upload/{place}/{oid}"
    if not parts:
        return {"upload": {"href": f"{put}?{hub.sign(f'put {place}/{oid}')}"}, "verify": verify}
    count = math.ceil(size / hub.settings.part_size)
    header: dict[str, str] = {"chunk_size": str(hub.settings.part_size)}
    for number in range(1, count + 1):
        signed = hub.sign(f"part {place}/{oid}/{number}")
        header[f"{number:05}"] = f"{put}/{number}?{signed}"
    done = f"{call.base}/api/complete_multipart/{place}/{oid}?{hub.sign(f'complete {place}/{oid}')}"
    return {"upload": {"href": done, "header": header}, "verify": verify}


def _prefix(call: Call) -> str:
    prefix = "" if call.params["kind"] == "models" else f"{call.params['kind']}/"
    return f"{prefix}{call.params['ns']}/{call.params['name']}"


def _signed(call: Call, verb: str) -> tuple[str, str]:
    """Repo and object of a signed link. Raises HubError 400 or 403."""
    refuse_auth(call)
    place = f"{call.params['kind']}/{call.params['ns']}/{call.params['name']}"
    number = f"/{call.params['part']}" if "part" in call.params else ""
    query = call.request.query_params
    text = f"{verb} {place}/{call.params['sha256']}{number}"
    call.hub.check_signature(text, query.get("expires", ""), query.get("signature", ""))
    return place, call.params["sha256"]


def _own(call: Call, oid: str, size: int) -> None:
    """The repo owns an uploaded object from here on."""
    repo = call.hub.store.find(call.params["kind"], f"{call.params['ns']}/{call.params['name']}")
    if repo is None:
        raise HubError(404, "Repository not found", "RepoNotFound")
    call.hub.store.large(repo, oid, size)
    repo.save()


async def put(call: Call) -> Response:
    _, oid = _signed(call, "put")
    scratch, sha256, size = await call.hub.store.blobs.receive(call.request.stream())
    if sha256 != oid:
        scratch.unlink()
        raise HubError(400, f"The content has sha256 {sha256}, the link is for {oid}")
    call.hub.store.blobs.adopt(scratch, oid)
    _own(call, oid, size)
    return Response(None, 200, {"ETag": f'"{sha256}"'})


async def put_part(call: Call) -> Response:
    place, oid = _signed(call, "part")
    scratch, sha256, _ = await call.hub.store.blobs.receive(call.request.stream())
    call.hub.parts.setdefault(f"{place}/{oid}", {})[int(call.params["part"])] = scratch
    return Response(None, 200, {"ETag": f'"{sha256}"'})


async def complete(call: Call) -> Response:
    place, oid = _signed(call, "complete")
    body = json.loads(await call.request.body())
    have = call.hub.parts.get(f"{place}/{oid}", {})
    numbers = [p["partNumber"] for p in body["parts"]]
    if numbers != sorted(have) or any(not p["etag"] for p in body["parts"]):
        raise HubError(400, f"InvalidPart: have {sorted(have)}, asked for {numbers}")
    blobs = call.hub.store.blobs
    whole, digest, size = blobs.scratch(), hashlib.sha256(), 0
    with whole.open("wb") as out:
        for number in numbers:
            data = have[number].read_bytes()
            digest.update(data)
            out.write(data)
            size += len(data)
    for scratch in call.hub.parts.pop(f"{place}/{oid}").values():
        scratch.unlink()
    if digest.hexdigest() != oid:
        whole.unlink()
        raise HubError(400, f"The content has sha256 {digest.hexdigest()}, the upload is for {oid}")
    blobs.adopt(whole, oid)
    _own(call, oid, size)
    return answer({"success": True})


async def verify(call: Call) -> Response:
    repo = call.repo("write")
    body = await call.json()
    known = repo.lfs.get(body["oid"])
    if known is None:
        raise HubError(404, f"Object {body['oid']} does not exist")
    if known.size != body["size"]:
        raise HubError(422, f"Object {body['oid']} has size {known.size}, not {body['size']}")
    return answer({"success": True})


async def delete(call: Call) -> Response:
    repo = call.repo("write")
    deletions = (await call.json())["deletions"]
    if len(deletions["sha"]) > 1000:
        raise HubError(400, "At most 1000 files a call")
    with exclusive(repo):
        repo.forget_lfs(set(deletions["sha"]), bool(deletions.get("rewriteHistory")))
    return answer({"success": True})
