"""`LocalHub`: starts the server in a thread or a process of its own, and the side door as Python methods."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.serving import HOST, Server, prepare
from tests.hub.state import Hub

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 20.0


class AdminError(Exception):
    """The side door refused a call: its status and what it said."""


class LocalHub:
    """A Hub on 127.0.0.1: in a thread (starts in 20 ms) or, with `process=True`, in a process to kill.

    `data` keeps repos over restarts; without it a temporary folder goes with the object. `stop` and `start`
    keep the port, so that a client sees an outage and a return. Repos are datasets unless said otherwise.
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        port: int = 0,
        process: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._own = None if data else tempfile.mkdtemp(prefix="local-hub-")
        self.data = Path(data or self._own or "")
        self.port = port
        self._process = process
        self._settings = dict(settings or {})
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> LocalHub:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)

    # -- life --

    def start(self) -> None:
        """Raises RuntimeError where the server does not come up, OSError where the port is taken."""
        if self._process:
            self._start_process()
        else:
            self._start_thread()
        if self._settings:
            self.settings(**self._settings)

    def stop(self) -> None:
        """Stop in order; open requests get half a second. Twice does no harm."""
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            self._end_child()
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join(10)
            self._server = self._thread = None

    def kill(self) -> None:
        """SIGKILL, for `process=True` only."""
        if self._child is None:
            raise RuntimeError("only a hub with process=True can be killed")
        self._child.kill()
        self._end_child()

    def _start_thread(self) -> None:
        server, sockets = prepare(Hub(self.data), self.port)
        self.port = sockets[0].getsockname()[1]
        self._server = server
        self._thread = threading.Thread(target=_run, args=(server, sockets), name="local-hub", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the local Hub did not start")
            time.sleep(0.002)

    def _start_process(self) -> None:
        command = [sys.executable, "-m", "tests.hub", "--port", str(self.port), "--data", str(self.data)]
        env = {**os.environ, "PYTHONPATH": str(_ROOT)}
        self._child = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, env=env)
        assert self._child.stdout is not None
        line = self._child.stdout.readline().strip()
        if not line.startswith("http://"):
            self._end_child()
            raise RuntimeError(f"the local Hub did not start: {line!r}")
        self.port = int(line.rpartition(":")[2])

    def _end_child(self) -> None:
        assert self._child is not None
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(10)
        if self._child.stdout is not None:
            self._child.stdout.close()
        self._child = None

    # -- clients --

    def api(self, token: str | bool = DEFAULT_TOKEN) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.url, token=token)

    def env(self, token: str | None = DEFAULT_TOKEN, *, home: Path | None = None) -> dict[str, str]:
        """What a client process needs in its environment to work with this Hub and no other."""
        values = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HOME": str(home or self.data / "hf-home"),
        }
        return values if token is None else {**values, "HF_TOKEN": token}

    # -- the side door --

    def admin(self, method: str, path: str, body: Any = None, /, **query: Any) -> bytes:
        """One call of /__admin__/{path}. Raises AdminError for any answer but 200."""
        given = {k: v for k, v in query.items() if v is not None}
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            target = f"/__admin__/{path}" + (f"?{urlencode(given)}" if given else "")
            connection.request(method, target, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise AdminError(f"{method} {path}: {response.status} {content.decode('utf-8', 'replace')}")
        return content

    def _json(self, method: str, path: str, body: Any = None, /, **query: Any) -> Any:
        return json.loads(self.admin(method, path, body, **query))

    def reset(self) -> None:
        """Forget counters, requests, faults and rate windows; repos and tokens stay."""
        self._json("POST", "reset")

    def settings(self, **values: Any) -> dict[str, Any]:
        """Change settings (see `state.Settings`) and return all of them."""
        changed: dict[str, Any] = self._json("POST", "settings", values)
        return changed

    def counters(self) -> dict[str, dict[str, Any]]:
        """By endpoint: count, bytes_in, bytes_out (bodies), statuses."""
        found: dict[str, dict[str, Any]] = self._json("GET", "counters")
        return found

    def count(self, endpoint: str) -> int:
        return int(self.counters().get(endpoint, {"count": 0})["count"])

    def requests(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """The last 5,000 requests, oldest first: endpoint, method, path, status, bytes, fault, …"""
        return [r for r in self._json("GET", "requests") if endpoint in (None, r["endpoint"])]

    def add_token(
        self,
        token: str,
        user: str,
        role: str = "write",
        *,
        scopes: Iterable[tuple[str, str, Iterable[str]]] = (),
        expired: bool = False,
        expiration: str = "",
    ) -> None:
        """`scopes` of a fineGrained token, e.g. [("dataset", "alice/x", ["repo.write"])]; `expiration` is only told."""
        listed = [{"entity": e, "name": n, "permissions": list(p)} for e, n, p in scopes]
        body = {"token": token, "user": user, "role": role, "scopes": listed, "expired": expired}
        body["expiration"] = expiration
        self._json("POST", "tokens", body)

    def revoke_token(self, token: str) -> None:
        self._json("DELETE", "tokens", {"token": token})

    def set_orgs(self, user: str, orgs: Iterable[str]) -> None:
        self._json("POST", "orgs", {"user": user, "orgs": list(orgs)})

    def fault(self, action: str = "status", **fields: Any) -> int:
        """Add a fault rule (see `faults.Rule` for its fields) and return its id."""
        return int(self._json("POST", "faults", {"action": action, **fields})["id"])

    def faults(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._json("GET", "faults")
        return found

    def fired(self, rule: int) -> int:
        return next(int(r["fired"]) for r in self.faults() if r["id"] == rule)

    def clear_faults(self, rule: int | None = None) -> None:
        self._json("DELETE", "faults", id=rule)

    def create_repo(self, repo: str, *, type: str = "dataset", private: bool = True) -> str:
        """Returns the sha of its first commit."""
        return str(self._json("POST", "repos", {"repo": repo, "type": type, "private": private})["sha"])

    def delete_repo(self, repo: str, *, type: str = "dataset") -> None:
        self._json("DELETE", "repos", {"repo": repo, "type": type})

    def repos(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._json("GET", "repos")
        return found

    def rename_repo(self, repo: str, to: str, *, type: str = "dataset") -> None:
        self._json("POST", "rename", {"repo": repo, "to": to, "type": type})

    def set_private(self, repo: str, private: bool, *, type: str = "dataset") -> None:
        self._json("POST", "visibility", {"repo": repo, "private": private, "type": type})

    def commits(self, repo: str, revision: str = "main", *, type: str = "dataset") -> list[dict[str, Any]]:
        """Newest first: sha, parent, title, description, author, date, put, drop."""
        found: list[dict[str, Any]] = self._json("GET", "commits", repo=repo, revision=revision, type=type)
        return found

    def head(self, repo: str, branch: str = "main", *, type: str = "dataset") -> str:
        return str(self.commits(repo, branch, type=type)[0]["sha"])

    def entries(self, repo: str, revision: str = "main", *, type: str = "dataset") -> dict[str, dict[str, Any]]:
        """By path: sha256, size, oid, lfs."""
        found: dict[str, dict[str, Any]] = self._json("GET", "files", repo=repo, revision=revision, type=type)
        return found

    def read(self, repo: str, path: str, revision: str = "main", *, type: str = "dataset") -> bytes:
        return self.admin("GET", "content", repo=repo, path=path, revision=revision, type=type)

    def files(self, repo: str, revision: str = "main", *, type: str = "dataset") -> dict[str, bytes]:
        """Every file's bytes but `.gitattributes`, which the Hub itself brings."""
        paths = self.entries(repo, revision, type=type)
        return {p: self.read(repo, p, revision, type=type) for p in paths if p != ".gitattributes"}

    def edit(
        self,
        repo: str,
        put: Mapping[str, bytes] | None = None,
        delete: Iterable[str] = (),
        *,
        branch: str = "main",
        title: str = "Edit from outside",
        type: str = "dataset",
        date: str | None = None,
    ) -> str:
        """A commit by somebody else; a deletion that ends with / takes a whole folder. Returns its sha."""
        coded = {path: base64.b64encode(data).decode() for path, data in (put or {}).items()}
        body = {
            "repo": repo,
            "put": coded,
            "delete": list(delete),
            "branch": branch,
            "title": title,
            "type": type,
            "date": date,
        }
        return str(self._json("POST", "edit", body)["sha"])

    def squash(self, repo: str, branch: str = "main", *, type: str = "dataset") -> str:
        return str(self._json("POST", "squash", {"repo": repo, "branch": branch, "type": type})["sha"])

    def branches(self, repo: str, *, type: str = "dataset") -> dict[str, str]:
        name = next(r for r in self.repos() if r["repo"] == repo and r["type"] == type)
        return dict(name["branches"])

    def set_branch(self, repo: str, branch: str, revision: str, *, type: str = "dataset") -> None:
        """Point a branch elsewhere, as a force push does."""
        self._json("POST", "branches", {"repo": repo, "branch": branch, "revision": revision, "type": type})

    def used(self, repo: str, *, type: str = "dataset") -> int:
        """Bytes that count against storage: every large object ever pushed, and the regular files."""
        return int(self._json("GET", "usage", repo=repo, type=type)["used"])


def _run(server: Server, sockets: list[socket.socket]) -> None:
    asyncio.run(server.serve(sockets))
