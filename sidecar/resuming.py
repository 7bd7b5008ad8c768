"""When SIDECAR_RESUME's commands run: once per epoch, under its lease, before main or once main answers.

The claim of the lease is also the claim of the right to resume: it stands in the same commit, so that whoever has one
has the other, and that a resume may have begun is known to the next start even if this disk is lost. That it is over
goes with the first commit after it, which holds what it did to the roots, too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sidecar import log
from sidecar.errors import RestoreFailed
from sidecar.life import Life
from sidecar.link import Link
from sidecar.recording import Recording
from sidecar.recovery import resume
from sidecar.recovery.claim import Claimed, renew
from sidecar.recovery.held import Held
from sidecar.recovery.lease import Tenure
from sidecar.recovery.resume import Command, Told
from sidecar.recovery.start import Start
from sidecar.recovery.terms import Recovered
from sidecar.session import Session
from sidecar.snapshot.manifest import LEASE
from sidecar.sync.engine import Engine
from sidecar.web.health import readiness

AGAIN_S = 300.0
"""From a command that must not fail, and did, to the next epoch's try, where main waits for it."""

LOOK_S = 0.2
NOTE = "resume-failed"


class Resuming:
    """The resume commands of one life of the agent."""

    def __init__(self, here: Session, life: Life, link: Link, start: Start, recording: Recording) -> None:
        self.here, self.link, self.start, self.recording = here, link, start, recording
        self.before = dict(life.keep).get("resume", "")
        settings = here.settings
        self.commands = resume.commands(settings.resume)
        self.secrets = [s for s in (settings.token, settings.api_token, settings.heartbeat_url) if s]
        self._told: Told | None = None
        self._tenure: Tenure | None = None
        self._rows: list[dict[str, Any]] = []
        self._later: asyncio.Task[None] | None = None
        self._engine: Engine | None = None
        self._corrected = False

    # --- before main ----------------------------------------------------------------------------------------------

    async def before_main(self, recovered: Recovered) -> Recovered:
        """Run what is to run before main: with which head and lease this start goes on.

        Raises RestoreFailed where a command that must not fail did; Moved, StoreErrors.
        """
        if not self.commands:
            return recovered
        if recovered.tenure is None or recovered.head is None:
            self._skip("this start has no lease: whoever has it resumes")
            return recovered
        if self.before == f"over:{recovered.tenure.epoch}":
            recovered.tenure.end_resume()
            self._skip("an earlier agent of this start has run them")
            return recovered
        self.here.state.phase = "resuming"
        with self.here.record.step("resume") as row:
            held = Held(self.here.store, recovered.head, recovered.tenure)
            await held.look()
            if not held.lost and self._begun(recovered.tenure):
                recovered = await self._next_epoch(replace(recovered, head=held.revision))
                assert recovered.tenure is not None
                held = Held(self.here.store, recovered.head or "", recovered.tenure)
            if held.lost:
                self._skip("another instance has taken the lease meanwhile")
                return recovered
            self._prepare(recovered, held.tenure)
            try:
                await self._run_held(held)
            finally:
                row["detail"] = self._facts()["state"]
                self.start.claimant.claimed = Claimed(held.revision, held.tenure, recovered.clean)
        return replace(recovered, head=held.revision)

    def _begun(self, tenure: Tenure) -> bool:
        """Whether the resume of this epoch has begun before: here, or under an agent of this life that is gone."""
        if self.before == f"begun:{tenure.epoch}":
            tenure.begin_resume()
        return tenure.resume != "none"

    async def _next_epoch(self, recovered: Recovered) -> Recovered:
        assert recovered.tenure is not None
        assert recovered.head is not None
        taken = await renew(self.here.store, recovered.head, recovered.tenure)
        log.info(f"the resume of epoch {recovered.tenure.epoch} has begun before: this one is of {taken.tenure.epoch}")
        self.here.state.epoch = taken.tenure.epoch
        self.start.claimant.claimed = replace(taken, clean=recovered.clean)
        return replace(recovered, head=taken.revision, tenure=taken.tenure)

    def _prepare(self, recovered: Recovered, tenure: Tenure) -> None:
        me = self.here.plan.me.instance
        at = recovered.origin.source or recovered.head or ""
        self._tenure = tenure
        self._told = Told(tenure.epoch, me, at, recovered.manifest, recovered.clean, tenure.interrupted)
        self._rows = [
            {"command": resume.shown(c, self.secrets), "when": "after-ready" if c.later else "before-main"}
            for c in self.commands
        ]
        if tenure.interrupted:
            log.warning("the resume of an earlier epoch was cut off, or was never heard to end: this one is told so")

    async def _run_held(self, held: Held) -> None:
        """The commands before main, one after the other, for as long as the lease is ours."""
        now = [pair for pair in zip(self.commands, self._rows, strict=True) if not pair[0].later]
        if not now:
            return
        running = asyncio.create_task(self._run(now))
        losing = asyncio.create_task(held.until_lost())
        try:
            await asyncio.wait({running, losing}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                log.warning("another instance has taken the lease: what was resumed here is cut off")
        finally:
            for task in (running, losing):
                task.cancel()
            await asyncio.gather(running, losing, return_exceptions=True)
        if not running.cancelled() and (error := running.exception()) is not None:
            raise error
        if len(now) == len(self.commands):
            self._over()

    async def _run(self, pairs: Sequence[tuple[Command, dict[str, Any]]]) -> None:
        """Raises RestoreFailed where one fails that must not: those behind it don't run then."""
        assert self._told is not None
        assert self._tenure is not None
        for number, (command, row) in enumerate(pairs):
            if self._tenure.resume == "none":
                self._tenure.begin_resume()
                self._keep("begun")
            log.info(f"resume: {'after ready' if command.later else 'before main'}: {row['command']}")
            if await resume.perform(command, self._told, self.secrets, row) == "ok":
                continue
            what = resume.failure(row["command"], row, command.limit_s)
            if command.must:
                for _, rest in pairs[number + 1 :]:
                    rest["result"] = "not run"
                self._over(keep=False)
                raise RestoreFailed(f"{what}, and it must not (!)", final=True, pause_s=AGAIN_S)
            log.warning(f"{what}: {'recorded' if command.later else 'main starts all the same'}")
            self.here.state.note(NOTE, what)

    def _over(self, *, keep: bool = True) -> None:
        """Unless one was cut short: then the next start is to know. ``keep``: main may be started after this one."""
        assert self._tenure is not None
        if all(row.get("result") in ("ok", "failed", "not run") for row in self._rows):
            self._tenure.end_resume()
            if keep:
                self._keep("over")

    def _keep(self, how: str) -> None:
        assert self._tenure is not None
        self.link.say("keep", "resume", f"{how}:{self._tenure.epoch}")

    def _skip(self, why: str) -> None:
        self.here.record.facts["resume"] = {"state": "skipped", "why": why}
        log.info(f"no resume: {why}")

    def _facts(self) -> dict[str, Any]:
        assert self._told is not None
        facts = {
            "state": resume.state_of(self._rows),
            "epoch": self._told.epoch,
            "interrupted": self._told.interrupted,
            "commands": self._rows,
        }
        self.here.record.facts["resume"] = facts
        return facts

    # --- with an engine -------------------------------------------------------------------------------------------

    def attach(self, engine: Engine) -> asyncio.Task[None] | None:
        """Let the news ride with ``engine``'s next commit, and begin to wait for main where a command does."""
        tenure = self._tenure
        if tenure is None or engine.tenure is not tenure:
            return None
        if tenure.resume == "over":
            engine.along({LEASE: tenure.held()})
        later = [pair for pair in zip(self.commands, self._rows, strict=True) if pair[0].later]
        if not later or tenure.resume == "over":
            return None
        engine.snapshotter.before_last, self._engine = self._stop, engine
        self._later = asyncio.create_task(self._after_ready(engine, later))
        return self._later

    async def _after_ready(self, engine: Engine, pairs: Sequence[tuple[Command, dict[str, Any]]]) -> None:
        state, upstream = self.here.state, self.here.settings.upstream is not None
        await self.link.main.started.wait()
        while readiness(state, upstream) is not None:
            if state.main_state == "exited":
                return
            await asyncio.sleep(LOOK_S)
        if state.lease != "held":
            return
        running = asyncio.create_task(self._run(pairs))
        try:
            while not running.done() and state.lease == "held":
                await asyncio.wait({running}, timeout=LOOK_S)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            self._facts()
        self._over()
        if self._tenure is not None and self._tenure.resume == "over" and engine.line.branch is None:
            engine.along({LEASE: self._tenure.held()})
        await self.recording.amend(engine)

    async def _stop(self) -> None:
        """Before the last commit, which lets go of the lease: nothing of this epoch's resume runs beyond it."""
        later, self._later = self._later, None
        if later is not None and not later.done():
            later.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await later
            await self.recording.amend(self._engine)

    async def recall(self) -> None:
        """What an agent before this one ran, and was killed in, stands on in the record and in health."""
        found = (self.here.state.recovery or {}).get("resume")
        if not isinstance(found, dict) or not isinstance(rows := found.get("commands"), list):
            return
        if self.before == f"begun:{found.get('epoch')}" and found.get("state") == "pending":
            for row in rows:
                row.setdefault("result", "cut off")
            found["state"] = resume.state_of(rows)
            self._corrected = True
            await self.recording.correct()
        bad = next((row for row in rows if row.get("result") not in (None, "ok", "not run")), None)
        if bad is not None:
            self.here.state.note(NOTE, f"resume command {bad.get('command')!r}: {bad['result']}")

    async def reattach(self, engine: Engine) -> None:
        """An agent beside a main that runs never resumes; what became of it under the one before is carried on."""
        tenure = engine.tenure
        if not isinstance(tenure, Tenure) or engine.line.branch is not None or not tenure.lease.resuming:
            return
        if self.before == f"over:{tenure.epoch}":
            tenure.end_resume()
            engine.along({LEASE: tenure.held()})
        elif self.before == f"begun:{tenure.epoch}":
            tenure.begin_resume()
            log.warning("the resume of this epoch was cut off with the agent before: the next start is told so")
            if self._corrected:
                await self.recording.ride(engine, engine.line.head)
