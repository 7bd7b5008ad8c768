"""Is this life of the agent well? One pure judgement, as section 8 of the design words it.

Each finding has a code. The worst one decides: a ``FAIL`` makes 503, anything else 200. A store that is away
never fails: whoever restarts a failing container would throw away what only this disk has.
"""

from __future__ import annotations

import datetime
from typing import Any, Literal

from sidecar.state import State

Verdict = Literal["pass", "warn", "fail"]
Keepalive = Literal["unknown", "ok", "overdue"]

LOOP_STUCK_S = 30.0
"""The agent's loop marks its beat every 2 s; a beat older than this means that it hangs."""
NOT_DURABLE_S = 300.0
"""At least this long may changes wait before anybody is warned; else four times ``SIDECAR_MAX_DELAY``."""
TROUBLE_S = 600.0
"""Stale, unsettled or unreadable entries often mend themselves at the next scan: warn only past this."""
KEEPALIVE_S = 45 * 60.0
"""How often a ping is expected once there was one: what the recommended scheduler does."""
KEEPALIVE_PERIODS = 2
"""Schedulers ping with jitter and retries, and one ping may get lost: overdue is what two periods went without."""

FAIL = {
    "recovering": "Recovery isn't done yet.",
    "recovery-failed": "The files could not be restored.",
    "main-not-running": "The main program has ended.",
    "check-failed": "A check that must pass did not.",
    "loop-stuck": "The agent hangs.",
}
WARN = {
    "not-durable": "Changes wait, and nothing has become durable for too long.",
    "store-out-of-reach": "The store can't be reached; what changed since is on this disk only.",
    "store-denied": "The store refuses access; what changed since is on this disk only.",
    "disk-full": "Changes could not be staged for want of disk space; they are on this disk only.",
    "sync-failed": "The last sync failed; what changed since is on this disk only.",
    "unleased": "Started without the lease: nothing is written to the store.",
    "fenced": "A newer instance has taken over: this one no longer writes to the main line.",
    "not-persisted": "No store outlives this machine: everything is lost with it.",
    "stale-entries": "The snapshot holds older copies of files that could not be captured since.",
    "unsettled-entries": "Files changed while they were read: the snapshot may hold them half written.",
    "unreadable-entries": "Files can't be read: the snapshot keeps their last known content.",
    "verify-failed": "A check failed (SIDECAR_VERIFY).",
    "keepalive-overdue": "No ping came from outside for too long: the Space may fall asleep.",
}
NOTED = {
    "blocked": "Some restored entries could not be put in place.",
    "check-warns": "A check will soon fail, or can't be judged.",
    "cold-start": "The store was empty: started with nothing to restore, and nothing is durable yet.",
    "damaged-head": "Started from an older snapshot: the newest one is kept on a branch of its own.",
    "drill-failed": "The newest restore drill did not get back what was committed.",
    "held-deletion": "Much was deleted at once: the store keeps it until that is confirmed.",
    "long-history": "The dataset has so many commits that it is time to prune it, or to set SIDECAR_SQUASH_AFTER.",
    "store-grows": "The store takes more than what is left on its disk: it is time to prune it.",
    "orphan": "Recovery failed: what the main program writes is kept on a branch of its own.",
    "port-unavailable": "The port could not be had: nothing answers there.",
    "resume-failed": "A resume command failed; the main program was started all the same.",
    "root-unwritable": "A root can't be written by this user.",
    "socket-unavailable": "Our own commands can't reach this agent.",
    "supervisor-gone": "The supervisor was killed: the agent goes on, but nobody would start it again.",
    "undeclared-root": "The snapshot holds a root that SIDECAR_PATHS doesn't name.",
    "upstream-down": "The main program accepts no connections: visitors get an error page.",
}
"""What other rooms note, for readers who may not see their own sentences: those could name a file."""
SENTENCES = NOTED | WARN | FAIL
"""Every code with a sentence that names no file."""
_SYNC_CODES = {"no-room": "disk-full", "failed": "sync-failed", "fenced": "fenced", "denied": "store-denied"}


def judge(state: State, now_mono: float) -> tuple[Verdict, list[str]]:
    """The verdict, and the codes of everything that is not well: failing ones first, each at most once."""
    failing = _failing(state, now_mono)
    codes = list(dict.fromkeys([*failing, *_warning(state, now_mono), *state.notes]))
    return "fail" if failing else "warn" if codes else "pass", codes


