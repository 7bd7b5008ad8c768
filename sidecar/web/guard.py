"""Which request heads are refused before anybody acts on them: those that two readers may read in two ways.

A front door that reads a request's length otherwise than the app behind it lets one visitor's bytes become
another visitor's request (RFC 9112, section 11.2). h11 is strict about most of it; what it would mend
silently (equal lengths twice, folded lines, bare line feeds) is refused here instead.
"""

from __future__ import annotations

import re
from typing import Any

import h11

HEAD_MAX = 64 * 1024
"""Bytes of a request's or a response's head; beyond it is refused. Node takes 16 KB, nginx 32 KB."""

_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\0")
_NO_HOST = re.compile(rb"""[\x00-\x20\x7f"#/<>?@\\^`{|}]""")
_LENGTH = re.compile(rb"[0-9]{1,18}")


def why_refused(head: bytes) -> str | None:
    """Why the request head ``head`` (with its empty last line) is refused, None where it reads in one way only."""
    if _BARE.search(head):
        return "a bare line feed, carriage return or NUL in the head"
    if len(head) > HEAD_MAX:
        return "a head that is too long"
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if not first.endswith((b" HTTP/1.1", b" HTTP/1.0")):
        return "a version other than HTTP/1.1 and HTTP/1.0"
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            return "a folded header line"
        initial = line[:1]
        if initial in b"cC" and line[:15].lower() == b"content-length:":
            lengths.append(line[15:].strip(b" \t"))
        elif initial in b"hH" and line[:5].lower() == b"host:":
            if not is_host(line[5:].strip(b" \t")):
                return "a Host that is none"
        elif initial in b"tT" and line[:18].lower() == b"transfer-encoding:":
            codings.append(line[18:].strip(b" \t").lower())
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
        return "more than one Content-Length, or one that is no number"
    if codings and lengths:
        return "both Content-Length and Transfer-Encoding"
    if codings not in ([], [b"chunked"]):
        return "a Transfer-Encoding other than chunked"
    if codings and first.endswith(b"HTTP/1.0"):
        return "a Transfer-Encoding in HTTP/1.0"
    return None


def is_host(value: bytes) -> bool:
    """Can ``value`` be a host and a port (RFC 9112, section 3.2), or nothing? Apps build links from it."""
    return _NO_HOST.search(value) is None


def origin_form(method: str, target: bytes) -> tuple[bytes, bytes | None]:
    """A request target as an app gets it, and the host where the target named one (RFC 9112, section 3.2).

    Raises ValueError for what only a forward proxy would serve.
    """
    if method == "CONNECT":
        raise ValueError("CONNECT asks for a tunnel: this is no forward proxy")
    if target.startswith(b"/") or (target == b"*" and method == "OPTIONS"):
        return target, None
    scheme, separator, rest = target.partition(b"://")
    if separator and scheme.lower() in (b"http", b"https"):
        cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        host = rest[:cut]
        if host and is_host(host):
            path = rest[cut:]
            return (path if path.startswith(b"/") else b"/" + path), host
    raise ValueError("the request's target is no path: this is no forward proxy")


class Strict(h11.Connection):
    """h11's server side that refuses what `why_refused` refuses. ``target`` is the last request's, as it came."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_MAX)
        self.target = b""
        self._may_end = False

    def receive_data(self, data: bytes) -> None:
        # A head ends with a line feed: without one in what came, there is no need to look at all of it again.
        self._may_end = self._may_end or b"\n" in data
        super().receive_data(data)

    def next_event(self) -> Any:
        if self.their_state is not h11.IDLE or not self._may_end:
            return super().next_event()
        before = self.trailing_data[0]
        event = super().next_event()
        if type(event) is h11.Request:
            reason = why_refused(before[: len(before) - len(self.trailing_data[0])])
            if reason is not None:
                raise h11.RemoteProtocolError(reason)
            self.target = event.target
        self._may_end = event is not h11.NEED_DATA and bool(self.trailing_data[0])
        return event
