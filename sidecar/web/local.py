"""How our own commands ask the running agent: one blocking request over its Unix socket."""

from __future__ import annotations

import errno
import http.client
import json
import socket
from pathlib import Path
from typing import Any

from sidecar.errors import SidecarError, TryLater
from sidecar.web.unix import address

_NOBODY = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR})
_LARGEST = 16 * 1024 * 1024


def request(socket_path: Path, method: str, path: str, timeout: float) -> tuple[int, dict[str, Any]]:
    """The HTTP status and JSON body that the agent at ``socket_path`` answers; ``timeout`` in seconds.

    ``path`` is a request target, with its query already encoded. Raises ``TryLater`` where no agent listens
    or none answers in time, ``SidecarError`` where the socket is not ours to use or no agent is behind it.
    """
    connection = _UnixConnection(socket_path, timeout)
    try:
        connection.request(method, path, headers={"Accept": "application/json", "Connection": "close"})
        response = connection.getresponse()
        raw = response.read(_LARGEST + 1)
    except TimeoutError:
        raise TryLater(
            f"the agent at {str(socket_path)!r} did not answer within {timeout:g} s; "
            "it may still do what was asked. Try again, or see its log"
        ) from None
    except PermissionError:
        raise SidecarError(
            f"the agent's socket {str(socket_path)!r} belongs to another user; run this as the agent's user"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in _NOBODY:
            raise TryLater(
                f"no agent is running here (nobody listens at {str(socket_path)!r}); "
                "is SIDECAR_STATE_DIR the same as the agent's?"
            ) from None
        raise TryLater(f"the agent went away while it was asked ({error or type(error).__name__})") from None
    finally:
        connection.close()
    return response.status, _object(raw, socket_path)


def _object(raw: bytes, socket_path: Path) -> dict[str, Any]:
    try:
        if len(raw) > _LARGEST:
            raise ValueError
        body = json.loads(raw)
        if not isinstance(body, dict):
            raise ValueError
    except ValueError:
        raise SidecarError(f"what answers at {str(socket_path)!r} is not a sidecar agent") from None
    return body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with address(self._socket_path) as name:
            self.sock.connect(name)
