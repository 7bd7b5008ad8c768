"""The one place where a running agent's state lives: written by recovery and sync, read by web.

Only the event loop's thread writes to it; a reader sees a value of some moment, never half of one.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from sidecar.measures import Measures

Phase = Literal[
    "starting",
    "claiming",
    "restoring",
    "verifying",
    "resuming",
    "ready",
    "running",
    "waiting",
    "stopping",
    "stopped",
    "failed",
]
MainState = Literal["waiting", "running", "exited"]
LeaseState = Literal["none", "held", "unleased", "fenced", "released"]


@dataclass(slots=True)
class RootState:
    name: str
    files: int = 0
    bytes: int = 0
    state: str = "unknown"  # unknown, absent, restored, durable, pending, unreadable, undeclared
    excluded: int = 0
    skipped: int = 0  # sockets, devices, pipes


@dataclass(slots=True)
class RestoreProgress:
    files_done: int = 0
    files_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0


@dataclass(slots=True)
class SyncState:
    last_durable: float | None = None  # seconds since the epoch, for people only
    last_durable_mono: float | None = None
    snapshot: str | None = None
    revision: str | None = None
    pending: int = 0
    pending_since_mono: float | None = None
    waits_until_mono: float | None = None  # until then the pace of commits holds back what is pending
    lag_s: float | None = None  # of the last durable sync: first change to durable
    error: str | None = None
    error_since: float | None = None
    error_code: str = ""  # which kind of error, by the engine's own codes; "" where the store can't be reached
    denied: bool = False
    unsettled: int = 0
    stale: int = 0
    unreadable: int = 0
    paced: int = 0  # large databases that were written and wait for their turn
    trouble_since_mono: float | None = None  # unsettled, stale or unreadable entries without a break since
    looked_mono: float | None = None  # when the last look began of which all is durable
    watcher: str = "off"  # inotify, polling, off
    files: list[dict[str, Any]] = field(default_factory=list)  # paths in trouble: only with the API token


@dataclass(slots=True)
class Keepalive:
    """Pings from outside: the last one (wall clock for people, monotonic for judging), and how often they are due.

    ``since_mono`` is from when on they were to come, where none came in this life yet; None: since the agent's start.
    """

    last: float | None = None
    last_mono: float | None = None
    agent: str | None = None
    every_s: float | None = None
    since_mono: float | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)  # set by each ping

    def ping(self, agent: str) -> None:
        """Somebody outside, who calls itself ``agent``, has asked how we are."""
        self.last, self.last_mono, self.agent = time.time(), time.monotonic(), agent
        self.news.set()


@dataclass(frozen=True, slots=True)
class LocalOnly:
    """Files that look like state and lie in no root, as (path, kind), and the roots that would cover them.

    ``complete`` is false where a bound ended the search.
    """

    files: tuple[tuple[str, str], ...] = ()
    declare: tuple[str, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a look at store, token and disk found, for the checklist. None is what could not be told.

    ``trouble`` says why the store could not be asked, ``denied`` that it refused; ``wider`` what the token may do
    beyond the store. ``turns`` are the instances that took the lease from each other within an hour, ``turns_at`` when
    (seconds since the epoch).
    """

    trouble: str = ""
    denied: bool = False
    writable: bool | None = None
    public: bool | None = None
    wider: str | None = None
    commits: int | None = None
    turns: tuple[str, ...] | None = None
    turns_again: bool = False  # one of them came back; else each had another name
    turns_at: float | None = None
    local: LocalOnly | None = None


@dataclass(slots=True)
class DoorState:
    """What went through the front door in this life."""

    requests: int = 0
    failed: int = 0  # no answer from the app, or half of one
    open: int = 0  # under way, WebSockets included
    websockets: int = 0  # open now


@dataclass(slots=True)
class State:
    """Everything `/status`, `/health` and the recovery record say about this life of the agent."""

    instance: str
    version: str
    space: str
    store: str
    persistent: bool
    in_space: bool = False  # behind a Space's proxy, which names every visitor
    started: float = field(default_factory=time.time)
    started_mono: float = field(default_factory=time.monotonic)
    phase: Phase = "starting"
    detail: str = ""  # one sentence for people on what is going on
    main_state: MainState = "waiting"
    main_pid: int | None = None
    main_exit: int | None = None
    holds_main: bool = True  # main starts only after recovery; not so where an image's own init has started it
    ready: bool = False
    recovered: bool = False
    recovery_error: str | None = None
    mode: Literal["normal", "orphan"] = "normal"
    lease: LeaseState = "none"
    epoch: int | None = None
    lease_holder: str | None = None
    restore: RestoreProgress = field(default_factory=RestoreProgress)
    recovery: dict[str, Any] | None = None  # the recovery record, as it is written
    roots: dict[str, RootState] = field(default_factory=dict)
    sync: SyncState = field(default_factory=SyncState)
    keepalive: Keepalive = field(default_factory=Keepalive)
    max_delay_s: float = 30.0  # SIDECAR_MAX_DELAY: how late "not durable" is too late depends on it
    door: DoorState = field(default_factory=DoorState)
    upstream_seen: bool | None = None  # has the main app accepted a connection; None where nobody looks
    commits_hour: int = 0
    commits_paced: int = 0  # the automatic ones among them
    commits_per_hour: int | None = None  # SIDECAR_COMMITS_PER_HOUR, which bounds those
    commits_total: int | None = None
    stored_bytes: int | None = None  # all that the store keeps, where it tells
    cold_start: bool = False
    heartbeat: dict[str, Any] | None = None  # the last word that was posted: event, at, error
    encrypted: bool = False
    public_allowed: bool = False  # SIDECAR_PUBLIC=allow
    hub: bool = False  # the store is one that a Hub token is needed for
    inspection: Inspection | None = None
    drill_s: float | None = None  # SIDECAR_DRILL
    drill: dict[str, Any] | None = None  # the newest restore drill, as it is written down
    notes: dict[str, str] = field(default_factory=dict)  # code -> one sentence; each makes health warn
    checks: list[dict[str, Any]] = field(default_factory=list)  # SIDECAR_VERIFY: each with what it came to last
    failed_checks: list[str] = field(default_factory=list)  # as configured: one with a leading "!" fails health
    loop_beat_mono: float = field(default_factory=time.monotonic)
    measures: Measures = field(default_factory=Measures)

    def note(self, code: str, sentence: str) -> None:
        self.notes[code] = sentence

    def clear(self, code: str) -> None:
        self.notes.pop(code, None)
