"""What an agent, or a command that does an agent's work, needs open: settings, store, index, locks, state."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sidecar
from sidecar import log
from sidecar.errors import ConfigError, RestoreFailed, SidecarError
from sidecar.measures import SNAPSHOTS
from sidecar.recovery import reattach as reattaching
from sidecar.recovery import report
from sidecar.recovery.claim import Claimed, Moved, read_lease, refusal
from sidecar.recovery.lease import Me, Refuse, Tenure, decide
from sidecar.recovery.locks import RootLocks
from sidecar.recovery.record import Record
from sidecar.recovery.restore import confirm_local, read_manifest
from sidecar.recovery.scratch import sweep
from sidecar.recovery.terms import Plan, Recovered
from sidecar.settings import Settings, ensure_state_dir, load, unsupported
from sidecar.snapshot import machine
from sidecar.snapshot.exclude import own_paths
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Manifest, snapshot_in
from sidecar.state import RootState, State
from sidecar.stores.base import Store, StoreError
from sidecar.stores.opening import open_store
from sidecar.sync.attempt import Options
from sidecar.sync.engine import Engine
from sidecar.sync.history import past
from sidecar.sync.line import Base
from sidecar.sync.pace import CEILING, Budget, backoff

_DEVICES = "devices"
"""The index's note of whose restore saw which devices."""


@dataclass(slots=True)
class Session:
    """Everything that is open; ``locks`` hold the roots."""

    settings: Settings
    store: Store
    index: Index
    locks: RootLocks
    state: State
    plan: Plan
    record: Record


def open_session(environ: Mapping[str, str], instance: str, lock_fds: Sequence[int] = ()) -> Session:
    """Read the settings, take the roots' locks, open index and store. Raises ConfigError, TryLater (75)."""
    settings = load(environ, need_paths=True)
    log.setup(settings.log, settings.log_level)
    _refuse_what_is_missing(settings)
    state_dir = Path(ensure_state_dir(settings.state_dir))
    try:
        locks = RootLocks.acquire(settings.roots, state_dir, lock_fds)
        # What a killed agent had staged is of no use to anybody; the locks say that no other one lives here.
        shutil.rmtree(state_dir / "staging", ignore_errors=True)
        sweep(state_dir)
        index = Index(state_dir / "index.db")
    except OSError as error:
        raise machine.start_failed(error, state_dir) from error
    store = open_store(settings)
    state = State(
        instance=instance,
        version=sidecar.__version__,
        space=settings.identity,
        store=settings.store.url,
        persistent=settings.store.persistent,
        in_space=settings.space_id is not None,
        max_delay_s=settings.max_delay_s,
        roots={root.name: RootState(root.name) for root in settings.roots},
    )
    state.keepalive.every_s = settings.keepalive_every_s
    state.encrypted = settings.age_recipient is not None
    state.public_allowed = settings.public
    state.hub = settings.store.kind in ("hf", "bucket")
    state.drill_s = settings.drill_s
    for warning in settings.warnings:
        log.warning(warning)
    plan = Plan(
        roots=settings.roots,
        me=Me(instance, settings.identity, settings.adopt),
        store_id=settings.store.url,
        state_dir=state_dir,
        cold_start=settings.cold_start,
        revision=settings.revision,
        handoff_wait_s=settings.handoff_wait_s,
        timeout_s=settings.restore_timeout_s,
        on_failure=settings.on_restore_failure,
        exclude=settings.exclude,
        own=_own(settings),
        resumes=bool(settings.resume),
    )
    return Session(settings, store, index, locks, state, plan, Record(instance))


def keep_scratch(state_dir: Path) -> None:
    """Let this process's temporary files lie in the state dir, and remove those of agents that were killed.

    In the temp dir nobody would: each SIGKILL in a bad moment would leave one more there. Raises SidecarError.
    """
    scratch = state_dir / "tmp"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise machine.start_failed(error, state_dir) from error
    tempfile.tempdir = str(scratch)


