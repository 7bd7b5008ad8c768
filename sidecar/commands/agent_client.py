"""Talking to a running agent: over its Unix socket, or over HTTP where only that is asked for. Blocks."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sidecar.errors import SidecarError, TryLater, UsageError
from sidecar.masking import mask
from sidecar.web import unix

OWN = "/_sidecar"
"""Below this an agent answers whatever SIDECAR_PREFIX is."""

CONNECT_S = 5.0
MOST = 16 * 1024 * 1024
"""Bytes of an answer that are read: whoever listens there may be anybody."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP status and a JSON body; ``retry_after`` in seconds where it was said."""

    status: int
    body: dict[str, Any]
    retry_after: float | None = None

    @property
    def why(self) -> str:
        return str(self.body.get("detail") or self.body.get("error") or f"HTTP {self.status}")


class Nobody(TryLater):
    """No agent answers there."""


class _Unix(http.client.HTTPConnection):
    """HTTP over the socket file at ``path``."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_S)
        with unix.address(self.path) as name:
            self.sock.connect(name)
        self.sock.settimeout(self.timeout)


def socket_of(state_dir: str) -> Path:
    return Path(state_dir) / unix.SOCKET_NAME


def over_socket(path: Path, method: str, target: str, timeout: float) -> Reply:
    """Ask the agent whose socket is ``path``. Raises Nobody, SidecarError for another user's, TryLater."""
    try:
        return _exchange(_Unix(path, timeout), method, target, {}, f"the agent at {path}")
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise Nobody(f"no agent answers at {path}") from None
    except PermissionError:
        raise SidecarError(
            f"{path} belongs to another user: run this as the user that the agent runs as, with its SIDECAR_STATE_DIR"
        ) from None


def over_http(url: str, timeout: float, token: str | None = None) -> Reply:
    """GET ``url``; ``token`` goes along as a bearer token. Follows no redirect. Raises Nobody, TryLater, UsageError."""
    shown = mask(url)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise UsageError(f"{shown!r} is no address of a sidecar: write http://HOST[:PORT] or https://HOST")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        return _exchange(kind(host, port, timeout=timeout), "GET", target, headers, shown)
    except OSError as error:
        raise Nobody(f"nobody answers at {shown} ({error.strerror or error})") from None


def _exchange(
    connection: http.client.HTTPConnection, method: str, target: str, headers: dict[str, str], who: str
) -> Reply:
    """One request. OSErrors are those of connecting; what comes later is TryLater."""
    try:
        connection.connect()
        try:
            connection.request(method, target, headers={"accept": "application/json", **headers})
            response = connection.getresponse()
            raw = response.read(MOST)
        except TimeoutError:
            raise TryLater(f"{who} gave no answer within {connection.timeout:g} s. Try again") from None
        except (OSError, http.client.HTTPException) as error:
            what = str(error) or type(error).__name__
            raise TryLater(f"{who} went away before it answered ({what}). Try again") from None
    finally:
        connection.close()
    after = response.headers.get("retry-after", "")
    return Reply(response.status, _body(raw, response, who), float(after) if after.isdecimal() else None)


def _body(raw: bytes, response: http.client.HTTPResponse, who: str) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        where = response.headers.get("location")
        hint = f", it points to {mask(where)!r}" if where else ""
        raise SidecarError(
            f"{who} answers (HTTP {response.status}{hint}), but not as a sidecar does: is it the right address, and is "
            "the Space public or awake? With SIDECAR_PREFIX the prefix belongs into the URL"
        )
    return body
