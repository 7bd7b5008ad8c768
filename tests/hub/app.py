"""The ASGI app: one table of routes, and around each call its counters, rate limits and faults."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tests.hub import admin, commit, faults, lfs, listing, repos, resolve, xet
from tests.hub.faults import Message, Receive, Send
from tests.hub.state import Counter, Hub
from tests.hub.wire import Call, HubError, answer

Handler = Callable[[Call], Awaitable[Response]]
log = logging.getLogger("tests.hub")

_R = "/api/{kind}/{ns}/{name}"
_G = "/{kind/}{ns}/{name}"
# (endpoint, methods, path, handler). `{x}` is one part, `{x*}` the rest, `{kind/}` a prefix that models lack.
# Endpoint names are what counters and faults go by.
ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("whoami", "GET", "/api/whoami-v2", repos.whoami),
    ("validate_yaml", "POST", "/api/validate-yaml", repos.validate_yaml),
    ("create_repo", "POST", "/api/repos/create", repos.create_repo),
    ("delete_repo", "DELETE", "/api/repos/delete", repos.delete_repo),
    ("move_repo", "POST", "/api/repos/move", repos.move_repo),
    ("commit", "POST", _R + "/commit/{rev}", commit.commit),
    ("preupload", "POST", _R + "/preupload/{rev}", commit.preupload),
    ("paths_info", "POST", _R + "/paths-info/{rev}", listing.paths_info),
    ("tree", "GET", _R + "/tree/{rev}", listing.tree),
    ("tree", "GET", _R + "/tree/{rev}/{path*}", listing.tree),
    ("commits", "GET", _R + "/commits/{rev}", listing.commits),
    ("info", "GET", _R, repos.info),
    ("info", "GET", _R + "/revision/{rev}", repos.info),
    ("refs", "GET", _R + "/refs", repos.refs),
    ("settings", "PUT", _R + "/settings", repos.settings),
    ("auth_check", "GET", _R + "/auth-check", repos.auth_check),
    ("auth_check_write", "GET", _R + "/auth-check/write", repos.auth_check),
    ("create_branch", "POST", _R + "/branch/{branch}", repos.create_branch),
    ("delete_branch", "DELETE", _R + "/branch/{branch}", repos.delete_branch),
    ("create_tag", "POST", _R + "/tag/{rev}", repos.create_tag),
    ("delete_tag", "DELETE", _R + "/tag/{rev}", repos.delete_tag),
    ("super_squash", "POST", _R + "/super-squash/{branch}", repos.super_squash),
    ("lfs_files", "GET", _R + "/lfs-files", listing.lfs_files),
    ("lfs_delete", "POST", _R + "/lfs-files/batch", lfs.delete),
    ("lfs_batch", "POST", _G + ".git/info/lfs/objects/batch", lfs.batch),
    ("lfs_verify", "POST", _G + ".git/info/lfs/verify", lfs.verify),
    ("lfs_put", "PUT", "/cdn/upload/{kind}/{ns}/{name}/{sha256}", lfs.put),
    ("lfs_part", "PUT", "/cdn/upload/{kind}/{ns}/{name}/{sha256}/{part}", lfs.put_part),
    ("lfs_complete", "POST", "/api/complete_multipart/{kind}/{ns}/{name}/{sha256}", lfs.complete),
    ("resolve", "GET HEAD", _G + "/resolve/{rev}/{path*}", resolve.resolve),
    (
        "resolve_cache",
        "GET HEAD",
        "/api/resolve-cache/{kind}/{ns}/{name}/{rev}/{path*}",
        resolve.resolve_cache,
    ),
    ("cdn", "GET HEAD", "/cdn/repos/{sha256}", resolve.cdn),
    ("cdn", "GET HEAD", "/cdn/xet-bridge/{sha256}", resolve.cdn),
    ("xet_token", "GET", _R + "/xet-{scope}-token/{rev}", xet.token),
    ("xet_chunk", "GET", "/v1/chunks/{prefix}/{hash}", xet.chunk),
    ("xet_xorb_put", "POST", "/v1/xorbs/default/{hash}", xet.put_xorb),
    ("xet_shard", "POST", "/v1/shards", xet.put_shard),
    ("xet_shard_v2", "POST", "/v2/shards", xet.put_shard),
    ("xet_reconstruction", "GET", "/v1/reconstructions/{hash}", xet.reconstruction),
    ("xet_reconstruction_v2", "GET", "/v2/reconstructions/{hash}", xet.reconstruction),
    ("xet_xorb", "GET", "/cdn/xorbs/{hash}", xet.get_xorb),
    ("xet_telemetry", "POST", "/v1/telemetry", xet.telemetry),
    ("xet_declined", "POST GET", "/v1/xorb-{x*}", xet.not_offered),
    *((f"admin.{name}", verbs, f"/__admin__/{path}", call) for name, verbs, path, call in admin.ROUTES),
)


@dataclass(frozen=True, slots=True)
class _Route:
    endpoint: str
    methods: frozenset[str]
    pattern: re.Pattern[str]
    handler: Handler


def _compile(template: str) -> re.Pattern[str]:
    pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    pattern = pattern.replace("{kind/}", "(?:(?P<kind>datasets|spaces)/)?")
    pattern = pattern.replace("{kind}", "(?P<kind>models|datasets|spaces)")
    pattern = re.sub(r"\{(\w+)\\\*\}", r"(?P<\1>.*)", pattern)
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+?)", pattern))


_TABLE = tuple(_Route(name, frozenset(m.split()), _compile(path), handler) for name, m, path, handler in ROUTES)


def route(method: str, raw_path: str) -> tuple[_Route, Mapping[str, str]] | None:
    """The route for a path as it came over the wire: a quoted slash is part of a name, not a separator."""
    for candidate in _TABLE:
        if method in candidate.methods and (match := candidate.pattern.fullmatch(raw_path)):
            params = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
            if "kind" in candidate.pattern.groupindex:
                params.setdefault("kind", "models")
            return candidate, params
    return None


async def _unknown(call: Call) -> Response:
    raise repos.missing(call)


class HubApp:
    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        raw_path: str = scope["raw_path"].decode("latin-1")
        found = route(scope["method"], raw_path)
        where = found[0] if found else _Route("unknown", frozenset(), re.compile(""), _unknown)
        params = found[1] if found else {}

        async def app(receive: Receive, send: Send) -> None:
            await self._answer(where, params, scope, receive, send)

        if where.endpoint.startswith("admin."):
            await app(receive, send)
            return
        meter = _Meter(receive, send)
        rule = self.hub.faults.take(where.endpoint, scope["method"], raw_path)
        try:
            if rule is None:
                await app(meter.receive, meter.send)
            else:
                await faults.apply(rule, app, scope, meter.receive, meter.send, self.hub.closing)
        finally:
            self._count(where.endpoint, scope, raw_path, meter, rule.action if rule else None)

    async def _answer(
        self, where: _Route, params: Mapping[str, str], scope: Mapping[str, Any], receive: Receive, send: Send
    ) -> None:
        request = Request(scope, receive, send)  # type: ignore[arg-type]
        call = Call(self.hub, request, where.endpoint, params)
        try:
            limits = self._limit(call, scope)
            response = await where.handler(call)
            response.headers.update(limits)
        except HubError as exc:
            response = exc.response()
        except ClientDisconnect:
            return
        except Exception as exc:
            # Whatever a malformed request trips over is the caller's to see, with the place it happened.
            log.exception("the local Hub failed on %s %s", scope["method"], scope["path"])
            response = answer({"error": f"local Hub bug: {exc!r}"}, 500)
        await response(scope, receive, send)  # type: ignore[arg-type]

    def _limit(self, call: Call, scope: Mapping[str, Any]) -> dict[str, str]:
        path: str = scope["path"]
        if path.startswith(("/__admin__/", "/cdn/", "/v1/", "/v2/")):
            return {}
        bucket = "resolvers" if call.endpoint in ("resolve", "resolve_cache") else "api"
        return commit.check_api_rate(self.hub, bucket, call.token or "anonymous")

    def _count(self, endpoint: str, scope: Mapping[str, Any], raw_path: str, meter: _Meter, fault: str | None) -> None:
        counter = self.hub.counters.setdefault(endpoint, Counter())
        counter.count += 1
        counter.bytes_in += meter.bytes_in
        counter.bytes_out += meter.bytes_out
        counter.statuses[meter.status] = counter.statuses.get(meter.status, 0) + 1
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        self.hub.requests.append(
            {
                "at": round(time.time(), 3),
                "endpoint": endpoint,
                "method": scope["method"],
                "path": raw_path,
                "query": scope["query_string"].decode("latin-1"),
                "status": meter.status,
                "bytes_in": meter.bytes_in,
                "bytes_out": meter.bytes_out,
                "authorized": "authorization" in headers,
                "range": headers.get("range"),
                "user_agent": headers.get("user-agent", ""),
                "fault": fault,
            }
        )


class _Meter:
    """Counts what one request moved: body bytes in and out, and the status (0: none was sent)."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.bytes_in = self.bytes_out = self.status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self.bytes_in += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self.bytes_out += len(message.get("body", b""))
        await self._send(message)
