"""``prune``: let go of old snapshots, by the running agent if there is one: only the lease's holder may."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any
from urllib.parse import urlencode

from sidecar import log
from sidecar.commands import words
from sidecar.commands.agent_client import OWN, Nobody, Reply, over_socket, socket_of
from sidecar.commands.ask import refused
from sidecar.commands.consent import agreed
from sidecar.commands.reading import Reader, reading
from sidecar.errors import EX_FAILED, EX_OK, SidecarError, UsageError
from sidecar.settings import Settings, load
from sidecar.sync import history
from sidecar.sync.history import Retention
from sidecar.tending import why_not
from sidecar.units import format_duration, parse_duration
from sidecar.web.verbs import PRUNE_MAX_S


def prune(args: Namespace) -> int:
    within = _seconds(args.keep_within)
    settings = load(os.environ, need_paths=False, reject_unknown=False)
    log.setup(settings.log, settings.log_level)
    why = why_not(settings)
    if why:
        raise SidecarError(why)
    reply = _ask(settings, args.keep_last, within, dry_run=True)
    if reply is not None and reply.status != 200:
        return _refused(reply, args)
    body = reply.body if reply is not None else reading(lambda r: _foresee(r, args.keep_last, within))
    if args.dry_run:
        if args.json:
            words.document(body)
        else:
            _table(body)
        _tell(body)
        return EX_OK
    _tell(body)
    if body["nothing"]:
        return _done(body, args)
    if not agreed(args, "Let go of them?"):
        log.info("nothing was changed")
        return EX_FAILED
    if reply is None:
        from sidecar.once import prune_once

        return _done(prune_once(args.keep_last, within), args)
    reply = _ask(settings, args.keep_last, within, dry_run=False)
    if reply is None:
        raise SidecarError("the agent went away meanwhile; look with `sidecar snapshots`, then try again")
    return _done(reply.body, args) if reply.status == 200 else _refused(reply, args)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--keep-within {text}: {error}; write it like 30d or 12h") from None


def _ask(settings: Settings, last: int | None, within: float | None, *, dry_run: bool) -> Reply | None:
    """The agent's answer; None where there is no agent."""
    asked = [("dry-run", str(int(dry_run)))]
    asked += [("keep-last", str(last))] if last is not None else []
    asked += [("keep-within", format_duration(within))] if within is not None else []
    try:
        path = socket_of(settings.state_dir)
        return over_socket(path, "POST", f"{OWN}/prune?{urlencode(asked)}", PRUNE_MAX_S + 20)
    except Nobody:
        return None


def _refused(reply: Reply, args: Namespace) -> int:
    if reply.status == 422:
        if args.json:
            words.document(reply.body)
        raise SidecarError(reply.why)
    return refused(reply, args, "nothing more was pruned")


async def _foresee(reader: Reader, last: int | None, within: float | None) -> dict[str, Any]:
    wanted = Retention.of(last, within, squashes=reader.store.squashes)
    return history.document(await history.look(reader.store, wanted))


def _table(body: dict[str, Any]) -> None:
    rows = [(p["snapshot"], p["at"] or "-", p["revision"][:12], p["branch"] or "") for p in body["stays"]]
    words.table([("STAYS", "WHEN", "REVISION", "BRANCH"), *rows])


def _tell(body: dict[str, Any]) -> None:
    stays, goes = len(body["stays"]), body["goes"]
    if not stays:
        log.info("there is no snapshot yet: nothing to let go of")
        return
    if body["nothing"]:
        log.info(f"nothing to let go of: {_snapshots(stays)} in all")
        return
    span = "" if not goes else f" ({body['oldest_that_goes']} to {body['newest_that_goes']})"
    log.info(f"kept: {_snapshots(stays)}; let go of: {goes:,}{span}, which can't be brought back")
    if body["frees"] is not None:
        log.info(f"frees {words.size(body['frees'])}, an hour from now: who reads them now can finish")
    if body["squashes"]:
        log.info(
            f"the {body['commits']:,} commits become one, and each older snapshot that stays a branch of its own; all"
            " revisions get other names, snapshots keep theirs. The Hub counts what that frees within 36 hours"
        )
    if body["kept"]:
        log.info(f"branches that stay in any case: {', '.join(map(words.name, body['kept'][:20]))}")
    if body["others"] and body["squashes"]:
        names = ", ".join(map(words.name, body["others"][:20]))
        log.info(f"these branches hold on to the history that they came from, until they are deleted: {names}")


def _snapshots(count: int) -> str:
    return f"{count:,} snapshot" if count == 1 else f"{count:,} snapshots"


def _done(body: dict[str, Any], args: Namespace) -> int:
    if not body["nothing"]:
        log.info(f"pruned; left: {_snapshots(len(body['stays']))}")
    if args.json:
        words.document(body)
    return EX_OK
