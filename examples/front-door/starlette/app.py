"""A page that counts up by server-sent events, kept in a file: Starlette under uvicorn, behind the front door."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

COUNT = Path(os.environ.get("DATA_DIR", "/data")) / "count"
PAGE = """<!doctype html><title>Counter</title><p id="count">-</p><script>
new EventSource('/events').onmessage = e => document.getElementById('count').textContent = e.data
</script>"""


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE)


async def events(request: Request) -> Response:
    async def counting() -> AsyncIterator[str]:
        while True:
            count = int(COUNT.read_text()) + 1 if COUNT.exists() else 1
            COUNT.write_text(str(count))
            yield f"data: {count}\n\n"
            await asyncio.sleep(0.5)

    return StreamingResponse(counting(), media_type="text/event-stream")


app = Starlette(routes=[Route("/", page), Route("/events", events)])

if __name__ == "__main__":
    # uvicorn believes X-Forwarded-Proto and -For from 127.0.0.1, which is where the front door is.
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "7861")))
