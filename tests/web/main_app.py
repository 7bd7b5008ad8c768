"""A main app as people write them: Starlette under uvicorn, in a process of its own. ``python -m … PORT``."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

MB = bytes(range(256)) * 4096
cancelled: list[str] = []
_open: list[Any] = []


async def echo(request: Request) -> Response:
    """What came, as the app sees it."""
    scope = request.scope
    return JSONResponse(
        {
            "method": scope["method"],
            "raw_path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            "body": (await request.body()).decode("latin-1"),
        }
    )


async def upload(request: Request) -> Response:
    digest, size = hashlib.sha256(), 0
    async for chunk in request.stream():
        digest.update(chunk)
        size += len(chunk)
    return JSONResponse({"sha256": digest.hexdigest(), "size": size})


async def download(request: Request) -> Response:
    megabytes = int(request.query_params["mb"])

    async def body() -> AsyncIterator[bytes]:
        for _ in range(megabytes):
            yield MB

    length = {} if "chunked" in request.query_params else {"content-length": str(megabytes * len(MB))}
    return StreamingResponse(body(), headers=length, media_type="application/octet-stream")


@cache
def large_file() -> str:
    """A file of 1 MB, which goes with the process."""
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115  kept open by the list, for as long as the process lives
    file.write(MB)
    file.flush()
    _open.append(file)
    return file.name


async def large(request: Request) -> Response:
    return FileResponse(large_file())


async def events(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        try:
            for number in range(int(request.query_params.get("n", 1000))):
                yield f"data: {number}\n\n".encode()
                await asyncio.sleep(0.15)
        except asyncio.CancelledError:
            cancelled.append("events")
            raise

    return StreamingResponse(body(), media_type="text/event-stream")


async def clock(request: Request) -> Response:
    """Events that say when they were made."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(int(request.query_params["n"])):
            yield b"data: %f\n\n" % time.monotonic()
            await asyncio.sleep(0.005)

    return StreamingResponse(body(), media_type="text/event-stream")


async def hang(request: Request) -> Response:
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
    cancelled.append("hang")
    return Response()


async def small(request: Request) -> Response:
    return Response(MB[:1024])


async def seen(request: Request) -> Response:
    return JSONResponse(cancelled)


async def status(request: Request) -> Response:
    code = request.path_params["code"]
    headers = {"location": "http://elsewhere.example/x?y#z", "etag": '"1"', "connection": "x-hop", "x-hop": "1"}
    response = Response(b"" if code in (204, 304) else b"body", code, headers)
    response.headers.append("set-cookie", "a=1; Path=/")
    response.headers.append("set-cookie", "b=2; Path=/")
    return response


async def itself(request: Request) -> Response:
    return FileResponse(__file__)


async def socket(ws: WebSocket) -> None:
    """Sends back what comes; a text "close CODE" closes with it."""
    await ws.accept(subprotocol=next(iter(ws.scope["subprotocols"]), None), headers=[(b"x-app", b"yes")])
    try:
        while True:
            message = await ws.receive()
            if message["type"] == "websocket.disconnect":
                cancelled.append(f"socket {message['code']}")
                return None
            if message.get("bytes") is not None:
                await ws.send_bytes(message["bytes"])
            elif message["text"].startswith("close "):
                return await ws.close(int(message["text"][6:]), "as you wish")
            else:
                await ws.send_text(message["text"])
    except WebSocketDisconnect:
        pass


async def refuse(ws: WebSocket) -> None:
    await ws.close()


ANY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]
app: Any = Starlette(
    routes=[
        Route("/upload", upload, methods=["POST", "PUT"]),
        Route("/download", download),
        Route("/large", large),
        Route("/events", events),
        Route("/clock", clock),
        Route("/k", small),
        Route("/hang", hang, methods=["GET", "POST"]),
        Route("/seen", seen),
        Route("/file", itself),
        Route("/status/{code:int}", status, methods=["GET", "HEAD", "POST"]),
        WebSocketRoute("/socket", socket),
        WebSocketRoute("/refuse", refuse),
        Route("/{path:path}", echo, methods=ANY),
    ]
)


def start(port: int) -> subprocess.Popen[bytes]:
    """This app as a process, which ends by ``terminate``."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    return subprocess.Popen([sys.executable, "-m", "tests.web.main_app", str(port)], env=environ)


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        http=sys.argv[2] if len(sys.argv) > 2 else "h11",
        ws="websockets-sansio",
        ws_max_size=64 << 20,
    )
