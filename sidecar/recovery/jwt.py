"""Whether a token that is a JWT (RFC 7519) has expired. Its signature is not checked: only its issuer could."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.masking import shown
from sidecar.recovery.verdict import Verdict, when

SOON_S = 3 * 86400.0
"""A token that ends within this time is warned of, unless it was made for so short a life."""

SHORT = 4
"""One that lives shorter is warned of in the last quarter of its life."""

UNCHECKED = "the signature is not checked"

_SHAPE = re.compile(r"(?<![\w.-])([\w-]{4,})\.([\w-]*)\.([\w-]*)(\.[\w-]*\.[\w-]*)?(?![\w.-])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """``name`` is the key that it stood at, if any; times in seconds since the epoch, None where it has none.

    ``sealed`` is one whose expiry can't be read: it is encrypted (JWE), or holds something else in its place.
    """

    name: str
    expires: float | None
    issued: float | None = None
    sealed: bool = False

    @property
    def shown(self) -> str:
        return f"{shown(self.name[:60])} " if self.name else ""


def find(text: str) -> list[Token]:
    """Every JWT in ``text``: a bare one, a line with one, or JSON with some at any depth."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return [token for name, words in _strings(value) for token in _in(words, name)]


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    todo: list[tuple[str, Any]] = [("", value)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, dict):
            todo += [(key, inner) for key, inner in reversed(value.items())]
        elif isinstance(value, list):
            todo += [(name, inner) for inner in reversed(value)]
        elif isinstance(value, str):
            yield name, value


def _in(text: str, name: str) -> Iterator[Token]:
    for match in _SHAPE.finditer(text):
        head = _object(match[1])
        if head is None or "alg" not in head:
            continue
        if match[4]:
            yield Token(name, None, sealed=True)
            continue
        claims = _object(match[2])
        if claims is not None:
            expires = _time(claims.get("exp"))
            unread = expires is None and claims.get("exp") is not None
            yield Token(name, expires, _time(claims.get("iat")), sealed=unread)


def _object(part: str) -> dict[str, Any] | None:
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _time(value: Any) -> float | None:
    """A NumericDate, which some issuers put into quotes; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        at = float(value)
    except (ValueError, OverflowError):
        return None
    return at if math.isfinite(at) else None


def judge(tokens: Sequence[Token], now: float, written: float) -> Verdict:
    """The one that lasts longest decides: where there are several, it is there to renew the others.

    ``written`` is when the file was: the start of a token's life where it doesn't tell itself. Times in seconds
    since the epoch.
    """
    readable = [token for token in tokens if not token.sealed]
    if not readable:
        unread = Verdict("warn", "can't be judged: its expiry can't be read")
        return unread if tokens else Verdict("fail", "holds no JWT")
    lasting = [token for token in readable if token.expires is None]
    if lasting:
        return Verdict("pass", f"{lasting[0].shown}never expires ({UNCHECKED})")
    last = max(readable, key=lambda token: token.expires or 0.0)
    at = last.expires or 0.0
    if at <= now:
        return Verdict("fail", f"{last.shown}expired {when(at, now)} ({UNCHECKED})")
    life = at - (written if last.issued is None else last.issued)
    about = at - now <= min(SOON_S, max(0.0, life) / SHORT)
    return Verdict("warn" if about else "pass", f"{last.shown}expires {when(at, now)} ({UNCHECKED})")
