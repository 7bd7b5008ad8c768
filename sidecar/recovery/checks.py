"""The checks of SIDECAR_VERIFY: run side by side before main starts, then again, each with a time limit.

How a check is made: a command of the owner's by ``command``; a file or an address by ``probe``, in a child process;
the token by the Hub's client. What comes of it stands in the state, the log and the recovery record.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar import log
from sidecar.errors import RestoreFailed
from sidecar.masking import mask
from sidecar.readers import parse_check
from sidecar.recovery.command import Logged, run, shell
from sidecar.recovery.probe import MARK, SUBJECT
from sidecar.recovery.record import Record
from sidecar.recovery.verdict import Verdict
from sidecar.settings import Settings
from sidecar.state import State

LIMITS_S = {"command": 60.0, "http": 60.0, "sqlite": 300.0}
LIMIT_S = 30.0
"""How long a check may take, by its kind."""

EVERY_S = 3600.0
SOONER_S = 60.0
"""What doesn't pass is looked at sooner: after this long, then five times as long, up to ``EVERY_S``."""

AT_ONCE = 8

_ROOM = Path(__file__).resolve().parents[2]
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from sidecar.recovery import probe; "
_BOOT += "sys.exit(probe.child(sys.argv[2:]))"
_LONGEST, _VERDICT = 120, 1 << 14


@dataclass(frozen=True, slots=True)
class Check:
    """One line of SIDECAR_VERIFY. ``shown`` is what people see of it, without secrets, ``!`` included."""

    must: bool
    kind: str
    argument: str
    shown: str

    @property
    def limit_s(self) -> float:
        return LIMITS_S.get(self.kind, LIMIT_S)


def read(line: str, secrets: Sequence[str] = ()) -> Check:
    """A check from its line, which the settings have found readable."""
    must, kind, argument = parse_check(line)
    text = mask(f"{kind}: {argument}" if argument else kind, secrets)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if argument.startswith("~/") and kind != "command":
        argument = os.path.expanduser(argument)
    return Check(must, kind, argument, f"{'!' if must else ''}{text}")


def softened(verdict: Verdict, cold: bool) -> Verdict:
    """On a first start nothing that main will make is there yet: that stops nobody."""
    if cold and verdict.absent:
        return Verdict("warn", "isn't there yet: this is a first start", absent=True)
    return verdict


def pause_s(unwell: int) -> float:
    """Seconds until a check is made again that has not passed ``unwell`` times in a row; without jitter."""
    return EVERY_S if not unwell else min(EVERY_S, SOONER_S * 5.0 ** (min(unwell, 9) - 1))


