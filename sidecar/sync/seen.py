"""One pass over the roots, kept to be compared with the next one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sidecar.snapshot.found import Found
from sidecar.snapshot.scan import Scan
from sidecar.sync.look import Hints, Survey
from sidecar.sync.staging import recent


@dataclass(slots=True)
class Seen:
    """One pass over the roots, ``began`` then (ns); ``names`` and ``folders`` are of all that differs from the index.

    ``folders`` are with the times that tell whether a name came to them or left them.
    """

    survey: Survey
    began: int
    changed: list[Found] = field(default_factory=list)
    touched: list[Found] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)

    def handed_over(self) -> list[Found]:
        """What has changed, which is kept no longer: of a first look at many files it is what takes most memory."""
        changed, self.changed = self.changed, []
        return changed

    def note(self, scan: Scan) -> None:
        """Keep what was found, before it is judged."""
        self.names.update(here.path for here in scan.changed)
        self.missing.update(scan.missing)
        dirs = (here for here in (*scan.changed, *scan.touched) if here.kind == "dir")
        self.folders.update((here.path, (here.stat.mtime_ns, here.stat.ctime_ns)) for here in dirs)

    def folders_as_in(self, before: Seen) -> bool:
        """Whether no name can have come and gone since ``before`` saw the folders."""
        fresh = any(recent(ctime, before.began) for _, ctime in before.folders.values())
        return not fresh and self.folders == before.folders


def joined(hints: Hints, more: Mapping[str, Iterable[str]]) -> Hints:
    if hints is None:
        return None
    out = dict(hints)
    for root, paths in more.items():
        known = out.get(root, ())
        out[root] = None if known is None else {*known, *paths}
    return out
