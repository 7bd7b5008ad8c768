"""``sync``, ``checkpoint`` and ``status``: ask the running agent; ``sync`` does without where there is none."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any
from urllib.parse import quote, urlencode

from sidecar import log
from sidecar.commands import words
from sidecar.commands.agent_client import OWN, Nobody, Reply, over_http, over_socket, socket_of
from sidecar.errors import EX_FAILED, EX_OK, EX_REFUSED, EX_TEMPFAIL, SidecarError, TryLater, UsageError
from sidecar.settings import Settings, load
from sidecar.units import format_duration, parse_duration
from sidecar.web.unix import SOCKET_NAME

SYNC_S = 620.0
"""The agent's own limit for a sync is 10 minutes."""
MORE_S = 20.0
"""So much longer than the agent's time limit its answer is waited for."""
STATUS_S = 10.0


def _settings() -> Settings:
    settings = load(os.environ, need_paths=False, need_store=False, reject_unknown=False)
    log.setup(settings.log, settings.log_level)
    return settings


# --- sync --------------------------------------------------------------------------------------------------------


def sync(args: Namespace) -> int:
    if args.dry_run:
        from sidecar.commands.foresee import dry_run

        return dry_run(args)
    settings = _settings()
    try:
        reply = over_socket(socket_of(settings.state_dir), "POST", f"{OWN}/sync", SYNC_S)
    except Nobody:
        from sidecar.once import sync_once

        return _made(sync_once(), args)  # its engine has said it already
    if reply.status == 200:
        changed = reply.body.get("changed")
        news = f"{changed:,} changed" if changed else "nothing had changed"
        log.info(f"durable {reply.body.get('snapshot')}: {news}")
        return _made(reply.body, args)
    return refused(reply, args, "nothing was committed")


def _made(body: dict[str, Any], args: Namespace) -> int:
    if args.json:
        words.document(body)
    else:
        print(body.get("revision") or "")
    return EX_OK


# --- checkpoint --------------------------------------------------------------------------------------------------


def checkpoint(args: Namespace) -> int:
    seconds = _seconds(args.timeout)
    settings = _settings()
    names = [next((r.name for r in settings.roots if r.path == root.rstrip("/")), root) for root in args.roots]
    query = urlencode(
        [*(("root", name) for name in names), ("timeout", format_duration(seconds))], quote_via=quote, errors="replace"
    )
    path = socket_of(settings.state_dir)
    try:
        reply = over_socket(path, "POST", f"{OWN}/checkpoint?{query}", seconds + MORE_S)
    except Nobody as error:
        raise Nobody(
            f"{error.message}: a checkpoint needs the agent of `sidecar run` or `sidecar agent`, with the same "
            "SIDECAR_STATE_DIR. Without one, `sidecar sync` makes a snapshot"
        ) from None
    if reply.status == 200:
        log.info(f"durable {reply.body.get('snapshot')}")
        return _made(reply.body, args)
    if reply.status == 400:
        raise UsageError(reply.why)
    if reply.status == 422:
        return _not_good(reply, args)
    code = refused(reply, args, "the present state is not durable yet")
    # The agent goes on trying, also where the store refuses: what is asked here may be true a moment later.
    return EX_TEMPFAIL if code == EX_REFUSED else code


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--timeout {text}: {error}; write it like 30s") from None


def _not_good(reply: Reply, args: Namespace) -> int:
    """Committed, but something in it is not as it should be."""
    if args.json:
        words.document(reply.body)
    elif reply.body.get("revision"):
        print(reply.body["revision"])
    reasons = reply.body.get("roots")
    for root, why in (reasons if isinstance(reasons, dict) else {}).items():
        log.error(f"root {words.name(root)!r}: {why}")
    kept = f"what is good is durable as {reply.body['snapshot']}" if reply.body.get("snapshot") else reply.why
    log.error(f"not everything could be captured; {kept}. `sidecar status` tells of the files")
    return EX_FAILED


def refused(reply: Reply, args: Namespace, what: str) -> int:
    """Say why an agent didn't do it; the exit code."""
    if args.json:
        words.document(reply.body)
    after = "" if reply.retry_after is None else f" Try again in {reply.retry_after:.0f} s"
    log.error(f"{what}: {reply.why.rstrip('.')}.{after}")
    if reply.body.get("error") == "denied":
        return EX_REFUSED
    return EX_TEMPFAIL if reply.status in (429, 503, 504) else EX_FAILED


# --- status ------------------------------------------------------------------------------------------------------


def status(args: Namespace) -> int:
    body = _remote(args.url) if args.url else _local()
    if args.json:
        words.document(body)
        return EX_OK
    from sidecar.commands.summary import summary

    for line in summary(body):
        print(line)
    return EX_OK


def _remote(url: str) -> dict[str, Any]:
    """The status of the sidecar at ``url``, with or without ``/status`` at its end."""
    url = url if "://" in url else f"https://{url}"
    base, mark, query = url.partition("?")
    base = base.rstrip("/")
    reply = over_http((base if base.endswith("/status") else f"{base}/status") + mark + query, STATUS_S)
    return _status_of(reply, url)


def _local() -> dict[str, Any]:
    """The agent's of this state dir, else of whoever listens on our port."""
    settings = _settings()
    path = socket_of(settings.state_dir)
    port = f"http://127.0.0.1:{settings.port}"
    try:
        return _status_of(over_socket(path, "GET", f"{OWN}/status", STATUS_S), str(path))
    except Nobody:
        pass
    try:
        return _status_of(over_http(f"{port}{OWN}/status", STATUS_S, settings.api_token), port)
    except Nobody:
        raise TryLater(
            f"no agent answers, neither at {path} nor at {port}: is `sidecar run` up, as this user and with this "
            f"SIDECAR_STATE_DIR? ({SOCKET_NAME} is made at its start.) `sidecar status URL` asks one elsewhere"
        ) from None


def _status_of(reply: Reply, where: str) -> dict[str, Any]:
    if reply.status == 200 and "phase" in reply.body:
        return reply.body
    raise SidecarError(f"{where} gives no status: {reply.why} (HTTP {reply.status})")
