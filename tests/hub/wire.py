"""What every endpoint shares: the error type, JSON answers, and one request as handlers see it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    from tests.hub.repo import Repo
    from tests.hub.state import Hub


class HubError(Exception):
    """An answer that is no success. `code` goes out as X-Error-Code: the client picks its class by it."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})

    def response(self) -> Response:
        headers = {"X-Error-Message": self.message.replace("\n", " "), **self.headers}
        if self.code:
            headers["X-Error-Code"] = self.code
        return answer({"error": self.message}, self.status, headers)


def repo_not_found() -> HubError:
    return HubError(404, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> HubError:
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(message: str = "Entry not found", headers: Mapping[str, str] | None = None) -> HubError:
    return HubError(404, message, "EntryNotFound", headers)


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(body, status, dict(headers or {}), media_type="application/json")


def stamp(at: datetime | None = None) -> str:
    """A time as the Hub writes it: milliseconds and Z."""
    return (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass(frozen=True, slots=True)
class Call:
    """One request after routing: `params` are the unquoted parts of the path."""

    hub: Hub
    request: Request
    endpoint: str
    params: Mapping[str, str]

    @property
    def base(self) -> str:
        """The Hub's own address as the client wrote it, so that links work through a proxy."""
        return f"{self.request.url.scheme}://{self.request.headers.get('host', self.hub.host)}"

    @property
    def token(self) -> str | None:
        value = self.request.headers.get("authorization", "")
        return value[7:].strip() if value[:7].lower() == "bearer " else None

    async def json(self) -> Any:
        try:
            return json.loads(await self.request.body() or b"{}")
        except ValueError as exc:
            raise HubError(400, f"Invalid JSON: {exc}") from None

    def repo(self, need: str = "read") -> Repo:
        """The repo that the path names, if the caller may `read` or `write` it.

        Raises HubError: 401 or 404 where the caller may not know that it exists, 403 without write rights,
        and 307 to the new name of a moved repo.
        """
        kind, repo_id = self.params["kind"], f"{self.params['ns']}/{self.params['name']}"
        moved = self.hub.store.moved.get((kind, repo_id))
        if moved is not None and self.hub.store.find(kind, repo_id) is None:
            raw = self.request.scope["raw_path"].decode()
            query = self.request.url.query
            target = raw.replace(quote(repo_id, safe="/"), quote(moved, safe="/"), 1)
            raise HubError(307, "moved", headers={"Location": target + (f"?{query}" if query else "")})
        return self.hub.identity.open_repo(self.token, self.hub.store.find(kind, repo_id), need)
