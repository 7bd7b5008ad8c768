"""What a Hub token may do beyond one dataset, from what ``whoami-v2`` says of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = 3


def wider(token: Mapping[str, Any], user: str, dataset: str) -> str | None:
    """What else ``token`` (``auth.accessToken`` of the answer) may do, in words; None where that can't be told.

    Empty where ``dataset`` is all that it reaches. A token that only reads counts as well: it reads every private
    repository of its owner.
    """
    role = token.get("role")
    if role in ("read", "write"):
        verb = "write" if role == "write" else "read"
        return f"{verb} every repository of {user or 'its owner'} (role {role})"
    scopes = token.get("fineGrained")
    if role != "fineGrained" or not isinstance(scopes, Mapping):
        return None
    found = list(dict.fromkeys(_beyond(scopes, dataset)))
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _beyond(scopes: Mapping[str, Any], dataset: str) -> Iterator[str]:
    for scope in _mappings(scopes.get("scoped")):
        entity = scope.get("entity")
        kind, name = (entity.get("type"), entity.get("name")) if isinstance(entity, Mapping) else ("?", "?")
        permissions = [str(p) for p in scope.get("permissions") or ()]
        if permissions and (kind, name) != ("dataset", dataset):
            yield f"{', '.join(permissions[:SHOWN])} of {kind} {name}"
    anywhere = [str(p) for p in scopes.get("global") or ()]
    if anywhere:
        yield f"{', '.join(anywhere[:SHOWN])} anywhere"
    if scopes.get("canReadGatedRepos"):
        yield "read gated repositories"


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