def _refuse_what_is_missing(settings: Settings) -> None:
    """A setting that would protect or carry the app, and that this version can't honour, must not be ignored."""
    if missing := list(unsupported(settings)):
        raise ConfigError("\n".join(missing))


def _own(settings: Settings) -> tuple[str, ...]:
    folder = settings.store.path if settings.store.kind == "folder" else None
    return own_paths(settings.state_dir, os.environ, folder)


def say_not_persisted(settings: Settings, state: State) -> None:
    """Nothing outlives this machine: in the log and as a note in health and status, with what to do."""
    state.note("not-persisted", "NOT PERSISTED: snapshots stay on this machine and are gone with it")
    what = "add the secret HF_TOKEN (write access) in Settings > Secrets" if settings.space_id else "set SIDECAR_STORE"
    log.warning(
        f"NOT PERSISTED: snapshots go to {settings.store.url}, which is gone with this machine. To keep them, {what}"
    )


def options(here: Session) -> Options:
    """The engine's part of the settings."""
    settings = here.settings
    return Options(
        roots=settings.roots,
        patterns=settings.exclude,
        own=here.plan.own,
        quiet_s=settings.quiet_s,
        max_delay_s=settings.max_delay_s,
        rescan_s=settings.rescan_s,
        state_dir=here.plan.state_dir,
        store_id=here.plan.store_id,
        space=settings.identity,
        instance=here.plan.me.instance,
        version=sidecar.__version__,
    )


async def engine(here: Session, base: Base, tenure: Tenure | None, now: float | None, *, again: bool = False) -> Engine:
    """The engine on ``base``; its budget is seeded with what the store says was committed in the last hour.

    ``now`` is the store's clock, where it told one. ``again`` says that an agent before this one restored, for the
    same main.
    """
    per_hour = here.settings.commits_per_hour
    ceiling = max(CEILING, per_hour) if here.settings.store.kind in ("hf", "bucket") else None
    budget = Budget(per_hour, ceiling, tell=here.state.measures.committed)
    here.state.commits_per_hour = per_hour
    try:
        history = await asyncio.wait_for(here.store.history(150), 30)
        commits = [(c.at, snapshot_in(c.title) is not None) for c in history if c.at is not None]
        budget.seed_from(commits, now, time.monotonic())
        here.state.commits_total = len(history) if len(history) < 150 else None
        here.state.commits_hour, here.state.commits_paced = budget.in_hour(time.monotonic())
        for one in reversed(past(history, {})[:SNAPSHOTS]):
            here.state.measures.seen(one.seen)
    except (StoreError, TimeoutError) as error:
        log.debug(f"the store's history can't be read ({error}): the commit budget starts empty")
    here.state.sync.snapshot = str(base.snapshot) if base.snapshot else None
    here.state.sync.revision = base.revision
    return Engine(base, here.store, here.index, tenure, options(here), here.state, budget, devices(here, again))


def devices(here: Session, again: bool) -> dict[str, int | None]:
    """Each root's device after the restore of this instance; None where it isn't there.

    An agent that came after another one beside the same main goes by what that one saw: what went away between the
    two is no deletion.
    """
    out: dict[str, int | None] = {}
    for root in here.settings.roots:
        try:
            out[root.name] = os.stat(root.path).st_dev
        except OSError:
            out[root.name] = None
    instance, before = json.loads(here.index.note(_DEVICES) or '["", {}]')
    if again and instance == here.plan.me.instance:
        out.update((name, device) for name, device in before.items() if name in out and device is not None)
    here.index.set_note(_DEVICES, json.dumps([here.plan.me.instance, out]))
    return out


def ride(here: Session, engine: Engine, recovered: Recovered) -> None:
    """What goes along with the first commit: a README where there is none, and what a chosen snapshot asks for."""
    if recovered.origin.readme:
        engine.rides.files["README.md"] = report.readme(here.settings.identity, here.settings.store.url)
    if recovered.origin.chosen is not None:
        engine.snapshotter.goes_on_from(recovered.origin.chosen, recovered.origin.source)