def health(state: State, now_mono: float) -> tuple[int, dict[str, Any]]:
    """The HTTP status (200 or 503) and body of ``/health``; ``now_mono`` is ``time.monotonic()``."""
    status, codes = judge(state, now_mono)
    body = {
        "status": status,
        "phase": state.phase,
        "epoch": state.epoch,
        "lag_s": lag_s(state, now_mono),
        "last_durable": rfc3339(state.sync.last_durable),
        "notes": codes,
    }
    return (503 if status == "fail" else 200), body


def readiness(state: State, upstream: bool) -> str | None:
    """None when this Space is ready for users, else what it still waits for, in words."""
    if not state.recovered:
        return "recovery is not done"
    if state.main_state != "running":
        return "the main program has ended" if state.main_state == "exited" else "the main program isn't started"
    if upstream and state.upstream_seen is False:
        return "the main program has not accepted a connection yet"
    return None


def lag_s(state: State, now_mono: float) -> float:
    """Seconds since the first change that is not durable yet; 0 where none waits."""
    since = state.sync.pending_since_mono
    return 0.0 if since is None else round(max(0.0, now_mono - since), 1)


def keepalive(state: State, now_mono: float) -> Keepalive:
    """Do pings from outside come often enough? Judged once there was one, or where they were promised."""
    seen = state.keepalive
    if seen.last_mono is None and seen.last is None and seen.every_s is None:
        return "unknown"
    since = state.started_mono if seen.since_mono is None else seen.since_mono
    last = since if seen.last_mono is None else seen.last_mono
    every = KEEPALIVE_S if seen.every_s is None else seen.every_s
    if now_mono - last > every * KEEPALIVE_PERIODS:
        return "overdue"
    return "unknown" if seen.last_mono is None else "ok"


def sync_code(state: State) -> str | None:
    """The code of what keeps changes from being durable, None where nothing does."""
    if state.sync.denied:
        return "store-denied"
    return None if state.sync.error is None else _SYNC_CODES.get(state.sync.error_code, "store-out-of-reach")


def rfc3339(at: float | None) -> str | None:
    """``at``, in seconds since the epoch, as an RFC 3339 UTC time to the millisecond."""
    if at is None:
        return None
    text = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def _failing(state: State, now: float) -> list[str]:
    codes = []
    if state.mode == "orphan":
        codes.append("recovery-failed")  # main runs by SIDECAR_ON_RESTORE_FAILURE=continue, without its files
    elif not state.recovered:
        failed = state.phase == "failed" or state.recovery_error is not None
        codes.append("recovery-failed" if failed else "recovering")
    # A main that waits is no failure: a bare `sidecar agent` never has one.
    if state.main_state == "exited":
        codes.append("main-not-running")
    if any(check.startswith("!") for check in state.failed_checks):
        codes.append("check-failed")
    if now - state.loop_beat_mono > LOOP_STUCK_S:
        codes.append("loop-stuck")
    return codes


def _warning(state: State, now: float) -> list[str]:
    sync = state.sync
    trouble = sync.trouble_since_mono is not None and now - sync.trouble_since_mono > TROUBLE_S
    found = {
        "not-durable": _not_durable(state, now),
        **{
            code: sync_code(state) == code
            for code in ("store-out-of-reach", "store-denied", "disk-full", "sync-failed")
        },
        "unleased": state.lease == "unleased",
        "fenced": state.lease == "fenced" or sync_code(state) == "fenced",
        "not-persisted": not state.persistent,
        "stale-entries": trouble and sync.stale > 0,
        "unsettled-entries": trouble and sync.unsettled > 0,
        "unreadable-entries": trouble and sync.unreadable > 0,
        "verify-failed": any(not check.startswith("!") for check in state.failed_checks),
        "keepalive-overdue": keepalive(state, now) == "overdue",
    }
    return [code for code, is_so in found.items() if is_so]


def _not_durable(state: State, now: float) -> bool:
    if state.sync.pending_since_mono is None:
        return False
    last = state.sync.last_durable_mono
    # Under steady change the oldest pending one may be older than the last snapshot; that one still counts.
    since = state.sync.pending_since_mono if last is None else max(last, state.sync.pending_since_mono)
    return now - since > max(NOT_DURABLE_S, 4 * state.max_delay_s)
