"""Large uploads in a short-lived child process: hf_xet's threads and buffers (some 125 MB) go away with it.

The parent writes one line of JSON to the child's stdin, the token in it: no secret stands in argv or
environment. It keeps stdin open: its end tells the child that the parent is gone. The child says when
the commit itself is on its way, and answers with one line of JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sidecar.stores import base, hubclient
from sidecar.stores.base import Refused, Revision, Source, StoreError, Unavailable
from sidecar.stores.hubcall import Call, Late, Patience, during
from sidecar.stores.hubcommit import Job, commit
from sidecar.stores.huberrors import explain
from sidecar.stores.hubrepo import Place

_KINDS = ("Conflict", "Unavailable", "Denied", "NotFound", "Corrupt", "Refused", "Unsupported")
_POSTED = b"posted\n"
"""The child's word that the commit itself is on its way: from here on the end of the child leaves it open."""

_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


@dataclass(frozen=True, slots=True)
class Order:
    """What a child has to do: ``job``, at ``place`` below ``prefix``; ``xet`` or plain LFS."""

    place: Place
    prefix: str
    job: Job
    cache: Path
    xet: bool


class Children:
    """The uploads that run, so that closing the store can end them."""

    def __init__(self) -> None:
        self._running: set[asyncio.subprocess.Process] = set()

    async def start(self, order: Order) -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sidecar.stores.transfer",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=_environment(order),
        )
        self._running.add(child)
        return child

    async def end(self, child: asyncio.subprocess.Process) -> None:
        """Kill the child's group unless it has ended, and collect it."""
        _kill(child)
        if child.stdin:
            child.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await child.wait()
        self._running.discard(child)

    def kill(self) -> None:
        for child in self._running:
            _kill(child)


def _kill(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)


async def upload(order: Order, call: Call, children: Children) -> Revision:
    """Make ``order``'s commit in a child process; it is killed at the call's deadline and with this task.

    Raises a ``StoreError``, or ``Late``; ``call.posted`` tells whether the commit itself was sent.
    """
    child = await children.start(order)
    assert child.stdin
    assert child.stdout
    assert child.stderr
    said = b""
    complaint = asyncio.create_task(child.stderr.read())
    try:
        async with asyncio.timeout(max(0.0, call.deadline - time.monotonic())):
            child.stdin.write(_line(order, call))
            with suppress(ConnectionError):
                await child.stdin.drain()
            async for line in child.stdout:
                call.posted = call.posted or line == _POSTED
                said = line
            await child.wait()
    except TimeoutError:
        raise Late from None
    finally:
        await children.end(child)
    last = order.place.clean((await complaint).decode("utf-8", "replace").strip().rpartition("\n")[2])
    return _result(said, f"ended with {child.returncode}: {last[:300] or 'no word'}", call.posted)


def _environment(order: Order) -> dict[str, str]:
    """The agent's, plus what keeps the client to itself, and this package wherever it was started from."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
    known = {name: value for name, value in os.environ.items() if name not in _TOKENS}
    ours = hubclient.environment(order.cache, order.place.endpoint)
    return {**known, **ours, "HF_HUB_DISABLE_XET": "0" if order.xet else "1", "PYTHONPATH": path}


def _line(order: Order, call: Call) -> bytes:
    job = order.job
    put = {
        path: {"bytes": base64.b64encode(source).decode()} if isinstance(source, bytes) else {"path": str(source)}
        for path, source in job.put.items()
    }
    line = {
        "place": asdict(order.place),
        "prefix": order.prefix,
        "job": {
            "branch": job.branch,
            "parent": job.parent,
            "delete": job.delete,
            "message": job.message,
        },
        "put": put,
        "patience": asdict(call.patience),
        "seconds": call.deadline - time.monotonic(),
    }
    return json.dumps(line).encode() + b"\n"


def _result(said: bytes, end: str, posted: bool) -> Revision:
    try:
        answer = json.loads(said)
        if "revision" in answer:
            return str(answer["revision"])
        kind, message = answer["kind"], answer["message"]
    except (ValueError, KeyError, TypeError):
        raise Unavailable(f"The process of the upload {end}.", unclear=posted) from None
    if kind == "Unavailable":
        raise Unavailable(message, answer["retry_after"], unclear=answer["unclear"])
    if kind == "Refused":
        raise Refused(message, answer["path"])
    error: type[StoreError] = getattr(base, kind) if kind in _KINDS else StoreError
    raise error(message)


def _failure(error: StoreError) -> dict[str, Any]:
    answer: dict[str, Any] = {"kind": type(error).__name__, "message": error.message}
    if isinstance(error, Unavailable):
        answer |= {"retry_after": error.retry_after, "unclear": error.unclear}
    if isinstance(error, Refused):
        answer["path"] = error.path
    return answer


def _sources(put: Mapping[str, Mapping[str, str]]) -> dict[str, Source]:
    return {
        path: base64.b64decode(item["bytes"]) if "bytes" in item else Path(item["path"]) for path, item in put.items()
    }


def main() -> None:
    """The child: one order from stdin, one answer to stdout; ends at once when stdin does."""
    line = json.loads(sys.stdin.buffer.readline())
    # Whatever the client or hf_xet prints goes to stderr: stdout carries our words alone.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    threading.Thread(target=_watch_parent, daemon=True).start()
    place = Place(**line["place"])
    job = Job(**{**line["job"], "put": _sources(line["put"]), "delete": tuple(line["job"]["delete"])})
    call = Call(Patience(**line["patience"]), line["seconds"], float("inf"))
    call.on_post = lambda: out.write(_POSTED)
    answer: dict[str, Any]
    try:
        with during(call):
            repo = hubclient.open_repo(place, line["prefix"], Path(os.environ["HF_HOME"]))
            answer = {"revision": commit(repo, job, call, plain=False)}
    except Exception as error:
        answer = _failure(explain(error, "commit", place, posted=call.posted, hint=call.patience.hint))
    out.write(json.dumps(answer).encode())
    # Threads of the client that still hang in a request must not hold this process.
    os._exit(0)


def _watch_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(75)


if __name__ == "__main__":
    main()
