"""Users, tokens and what they may do: read, write and fine-grained tokens, expired and revoked ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.hub.repo import Repo
from tests.hub.wire import HubError, repo_not_found

DEFAULT_USER = "alice"
DEFAULT_TOKEN = "hf_aliceAliceAliceAliceAliceAliceAl"
READ_TOKEN = "hf_readReadReadReadReadReadReadRead"
OTHER_USER = "bob"
OTHER_TOKEN = "hf_bobBobBobBobBobBobBobBobBobBobBo"

ROLES = ("read", "write", "fineGrained")
_WRITES = frozenset({"repo.write"})
_READS = frozenset({"repo.content.read", "repo.write"})


@dataclass(frozen=True, slots=True)
class Scope:
    """Part of a fine-grained token: `entity` is user, org, dataset, model or space; `name` its name."""

    entity: str
    name: str
    permissions: tuple[str, ...]

    def covers(self, kind: str, repo_id: str) -> bool:
        if self.entity in ("user", "org"):
            return repo_id.partition("/")[0] == self.name
        return f"{self.entity}s" == kind and repo_id == self.name


@dataclass(frozen=True, slots=True)
class Token:
    value: str
    user: str
    role: str = "write"
    scopes: tuple[Scope, ...] = ()
    expired: bool = False
    name: str = "local"
    expiration: str = ""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Token:
        """Raises HubError 400 for an unknown role."""
        role = value.get("role", "write")
        if role not in ROLES:
            raise HubError(400, f"unknown role {role!r}, use one of {', '.join(ROLES)}")
        given = value.get("scopes", ())
        scopes = tuple(Scope(s["entity"], s["name"], tuple(s["permissions"])) for s in given)
        name, expired = value.get("name", "local"), value.get("expired", False)
        return cls(value["token"], value["user"], role, scopes, expired, name, value.get("expiration", ""))

    def to_json(self) -> dict[str, Any]:
        scopes = [{"entity": s.entity, "name": s.name, "permissions": list(s.permissions)} for s in self.scopes]
        return {
            "token": self.value,
            "user": self.user,
            "role": self.role,
            "scopes": scopes,
            "expired": self.expired,
            "name": self.name,
            "expiration": self.expiration,
        }


@dataclass(slots=True)
class Identity:
    tokens: dict[str, Token] = field(default_factory=dict)
    orgs: dict[str, list[str]] = field(default_factory=dict)

    def who(self, token: str | None) -> Token | None:
        """None for an anonymous caller. Raises HubError 401 for a token unknown, revoked or expired."""
        if token is None:
            return None
        known = self.tokens.get(token)
        if known is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        if known.expired:
            raise HubError(401, f'User Access Token "{known.name}" is expired')
        return known

    def owns(self, token: Token, namespace: str) -> bool:
        return namespace == token.user or namespace in self.orgs.get(token.user, [])

    def allows(self, token: Token | None, repo: Repo, need: str) -> bool:
        """`need` is read or write; reading a public repo needs nothing."""
        if need == "read" and not repo.private:
            return True
        if token is None or not self.owns(token, repo.id.split("/")[0]):
            return False
        if token.role == "fineGrained":
            wanted = _WRITES if need == "write" else _READS
            return any(wanted & set(s.permissions) for s in token.scopes if s.covers(repo.kind, repo.id))
        return need == "read" or token.role == "write"

    def open_repo(self, value: str | None, repo: Repo | None, need: str) -> Repo:
        """Raises HubError as the Hub does: a private repo looks like a missing one to who may not see it."""
        token = self.who(value)
        if repo is None or not self.allows(token, repo, "read"):
            if token is None:
                # The real Hub sends a bare 401, which the client takes for "not found" on https:// only.
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise repo_not_found()
        if not self.allows(token, repo, need):
            if token is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(403, _forbidden(token))
        return repo

    def check_create(self, token: Token | None, kind: str, namespace: str) -> None:
        """Raises HubError 401 or 403 where `token` may not create or delete repos in `namespace`."""
        if token is None:
            raise HubError(401, "Invalid username or password.")
        whole = any(
            s.entity in ("user", "org") and s.name == namespace and _WRITES & set(s.permissions) for s in token.scopes
        )
        allowed = whole if token.role == "fineGrained" else token.role == "write"
        if not allowed or not self.owns(token, namespace):
            thing = kind.removesuffix("s")
            raise HubError(403, f'You don\'t have the rights to create a {thing} under the namespace "{namespace}"')


def _forbidden(token: Token) -> str:
    if token.role == "read":
        return "Forbidden: you must use a write token to upload to a repository."
    return "Forbidden: you don't have the required permissions to perform this action."
