"""How every answer of the sidecar's own goes out: JSON with the security headers, errors with a code and a sentence."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

_CSP = "default-src 'none'; frame-ancestors 'none'"
HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": _CSP,
}


def answer(
    code: int,
    body: dict[str, Any],
    *,
    headers: dict[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    # A name that is not UTF-8 holds lone surrogates, which no JSON reader takes: they leave here as '?'.
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=str)
    return Response(text.encode("utf-8", "replace"), code, {**HEADERS, **(headers or {})}, media_type)


def error(code: int, what: str, detail: str, *, headers: dict[str, str] | None = None) -> Response:
    return answer(code, {"error": what, "detail": detail}, headers=headers)
