"""The server's whole state: store, identities, settings, faults and counters."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import time
from collections import deque
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tests.hub.cas import Cas
from tests.hub.faults import Faults
from tests.hub.identity import (
    DEFAULT_TOKEN,
    DEFAULT_USER,
    OTHER_TOKEN,
    OTHER_USER,
    READ_TOKEN,
    Identity,
    Token,
)
from tests.hub.store import Store
from tests.hub.wire import HubError


@dataclass(slots=True)
class Settings:
    """What a test may change. Sizes in bytes, times in seconds; None is no limit."""

    tree_page: int = 1000
    commits_page: int = 50
    lfs_page: int = 100
    lfs_above: int = 10 * 1024 * 1024
    multipart_above: int = 5 * 1000**3
    part_size: int = 16 * 1024 * 1024
    folder_limit: int = 10_000
    commit_seconds: float = 0.0
    commits_per_hour: int | None = None
    commit_retry_after: str | None = None
    api_limit: int | None = None
    resolve_limit: int | None = None
    limit_window: int = 300
    private_quota: int | None = None
    regular_redirect: bool = True
    link_seconds: int = 3600
    xet_token_seconds: int = 3600
    xet_v2: bool = True

    def change(self, values: dict[str, Any]) -> None:
        """Raises HubError 400 for a name that is no setting."""
        known = {f.name for f in fields(self)}
        for name, value in values.items():
            if name not in known:
                raise HubError(400, f"unknown setting {name!r}, use one of {', '.join(sorted(known))}")
            setattr(self, name, value)


@dataclass(slots=True)
class Counter:
    count: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    statuses: dict[int, int] = field(default_factory=dict)


class Hub:
    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.store = Store(root)
        self.cas = Cas(root / "xet", self.store.blobs)
        self.identity = Identity()
        self.settings = Settings()
        self.faults = Faults()
        self.counters: dict[str, Counter] = {}
        self.requests: deque[dict[str, Any]] = deque(maxlen=5000)
        self.limits: dict[str, tuple[float, int]] = {}
        self.parts: dict[str, dict[int, Path]] = {}
        self.closing = asyncio.Event()
        self.host = "127.0.0.1"
        self.cdn = ""  # another origin than the Hub's, as in life: the client drops its token there
        self._file = root / "hub.json"
        if self._file.exists():
            saved = json.loads(self._file.read_text())
            self._secret = bytes.fromhex(saved["secret"])
            self.settings.change(saved["settings"])
            self.identity.orgs = saved["orgs"]
            for token in saved["tokens"]:
                self.identity.tokens[token["token"]] = Token.from_json(token)
        else:
            self._secret = secrets.token_bytes(16)
            for value, user, role in (
                (DEFAULT_TOKEN, DEFAULT_USER, "write"),
                (READ_TOKEN, DEFAULT_USER, "read"),
                (OTHER_TOKEN, OTHER_USER, "write"),
            ):
                self.identity.tokens[value] = Token(value, user, role)
            self.save()

    def save(self) -> None:
        saved = {
            "secret": self._secret.hex(),
            "settings": asdict(self.settings),
            "orgs": self.identity.orgs,
            "tokens": [t.to_json() for t in self.identity.tokens.values()],
        }
        scratch = self.root / "hub.json.new"
        scratch.write_text(json.dumps(saved))
        os.replace(scratch, self._file)

    def sign(self, text: str, seconds: int | None = None) -> str:
        """A query string that lets its holder use `text` (an action and its object) until it runs out."""
        until = int(time.time()) + (self.settings.link_seconds if seconds is None else seconds)
        return f"expires={until}&signature={self._mac(text, until)}"

    def check_signature(self, text: str, expires: str, signature: str) -> None:
        """Raises HubError 403 for a link that is forged or too old, as object storage does."""
        good = expires.isdigit() and hmac.compare_digest(self._mac(text, int(expires)), signature)
        if not good or int(expires) < time.time():
            raise HubError(403, "Request has expired or its signature does not match")

    def mint(self, claims: dict[str, Any]) -> str:
        """A bearer token for Xet: its claims and a signature over them."""
        body = json.dumps(claims, sort_keys=True).encode().hex()
        return f"{body}.{self._mac(body, 0)}"

    def claims(self, token: str | None) -> dict[str, Any]:
        """Raises HubError 401 for a token that is missing, forged or too old."""
        body, _, mac = (token or "").partition(".")
        if not hmac.compare_digest(self._mac(body, 0), mac):
            raise HubError(401, "Unauthorized")
        claims: dict[str, Any] = json.loads(bytes.fromhex(body))
        if claims["exp"] < time.time():
            raise HubError(401, "Token expired")
        return claims

    def _mac(self, text: str, until: int) -> str:
        return hmac.new(self._secret, f"{until}:{text}".encode(), hashlib.sha256).hexdigest()[:32]
