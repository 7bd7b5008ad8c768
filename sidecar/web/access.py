"""Who may do what: one caller, one question, one answer. Nothing here does anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address, ip_network
from typing import Any

LISTENER = "sidecar.listener"
"""Key in an ASGI scope's ``state``: on which of our sockets a request came in. Set by the server alone."""
CONNECTION = "sidecar.connection"
"""Key in an ASGI scope's ``state``: the server's end of the connection that a request came on."""
UNIX = "unix"
TCP = "tcp"

_LOCAL_HOST = re.compile(rb"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_FORWARDING = {b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip"}
# Probes of platforms and load balancers come by themselves: they prove no schedule, and keep no Space awake.
_PLATFORM = re.compile(r"kube-probe/|GoogleHC/|ELB-HealthChecker/|Consul Health Check", re.IGNORECASE)
_AGENT_CHARS = 120
_INNER = tuple(
    map(
        ip_network,
        (
            "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
            "::1/128", "fc00::/7", "fe80::/10",
        ),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Caller:
    """What can be told about who sent a request: the socket it came through, its peer, its headers.

    ``headers`` are lower-case names and values as they came, in order; ``peer`` is an IP address, or None.
    """

    listener: str
    peer: str | None
    headers: tuple[tuple[bytes, bytes], ...]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not (an HTTP status and a code), and what to do about it."""

    status: int
    code: str
    detail: str


def caller(scope: Mapping[str, Any]) -> Caller:
    """Who is behind the ASGI ``scope``. What our server did not mark as the Unix socket is TCP."""
    listener = (scope.get("state") or {}).get(LISTENER)
    client = scope.get("client")
    headers = tuple((bytes(k).lower(), bytes(v)) for k, v in scope["headers"])
    return Caller(UNIX if listener == UNIX else TCP, client[0] if client else None, headers)


def crowded(scope: Mapping[str, Any]) -> bool:
    """Did the ASGI ``scope`` come on a connection that is one too many?"""
    connection = (scope.get("state") or {}).get(CONNECTION)
    return connection is not None and connection.crowded


def has_token(who: Caller, api_token: str | None) -> bool:
    """Does the caller present the API token, as ``Authorization: Bearer`` (RFC 6750, section 2.1)?"""
    given = _bearer(who)
    if not api_token or given is None:
        return False
    return compare_digest(_digest(given), _digest(api_token.encode()))  # of equal length: time tells neither


def is_guess(who: Caller, api_token: str | None) -> bool:
    """Does the caller present something that could be meant to be the API token, and isn't?

    The Hub's own token stands in the same header for whoever calls a private Space: that is no guess.
    """
    given = _bearer(who)
    if not api_token or given is None or (given.startswith(b"hf_") and not api_token.startswith("hf_")):
        return False
    return not has_token(who, api_token)


def sees_names(who: Caller, api_token: str | None) -> bool:
    """May the caller read names of files, and sentences that could hold some?"""
    return who.listener == UNIX or has_token(who, api_token)


def refusal(who: Caller, api_token: str | None, upstream: bool) -> Refusal | None:
    """None where the caller may have something done (checkpoint, sync), else why not.

    A page in a browser may neither use a visitor's way to localhost nor a rebound host name: any sign of a
    browser is refused, and a local caller must have named a local host. Behind the front door every visitor
    may look local, so there only the Unix socket and the token count.
    """
    if who.values(b"origin") or who.values(b"sec-fetch-site"):
        return Refusal(
            403,
            "browser",
            "Refused: the request has an Origin or a Sec-Fetch-Site header, so it comes from a web page. "
            "Call this from a program, without these headers.",
        )
    if who.listener == UNIX or has_token(who, api_token):
        return None
    reason = _not_local(who, upstream)
    if reason is None:
        return None
    token = "`Authorization: Bearer <SIDECAR_API_TOKEN>`"
    way = f"Send {token}" if api_token else f"Set the secret SIDECAR_API_TOKEN, restart, and send {token}"
    return Refusal(
        401,
        "unauthorized",
        f"Refused: {reason}. {way}; inside the container `sidecar checkpoint` and `sidecar sync` need none.",
    )


def outside_ping(who: Caller, in_space: bool = False) -> str | None:
    """The user agent, printable and cut, of a caller from outside of this machine and platform; else None.

    ``-`` stands for a caller that names none. ``in_space``: the proxy names each visitor in X-Forwarded-For, so
    whoever comes without one, or by private addresses alone, is the platform itself. Elsewhere a platform's own
    probe can be told only where it says so.
    """
    if who.listener == UNIX:
        return None
    agent = _printable(b" ".join(who.values(b"user-agent")))
    if _PLATFORM.search(agent):
        return None
    hops = b",".join(who.values(b"x-forwarded-for")).decode("latin-1").replace(" ", "").strip(",")
    if in_space:
        outside = not all(map(_is_inner, hops.split(",")))
    elif hops:
        outside = not all(is_loopback(hop) for hop in hops.split(","))
    else:
        outside = _forwarded(who.headers) or not is_loopback(who.peer)
    return (agent or "-") if outside else None


def is_loopback(address: str | None) -> bool:
    """Is ``address`` this machine itself? IPv4 in an IPv6 socket comes as ``::ffff:127.0.0.1``."""
    return address is not None and (address == "::1" or address.removeprefix("::ffff:").startswith("127."))


def _is_inner(address: str) -> bool:
    """Is ``address`` one that no visitor has: of this machine, of the platform's own network, or none?

    Some proxies put the port behind it, or ``unknown`` in its place.
    """
    for form in (address, address.rpartition(":")[0]):
        try:
            found = ip_address(form.strip("[]").removeprefix("::ffff:"))
        except ValueError:
            continue
        return any(found in net for net in _INNER if net.version == found.version)
    return address.lower() in ("", "unknown")


def _bearer(who: Caller) -> bytes | None:
    given = who.values(b"authorization")
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


def _digest(token: bytes) -> bytes:
    return sha256(token).digest()


def _not_local(who: Caller, upstream: bool) -> str | None:
    host = who.values(b"host")
    if who.values(b"authorization"):
        return "the Authorization header does not hold the API token"
    if upstream:
        return "with SIDECAR_UPSTREAM set, every visitor may look local"
    if not is_loopback(who.peer):
        return "the request comes from another machine"
    if _forwarded(who.headers):
        return "the request was forwarded by a proxy"
    if len(host) != 1 or not _LOCAL_HOST.fullmatch(host[0]):
        return "its Host is not localhost or 127.0.0.1"
    return None


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name in _FORWARDING or name.startswith(b"x-forwarded") for name, _ in headers)


def _printable(value: bytes) -> str:
    return "".join(chr(c) if 32 <= c < 127 else "?" for c in value[:_AGENT_CHARS])
