"""Secrets stay out of whatever people or machines read: logs, errors, ``sidecar config``, the status."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "***"

_SHORTEST = 6
"""Secrets shorter than this (characters) are not searched for: hiding every ``a`` would hide everything."""

_SECRET_WORD = r"(?:pass|pwd|secret|token|key|sig|auth|cred)"
_URL_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^\s/?#]*)@")
# A password with an unescaped '/', '?' or '#': what follows the first ':' is no port, yet an '@' comes later.
_URL_BROKEN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@\[]*:(?![0-9]*(?:[/?#\s]|$))[^\s/?#@]*[/?#]\S*@")
_PLAIN = (
    (re.compile(r"\b(?:hf_(?:[a-z]+_)?|gh[a-z]_|github_pat_|glpat-)[A-Za-z0-9]{16,}\w*"), HIDDEN),
    (re.compile(r"\bAGE-SECRET-KEY-[A-Za-z0-9-]+", re.IGNORECASE), HIDDEN),
    (re.compile(r"\b(bearer|basic)\s+[^\s'\"]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(rf"([?&][^=&\s#]*{_SECRET_WORD}[^=&\s#]*)=[^&\s#]*", re.IGNORECASE), rf"\1={HIDDEN}"),
    (re.compile(rf"(--[\w-]*{_SECRET_WORD}[\w-]*)([= ])\S+", re.IGNORECASE), rf"\1\2{HIDDEN}"),
    (re.compile(rf"\b([A-Z0-9_]*{_SECRET_WORD.upper()}[A-Z0-9_]*)=(?![/\s])\S+"), rf"\1={HIDDEN}"),
)


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` with ``***`` for each of ``secrets``, for URL passwords and for what looks like a token."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            forms = {secret, repr(secret)[1:-1], *(word for word in secret.split() if len(word) >= _SHORTEST)}
            for form in sorted(forms, key=len, reverse=True):
                text = text.replace(form, HIDDEN)
    text = _URL_BROKEN.sub(rf"\1{HIDDEN}@", text)
    text = _URL_USER.sub(_mask_user, text)
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text


def _mask_user(match: re.Match[str]) -> str:
    scheme, user = match["scheme"], match["user"]
    name, colon, _ = user.partition(":")
    # Over https a lone user name is often the token itself; over ssh and to a database it is a mere name.
    named = scheme.lower().endswith("ssh") or scheme.lower().startswith("postgres")
    shown = name + (f":{HIDDEN}" if colon else "") if named else HIDDEN
    return f"{scheme}://{shown}@"


def mask_path(url: str, secrets: Iterable[str] = ()) -> str:
    """Scheme and host of ``url``: the path of a webhook is its password."""
    match = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@]*", url)
    if match is None or "@" in url:
        return HIDDEN
    return mask(match[0], secrets) + (f"/{HIDDEN}" if url[match.end() :].strip("/") else "")


def shown(value: str, secrets: Iterable[str] = (), limit: int = 200) -> str:
    """``value`` on one line, in quotes, masked, control characters escaped, at most about ``limit`` long."""
    text = repr(mask(value, secrets))
    return text if len(text) <= limit else f"{text[:limit]}…{text[0]}"
