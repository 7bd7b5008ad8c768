"""The operational checklist: what an operator of a Space must have, each item judged, with its fix.

Pure. The agent's own view of it is in `/status`; ``sidecar doctor`` shows the same items, where no agent runs as far as
store, settings and state dir tell. Texts that could name a file exist in a second form, for readers who may not see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sidecar.state import Inspection, LocalOnly, State
from sidecar.web.health import SENTENCES, keepalive, rfc3339, sync_code

Verdict = Literal["pass", "warn", "fail", "unknown"]

LONG_HISTORY = 1500
"""Commits of a dataset from which on it is time to prune."""

DRILL_PERIODS = 2.5
"""A drill that is so many intervals old has not run when it should."""
DRILL_OLD_S = 30 * 86400.0
"""The same where none is scheduled."""

SHOWN = 3

START = "start it: sidecar run -- CMD"


@dataclass(frozen=True, slots=True)
class Item:
    """One line: its stable ``id``, the verdict, what was found, and what to do (empty where it passes)."""

    id: str
    state: Verdict
    text: str
    fix: str = ""

    def document(self) -> dict[str, Any]:
        return {"id": self.id, "state": self.state, "text": self.text, "fix": self.fix or None}


def of_agent(state: State, now_mono: float, now: float, *, names: bool) -> list[Item]:
    """The checklist as a running agent sees it; ``now`` is in seconds since the epoch."""
    found = state.inspection if names else _plain(state.inspection)
    return [
        _endpoint(state),
        poller(keepalive(state, now_mono), state.keepalive.last, state.keepalive.agent),
        _persistence(state),
        _restored(state),
        drill(state.drill, state.drill_s, now, names=names),
        _observable(state),
        token_scope(found, hub=state.hub),
        store_private(
            found,
            hub=state.hub,
            encrypted=state.encrypted,
            persistent=state.persistent,
            allowed=state.public_allowed,
        ),
        commit_count(state.commits_total if found is None or found.commits is None else found.commits, hub=state.hub),
        single_writer(found),
        local_only(None if found is None else found.local, names=names),
    ]


def _plain(found: Inspection | None) -> Inspection | None:
    """``found`` without what could name a file, or another repository of the token's owner."""
    if found is None:
        return None
    trouble = "the store could not be asked, or refused" if found.trouble else ""
    return replace(found, trouble=trouble, wider="more than this store" if found.wider else found.wider)


def _endpoint(state: State) -> Item:
    if "port-unavailable" in state.notes:
        return Item(
            "health-endpoint", "fail", SENTENCES["port-unavailable"], "set SIDECAR_PORT to a free port, restart"
        )
    return Item("health-endpoint", "pass", "/health answers")


def poller(seen: str, last: float | None, agent: str | None) -> Item:
    """``last`` is the newest ping from outside (seconds since the epoch), ``agent`` who sent it."""
    fix = "let a scheduler outside call /health of this Space every 45 minutes: `sidecar fleet n8n`, or cron and curl"
    since = "" if last is None else f", the last at {rfc3339(last)} by {agent or '-'}"
    if seen == "ok":
        return Item("poller-seen", "pass", f"pings come from outside{since}")
    if seen == "overdue":
        return Item("poller-seen", "warn", f"the pings from outside are overdue{since}", fix)
    return Item("poller-seen", "unknown", f"no ping from outside was seen in this life{since}", fix)


