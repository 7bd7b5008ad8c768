"""``doctor``: the operational checklist, asked of the running agent, and looked up where that is not enough."""

from __future__ import annotations

import asyncio
import os
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sidecar import log
from sidecar.commands import words
from sidecar.commands.agent_client import OWN, Nobody, over_http, over_socket, socket_of
from sidecar.errors import EX_FAILED, EX_OK, SidecarError
from sidecar.inspection import inspect
from sidecar.pings import FILE as PINGS
from sidecar.recovery import record, rehearsal
from sidecar.recovery.restore import read_manifest
from sidecar.roots import Root, spell
from sidecar.settings import Settings, load
from sidecar.snapshot.manifest import RECOVERY, Manifest
from sidecar.state import Inspection, LocalOnly
from sidecar.statedir import noted
from sidecar.stores.base import Store, StoreError
from sidecar.stores.opening import open_store
from sidecar.sync.reads import read_small
from sidecar.web import checklist
from sidecar.web.checklist import Item
from sidecar.web.health import KEEPALIVE_PERIODS, KEEPALIVE_S, rfc3339

ANSWER_S = 10.0
STORE_S = 45.0
"""The store has so long to answer; a doctor who waits for minutes helps nobody."""

_ENDS = ("ok", "failed", "waiting", "continue")
_STATES = ("pass", "warn", "fail", "unknown")


def doctor(args: Namespace) -> int:
    settings = load(os.environ, need_paths=True)
    log.setup(settings.log, settings.log_level)
    for warning in settings.warnings:
        log.warning(warning)
    items = asyncio.run(_examine(settings))
    if args.json:
        words.document([item.document() for item in items])
    else:
        width = max(len(item.id) for item in items)
        for item in items:
            fix = f". Fix: {words.name(item.fix)}" if item.fix else ""
            print(f"{item.state:<7}  {item.id:<{width}}  {words.name(item.text).rstrip('.')}{fix}")
    return EX_FAILED if any(item.state == "fail" for item in items) else EX_OK


async def _examine(settings: Settings) -> list[Item]:
    body = await asyncio.to_thread(_agents, settings)
    # Whether others may read it is judged here: a store that refuses to look is not told from one that is away.
    store = open_store(replace(settings, public=True))
    try:
        found = await inspect(settings, store, STORE_S)
        if body is None:
            items = await _alone(settings, store, found)
        else:
            items = [_item(line) for line in body]
            if not any((item.id, item.state) == ("health-endpoint", "fail") for item in items):
                # Where the agent could not have its port, whoever answers there is another.
                items = _instead(items, [await asyncio.to_thread(_endpoint, settings)])
    finally:
        with suppress(StoreError, TimeoutError):
            await asyncio.wait_for(store.close(), 5)
    return _instead(items, _looked_up(settings, found, items))


# --- with an agent -----------------------------------------------------------------------------------------------


def _agents(settings: Settings) -> list[dict[str, Any]] | None:
    """The running agent's checklist; None where none runs."""
    try:
        reply = over_socket(socket_of(settings.state_dir), "GET", f"{OWN}/status", ANSWER_S)
    except Nobody:
        return None
    lines = reply.body.get("checklist")
    if reply.status != 200 or not isinstance(lines, list):
        raise SidecarError(f"the agent gives no checklist: {reply.why} (HTTP {reply.status})")
    return [line for line in lines if isinstance(line, dict)]


def _item(line: Mapping[str, Any]) -> Item:
    state = line.get("state")
    verdict = next((known for known in _STATES if known == state), "unknown")
    return Item(str(line.get("id")), verdict, str(line.get("text") or ""), str(line.get("fix") or ""))  # type: ignore[arg-type]


def _endpoint(settings: Settings) -> Item | None:
    """Ask /health as anybody would, over TCP. None where the port is not known."""
    if settings.port == 0:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    url = f"http://{host}:{settings.port}{settings.prefix}/health"
    began = time.monotonic()
    try:
        reply = over_http(url, ANSWER_S)
        if reply.body.get("status") in ("pass", "warn", "fail"):
            took = (time.monotonic() - began) * 1000
            notes = reply.body.get("notes")
            said = f" ({', '.join(map(str, notes))})" if isinstance(notes, list) and notes else ""
            text = f"{url} answers {reply.status} in {took:.0f} ms: {reply.body['status']}{said}"
            return Item("health-endpoint", "pass", text)
        why = f"{url} is answered by something else"
    except SidecarError as error:
        why = error.message
    return Item("health-endpoint", "fail", why, "free the port, or set SIDECAR_PORT (or SIDECAR_PREFIX); then restart")


# --- without one -------------------------------------------------------------------------------------------------


async def _alone(settings: Settings, store: Store, found: Inspection) -> list[Item]:
    manifest, records, trouble = await _kept(settings, store, found)
    denied = found.denied or not found.trouble
    seen = noted(settings.state_dir, PINGS)
    last = seen.get("last") if isinstance(seen.get("last"), int | float) else None
    every = settings.keepalive_every_s or KEEPALIVE_S
    pinged = "unknown" if last is None else "overdue" if time.time() - last > every * KEEPALIVE_PERIODS else "ok"
    drilled = rehearsal.last(settings.state_dir, settings.store.url)
    return [
        Item("health-endpoint", "unknown", "no agent runs here: /health is not answered", checklist.START),
        checklist.poller(pinged, last, str(seen.get("agent") or "")),
        _persisted(settings, manifest, trouble, denied),
        _restored(records, asked=bool(trouble)),
        checklist.drill(drilled, settings.drill_s, time.time(), names=True),
        _observable(records, asked=bool(trouble)),
    ]


