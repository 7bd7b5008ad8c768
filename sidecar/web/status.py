"""The whole state as `/status` shows it, to those who may see names of files and to those who may not."""

from __future__ import annotations

import re
import time
from typing import Any

from sidecar.masking import mask
from sidecar.state import Phase, State
from sidecar.web.checklist import of_agent
from sidecar.web.health import SENTENCES, judge, keepalive, lag_s, rfc3339, sync_code

PHASES: dict[Phase, str] = {
    "starting": "The agent starts.",
    "claiming": "Asking the store who may write.",
    "restoring": "Bringing the files back.",
    "verifying": "Checking the restored files.",
    "resuming": "Taking up what the last life left undone.",
    "ready": "Recovery is done; the main program starts.",
    "running": "The main program runs; its files are kept in sync.",
    "waiting": "Recovery could not be done yet; trying again.",
    "stopping": "Stopping: the last changes are being saved.",
    "stopped": "Stopped.",
    "failed": "Recovery failed; the log says why and what to do.",
}
"""What is going on, in words that name no file."""

_HIDDEN = "Details: in the log, by `sidecar status`, or with the API token."
_HTTP_STATUS = re.compile(r"\b(?:answers|answered|HTTP|status)\s+([45][0-9]{2})\b")
_PLAIN_KEY = re.compile(r"[a-z][a-z0-9_]{0,40}")
# Strings of a recovery record that are the agent's own words, never part of a path or of an error.
_PLAIN_STRINGS = {
    "at", "started", "ended", "instance", "previous", "space", "holder", "snapshot", "revision", "parent", "base",
    "phase", "step", "state", "outcome", "result", "status", "mode", "kind", "lease", "code",
}  # fmt: skip


def _detail(state: State) -> str:
    """The phase in a sentence, which never says that files are kept where they aren't."""
    if state.phase != "running":
        return PHASES[state.phase]
    if state.lease == "unleased":
        return "The main program runs; NOTHING that it writes is kept: the store can't be written to."
    if state.lease == "fenced":
        return "The main program runs; another instance has taken over: what it writes goes to a branch of its own."
    if state.mode == "orphan":
        return "The main program runs without its earlier files; what it writes goes to a branch of its own."
    if not state.persistent:
        return "The main program runs; its files are kept on this machine only, and are gone with it."
    if state.sync.error:
        return "The main program runs; its latest changes are NOT durable yet."
    return PHASES["running"]


def status(state: State, now_mono: float, *, names: bool) -> dict[str, Any]:
    """The body of `/status`; ``now_mono`` is ``time.monotonic()``.

    Without ``names`` it holds no name of a file: whatever was written for the owner (sentences, errors,
    lists of files) could hold one, and is replaced by what its code alone says.
    """
    verdict, codes = judge(state, now_mono)
    return {
        "phase": state.phase,
        "detail": (state.detail if names else "") or _detail(state),
        "health": verdict,
        "notes": {code: _sentence(state, code, names) for code in codes},
        "main": {"state": state.main_state, "pid": state.main_pid, "exit": state.main_exit},
        "roots": [
            {
                "name": root.name,
                "files": root.files,
                "bytes": root.bytes,
                "state": root.state,
                "excluded": root.excluded,
                "skipped": root.skipped,
            }
            for root in list(state.roots.values())
        ],
        "sync": _sync(state, now_mono, names),
        "restore": {
            "files_done": state.restore.files_done,
            "files_total": state.restore.files_total,
            "bytes_done": state.restore.bytes_done,
            "bytes_total": state.restore.bytes_total,
        },
        "recovery": _recovery(state, names),
        "checks": [dict(row) if names else _plain(row) for row in list(state.checks)],
        "lease": {"state": state.lease, "epoch": state.epoch, "holder": state.lease_holder},
        "keepalive": {
            "state": keepalive(state, now_mono),
            "last": rfc3339(state.keepalive.last),
            "agent": state.keepalive.agent,
            "every_s": state.keepalive.every_s,
        },
        "heartbeat": _heartbeat(state, names),
        "commits": {
            "hour": state.commits_hour,
            "total": state.commits_total,
            "stored_bytes": state.stored_bytes,
            "paced": state.commits_paced,
            "per_hour": state.commits_per_hour,
        },
        "snapshots": [
            {
                "snapshot": one.snapshot,
                "at": rfc3339(one.at),
                "files": one.files,
                "bytes": one.bytes,
                "changed": one.changed,
                "branch": one.branch,
            }
            for one in reversed(state.measures.snapshots)
        ],
        "drill": _drill(state.drill, names),
        "checklist": [item.document() for item in of_agent(state, now_mono, time.time(), names=names)],
        "version": state.version,
        "instance": state.instance,
        "space": state.space,
        "store": _store(state.store, names),
        "persistent": state.persistent,
        "mode": state.mode,
        "cold_start": state.cold_start,
        "started": rfc3339(state.started),
        "uptime_s": round(max(0.0, now_mono - state.started_mono), 1),
    }


