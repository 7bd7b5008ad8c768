"""The whole state as `/status` shows it, to those who may see names of files and to those who may not."""

from __future__ import annotations

import re
from typing import Any

from sidecar.masking import mask
from sidecar.state import Phase, State
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
        "lease": {"state": state.lease, "epoch": state.epoch, "holder": state.lease_holder},
        "keepalive": {
            "state": keepalive(state, now_mono),
            "last": rfc3339(state.keepalive.last),
            "agent": state.keepalive.agent,
            "every_s": state.keepalive.every_s,
        },
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
        "checklist": checklist(state, now_mono),
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


def checklist(state: State, now_mono: float) -> list[dict[str, Any]]:
    """What an operator of a Space must have, as far as the running agent itself can tell.

    Each line is ``{item, ok, detail, fix}``: ok is None where that can't be told yet, fix is None where there
    is nothing to do. No line names a file.
    """
    return [
        _line("health-endpoint", True, "/health answers", None),
        _poller(state, now_mono),
        _persistence(state),
        _restore(state),
        _observable(state),
    ]


def _line(item: str, ok: bool | None, detail: str, fix: str | None) -> dict[str, Any]:
    return {"item": item, "ok": ok, "detail": detail, "fix": None if ok else fix}


def _poller(state: State, now_mono: float) -> dict[str, Any]:
    seen = keepalive(state, now_mono)
    ok = {"ok": True, "overdue": False, "unknown": None}[seen]
    detail = {
        "ok": "pings come from outside",
        "overdue": "the pings from outside have stopped",
        "unknown": "no ping from outside was seen yet",
    }[seen]
    fix = "let a scheduler outside call /health of this Space every 45 minutes"
    return _line("poller-seen", ok, detail, fix)


def _persistence(state: State) -> dict[str, Any]:
    item = "remote-persistence"
    if not state.persistent:
        fix = "add the secret HF_TOKEN (write access), or set SIDECAR_STORE to a store elsewhere; then restart"
        return _line(item, False, "the store is on this machine and is lost with it", fix)
    code = sync_code(state)
    if code is not None:
        denied = "give HF_TOKEN write access to the store, then restart"
        return _line(
            item, False, SENTENCES[code], denied if code == "store-denied" else "see the log; it is tried again"
        )
    if state.sync.last_durable is None:
        return _line(item, None, "nothing was saved by this instance yet", "wait for the first sync")
    return _line(item, True, "changes reach the store", None)


def _restore(state: State) -> dict[str, Any]:
    item = "restore-on-restart"
    if state.recovered and state.mode == "normal":
        if state.cold_start:
            fix = "restart once after the first sync, to see the files come back"
            return _line(item, None, "first start: there was nothing to restore", fix)
        return _line(item, True, "this start brought the files back", None)
    if state.mode == "orphan" or state.phase == "failed" or state.recovery_error is not None:
        return _line(item, False, "this start could not bring the files back", "the log names the way out")
    return _line(item, None, "recovery is under way", "wait for it")


def _observable(state: State) -> dict[str, Any]:
    if state.recovery is None:
        return _line("observable-recovery", None, "no recovery record yet", "wait for recovery to end")
    return _line("observable-recovery", True, "the recovery record is in /status, the log and the store", None)


def _sync(state: State, now_mono: float, names: bool) -> dict[str, Any]:
    sync = state.sync
    body: dict[str, Any] = {
        "last_durable": rfc3339(sync.last_durable),
        "snapshot": sync.snapshot,
        "revision": sync.revision,
        "pending": sync.pending,
        "lag_s": lag_s(state, now_mono),
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
