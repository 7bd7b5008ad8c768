"""The Hub's own client, kept to our limits: imported late, each request bounded, none repeated by itself.

huggingface_hub sends most requests without any timeout, and repeats some of them after waits that the
server may choose freely (``utils/_http.py``, ``_http_backoff_base``). Both end here, in a transport beneath
its HTTP client: it sets the timeouts of every single request, and turns each failure into an exception that
the client doesn't know and hence neither repeats nor rewords. What is repeated, and until when, is decided
in ``hubcall``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import getproxies, proxy_bypass

import sidecar
from sidecar.stores.hubcall import Answered, Call, Lost, Patience, current
from sidecar.stores.hubrepo import Place, Repo

_BODY = 64 * 1024
"""How much of a failure's text is read, in bytes."""

_CONFLICTING = "another conflicting operation is in progress"
"""On this answer to its creation of a repo (409) the client would ask again for ever, without a pause."""


def environment(cache: Path, endpoint: str | None) -> dict[str, str]:
    """What the client reads at its import, so that it keeps to itself and leaves the app's cache alone."""
    values = {
        "HF_HOME": str(cache),
        "HF_XET_CACHE": str(cache / "xet"),
        # What it knows of earlier uploads; by itself it would keep 16 GB of that on the app's disk.
        "HF_XET_SHARD_CACHE_SIZE_LIMIT": "256mb",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_VERBOSITY": "critical",
        # Meant for the models of the main app; the store was asked for by its name.
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
    }
    return {**values, "HF_ENDPOINT": endpoint} if endpoint else values


_loading = threading.Lock()
_loaded: ModuleType | None = None


def load(cache: Path, endpoint: str | None) -> ModuleType:
    """Import huggingface_hub over our transport; costs 0.1 s of CPU the first time, so in a worker thread.

    The environment is as before when this returns: children of the agent must not inherit our cache.
    """
    global _loaded
    with _loading:
        if _loaded is None:
            _loaded = _ours(cache, endpoint, _base)
            _loaded.set_client_factory(new_client)
            # Remarks on a dataset card that we write ourselves, and the like.
            warnings.filterwarnings("ignore", module=r"huggingface_hub\b")
    return _loaded


def _base() -> ModuleType:
    hub = importlib.import_module("huggingface_hub")
    # It imports by need; it reads the environment here and where its logging is first used.
    importlib.import_module("huggingface_hub.constants")
    getattr(hub, "get_session")  # noqa: B009
    importlib.import_module("huggingface_hub.utils.logging").get_logger("huggingface_hub")
    return hub


def _ours(cache: Path, endpoint: str | None, imports: Callable[[], ModuleType]) -> ModuleType:
    """Let the client be imported with our environment."""
    values = environment(cache, endpoint)
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        return imports()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _api(place: Place, cache: Path) -> Any:
    """The client's methods; another 0.1 s and several MB the first time, which a download doesn't need."""

    def imports() -> ModuleType:
        importlib.import_module("huggingface_hub._commit_api")
        return importlib.import_module("huggingface_hub.hf_api")

    with _loading:
        module = _ours(cache, place.endpoint, imports)
    return module.HfApi(endpoint=place.endpoint, token=place.token or False, library_name="space-sidecar")


_users: set[object] = set()


def open_repo(place: Place, prefix: str, cache: Path, user: object = None) -> Repo:
    """The dataset at ``place`` through the client, which is loaded for ``user`` until its ``leave``."""
    load(cache, place.endpoint)
    with _loading:
        _users.add(user)
    return Repo(partial(_api, place, cache), place, prefix)


def leave(user: object) -> None:
    """Close the client's connections, which all stores share, when nobody else uses them."""
    with _loading:
        _users.discard(user)
        if _loaded is not None and not _users:
            _loaded.close_session()


def xet_possible() -> bool:
    """Would the client send large files over Xet? It asks the same; hf_xet isn't imported for it."""
    off = os.environ.get("HF_HUB_DISABLE_XET", "").upper() in ("1", "ON", "YES", "TRUE")
    return not off and importlib.util.find_spec("hf_xet") is not None


def headers(token: str | None) -> dict[str, str]:
    """Headers of a request that we make ourselves, as the client makes its own.

    Not by its ``build_hf_headers``: what that imports (PyYAML, filelock) takes 30 ms, which a restore waits for.
    """
    hub = importlib.import_module("huggingface_hub").__version__
    python = ".".join(map(str, sys.version_info[:3]))
    agent = {"user-agent": f"space-sidecar/{sidecar.__version__}; hf_hub/{hub}; python/{python}"}
    if origin := os.environ.get("HF_HUB_USER_AGENT_ORIGIN"):
        agent["user-agent"] += f"; origin/{origin}"
    return {**agent, "authorization": f"Bearer {token}"} if token else agent


def session() -> Any:
    """The client's HTTP session (an ``httpx.Client`` in 1.x, ``httpx2`` in 2.x), shared by all stores."""
    return importlib.import_module("huggingface_hub").get_session()


