"""``forget``: let go of what snapshots only carry forward, by the running agent if there is one."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from typing import Any
from urllib.parse import urlencode

from sidecar import log
from sidecar.commands import words
from sidecar.commands.agent_client import OWN, Nobody, Reply, over_socket, socket_of
from sidecar.commands.ask import SYNC_S, refused
from sidecar.commands.consent import agreed
from sidecar.commands.reading import Reader, reading
from sidecar.errors import EX_FAILED, EX_OK, SidecarError
from sidecar.recovery.plan import at_or_under
from sidecar.settings import Settings, load
from sidecar.snapshot.exclude import Excluder, own_paths
from sidecar.snapshot.index import Row
from sidecar.sync.forgetting import carried_only, said, why_nothing


def forget(args: Namespace) -> int:
    settings = load(os.environ, need_paths=False, reject_unknown=False)
    log.setup(settings.log, settings.log_level)
    agent = _Agent(settings, args.name)
    reply = agent.ask(dry_run=True)
    if reply is not None and reply.status != 200:
        return _refused(reply, args)
    body = reply.body if reply is not None else reading(lambda reader: _foresee(reader, args.name), need_paths=True)
    if args.dry_run:
        _show(body, args)
        return EX_OK
    _tell(body)
    if not agreed(args, "Let go of it?"):
        log.info("nothing was changed")
        return EX_FAILED
    if reply is None:
        from sidecar.once import sync_once

        return _done({**body, **sync_once(_name(body))}, args)
    reply = agent.ask(dry_run=False)
    if reply is None:
        raise SidecarError("the agent went away meanwhile; look with `sidecar ls`, then try again")
    return _done(reply.body, args) if reply.status == 200 else _refused(reply, args)


class _Agent:
    def __init__(self, settings: Settings, name: str) -> None:
        self._path, self._name = socket_of(settings.state_dir), name

    def ask(self, *, dry_run: bool) -> Reply | None:
        """Its answer; None where there is no agent."""
        query = urlencode({"path": os.fsencode(self._name), "dry-run": int(dry_run)})
        try:
            return over_socket(self._path, "POST", f"{OWN}/forget?{query}", SYNC_S)
        except Nobody:
            return None


def _refused(reply: Reply, args: Namespace) -> int:
    if reply.status == 422:
        if args.json:
            words.document(reply.body)
        raise SidecarError(reply.why)
    return refused(reply, args, "nothing was changed")


async def _foresee(reader: Reader, text: str) -> dict[str, Any]:
    """What would go, by the store's newest snapshot and the settings here."""
    found = await reader.find()
    settings = reader.settings
    name = reader.path(text, found.manifest)
    folder = settings.store.path if settings.store.kind == "folder" else None
    own = own_paths(settings.state_dir, os.environ, folder)

    def look() -> dict[str, Any]:
        declared = {r.name: Excluder(os.path.realpath(r.path), settings.exclude, own) for r in settings.roots}
        rows = [Row(e) for p, e in found.manifest.entries.items() if at_or_under(p, name)]
        going = carried_only(rows, declared)
        if not going:
            raise SidecarError(why_nothing(name, rows, found.id))
        return said(name, found.id, going)

    return await asyncio.to_thread(look)


def _name(item: dict[str, Any]) -> str:
    return words.unnamed(item)


def _tell(body: dict[str, Any]) -> None:
    name = words.name(_name(body))
    log.info(f"of snapshot {body['before']}, at {name!r}: {words.files(body['files'])}, {words.size(body['bytes'])}")
    parts = body["parts"]
    for part in parts[:20]:
        log.info(f"  {words.name(_name(part))}: {words.files(part['files'])}, {words.size(part['bytes'])}")
    more = len(parts) - 20 + body.get("more", 0)
    if more > 0:
        log.info(f"  and {more:,} more")
    log.info("later snapshots won't have it, earlier ones still do; nothing on this disk is touched")


def _show(body: dict[str, Any], args: Namespace) -> None:
    if args.json:
        words.document(body)
        return
    rows = [(words.name(_name(p)), words.files(p["files"]), words.size(p["bytes"])) for p in body["parts"]]
    words.table(rows)
    if body.get("more"):
        print(f"and {body['more']:,} more")
    log.info(f"{words.files(body['files'])}, {words.size(body['bytes'])} of snapshot {body['before']} would go")


def _done(body: dict[str, Any], args: Namespace) -> int:
    name, before = words.name(_name(body)), body["before"]
    log.info(
        f"durable {body.get('snapshot')} without {name!r}. {before} still has it (`sidecar ls {before}`), until"
        " `sidecar prune` lets go of old snapshots"
    )
    if args.json:
        words.document(body)
    else:
        print(body.get("revision") or "")
    return EX_OK
