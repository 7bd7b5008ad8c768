"""What of a store's past stays and what goes: decided from values, then done in an order that a death can't harm.

A store that can cut its history keeps the newest of it as it is. One that squashes (the Hub) keeps a snapshot only as
a branch ``past/<id>_<time>`` that is squashed itself: else its ancestors would all stay with it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.measures import Seen
from sidecar.snapshot.keeping import KEPT, PAST, branch_name, of_branch
from sidecar.snapshot.manifest import SnapshotId, snapshot_in
from sidecar.stores.base import Commit, Conflict, Revision, Store, StoreError

ALL = 100_000
LAST = 10
WITHIN_S = 30 * 86400.0
BRANCHES = 50
"""Most snapshots that are kept as branches: each costs the Hub two requests and a squash of its own."""

_COUNT = re.compile(r"(?m)^(files|bytes|changed): ([0-9]{1,18})$")


@dataclass(frozen=True, slots=True)
class Retention:
    """What stays: the newest ``last`` snapshots, and those not older than ``within_s`` seconds, whichever is more."""

    last: int | None = None
    within_s: float | None = None

    @classmethod
    def of(cls, last: int | None, within_s: float | None, *, squashes: bool) -> Retention:
        """What a person asked for; where nothing was said, the default for the kind of store."""
        if last is None and within_s is None:
            return cls(LAST, None if squashes else WITHIN_S)
        return cls(last, within_s)


@dataclass(frozen=True, slots=True)
class Past:
    """A snapshot that a store still has; ``branch`` is None on the main line. ``at``: seconds since the epoch."""

    snapshot: str
    revision: Revision
    at: float | None
    branch: str | None = None
    body: str = ""
    title: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """What the commit says of it: ``files`` and ``bytes`` that it holds, entries ``changed``; what it knows."""
        return {name: int(number) for name, number in _COUNT.findall(self.body)}

    @property
    def seen(self) -> Seen:
        """What a status page says of it."""
        counts = self.counts
        known = counts.get("files"), counts.get("bytes"), counts.get("changed")
        return Seen(self.snapshot, self.at, *known, branch=self.branch)

    @property
    def number(self) -> SnapshotId:
        return SnapshotId.parse(self.snapshot)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a prune comes to: ``stays`` and ``goes`` newest first; ``commits`` of the main line now."""

    commits: int
    stays: tuple[Past, ...]
    goes: tuple[Past, ...]
    kept: tuple[str, ...]  # branches of one snapshot that stay
    others: tuple[str, ...]  # branches that are lines of their own, with all that they came from
    squashes: bool
    frees: int | None = None

    @property
    def nothing(self) -> bool:
        """Whether the store is already as it should be."""
        return not self.goes and (not self.squashes or self.commits <= 1)

    @property
    def oldest(self) -> Revision | None:
        """The oldest revision of the main line that stays."""
        return next((p.revision for p in reversed(self.stays) if p.branch is None), None)


def past(history: Sequence[Commit], branches: Mapping[str, Revision]) -> list[Past]:
    """The snapshots that a store has, newest first, each once: of the main line, then of branches that keep one."""
    found: dict[str, Past] = {}
    for commit in history:
        number = snapshot_in(commit.title)
        if number is not None and number not in found:
            found[number] = Past(number, commit.revision, commit.at, None, commit.body, commit.title)
    for name, revision in branches.items():
        kept = of_branch(name)
        if kept is not None and kept[0] not in found:
            found[kept[0]] = Past(kept[0], revision, kept[1], name)
    return sorted(found.values(), key=lambda p: p.number, reverse=True)


def plan(
    history: Sequence[Commit], branches: Mapping[str, Revision], retention: Retention, now: float, *, squashes: bool
) -> Plan:
    """``now`` is the store's clock. The newest snapshot always stays, and so does what ``kept/`` branches keep."""
    every = [p for p in past(history, branches) if p.branch is None or p.branch.startswith(PAST)]
    last = retention.last or 1
    newest = [
        n
        for n, p in enumerate(every)
        if n < last or (retention.within_s is not None and p.at is not None and now - p.at <= retention.within_s)
    ]
    count = max(newest, default=-1) + 1
    return Plan(
        len(history),
        tuple(every[:count]),
        tuple(every[count:]),
        tuple(sorted(name for name in branches if name.startswith(KEPT))),
        tuple(sorted(name for name in branches if not name.startswith((*KEPT, PAST)))),
        squashes,
    )


async def look(store: Store, retention: Retention) -> Plan:
    """What a prune would do. Raises StoreError."""
    history = await store.history(ALL)
    now = max([c.at for c in history[:1] if c.at is not None], default=0.0)
    access_now = (await store.check()).now
    found = plan(history, await store.branches(), retention, access_now or now, squashes=store.squashes)
    if store.squashes and len(found.stays) > BRANCHES:
        raise StoreError(
            f"{len(found.stays):,} snapshots would stay, each as a branch of its own, and at most {BRANCHES} can:"
            " write a smaller --keep-last or --keep-within. Nothing was changed"
        )
    if not found.stays:
        return found
    frees = await store.compact(found.oldest, dry_run=True)
    return Plan(
        found.commits,
        found.stays,
        found.goes,
        found.kept,
        found.others,
        found.squashes,
        None if found.nothing else frees,
    )


async def carry_out(store: Store, found: Plan) -> int:
    """Do it; how many commits it took at most. What stays is safe before anything goes. Raises StoreError.

    Only for the holder of the lease: a squash has no parent check.
    """
    if found.nothing or not found.stays:
        return 0
    if not store.squashes:
        for p in found.goes:
            if p.branch is not None:
                await store.drop(p.branch)
        await store.compact(found.oldest)
        return 0
    for p in found.stays[1:]:
        if p.branch is None:
            # Where one of that name is there already it is the same snapshot, squashed before we were cut off.
            with contextlib.suppress(Conflict):
                await store.keep(p.revision, branch_name(p.snapshot, p.at))
            await store.compact(branch=branch_name(p.snapshot, p.at), title=p.title)
    for name in found.kept:
        await store.compact(branch=name)
    for p in found.goes:
        if p.branch is not None:
            await store.drop(p.branch)
    # The head may be a commit of the lease: without a snapshot's title the store would look as if it never had one.
    await store.compact(title=found.stays[0].title)
    return len(found.stays) + len(found.kept)


def body(files: int, size: int, changed: int) -> str:
    """What a snapshot's commit says below its title: to be read where fetching a manifest costs too much."""
    return f"files: {files}\nbytes: {size}\nchanged: {changed}"


def document(found: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "commits": found.commits,
        "stays": [_past(p) for p in found.stays],
        "goes": len(found.goes),
        "newest_that_goes": found.goes[0].snapshot if found.goes else None,
        "oldest_that_goes": found.goes[-1].snapshot if found.goes else None,
        "kept": list(found.kept),
        "others": list(found.others),
        "squashes": found.squashes,
        "frees": found.frees,
        "nothing": found.nothing,
    }


def _past(p: Past) -> dict[str, Any]:
    at = None if p.at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(p.at))
    return {"snapshot": p.snapshot, "revision": p.revision, "at": at, "branch": p.branch}
