"""``fleet``: the scheduler's side, for many Spaces: ping, status, watch, n8n, doctor."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.commands import words
from sidecar.errors import EX_FAILED, EX_OK, UsageError
from sidecar.fleet import n8n, survey
from sidecar.fleet.ping import How, ask, each, ping
from sidecar.fleet.roster import Fleet, load
from sidecar.fleet.watch import Change, watch
from sidecar.units import parse_duration


def fleet(args: Namespace) -> int:
    act: dict[str, Callable[[Fleet, How, bool], int]] = {
        "ping": _ping,
        "status": _status,
        "watch": _watch,
        "n8n": _n8n,
        "doctor": _doctor,
    }
    try:
        limit_s = parse_duration(args.timeout)
    except ValueError as error:
        raise UsageError(f"--timeout {args.timeout}: {error}; write it like 30s") from None
    if limit_s <= 0:
        raise UsageError("--timeout: more than 0")
    return act[args.action](load(args.file), How(limit_s, tries=args.tries, at_once=args.at_once), args.json)


def _ping(fleet: Fleet, how: How, as_json: bool) -> int:
    seen = asyncio.run(each(fleet.spaces, lambda space: ping(space, how), how))
    if as_json:
        words.document([{k: v for k, v in dataclasses.asdict(one).items() if k != "body"} for one in seen])
    else:
        words.table((one.state, words.name(one.id), f"{one.ms} ms", words.name(one.text)) for one in seen)
    return EX_OK if all(one.state == "pass" for one in seen) else EX_FAILED


def _status(fleet: Fleet, how: How, as_json: bool) -> int:
    seen = asyncio.run(each(fleet.spaces, lambda space: ask(space, "/status", how), how))
    rows = [survey.row(space, one) for space, one in zip(fleet.spaces, seen, strict=True)]
    if as_json:
        words.document(rows)
        return EX_OK
    head = ("STATE", "ID", "PHASE", "VERSION", "SNAPSHOT", "LAST DURABLE", "PINGS", "NOTES")
    keys = ("state", "id", "phase", "version", "snapshot", "last_durable", "keepalive", "text")
    words.table([head, *([_cell(row[key]) for key in keys] for row in rows)])
    return EX_OK


def _doctor(fleet: Fleet, how: How, as_json: bool) -> int:
    seen = asyncio.run(each(fleet.spaces, lambda space: ask(space, "/status", how), how))
    now = time.time()
    lines = [survey.pinged(space, one, now) for space, one in zip(fleet.spaces, seen, strict=True)]
    if as_json:
        words.document(lines)
    else:
        words.table(_told(line) for line in lines)
    return EX_FAILED if any(line["state"] == "fail" for line in lines) else EX_OK


def _watch(fleet: Fleet, how: How, as_json: bool) -> int:
    def show(change: Change) -> None:
        if as_json:
            print(json.dumps(change), flush=True)
        else:
            was = f" (was {change['before']})" if change["before"] else ""
            at = words.when(time.time(), seconds=True)
            print(f"{at}  {change['state']}{was}  {words.name(change['id'])}  {words.name(change['text'])}", flush=True)

    asyncio.run(watch(fleet, how, show))
    return EX_OK


def _n8n(fleet: Fleet, how: How, as_json: bool) -> int:
    print(json.dumps(n8n.workflow(fleet), indent=2))
    return EX_OK


def _told(line: dict[str, Any]) -> Sequence[str]:
    fix = f". Fix: {line['fix']}" if line["fix"] else ""
    return line["state"], words.name(line["id"]), words.name(line["text"] + fix)


def _cell(value: Any) -> str:
    return "-" if value is None else words.name(str(value))