def new_client() -> Any:
    """A client of the HTTP library that huggingface_hub itself uses, over our transport."""
    errors = importlib.import_module("huggingface_hub.errors")
    # 1.x builds on httpx, 2.x on httpx2. Both may be installed; the base class tells which one is meant.
    base = next(c for c in errors.HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")
    httpx = importlib.import_module(base.__module__.partition(".")[0])
    return httpx.Client(transport=_transport(httpx), follow_redirects=True, timeout=None)


_READ = 512 * 1024
"""Bytes of one read: httpcore's 64 kB cost 1.0 s of CPU a gigabyte, from here on it is 0.3 s (measured)."""


def _read_more(httpx: Any) -> None:
    core = importlib.import_module(httpx.__name__.replace("httpx", "httpcore"))
    with suppress(AttributeError):  # another version: it is only slower then
        core.HTTP11Connection.READ_NUM_BYTES = max(_READ, core.HTTP11Connection.READ_NUM_BYTES)


def _transport(httpx: Any) -> Any:
    _read_more(httpx)

    class Watched(httpx.SyncByteStream):  # type: ignore[misc]  # which library is known at run time only
        """A body, in or out, that ends with its call."""

        def __init__(self, inner: Any, call: Call) -> None:
            self._inner = inner
            self._call = call

        def __iter__(self) -> Iterator[bytes]:
            with _translated(httpx):
                for chunk in self._inner:
                    self._call.left()
                    yield chunk

        def close(self) -> None:
            self._inner.close()

    class Bounded(httpx.BaseTransport):  # type: ignore[misc]
        def __init__(self) -> None:
            self._limits = httpx.Limits(max_connections=32, max_keepalive_connections=8, keepalive_expiry=10.0)
            self._ways: dict[tuple[bool, str], Any] = {}
            self._lock = threading.Lock()

        def handle_request(self, request: Any) -> Any:
            call = current()
            commit = request.method == "POST" and "/commit/" in request.url.path
            patience = call.patience if call else Patience()
            read = patience.commit if commit else patience.read
            wanted = {
                "connect": patience.connect,
                "read": read,
                "write": patience.read,
                "pool": patience.read,
            }
            if call is None:  # not ours: bounded all the same, else as the client would have it
                request.extensions = {**request.extensions, "timeout": wanted}
                return self._route(request.url).handle_request(request)
            left = call.left()
            bounded = {name: min(value, left) for name, value in wanted.items()}
            request.extensions = {**request.extensions, "timeout": bounded}
            if request.method in ("POST", "PUT"):
                request.stream = Watched(request.stream, call)
            posted, call.posted = call.posted, call.posted or commit
            if commit:
                call.on_post()
            try:
                with _translated(httpx):
                    response = self._route(request.url).handle_request(request)
            except Lost as lost:
                call.posted = call.posted if lost.sent else posted
                raise
            call.moved()
            call.date = response.headers.get("date") or call.date
            response.stream = Watched(response.stream, call)
            if response.status_code >= 400:
                raise _answered(request, response)
            return response

        def _route(self, url: Any) -> Any:
            """A client with its own transport ignores HTTPS_PROXY and NO_PROXY: they are honoured here."""
            known = getproxies()
            proxy = "" if proxy_bypass(url.host) else known.get(url.scheme) or known.get("all") or ""
            way = (url.scheme == "http", proxy)
            with self._lock:
                if way not in self._ways:
                    self._ways[way] = self._way(*way)
                return self._ways[way]

        def _way(self, plain: bool, proxy: str) -> Any:
            import ssl

            # To read whom to trust takes 30 ms, which a plain address has no use for: it trusts nobody.
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else True
            return httpx.HTTPTransport(proxy=proxy or None, limits=self._limits, verify=verify)

        def close(self) -> None:
            with self._lock:
                for transport in self._ways.values():
                    transport.close()
                self._ways.clear()

    return Bounded()


@contextmanager
def _translated(httpx: Any) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
        raise Lost(_reason(error), sent=False) from error
    except httpx.TransportError as error:
        raise Lost(_reason(error), sent=True) from error


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    if kind == "ConnectTimeout":
        return "no connection in time"
    if "Timeout" in kind:
        return "no answer in time"
    return str(error) or kind


def _answered(request: Any, response: Any) -> Answered:
    body = b""
    # The status is the answer already; its text is a courtesy that may be cut off.
    with suppress(Exception):
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) >= _BODY:
                break
    with suppress(Exception):
        response.close()
    known = {name.lower(): value for name, value in response.headers.items()}
    text = _words(known, body[:_BODY])
    status = 503 if response.status_code == 409 and _CONFLICTING in text else response.status_code
    return Answered(status, known, text, request.url.netloc.decode(), request.url.path)


def _words(known: Mapping[str, str], body: bytes) -> str:
    """The server's own words, on one line."""
    words = known.get("x-error-message", "")
    try:
        value = json.loads(body)
        error = value.get("error") or value.get("message") or value.get("errors") or ""
        words = words or (error if isinstance(error, str) else json.dumps(error))
    except (ValueError, AttributeError):
        if not words and "html" not in known.get("content-type", ""):
            words = body.decode("utf-8", "replace")
    return " ".join(words.split()).rstrip(".")[:500]