async def orphan_engine(here: Session) -> Engine:
    """Once the store is back: an engine on a branch of its own, that knows nothing of the main line."""
    here.index = Index(here.plan.state_dir / "orphan.db")
    failures = 0
    while True:
        try:
            return await engine(here, await _orphan_base(here), None, None)
        except SidecarError as error:
            failures += 1
            here.state.sync.error = error.message
            if failures == 1:
                log.warning(f"nothing that main writes is kept yet: {error.message.rstrip('.')}; trying again")
            await asyncio.sleep(backoff(failures))


async def _orphan_base(here: Session) -> Base:
    """Where the orphan's branch stands. Raises SidecarError where nothing of ours may be written at all."""
    await here.store.check()  # refuses, among others, what everybody can read
    head = await here.store.head()
    found = await read_lease(here.store, head)
    if isinstance(decide(found, here.plan.me), Refuse):
        assert found is not None
        raise RestoreFailed(refusal(here.store, found, here.plan.me))
    branch = f"orphan/{here.plan.me.instance}"
    begun = await here.store.history(1, branch)
    if not begun:
        # What another life's orphan has on its branch is not on this one.
        await asyncio.to_thread(here.index.forget)
        return Base(head, None, branch)
    manifest = await read_manifest(here.store, begun[0].revision, here.plan.state_dir)
    sent = await asyncio.to_thread(here.index.pending)
    if manifest is None:
        await asyncio.to_thread(here.index.forget)
        return Base(begun[0].revision, None, branch, sent)
    known = await asyncio.to_thread(here.index.known)
    if known is None or known.snapshot != manifest.snapshot:
        roots, store_id = here.settings.roots, here.plan.store_id
        await asyncio.to_thread(confirm_local, manifest, roots, here.index, store_id, begun[0].revision)
    return Base(begun[0].revision, manifest.snapshot, branch, sent)


async def reattached_engine(here: Session) -> Engine:
    """Beside a running main: the engine that goes on where the agent before us ended. Tries until it can."""
    failures = 0
    while True:
        try:
            found = await reattaching.reattach(here.store, here.index, here.plan)
        except Moved:
            continue
        except SidecarError as error:
            failures += 1
            here.state.sync.error = error.message
            if failures == 1:
                log.warning(f"the store can't be read ({error.message.rstrip('.')}): trying again; main goes on")
            await asyncio.sleep(backoff(failures))
            continue
        here.state.sync.error = None
        taken, manifest, revision = found.taken, found.manifest, found.taken.revision if found.taken else found.head
        if manifest is not None and not found.intact:
            log.warning("the local index was lost: rebuilding it from the files and the newest snapshot")
            roots, store_id = here.settings.roots, here.plan.store_id
            await asyncio.to_thread(confirm_local, manifest, roots, here.index, store_id, revision)
        snapshot = manifest.snapshot if manifest else None
        if taken is None:
            here.state.lease = "fenced"
            log.warning("FENCED: another instance holds the lease; what main writes goes to a branch of its own")
            branch = f"fenced/{here.plan.me.instance}"
            return await engine(here, Base(revision, snapshot, branch, found.sent), None, None, again=True)
        here.state.lease, here.state.epoch = "held", taken.tenure.epoch
        going_on = await engine(here, Base(revision, snapshot, sent=found.sent), taken.tenure, None, again=True)
        if found.chosen is not None:
            going_on.snapshotter.goes_on_from(*found.chosen)
        return going_on


async def engine_again(here: Session, taken: Claimed, manifest: Manifest) -> Engine:
    """On the main line, whose head is ``manifest``, for an instance that was fenced and has claimed it again."""
    roots, store_id = here.settings.roots, here.plan.store_id
    await asyncio.to_thread(confirm_local, manifest, roots, here.index, store_id, taken.revision)
    return await engine(here, Base(taken.revision, manifest.snapshot), taken.tenure, None, again=True)


def base_of(recovered: Recovered) -> Base:
    """The base that a finished start allows for: what was restored, or a confirmed cold start."""
    manifest = recovered.manifest
    return Base(recovered.head, manifest.snapshot if manifest else None)
