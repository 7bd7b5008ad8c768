"""How the roots are looked at, and what such a look found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sidecar.snapshot.index import Row
from sidecar.snapshot.manifest import RootRecord
from sidecar.snapshot.scan import RootKind
from sidecar.snapshot.stage import Staged

Hints = Mapping[str, Iterable[str] | None] | None


@dataclass(frozen=True, slots=True)
class Look:
    """How to look: at ``hints`` or at everything; and what may be believed.

    ``hints`` are, for each root that is looked at, the paths below it that may have changed, or None for all of it.
    ``confirm_held`` are roots whose mass deletion an earlier look saw and this one may confirm, each with how many
    entries that look missed: where more are missing now, this look is the first to see it. ``confirm_present`` lets
    any mass deletion through in a root that is there and readable (a checkpoint: the app says that it means it).
    ``forget`` is a root, or a path of one, of which what is only carried forward goes.
    ``reassert`` puts every file again, after somebody else changed the store's copies. ``still`` is said where nobody
    writes any more: then nothing is looked at twice.
    With ``paced`` large databases are copied now and then only.
    """

    hints: Hints = None
    confirm_held: Mapping[str, int] = field(default_factory=dict)
    confirm_present: bool = False
    reassert: bool = False
    still: bool = False
    paced: bool = False
    forget: str = ""


@dataclass(slots=True)
class Survey:
    """What a look found. ``reason`` is false where nothing of it is worth a commit."""

    staged: list[Staged] = field(default_factory=list)
    gone: list[Row] = field(default_factory=list)
    roots: list[RootRecord] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)  # root -> entries whose deletion is held back
    buried: dict[str, str] = field(default_factory=dict)  # shipped paths that main deleted -> what was shipped
    looked: bool = False  # all that the image brought was looked for, whether a snapshot had it or not
    forgotten: frozenset[str] = frozenset()  # of those that go: let go of, and on the disk perhaps as ever
    confirmed: set[str] = field(default_factory=set)  # roots whose mass deletion goes through: keep what was before
    unreadable: dict[str, str] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)
    deferred: dict[str, float] = field(default_factory=dict)  # large databases -> seconds until they are due
    kinds: dict[str, RootKind] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    roomless: frozenset[str] = frozenset()  # the unreadable ones that only wait for disk space
    flagged: dict[str, str] = field(default_factory=dict)  # what the index has that is not as it should be
    totals: dict[str, tuple[int, int]] = field(default_factory=dict)  # root -> durable files, and their bytes
    reason: bool = False

    def trouble(self) -> dict[str, str]:
        """Every entry that is not kept as it is on disk: path -> unsettled, stale or unreadable."""
        out = dict(self.flagged)
        for path in (*(s.entry.path for s in self.staged), *(row.entry.path for row in self.gone)):
            out.pop(path, None)
        out.update({s.entry.path: s.entry.flag for s in self.staged if s.entry.flag})
        return out | dict.fromkeys(self.unreadable, "unreadable") | dict.fromkeys(self.stale, "stale")
