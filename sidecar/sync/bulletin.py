"""What the log and the state say about syncing: one line where something changed, none where nothing did."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sidecar import log
from sidecar.measures import Seen
from sidecar.snapshot.captures import LARGE, LARGE_EVERY_S
from sidecar.snapshot.manifest import SnapshotId
from sidecar.state import State
from sidecar.sync.look import Survey
from sidecar.units import size_text

QUIET_S = 60.0
"""At most one line in this long while all is well."""

REMIND_S = 600.0
"""How often an outage that goes on is said again, and that the pace of commits holds changes back."""

PACED_S = 10.0
"""A shorter wait for the pace is not worth a line."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a snapshot came to: the durable one that holds all of it (new or not), or why there is none."""

    ok: bool
    snapshot: str | None = None
    revision: str | None = None
    changed: int = 0
    error: str = ""
    code: Literal["", "fenced", "unavailable", "denied", "no-room", "failed", "timeout"] = ""
    retry_after: float | None = None
    troubled: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)


class Bulletin:
    """Tells a state, and the log, what became of each sync. Called on the event loop; blocks nowhere."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._last_log = float("-inf")
        self._last_warning = self._last_paced = float("-inf")
        self._suppressed = 0

    def durable(
        self, snapshot: SnapshotId, revision: str, changed: int, size: int, lag: float, branch: str | None
    ) -> None:
        """A snapshot is in the store: ``changed`` entries of ``size`` bytes, ``lag`` seconds after the first change."""
        now, sync = time.monotonic(), self.state.sync
        sync.snapshot, sync.revision = str(snapshot), revision
        sync.last_durable, sync.last_durable_mono = time.time(), now
        sync.lag_s = round(lag, 3)
        if self.state.commits_total is not None:
            self.state.commits_total += 1
        self.state.clear("cold-start")
        roots = self.state.roots.values()
        files, whole = sum(root.files for root in roots), sum(root.bytes for root in roots)
        seen = Seen(str(snapshot), sync.last_durable, files, whole, changed, branch)
        self.state.measures.durable(seen, size, lag)
        if now - self._last_log < QUIET_S and not sync.error:
            self._suppressed += changed
            log.debug(f"durable {snapshot}: {changed} changed")
            return
        changed, self._suppressed, self._last_log = changed + self._suppressed, 0, now
        where = f" on branch {branch}" if branch else ""
        log.info(f"durable {snapshot}{where}: {changed:,} changed, {size_text(size)}, lag {lag:.1f} s")

    def good(self, pending: int, first: float, began: float) -> None:
        """All is durable that a sync saw, whose look ``began`` then; ``pending`` paths changed since ``first``."""
        sync = self.state.sync
        sync.looked_mono = began
        if sync.error:
            log.info(f"durable again after {time.time() - (sync.error_since or time.time()):.0f} s: {sync.snapshot}")
        sync.error, sync.error_since, sync.error_code, sync.denied = None, None, "", False
        sync.pending_since_mono = None  # what waited until now is durable
        self.pending(pending, first)

    def bad(self, result: Result, pending: int, first: float) -> None:
        """A sync failed: say so once, and again every ten minutes."""
        now, sync = time.monotonic(), self.state.sync
        self.pending(max(pending, 1), first)
        self.state.measures.failed(result.code)
        new = sync.error is None
        sync.error, sync.error_code, sync.denied = result.error, result.code, result.code == "denied"
        sync.error_since = sync.error_since or time.time()
        if new or now - self._last_warning >= REMIND_S:
            since = time.strftime("%H:%M", time.localtime(sync.error_since))
            log.warning(
                f"not durable since {since}: {result.error.rstrip('.')}. Your files are safe on this disk only."
            )
            self._last_warning = now

    def pending(self, pending: int, first: float) -> None:
        """So many paths wait for a sync, the oldest since the monotonic time ``first``."""
        sync = self.state.sync
        sync.pending = pending
        sync.pending_since_mono = (sync.pending_since_mono or first) if pending else None

    def waits(self, until: float | None) -> None:
        """The pace of commits holds back what is pending, until the monotonic time ``until``; None: nothing does."""
        now, sync = time.monotonic(), self.state.sync
        sync.waits_until_mono = until
        if until is not None and until - now >= PACED_S and now - self._last_paced >= REMIND_S:
            self._last_paced = now
            log.info(
                f"changes wait {until - now:.0f} s for the next snapshot: SIDECAR_COMMITS_PER_HOUR="
                f"{self.state.commits_per_hour} are spread over the hour. A checkpoint goes at once"
            )

    def held(self, survey: Survey, before: Collection[str]) -> None:
        """Which roots' mass deletions are held back now; ``before`` are those of the last look."""
        for name in set(survey.held) - set(before):
            log.warning(
                f"{survey.held[name]:,} entries of root {name!r} are gone at once: that looks like a fault, so the"
                " store keeps them until the next rescan (without an agent: a later `sidecar sync`) sees it again, or a"
                " checkpoint confirms it"
            )
        if survey.held:
            names = ", ".join(sorted(survey.held))
            self.state.note("held-deletion", f"a mass deletion is held back in: {names}")
        else:
            self.state.clear("held-deletion")

    def looked(self, survey: Survey, later: Collection[str] = ()) -> None:
        """What a look saw that can't be kept as it is, and how the roots are.

        ``later`` are large databases that were written and wait for their turn.
        """
        sync, trouble = self.state.sync, survey.trouble()
        said = {f["path"] for f in sync.files}
        for path, why in {**survey.unreadable, **survey.stale}.items():
            if path not in said:
                log.warning(f"{path!r} can't be copied now ({why}): the store keeps what it has of it")
        for path in set(later) - said:
            every = LARGE_EVERY_S / 60
            log.info(
                f"{path!r} is a database of over {size_text(LARGE)}: it is copied at most every {every:.0f} minutes"
            )
        states = dict.fromkeys(later, "paced") | trouble
        sync.files = [{"path": p, "state": s} for p, s in sorted(states.items())[:100]]
        sync.paced = len(later)
        kinds = list(trouble.values())
        sync.unsettled, sync.stale = kinds.count("unsettled"), kinds.count("stale")
        sync.unreadable = len(kinds) - sync.unsettled - sync.stale
        sync.trouble_since_mono = (sync.trouble_since_mono or time.monotonic()) if kinds else None
        for name, entry in self.state.roots.items():
            entry.excluded = survey.excluded.get(name, entry.excluded)
            entry.skipped = survey.skipped.get(name, entry.skipped)
            kind = survey.kinds.get(name, "absent")
            entry.state = kind if kind in ("absent", "unreadable") else "durable"
        self.totals(survey.totals)

    def totals(self, totals: Mapping[str, tuple[int, int]]) -> None:
        """How many files of each root are durable, and their bytes."""
        for name, (files, size) in totals.items():
            entry = self.state.roots[name]
            entry.files, entry.bytes = files, size

    def edited(self) -> None:
        log.warning(
            "the store was edited by somebody else since our last snapshot. What this Space holds goes on top of"
            " it; files that no root names are left alone"
        )

    def fenced(self, branch: str) -> None:
        log.warning(
            "FENCED: another instance holds the lease. Nothing more goes to the main line; what this one writes"
            f" goes to branch {branch}"
        )
        self.state.lease = "fenced"
