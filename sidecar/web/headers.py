"""What a proxy does to headers, both ways: pure, names in lower case, values in bytes, order and repeats kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Headers = Sequence[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization",
        b"te", b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""Meant for the next hop only (RFC 9110, section 7.6.1), besides whatever ``Connection`` names."""
# What frames or routes a message stays, whoever names it in Connection: dropping it would change what is asked.
_KEPT = frozenset({b"host", b"content-length", b"content-type", b"authorization", b"cookie", b"expect"})


@dataclass(frozen=True, slots=True)
class Framing:
    """How a request's body is sent: ``length`` bytes, or chunked, or none of both where there is no body."""

    length: int | None
    chunked: bool

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)


def values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def tokens(headers: Headers, name: bytes) -> set[bytes]:
    """The comma-separated words of every header ``name``, in lower case."""
    words = (word.strip(b" \t").lower() for value in values(headers, name) for word in value.split(b","))
    return {word for word in words if word}


def framing(headers: Headers) -> Framing:
    """Of a request head that the guard let through: at most one length, or chunked."""
    if values(headers, b"transfer-encoding"):
        return Framing(None, True)
    lengths = values(headers, b"content-length")
    return Framing(int(lengths[0]) if lengths else None, False)


def wants_websocket(method: str, headers: Headers) -> bool:
    """Is this a WebSocket handshake (RFC 6455, section 4.1)? No other protocol is switched to."""
    return (
        method == "GET"
        and b"upgrade" in tokens(headers, b"connection")
        and tokens(headers, b"upgrade") == {b"websocket"}
        and not framing(headers).has_body
    )


def to_upstream(
    headers: Headers, *, peer: str | None, default_host: bytes, websocket: bool
) -> list[tuple[bytes, bytes]]:
    """The headers of a request as the app gets them.

    ``X-Forwarded-For`` has ``peer`` (who connected to us) appended; ``-Proto`` and ``-Host`` are the platform's
    where it set them: it knows what the visitor typed. HTTP/1.0 may lack a Host, the upstream's own then.
    """
    out = list(_end_to_end(headers, _KEPT))
    host = values(headers, b"host") or [default_host]
    if not values(headers, b"host"):
        out.insert(0, (b"host", default_host))
    hops = [value.strip(b" \t") for value in values(headers, b"x-forwarded-for") if value.strip(b" \t")]
    if peer is not None:
        hops.append(peer.encode("ascii", "replace"))
    out = [(name, value) for name, value in out if name != b"x-forwarded-for"]
    if hops:
        out.append((b"x-forwarded-for", b", ".join(hops)))
    for name, value in ((b"x-forwarded-proto", b"http"), (b"x-forwarded-host", host[0])):
        if not any(key == name for key, _ in out):
            out.append((name, value))
    if websocket:
        out += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    elif framing(headers).chunked:
        out.append((b"transfer-encoding", b"chunked"))
    return out


def to_client(headers: Headers, status: int) -> list[tuple[bytes, bytes]]:
    """The headers of a response as the visitor gets them; how its body is framed is our server's business."""
    out = _end_to_end(headers, frozenset())
    # Chunks override a length (RFC 9112, section 6.3); a 204 has no body, and none may be announced (RFC 9110, 8.6).
    if status == 204 or values(headers, b"transfer-encoding"):
        return [(name, value) for name, value in out if name != b"content-length"]
    return list(out)


def switching(headers: Headers) -> bytes:
    """The head of a 101 that switches to WebSocket, ready to be sent."""
    kept = [*_end_to_end(headers, frozenset()), (b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]
    lines = [b"HTTP/1.1 101 Switching Protocols", *(name + b": " + value for name, value in kept), b"", b""]
    return b"\r\n".join(lines)


def _end_to_end(headers: Headers, kept: frozenset[bytes]) -> Iterable[tuple[bytes, bytes]]:
    dropped = HOP_BY_HOP | (tokens(headers, b"connection") - kept)
    return [(name, value) for name, value in headers if name not in dropped]
