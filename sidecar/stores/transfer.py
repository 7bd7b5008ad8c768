"""Large uploads in a short-lived child process: hf_xet's threads and buffers (some 125 MB) go away with it.

The parent writes one line of JSON to the child's stdin, the token in it: no secret in argv or environment. It keeps
stdin open: its end tells the child that the parent is gone. The child answers with one line of JSON on stdout.
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sidecar.stores import base, hubclient
from sidecar.stores.base import Refused, Revision, Source, StoreError, Unavailable
from sidecar.stores.hubcall import Call, Late, Patience, during
from sidecar.stores.hubcommit import Job, commit
from sidecar.stores.huberrors import Place, explain
from sidecar.stores.hubread import Repo

_KINDS = ("Conflict", "Unavailable", "Denied", "NotFound", "Corrupt", "Refused", "Unsupported")


async def upload(
    place: Place, prefix: str, job: Job, call: Call, cache: Path, running: set[asyncio.subprocess.Process]
) -> Revision:
    """Make ``job``'s commit in a child process; it is killed at the call's deadline and when this is cancelled.

    Raises a ``StoreError``; ``Unavailable.unclear`` where the child was ended before it could answer. The child
    stands in ``running`` while it lives.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sidecar.stores.transfer",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env=_environment(cache, place.endpoint),
    )
    running.add(child)
    try:
        async with asyncio.timeout(max(0.0, call.deadline - time.monotonic())):
            assert child.stdin and child.stdout and child.stderr
            child.stdin.write(_order(place, prefix, job, call))
            with suppress(ConnectionError):
                await child.stdin.drain()
            said, complaint = await asyncio.gather(child.stdout.read(), child.stderr.read())
    except TimeoutError:
        call.posted = True
        raise Late from None
    finally:
        running.discard(child)
        await _end(child)
    return _result(said, complaint, child.returncode, place)


def _environment(cache: Path, endpoint: str) -> dict[str, str]:
    """The agent's, plus what makes the client keep to itself, and this package wherever it was started from."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
    known = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    }
    return {**known, **hubclient.environment(cache, endpoint), "PYTHONPATH": path}


def _order(place: Place, prefix: str, job: Job, call: Call) -> bytes:
    put = {
        path: {"bytes": base64.b64encode(source).decode()}
        if isinstance(source, bytes)
        else {"path": str(source)}
        for path, source in job.put.items()
    }
    order = {
        "place": asdict(place),
        "prefix": prefix,
        "branch": job.branch,
        "parent": job.parent,
        "put": put,
        "delete": job.delete,
        "message": job.message,
        "patience": asdict(call.patience),
        "seconds": call.deadline - time.monotonic(),
    }
    return json.dumps(order).encode() + b"\n"


async def _end(child: asyncio.subprocess.Process) -> None:
    """Kill the child's whole group, whether it has ended or not, and collect it."""
    if child.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    if child.stdin:
        child.stdin.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            await child.wait()


def _result(said: bytes, complaint: bytes, code: int | None, place: Place) -> Revision:
    try:
        answer = json.loads(said)
        if "revision" in answer:
            return str(answer["revision"])
        kind, message = answer["kind"], answer["message"]
    except (ValueError, KeyError, TypeError):
        last = place.clean(complaint.decode("utf-8", "replace").strip().rpartition("\n")[2])[:300]
        raise Unavailable(
            f"The upload's process ended with {code}: {last or 'no word'}.", unclear=True
        ) from None
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
        path: base64.b64decode(item["bytes"]) if "bytes" in item else Path(item["path"])
        for path, item in put.items()
    }


def main() -> None:
    """The child: one order from stdin, one answer to stdout; ends at once when stdin does."""
    order = json.loads(sys.stdin.buffer.readline())
    # Whatever the client or hf_xet prints goes to stderr: stdout carries the answer alone.
    answer_to = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(75)), daemon=True).start()
    place = Place(**order["place"])
    call = Call(Patience(**order["patience"]), order["seconds"], time.monotonic() + order["seconds"])
    job = Job(
        order["branch"], order["parent"], _sources(order["put"]), tuple(order["delete"]), order["message"]
    )
    try:
        with during(call):
            hub = hubclient.load(Path(os.environ["HF_HOME"]), place.endpoint)
            api = hub.HfApi(endpoint=place.endpoint, token=place.token or False)
            repo = Repo(api, place.repo, place.branch, order["prefix"], place.endpoint, place.token)
            answer = {"revision": commit(repo, job, call)}
    except Exception as error:
        answer = _failure(explain(error, "upload", place, posted=call.posted, hint=call.patience.hint))
    with os.fdopen(answer_to, "wb") as out:
        out.write(json.dumps(answer).encode())
    # Threads of the client that still hang in a request must not hold this process.
    os._exit(0)


if __name__ == "__main__":
    main()