def _persistence(state: State) -> Item:
    name = "remote-persistence"
    if not state.persistent:
        return not_persisted()
    when = rfc3339(state.sync.last_durable)
    if state.lease in ("unleased", "fenced") or state.mode == "orphan":
        why = SENTENCES["orphan" if state.mode == "orphan" else state.lease]
        return Item(name, "fail", why, "the log says why; mend that, then restart")
    code = sync_code(state)
    if code is not None:
        denied = code == "store-denied"
        fix = "give HF_TOKEN write access to the store, then restart" if denied else "see the log; it is tried again"
        since = "" if when is None else f" Durable as of {when}"
        return Item(name, "fail" if denied else "warn", f"{SENTENCES[code]}{since}", fix)
    behind = [r.name for r in state.roots.values() if r.state in ("unreadable", "undeclared")]
    if behind:
        fix = "make it readable for this user, or `sidecar forget` it"
        return Item(name, "warn", f"kept as they last were: {_some(behind)}", fix)
    if when is None and (state.cold_start or state.sync.snapshot is None):
        return Item(name, "unknown", "nothing was saved yet", "wait for the first sync")
    what = _some([r.name for r in state.roots.values()])
    at = f"since {when}" if when is not None else "by an earlier instance; nothing has changed since"
    return Item(name, "pass", f"{what} durable as {state.sync.snapshot}, {at}")


def not_persisted() -> Item:
    fix = "add the secret HF_TOKEN (write access), or set SIDECAR_STORE to a store elsewhere; then restart"
    return Item("remote-persistence", "fail", "the store is on this machine and is lost with it", fix)


def _restored(state: State) -> Item:
    name = "restore-on-restart"
    if state.recovered and state.mode == "normal":
        if state.cold_start:
            fix = "restart once after the first sync, to see the files come back"
            return Item(name, "unknown", "first start: there was nothing to restore", fix)
        return Item(name, "pass", "this start brought the files back")
    if state.mode == "orphan" or state.phase == "failed" or state.recovery_error is not None:
        return Item(name, "fail", "this start could not bring the files back", "the log names the way out")
    return Item(name, "unknown", "recovery is under way", "wait for it")


def drill(record: Mapping[str, Any] | None, every_s: float | None, now: float, *, names: bool) -> Item:
    """The newest restore drill, as `recovery.drills` writes it down; ``every_s`` is SIDECAR_DRILL."""
    name = "restore-drill"
    plan = "set SIDECAR_DRILL=24h, or run `sidecar drill`"
    if not record:
        if every_s is None:
            return Item(name, "warn", "no restore drill was ever run here", plan)
        return Item(name, "unknown", "no restore drill was run here yet; one is scheduled", "run `sidecar drill`")
    at, snapshot = record.get("at"), record.get("snapshot") or "the head"
    when = rfc3339(at) if isinstance(at, int | float) else "an unknown time"
    why = f": {record.get('why')}" if names and record.get("why") else ""
    result = record.get("result")
    if result == "pass":
        text = f"{snapshot} came back whole at {when} ({record.get('files', 0):,} files)"
        old = DRILL_OLD_S if every_s is None else every_s * DRILL_PERIODS
        if isinstance(at, int | float) and now - at > old:
            return Item(name, "warn", f"{text}; none since", plan if every_s is None else "see the log")
        return Item(name, "pass", text)
    if result == "fail":
        return Item(name, "fail", f"{snapshot} did not come back whole at {when}{why}", "run `sidecar verify`")
    if result == "no-room":
        return Item(name, "warn", f"no room for a restore drill at {when}{why}", "free some space in the state dir")
    return Item(name, "unknown", f"the restore drill at {when} came to no end{why}", "run `sidecar drill`")


def _observable(state: State) -> Item:
    if state.recovery is None:
        return Item("observable-recovery", "unknown", "no recovery record yet", "wait for recovery to end")
    return Item("observable-recovery", "pass", "the recovery record is in /status, the log and the store")