def _heartbeat(state: State, names: bool) -> dict[str, Any] | None:
    """The last word that was posted, and whether it was taken."""
    last = state.heartbeat
    if last is None:
        return None
    error = last["error"] if names or last["error"] is None else _HIDDEN
    return {"event": last["event"], "at": rfc3339(last["at"]), "error": error}


def _sync(state: State, now_mono: float, names: bool) -> dict[str, Any]:
    sync = state.sync
    body: dict[str, Any] = {
        "last_durable": rfc3339(sync.last_durable),
        "snapshot": sync.snapshot,
        "revision": sync.revision,
        "pending": sync.pending,
        "lag_s": lag_s(state, now_mono),
        "waits_s": _waits_s(state, now_mono),
        "error": _error(state, names),
        "error_since": rfc3339(sync.error_since),
        "last_lag_s": sync.lag_s,
        "unsettled": sync.unsettled,
        "stale": sync.stale,
        "unreadable": sync.unreadable,
        "paced": sync.paced,
        "watcher": sync.watcher,
    }
    if names:
        body["files"] = sync.files
    return body


def _waits_s(state: State, now_mono: float) -> float | None:
    """For how long the pace of commits holds back what is pending; None where it doesn't."""
    until = state.sync.waits_until_mono
    return None if until is None or until <= now_mono else round(until - now_mono, 1)


def _drill(record: dict[str, Any] | None, names: bool) -> dict[str, Any] | None:
    """The newest restore drill; what went wrong could name a file."""
    if record is None:
        return None
    shown = {key: record.get(key) for key in ("result", "snapshot", "files", "bytes", "seconds")}
    at = record.get("at")
    shown["at"] = rfc3339(at) if isinstance(at, int | float) else None
    return {**shown, "why": record.get("why"), "checks": record.get("checks")} if names else shown


def _error(state: State, names: bool) -> str | None:
    error = state.sync.error
    if error is None or names:
        return error
    answer = _HTTP_STATUS.search(error)
    said = SENTENCES[sync_code(state) or "store-out-of-reach"]
    return f"{said}{f' It answers {answer[1]}.' if answer else ''} {_HIDDEN}"


def _sentence(state: State, code: str, names: bool) -> str:
    if names and code in state.notes:
        return state.notes[code]
    if names and code == "recovery-failed" and state.recovery_error:
        return state.recovery_error
    if names and code in ("check-failed", "verify-failed") and state.failed_checks:
        return f"{SENTENCES[code]} ({'; '.join(state.failed_checks)})"
    return SENTENCES.get(code, _HIDDEN)


def _recovery(state: State, names: bool) -> dict[str, Any] | None:
    if state.recovery is None:
        return None
    if names:
        return state.recovery
    plain = _plain(state.recovery)
    return plain if isinstance(plain, dict) else None


def _plain(value: Any, key: str = "") -> Any:
    """``value`` without any string that could be, or hold, the name of a file."""
    if isinstance(value, dict):
        kept = {k: _plain(v, k) for k, v in value.items() if isinstance(k, str) and _PLAIN_KEY.fullmatch(k)}
        return {k: v for k, v in kept.items() if v is not None or value[k] is None}
    if isinstance(value, list | tuple):
        return [kept for kept in (_plain(each, key) for each in value) if kept is not None]
    if isinstance(value, str):
        return value if key in _PLAIN_STRINGS else None
    return value


def _store(url: str, names: bool) -> str:
    """The store's URL without passwords; strangers see where only if it is the Hub, else what kind it is."""
    if names or url.startswith("hf://"):
        return mask(url)
    return f"{url.partition('://')[0]}://…"
