"""SIDECAR_RESUME: what its lines mean, what its commands are told, and how one of them is run.

When they may run, and that they run once, is not decided here: see ``resuming`` of the agent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sidecar import log
from sidecar.masking import mask
from sidecar.readers import parse_command
from sidecar.recovery.command import Logged, run, shell
from sidecar.snapshot.manifest import Manifest

LIMIT_S = 300.0
"""A command before main may take so long: main waits for it."""

LATER_LIMIT_S = 3600.0
"""The same for one after ready, for which nobody waits."""

_SHOWN = 200

Result = Literal["ok", "failed", "timed out", "cut off", "not run"]


@dataclass(frozen=True, slots=True)
class Command:
    """One line: ``must`` stops the start where it fails, ``later`` waits until main answers."""

    must: bool
    later: bool
    line: str

    @property
    def limit_s(self) -> float:
        return LATER_LIMIT_S if self.later else LIMIT_S


@dataclass(frozen=True, slots=True)
class Told:
    """What the commands learn of the start that they belong to."""

    epoch: int
    instance: str
    revision: str
    manifest: Manifest | None
    clean: bool | None
    interrupted: bool

    def environment(self, now: float) -> dict[str, str]:
        """The SIDECAR_RECOVERY_* variables; ``now`` in seconds since the epoch. Empty is what there is none of."""
        cold = self.manifest is None
        age = "" if self.manifest is None else str(max(0, round(now - self.manifest.at)))
        values = {
            "EPOCH": str(self.epoch),
            "INSTANCE": self.instance,
            "REVISION": "" if cold else self.revision,
            "SNAPSHOT": "" if self.manifest is None else str(self.manifest.snapshot),
            "SNAPSHOT_AGE": age,
            "COLD_START": "1" if cold else "0",
            "CLEAN": "1" if self.clean or (cold and self.clean is None) else "0",
            "INTERRUPTED": "1" if self.interrupted else "0",
        }
        return {f"SIDECAR_RECOVERY_{name}": value for name, value in values.items()}


def commands(lines: Iterable[str]) -> tuple[Command, ...]:
    return tuple(Command(*parse_command(line)) for line in lines)


async def perform(command: Command, told: Told, secrets: Sequence[str], row: dict[str, Any]) -> Result:
    """Run it to its end, its output logged; what came of it goes into ``row``, also where this is cancelled."""
    output = Logged("resume: ", secrets)
    began = time.monotonic()
    row["result"] = "cut off"
    try:
        environment = {**os.environ, **told.environment(time.time())}
        code = await run(shell(command.line), command.limit_s, output, environment)
        row["result"] = "timed out" if code is None else "ok" if code == 0 else "failed"
        row["code"] = code
    except OSError as error:
        row.update(result="failed", why=error.strerror or str(error))
    finally:
        output.end()
        row["ms"] = round((time.monotonic() - began) * 1000)
        log.debug(f"resume: {row}")
    result: Result = row["result"]
    return result


def shown(command: Command, secrets: Sequence[str]) -> str:
    """The command as a record may show it."""
    text = mask(command.line, secrets)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def failure(command: str, row: dict[str, Any], limit_s: float) -> str:
    """What went wrong, for people."""
    if row["result"] == "timed out":
        return f"resume command {command!r} was ended after {limit_s:g} s"
    if row["result"] == "cut off":
        return f"resume command {command!r} was cut off"
    return f"resume command {command!r} failed ({row.get('why') or 'exit ' + str(row.get('code'))})"


def state_of(rows: Sequence[dict[str, Any]]) -> str:
    """What all commands together came to: ``ok``, ``failed``, ``cut off``, or ``pending`` while some are to come."""
    results = [row.get("result") for row in rows]
    if "cut off" in results:
        return "cut off"
    if None in results:
        return "pending"
    return "ok" if all(result == "ok" for result in results) else "failed"
