"""Xet over HTTP: the Hub's tokens, the CAS's uploads and reconstructions, and the bytes of xorbs.

Source of the rules: https://huggingface.co/docs/xet/api, and openapi/cas.openapi.yaml of xet-core.
"""

from __future__ import annotations

import asyncio
import json
import time
from importlib.util import find_spec
from typing import Any

from starlette.responses import Response

from tests.hub.cas import Plan, XetFile
from tests.hub.commit import check_quota
from tests.hub.repo import Repo
from tests.hub.resolve import refuse_auth
from tests.hub.serve import parse_ranges, serve_file
from tests.hub.shard import describe, parse_files
from tests.hub.wire import Call, HubError, answer


async def token(call: Call) -> Response:
    """A short-lived token for the CAS: in headers, as Python reads it, and as JSON, as hf_xet does."""
    scope = call.params["scope"]
    repo = call.repo(scope)
    missing = [name for name in ("blake3", "lz4") if find_spec(name) is None]
    if missing:
        raise HubError(501, f"this local Hub can't do Xet: install {' and '.join(missing)}")
    if scope == "write":
        check_quota(call.hub, repo, 1)
    until = int(time.time()) + call.hub.settings.xet_token_seconds
    value = call.hub.mint({"kind": repo.kind, "repo": repo.id, "scope": scope, "exp": until})
    headers = {
        "X-Xet-Cas-Url": call.hub.cdn,
        "X-Xet-Access-Token": value,
        "X-Xet-Token-Expiration": str(until),
    }
    return answer({"casUrl": call.hub.cdn, "accessToken": value, "exp": until}, headers=headers)


def _repo(call: Call, need: str = "read") -> Repo:
    """The repo that the CAS token is for. Raises HubError 401 or 403."""
    claims = call.hub.claims(call.token)
    if need == "write" and claims["scope"] != "write":
        raise HubError(403, "Token does not have required scope")
    repo = call.hub.store.find(claims["kind"], claims["repo"])
    if repo is None:
        raise HubError(401, "Unauthorized")
    return repo


async def put_xorb(call: Call) -> Response:
    _repo(call, "write")
    data = await call.request.body()
    # Unpacking and hashing 64 MB takes a while, and its time is spent outside the interpreter lock.
    inserted = await asyncio.to_thread(call.hub.cas.add_xorb, call.params["hash"], data)
    return answer({"was_inserted": inserted})


async def put_shard(call: Call) -> Response:
    """Register the files of a shard: from here on they are the repo's, and count against its storage."""
    if call.endpoint == "xet_shard_v2" and not call.hub.settings.xet_v2:
        raise HubError(404, "Not Found")
    repo = _repo(call, "write")
    try:
        files = parse_files(await call.request.body())
    except ValueError as exc:
        raise HubError(400, f"Malformed shard: {exc}") from None
    fresh = False
    for given in files:
        fresh |= given.hash not in call.hub.cas.files
        file = call.hub.cas.add_file(given)
        if file.sha256 is not None:
            call.hub.store.large(repo, file.sha256, file.size)
    repo.save()
    if call.endpoint == "xet_shard_v2":
        frames = ({"type": "validating", "verified": len(files), "total": len(files)}, {"type": "result"})
        body = "".join(json.dumps(frame) + "\n" for frame in frames)
        return Response(body, media_type="application/x-ndjson")
    return answer({"result": int(fresh)})


async def chunk(call: Call) -> Response:
    """A shard about the xorb that holds a chunk: the client then needs not send what is in it."""
    _repo(call)
    xorb = call.hub.cas.holder(call.params["hash"])
    if xorb is None:
        raise HubError(404, "Chunk not tracked")
    return Response(describe([xorb]), media_type="application/octet-stream")


async def reconstruction(call: Call) -> Response:
    second = call.endpoint == "xet_reconstruction_v2"
    if second and not call.hub.settings.xet_v2:
        raise HubError(404, "Not Found")
    repo = _repo(call)
    file = call.hub.cas.files.get(call.params["hash"])
    if file is None or (file.sha256 is not None and file.sha256 not in repo.lfs):
        raise HubError(404, "File does not exist")
    plan = _plan(call, file)
    terms = [{"hash": t.xorb, "unpacked_length": t.size, "range": {"start": t.start, "end": t.end}} for t in plan.terms]
    reply: dict[str, Any] = {"offset_into_first_range": plan.skip, "terms": terms}
    if second:
        return answer({**reply, "xorbs": {name: _whole(call, plan, name) for name in plan.pieces}})
    return answer({**reply, "fetch_info": {name: _parts(call, plan, name) for name in plan.pieces}})


def _plan(call: Call, file: XetFile) -> Plan:
    asked = call.request.headers.get("range")
    ranges = parse_ranges(asked, file.size)
    if asked is not None and not ranges:
        raise HubError(416, "Range not satisfiable")
    start, end = ranges[0] if ranges else (0, file.size)
    return call.hub.cas.plan(file, start, end)


def _link(call: Call, name: str) -> str:
    return f"{call.hub.cdn}/cdn/xorbs/{name}?{call.hub.sign(f'xorb {name}')}"


def _whole(call: Call, plan: Plan, name: str) -> list[dict[str, Any]]:
    ranges = [
        {
            "chunks": {"start": p.first, "end": p.last},
            "bytes": {"start": p.start, "end": p.end - 1},
        }
        for p in plan.pieces[name]
    ]
    return [{"url": _link(call, name), "ranges": ranges}]


def _parts(call: Call, plan: Plan, name: str) -> list[dict[str, Any]]:
    return [
        {
            "range": {"start": p.first, "end": p.last},
            "url": _link(call, name),
            "url_range": {"start": p.start, "end": p.end - 1},
        }
        for p in plan.pieces[name]
    ]


async def get_xorb(call: Call) -> Response:
    refuse_auth(call)
    name = call.params["hash"]
    query = call.request.query_params
    call.hub.check_signature(f"xorb {name}", query.get("expires", ""), query.get("signature", ""))
    if call.hub.cas.xorb(name) is None:
        raise HubError(404, f"No xorb {name}")
    return serve_file(call.hub.cas.path(name), {}, call.request.headers.get("range"))


async def telemetry(call: Call) -> Response:
    await call.request.body()
    return answer({})


async def not_offered(call: Call) -> Response:
    """Newer calls that a server may decline: the client then takes the documented way."""
    raise HubError(404, "Not Found")
