"""One HTTP request, as asyncio's own: within a time limit as a whole, with a bounded answer, never redirected."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

import sidecar

MOST = 4 << 20
AGENT = f"space-sidecar-fleet/{sidecar.__version__}"


class NoAnswer(Exception):
    """Nobody answered, or not in HTTP; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


async def fetch(
    url: str, *, limit_s: float, token: str | None = None, method: str = "GET", body: bytes = b"", kind: str = ""
) -> Answer:
    """Send one request. Raises NoAnswer; ``body`` is of the media type ``kind``."""
    try:
        async with asyncio.timeout(limit_s):
            return await _exchange(url, token, method, body, kind)
    except TimeoutError:
        raise NoAnswer(f"no answer within {limit_s:g} s") from None
    except ssl.SSLError as error:
        raise NoAnswer(f"TLS fails: {error.reason or error}") from None
    except OSError as error:
        raise NoAnswer(_reason(error)) from None
    except h11.ProtocolError as error:
        raise NoAnswer(f"what answers doesn't speak HTTP: {error}") from None
    except UnicodeError:
        raise NoAnswer("its name is no host name") from None


def _reason(error: OSError) -> str:
    """asyncio puts addresses in the place of the system's own words; a resolver's numbers are not the system's."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__


async def _exchange(url: str, token: str | None, method: str, body: bytes, kind: str) -> Answer:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(
        parts.hostname, port, ssl=ssl.create_default_context() if secure else None
    )
    try:
        ours = h11.Connection(h11.CLIENT)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = [("Host", parts.netloc.rpartition("@")[2]), ("User-Agent", AGENT), ("Accept", "application/json")]
        headers += [("Connection", "close")]
        headers += [("Authorization", f"Bearer {token}")] if token else []
        headers += [("Content-Type", kind), ("Content-Length", str(len(body)))] if body else []
        out = ours.send(h11.Request(method=method, target=target, headers=headers)) or b""
        if body:
            out += ours.send(h11.Data(data=body)) or b""
        writer.write(out + (ours.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        return await _answer(ours, reader)
    finally:
        writer.close()
        with suppress(OSError, TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(writer.wait_closed(), 0.2)


async def _answer(ours: h11.Connection, reader: asyncio.StreamReader) -> Answer:
    status, headers, body = 0, dict[str, str](), bytearray()
    while True:
        event = ours.next_event()
        if event is h11.NEED_DATA:
            ours.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in event.headers}
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MOST:
                raise NoAnswer(f"the answer is longer than {MOST >> 20} MB")
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return Answer(status, bytes(body), headers)
