"""What the Hub says of a token: whose it is, its role, whether it may write one dataset, and when it ends."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.stores import hubaccess, hubclient
from sidecar.stores.hubaccess import Who
from sidecar.stores.hubcall import Call, Patience, again, in_thread
from sidecar.stores.huberrors import explain
from sidecar.stores.hubrepo import Place


@dataclass(frozen=True, slots=True)
class Standing:
    """``expires`` is in seconds since the epoch, None where the Hub doesn't tell or the token has no end.

    ``writable`` is None where no dataset was asked for; ``detail`` is a phrase for people, without secrets.
    """

    role: str
    expires: float | None
    writable: bool | None
    detail: str


async def ask(token: str, endpoint: str, dataset: str | None, cache: Path, seconds: float) -> Standing:
    """Ask the Hub at ``endpoint``, within ``seconds``. Raises StoreError."""
    hubaccess.refuse_unsendable_token(token)
    place = Place(dataset or "", "main", endpoint, token)
    call = Call(Patience(), seconds, time.monotonic() + seconds)
    try:
        return await in_thread(lambda: _ask(place, cache, call), call)
    except Exception as error:
        raise explain(error, "ask about the token", place) from error


def _ask(place: Place, cache: Path, call: Call) -> Standing:
    user = object()
    repo = hubclient.open_repo(place, "", cache, user)
    try:
        found: Mapping[str, Any] = again(repo.api.whoami, call)
        who = hubaccess.who(found, place.repo)
        writable, detail = hubaccess.may_write(repo, who, call) if place.repo else (None, _shown(who))
        return Standing(who.role, _expires(found), writable, detail)
    finally:
        hubclient.leave(user)


def _shown(who: Who) -> str:
    return f"{who.shown}, role {who.role or 'unknown'}"


def _expires(found: Mapping[str, Any]) -> float | None:
    """An OAuth token's ``expiresAt``, an access token's ``expiration``: told only where there is one."""
    auth = found.get("auth") or {}
    token = auth.get("accessToken") or {}
    for value in (auth.get("expiresAt"), token.get("expiresAt"), token.get("expiration")):
        if isinstance(value, str):
            try:
                at = datetime.datetime.fromisoformat(value)
            except ValueError:
                continue
            return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()
    return None
