"""Bytes out of files over HTTP: whole, one range, or several ranges as multipart/byteranges."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_CHUNK = 256 * 1024
_RANGE = re.compile(r"(\d*)-(\d*)")


def parse_ranges(header: str | None, size: int) -> list[tuple[int, int]] | None:
    """Ranges as (start, end), end exclusive. None: no usable header, send all; []: none can be satisfied."""
    if header is None or not header.startswith("bytes="):
        return None
    ranges = []
    for part in header[6:].split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None or match.group() == "-":
            return None
        first, last = match.groups()
        if first:
            start, end = int(first), min(int(last) + 1 if last else size, size)
        else:
            start, end = max(0, size - int(last)), size
        if start < end:
            ranges.append((start, end))
    return ranges


def serve_file(path: Path, headers: Mapping[str, str], asked: str | None, *, head: bool = False) -> Response:
    """Answer with the file at `path`: 200, 206 or 416, by the Range header `asked`."""
    size = path.stat().st_size
    base = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    ranges = parse_ranges(asked, size)
    if ranges is None:
        whole = {**base, "Content-Length": str(size)}
        return Response(None, 200, whole) if head else _body(path, [(b"", 0, size)], 200, whole)
    if not ranges:
        return Response(None, 416, {**base, "Content-Range": f"bytes */{size}"})
    if len(ranges) == 1:
        start, end = ranges[0]
        part = {**base, "Content-Range": f"bytes {start}-{end - 1}/{size}"}
        part["Content-Length"] = str(end - start)
        return Response(None, 206, part) if head else _body(path, [(b"", start, end)], 206, part)
    mark = secrets.token_hex(12)
    pieces = [
        (
            f"\r\n--{mark}\r\nContent-Type: application/octet-stream\r\n"
            f"Content-Range: bytes {start}-{end - 1}/{size}\r\n\r\n".encode(),
            start,
            end,
        )
        for start, end in ranges
    ]
    pieces.append((f"\r\n--{mark}--\r\n".encode(), 0, 0))
    length = sum(len(lead) + end - start for lead, start, end in pieces)
    multi = {
        **base,
        "Content-Type": f"multipart/byteranges; boundary={mark}",
        "Content-Length": str(length),
    }
    return _body(path, pieces, 206, multi)


def _body(path: Path, pieces: list[tuple[bytes, int, int]], status: int, headers: dict[str, str]) -> Response:
    if len(pieces) == 1 and pieces[0][2] - pieces[0][1] <= _CHUNK:
        with path.open("rb") as file:
            file.seek(pieces[0][1])
            return Response(file.read(pieces[0][2] - pieces[0][1]), status, headers)
    return _FileResponse(path, pieces, status, headers)


class _FileResponse(Response):
    """Pieces of a file, read as they are sent; the file is closed however the sending ends."""

    def __init__(
        self, path: Path, pieces: list[tuple[bytes, int, int]], status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(None, status, headers)
        self.path, self.pieces = path, pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        transport = scope["state"]["transport"]
        # Reads come from the page cache: a hop to a thread would cost more than they do.
        with self.path.open("rb") as file:
            for lead, start, end in self.pieces:
                if lead:
                    await send({"type": "http.response.body", "body": lead, "more_body": True})
                file.seek(start)
                while start < end and not transport.is_closing():
                    data = file.read(min(_CHUNK, end - start))
                    start += len(data)
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