def token_scope(found: Inspection | None, *, hub: bool) -> Item:
    """Does the token reach more than the store?"""
    name = "token-scope"
    if not hub:
        return Item(name, "pass", "the store needs no Hub token")
    if found is None:
        return not_looked(name)
    if found.denied:
        fix = "make a fine-grained token that may read and write this dataset, put it into HF_TOKEN, restart"
        return Item(name, "fail", found.trouble or "the token may not write the store", fix)
    if found.wider is None:
        if found.trouble:
            return not_looked(name, asked=True)
        return Item(name, "unknown", "the Hub doesn't say what the token may do", "look in the token's settings")
    if found.wider:
        fix = (
            "make a fine-grained token with read and write access to the contents of this dataset only, put it into"
            " HF_TOKEN, restart (unless the app needs more)"
        )
        return Item(name, "warn", f"wider than the store needs: {found.wider}", fix)
    return Item(name, "pass", "the token reaches this store only")


def store_private(found: Inspection | None, *, hub: bool, encrypted: bool, persistent: bool, allowed: bool) -> Item:
    """Can others read what is kept? ``allowed``: SIDECAR_PUBLIC says that they may."""
    name = "store-private"
    if encrypted:
        return Item(name, "pass", "what is kept is encrypted")
    if not hub:
        return Item(name, "pass", "the store is a folder" + ("" if persistent else " on this machine"))
    if found is None or found.public is None:
        return not_looked(name, asked=found is not None)
    if found.public:
        fix = "make the dataset private in its settings, or encrypt (SIDECAR_AGE_RECIPIENT)"
        text = "the dataset is public and not encrypted: everybody can read it"
        return Item(name, "warn", f"{text} (SIDECAR_PUBLIC=allow)", fix) if allowed else Item(name, "fail", text, fix)
    return Item(name, "pass", "the dataset is private")


def commit_count(commits: int | None, *, hub: bool, asked: bool = False) -> Item:
    """``asked``: the store was, and could not tell."""
    name = "commit-count"
    if commits is None:
        return not_looked(name, asked=asked)
    if hub and commits >= LONG_HISTORY:
        fix = "`sidecar prune`, or set SIDECAR_SQUASH_AFTER (neither can be undone)"
        return Item(name, "warn", f"{commits:,} commits: a long history makes the Hub slow", fix)
    return Item(name, "pass", f"{commits:,} commits")


def single_writer(found: Inspection | None) -> Item:
    """Did two instances take the lease from each other?"""
    name = "single-writer"
    if found is None or found.turns is None:
        return not_looked(name, asked=found is not None)
    if found.turns:
        fix = "run one replica of this Space; give a copy of it a store of its own (SIDECAR_STORE)"
        within = f"within the hour before {rfc3339(found.turns_at)}: {_some(found.turns)}"
        if found.turns_again:
            return Item(name, "warn", f"two instances held the lease alternately {within}", fix)
        text = f"living instances took the lease from each other, one after the other, {within}"
        return Item(name, "warn", text, f"none is needed if you rebuilt it so often; else {fix}")
    return Item(name, "pass", "no two instances held the lease alternately")


def local_only(local: LocalOnly | None, *, names: bool, value: str = "") -> Item:
    """State that no root covers. ``value`` is what SIDECAR_PATHS would be with it, where that is known."""
    name = "local-only"
    if local is None:
        return not_looked(name)
    bound = "" if local.complete else " (as far as the search got)"
    if not local.files:
        return Item(name, "pass", f"no database or login lies outside of the roots{bound}")
    if not names:
        fix = "`sidecar doctor` names them, and what to add to SIDECAR_PATHS"
        return Item(name, "warn", f"{len(local.files):,} databases or logins lie in no root{bound}", fix)
    listed = _some([f"{path} ({kind})" for path, kind in local.files])
    fix = f"set SIDECAR_PATHS={value or ':'.join(local.declare)}" + ("" if value else " besides what it has")
    return Item(name, "warn", f"local only, gone with this machine: {listed}{bound}", fix)


def not_looked(name: str, *, asked: bool = False) -> Item:
    """What is not known yet, or, ``asked``, could not be learnt of the store: why is said in remote-persistence."""
    if asked:
        return Item(name, "unknown", "the store could not tell", "see remote-persistence")
    return Item(name, "unknown", "not looked at yet", "run `sidecar doctor`")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