async def _kept(
    settings: Settings, store: Store, found: Inspection
) -> tuple[Manifest | None, list[dict[str, Any]], str]:
    """The newest snapshot, the recovery records beside it, and why they can't be told."""
    if found.trouble and found.public is None:
        return None, [], found.trouble
    try:
        async with asyncio.timeout(STORE_S):
            head = await store.head()
            if head is None:
                return None, [], ""
            with TemporaryDirectory(prefix="sidecar-") as folder:
                manifest = await read_manifest(store, head, Path(folder))
            return manifest, record.read(await read_small(store, head, RECOVERY, STORE_S)), ""
    except TimeoutError:
        return None, [], f"{settings.store.url} gives no answer"
    except SidecarError as error:
        return None, [], error.message


def _persisted(settings: Settings, manifest: Manifest | None, trouble: str, denied: bool) -> Item:
    name = "remote-persistence"
    if not settings.store.persistent:
        return checklist.not_persisted()
    if trouble and not denied:
        return Item(name, "warn", f"can't be told: {trouble.rstrip('.')}", "try again later")
    if trouble:
        return Item(name, "fail", trouble.rstrip("."), "see SIDECAR_STORE and HF_TOKEN: `sidecar config`")
    if manifest is None:
        return Item(name, "fail", f"nothing was ever kept in {settings.store.url}", checklist.START)
    when = f"as of {manifest.snapshot}, {rfc3339(manifest.at)}"
    kept = {root.name for root in manifest.roots}
    missing = [root.name for root in settings.roots if root.name not in kept and os.path.lexists(root.path)]
    if missing:
        return Item(name, "fail", f"not in the store {when}: {', '.join(missing)}", checklist.START)
    return Item(name, "pass", f"{', '.join(root.name for root in settings.roots)} durable {when}")


def _restored(records: Sequence[Mapping[str, Any]], *, asked: bool) -> Item:
    """``asked``: the store was, and could not tell."""
    name = "restore-on-restart"
    if asked:
        return checklist.not_looked(name, asked=True)
    # One that was stopped before main's start tells nothing of what it would have come to.
    ended = record.newest([each for each in records if each.get("result") in _ENDS], 1)
    if not ended:
        return Item(name, "unknown", "no start has left a record in the store", checklist.START)
    last = ended[0]
    at = last.get("at")
    if last.get("result") != "ok":
        return Item(name, "fail", f"the start at {at} could not bring the files back", "the log names the way out")
    if last.get("cold_start"):
        return Item(name, "unknown", f"first start at {at}: there was nothing to restore", "restart once")
    return Item(name, "pass", f"the start at {at} brought the files back, from {last.get('snapshot')}")


def _observable(records: Sequence[Mapping[str, Any]], *, asked: bool) -> Item:
    name = "observable-recovery"
    if asked:
        return checklist.not_looked(name, asked=True)
    if not records:
        return Item(name, "unknown", "the store has no recovery record", checklist.START)
    at = record.newest(records, 1)[0].get("at")
    return Item(name, "pass", f"{len(records):,} recovery records in the store, the newest of {at}")


# --- either way --------------------------------------------------------------------------------------------------


def _looked_up(settings: Settings, found: Inspection, items: Iterable[Item]) -> list[Item | None]:
    """What we see ourselves, now; an agent may have other places in view, and more of them at risk."""
    hub = settings.store.kind in ("hf", "bucket")
    encrypted = settings.age_recipient is not None
    said = {item.id: item for item in items}
    local = _local_only(settings, found.local)
    counted = checklist.commit_count(found.commits, hub=hub, asked=True)
    return [
        checklist.token_scope(found, hub=hub),
        checklist.store_private(
            found, hub=hub, encrypted=encrypted, persistent=settings.store.persistent, allowed=settings.public
        ),
        None if counted.state == "unknown" and counted.id in said else counted,
        checklist.single_writer(found),
        None if local.state == "pass" and local.id in said and said[local.id].state == "warn" else local,
    ]


def _local_only(settings: Settings, local: LocalOnly | None) -> Item:
    if local is None or not local.declare:
        return checklist.local_only(local, names=True)
    entries = [spell(root) for root in (*settings.roots, *(Root(path[1:], path) for path in local.declare))]
    # A path with ':' in it needs the one-a-line form, which ends with a line break.
    plain = not any(":" in entry for entry in entries)
    value = ":".join(entries) if plain else "$'" + "\\n".join(entries) + "\\n'"
    return checklist.local_only(local, names=True, value=value)


def _instead(items: Sequence[Item], newer: Iterable[Item | None]) -> list[Item]:
    """``items`` with each of ``newer`` in the place of the one of its id, or at the end."""
    better = {item.id: item for item in newer if item is not None}
    kept = [better.pop(item.id, item) for item in items]
    return [*kept, *better.values()]