class Checks:
    """All checks of one life, and what they came to last."""

    def __init__(self, settings: Settings, state: State, record: Record) -> None:
        known = (settings.token, settings.api_token, settings.age_identity, settings.heartbeat_url)
        self._secrets = tuple(secret for secret in known if secret)
        self._settings, self._state, self._record = settings, state, record
        self._scratch = Path(settings.state_dir) / "checks"
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._verdicts: dict[Check, Verdict] = {}
        self._checks = tuple(dict.fromkeys(read(line, self._secrets) for line in settings.verify))
        state.checks = [{"check": c.shown, "kind": c.kind, "must": c.must, "result": "pending"} for c in self._checks]

    async def before_main(self, cold: bool) -> None:
        """The step ``verify``: all but ``http``, as nobody answers yet. ``cold``: nothing was ever kept.

        Raises RestoreFailed where one with ``!`` fails: asking again at once would mend nothing.
        """
        if not self._checks:
            return
        self._state.phase = "verifying"
        due = [check for check in self._checks if check.kind != "http"]
        with self._record.step("verify") as row:
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
            await asyncio.gather(*(self._make(check, cold) for check in due))
            self._record.facts["checks"] = [dict(each) for each in self._state.checks]
            row["detail"] = self._tally()
            stops = [check for check in due if check.must and self._verdicts[check].result == "fail"]
            if stops:
                what = "; ".join(f"{check.shown}: {self._verdicts[check].reason}" for check in stops)
                raise RestoreFailed(
                    f"a check that must pass (SIDECAR_VERIFY) failed: {what}. Mend it, take away its ! to start all the"
                    " same, or start from an older snapshot (SIDECAR_REVISION)",
                    final=True,
                )

    def _tally(self) -> str:
        counts = Counter(row["result"] for row in self._state.checks)
        words = {"pass": "passed", "warn": "with a warning", "fail": "failed", "pending": "once main runs"}
        return ", ".join(f"{counts[result]} {word}" for result, word in words.items() if counts[result])

    async def watch(self, main_started: asyncio.Event) -> None:
        """Make each check again for as long as main lives; at once what was not made before."""
        await main_started.wait()
        await asyncio.gather(*(self._watch(check) for check in self._checks))

    async def _watch(self, check: Check) -> None:
        if check not in self._verdicts:
            await self._make(check)
        unwell = 0
        while True:
            unwell = 0 if self._verdicts[check].result == "pass" else unwell + 1
            await asyncio.sleep(pause_s(unwell) * random.uniform(0.9, 1.1))
            await self._make(check)

    async def _make(self, check: Check, cold: bool = False) -> None:
        """Make one check and tell of it."""
        async with self._turn:
            began = time.monotonic()
            try:
                verdict = softened(await self._verdict(check), cold)
            except Exception as error:  # whatever it is, the other checks and main go on
                log.debug("traceback", exc_info=error)
                verdict = Verdict("warn", f"can't be judged: {type(error).__name__}")
            milliseconds = round((time.monotonic() - began) * 1000)
        if self._ending() and check in self._verdicts:
            return  # main goes: what fails now says nothing
        self._tell(check, verdict, milliseconds)

    def _ending(self) -> bool:
        return self._state.phase in ("stopping", "stopped") or self._state.main_state == "exited"

    async def _verdict(self, check: Check) -> Verdict:
        if check.kind == "command":
            return await self._command(check)
        if check.kind == "hf-token":
            from sidecar.recovery import token  # brings the Hub's client with it

            return await token.check(self._settings, check.limit_s)
        before = self._verdicts.get(check)
        mark = before.mark if before is not None and before.result == "pass" else ""
        return await examine(check.kind, check.argument, self._scratch, check.limit_s, mark)

    async def _command(self, check: Check) -> Verdict:
        number = next(n for n, each in enumerate(self._checks, 1) if each == check)
        output = Logged(f"check {number}: ", self._secrets)
        code = await run(shell(check.argument), check.limit_s, output)
        output.end()
        if code is None:
            return Verdict("fail", f"not done within {check.limit_s:g} s: killed")
        return Verdict("pass" if code == 0 else "fail", f"exit code {code}")

    def _tell(self, check: Check, verdict: Verdict, milliseconds: int) -> None:
        """Into state and log; the log only where something has changed."""
        before = self._verdicts.get(check)
        self._verdicts[check] = verdict
        row = self._state.checks[self._checks.index(check)]
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        row.update(result=verdict.result, reason=verdict.reason, ms=milliseconds, at=at)
        if verdict.result == "pass":
            again = before is not None and before.result != "pass"
            (log.info if again else log.debug)(f"check passes: {check.shown}: {verdict.reason}")
        elif before is None or before.result != verdict.result:
            word = "check failed" if verdict.result == "fail" else "check"
            log.warning(f"{word}: {check.shown}: {verdict.reason}")
        self._note()

    def _note(self) -> None:
        """What health and status go by."""
        failed = [c for c, verdict in self._verdicts.items() if verdict.result == "fail"]
        self._state.failed_checks = [check.shown for check in failed]
        self._say("check-failed", [check for check in failed if check.must])
        self._say("verify-failed", [check for check in failed if not check.must])
        self._say("check-warns", [c for c, verdict in self._verdicts.items() if verdict.result == "warn"])

    def _say(self, code: str, checks: Sequence[Check]) -> None:
        if checks:
            self._state.note(code, "; ".join(f"{check.shown}: {self._verdicts[check].reason}" for check in checks))
        else:
            self._state.clear(code)


async def examine(kind: str, subject: str, scratch: Path, limit_s: float, mark: str = "") -> Verdict:
    """Check the path or URL ``subject`` in a child process, which may use a folder of its own below ``scratch``.

    ``mark`` is that of an earlier pass.
    """
    lines: list[str] = []
    folder = await asyncio.to_thread(_folder, scratch)
    try:
        argv = [sys.executable, "-I", "-S", "-c", _BOOT, str(_ROOM), str(os.getpid()), kind, folder, str(limit_s - 1)]
        env = {**os.environ, SUBJECT: subject, MARK: mark}
        code = await run(argv, limit_s, lines.append, env, grace_s=0, longest=_VERDICT)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    if code is None:
        if kind == "http":  # an answer that comes drop by drop is none
            return Verdict("fail", f"no answer: nothing whole came within {limit_s:g} s")
        return Verdict("warn", f"can't be judged: no result within {limit_s:g} s")
    try:
        return Verdict(**json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError):
        log.debug(f"the check of {kind} said: {lines[-1:]}")
        return Verdict("warn", f"can't be judged: the checking process ended with {code}")


def _folder(scratch: Path) -> str:
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    return tempfile.mkdtemp(dir=scratch)
