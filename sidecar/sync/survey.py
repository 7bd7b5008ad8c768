"""One look at all roots: what changed, what is gone, and what is held back because it looks like a fault."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidecar.roots import Root
from sidecar.snapshot.exclude import IGNORE_FILE, Excluder
from sidecar.snapshot.found import Found
from sidecar.snapshot.index import Index, Row
from sidecar.snapshot.manifest import RootRecord, root_of
from sidecar.snapshot.mounts import mount_of
from sidecar.snapshot.scan import Scan, moved, scan_paths, scan_root
from sidecar.snapshot.stage import Staged, stage
from sidecar.sync.forgetting import carried_only
from sidecar.sync.look import Hints, Look, Survey
from sidecar.sync.plan import looks_like_database, lost, mass_deletion
from sidecar.sync.seen import Seen, joined
from sidecar.sync.staging import Staging, is_news, marked
from sidecar.sync.unseen import unseen

FEW = 2000
"""Up to so many files of a root are looked at one by one where that tells more than their number."""


LOOKS = 3
"""How often what moves is staged anew before it goes in as ``unsettled``."""


@dataclass(slots=True)
class Surveyor:
    """Looks at the roots; ``devices`` are each root's st_dev as of the restore (None where it was absent)."""

    roots: Sequence[Root]
    index: Index
    patterns: Sequence[str]
    own: Sequence[str]
    devices: dict[str, int | None]
    _recalled: set[str] = field(default_factory=set)
    _places: dict[str, str] = field(default_factory=dict)
    _mounts: dict[str, str | None] = field(default_factory=dict)
    _excluders: dict[str, Excluder] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for root in self.roots:
            self._places[root.name] = os.path.realpath(root.path)
            self._mounts[root.name] = mount_of(self._places[root.name])

    def look(self, how: Look, folder: Path, more: Callable[[], Mapping[str, Iterable[str]]] = dict) -> Survey:
        """Scan and stage into ``folder`` (private, empty). Raises NoRoom. Blocks.

        What is worth a commit is looked at again after it was staged, together with the hints that ``more`` gives by
        then, until a look finds all as it was staged, and nothing that came or went: so it stood when that look began.
        Else what moved is ``unsettled``, and so is each folder in which something came or went: a folder (a root too)
        is of one moment unless it or anything in it is flagged.
        """
        hints, staging = how.hints, Staging(self.index, folder, how.paced)
        seen = self._see(how, hints)
        staging.add(seen.handed_over())
        calm = False
        for left in reversed(range(LOOKS)):
            if how.still or not (seen.survey.gone or any(is_news(self.index, s) for s in staging.staged.values())):
                break
            hints = joined(hints, more())
            again = self._see(how, hints)
            other = seen.names ^ again.names | seen.missing ^ again.missing
            steady = calm or again.folders_as_in(seen)
            if not left:
                staging.flag(again.changed, other, () if steady else again.folders)
                break  # and all else stays as the look before saw it
            calm = not staging.add(again.handed_over()) and not other
            seen = again
            # Between two looks something may have come and gone. While nothing is copied nothing can name it.
            if calm and steady:
                break
        self._forget(seen.survey, how.forget)
        self._finish(seen, how, staging, folder)
        out = seen.survey
        self._bury(out, how)
        out.flagged = {row.entry.path: row.entry.flag for row in self.index.flagged()}
        out.totals = {root.name: self.index.totals(root.name) for root in self.roots}
        return out

    def _see(self, how: Look, hints: Hints) -> Seen:
        out = Survey()
        seen = Seen(out, time.time_ns())
        before = {r.name: r for r in self.index.roots()}
        for root in self.roots:
            if hints is not None and root.name not in hints:
                if root.name in before:
                    out.roots.append(before[root.name])
                    out.kinds[root.name] = before[root.name].kind
                continue
            scan = self._scan(root, None if hints is None else hints[root.name])
            seen.note(scan)
            self._take(out, root, scan, before.get(root.name), how)
            seen.changed.extend(scan.changed)
            seen.touched.extend(scan.touched)
        declared = {r.name for r in self.roots}
        out.roots.extend(r for name, r in before.items() if name not in declared)
        out.reason = any(before.get(r.name) != r for r in out.roots)
        return seen

    def _scan(self, root: Root, hints: Iterable[str] | None) -> Scan:
        at = self._places[root.name]
        device = self.devices.get(root.name)
        why = self._elsewhere(root, at, device)
        if why is not None:
            return Scan(root.name, kind="unreadable", unreadable={root.name: why})
        excluder = Excluder(at, self.patterns, self.own)
        if excluder.unread:
            # Without it more might be sent than anybody meant: what it said last is what counts.
            if root.name not in self._excluders:
                why = f"{excluder.unread}: nothing of {root.name} is synced before it is known what it excludes"
                return Scan(root.name, kind="unreadable", unreadable={f"{root.name}/{IGNORE_FILE}": why})
            excluder = self._excluders[root.name]
        self._excluders[root.name] = excluder
        self._recall(root.name, device)
        names = None if hints is None else set(hints)
        if names is None or IGNORE_FILE in names:
            scan = scan_root(root.name, at, self.index, excluder, device)
        else:
            scan = scan_paths(root.name, at, names, self.index, excluder, device)
        if device is None:
            self.devices[root.name] = scan.device
        return scan

    def _elsewhere(self, root: Root, at: str, device: int | None) -> str | None:
        """Why what the root's path leads to now is not what was declared: nobody declared that to be read or sent."""
        now = os.path.realpath(root.path)
        if now != at:
            return f"it leads to {now} now, and led to {at} at the start"
        if device is not None and os.path.lexists(at) and mount_of(at) != self._mounts[root.name]:
            return "another volume is mounted there than at the start, or none any more"
        return None

    def _recall(self, name: str, device: int | None) -> None:
        """Numbers of devices mean nothing to another life: what the index says of folders is learnt anew then."""
        if name in self._recalled or device is None:
            return
        self._recalled.add(name)
        row = self.index.get(name)
        if row is not None and row.stat is not None and row.stat.dev != device:
            self.index.forget_folders(name)

    def _take(self, out: Survey, root: Root, scan: Scan, was: RootRecord | None, how: Look) -> None:
        out.kinds[root.name] = scan.kind
        if scan.full:
            out.excluded[root.name] = scan.excluded
            out.skipped[root.name] = scan.skipped
        out.unreadable.update(scan.unreadable)
        kind_before = was.kind if was else "absent"
        kind = scan.kind if scan.kind != "unreadable" else kind_before
        gone = [row for path in dict.fromkeys(scan.missing) if (row := self.index.get(path)) is not None]
        files = lost(gone, (f for f in scan.changed if self.index.get(f.path) is None)) if gone else 0
        seen_before = how.confirm_held.get(root.name, 0)
        present = how.confirm_present and scan.kind in ("dir", "file")
        emptied = self._emptied(root.name, scan)
        if files and mass_deletion(self._visible(root.name), files, scan.kind, kind_before):
            if present or files <= seen_before:
                out.confirmed.add(root.name)
            else:
                out.held[root.name] = files
                gone, kind = [], kind_before
                # What stays in the manifest needs its folders there: nothing that isn't one may take their place.
                scan.changed = [f for f in scan.changed if f.kind == "dir" or len(self.index.under(f.path)) < 2]
        elif emptied is not None:
            if present or seen_before:
                out.confirmed.add(root.name)
            else:
                out.held[root.name] = 1
                scan.changed.remove(emptied)
        out.gone.extend(gone)
        # One that was never there and isn't now is no reason for a commit.
        if was is not None or kind != "absent":
            out.roots.append(RootRecord(root.name, root.path, kind, root.layout))

    def _visible(self, name: str) -> int:
        """How many files the last snapshot has of a root, less those of a small root that are excluded since."""
        files = self.index.totals(name)[0]
        excluder = self._excluders.get(name)
        if excluder is None or files > FEW:
            return files
        return files - sum(row.entry.kind != "dir" for row in carried_only(self.index.under(name), {name: excluder}))

    def at(self, name: str) -> tuple[list[Row], list[Row]]:
        """The entries at or under ``name``, and those of them that are only carried forward. Blocks."""
        rows = self.index.under(name)
        return rows, carried_only(
            rows, {r.name: Excluder(self._places[r.name], self.patterns, self.own) for r in self.roots}
        )

    def _forget(self, out: Survey, name: str) -> None:
        if not name:
            return
        known = {row.entry.path for row in out.gone}
        let_go = [row for row in self.at(name)[1] if row.entry.path not in known]
        out.gone.extend(let_go)
        out.forgotten = frozenset(row.entry.path for row in let_go)
        declared = {root.name for root in self.roots}
        stay = [r for r in out.roots if r.name in declared or root_of(r.name, [name]) is None]
        out.reason = out.reason or len(stay) < len(out.roots)
        out.roots = stay

    def _emptied(self, name: str, scan: Scan) -> Found | None:
        """A single file, or a root's only database, that lost all of its bytes."""
        for here in scan.changed:
            if here.kind != "file" or here.stat.size:
                continue
            row = self.index.get(here.path)
            if row is None or row.entry.kind != "file" or not row.entry.size:
                continue
            if here.path == name:
                return here
            if looks_like_database(here.path):
                rows = (r.entry for r in self.index.under(name))
                if sum(1 for e in rows if e.kind == "file" and looks_like_database(e.path)) == 1:
                    return here
        return None

    def _finish(self, seen: Seen, how: Look, staging: Staging, folder: Path) -> None:
        out = seen.survey
        out.staged = [marked(s) if s.entry.path in out.unreadable else s for s in staging.staged.values()]
        out.unreadable.update(staging.unreadable)
        out.roomless = frozenset(staging.roomless)
        out.stale.update(staging.stale)
        out.deferred.update(staging.deferred)
        if how.reassert:
            with_bytes = {s.entry.path for s in out.staged if s.source is not None or s.entry.kind != "file"}
            with_bytes.update(row.entry.path for row in out.gone)
            again = {s.entry.path: s for s in self._again(with_bytes, folder)}
            out.staged = [again.pop(s.entry.path, s) for s in out.staged] + list(again.values())
        news = bool(out.gone) or any(is_news(self.index, s) for s in out.staged)
        out.reason = out.reason or news
        same = dict(staging.same)
        if news:
            out.staged.extend(stage(seen.touched, self.index, folder).staged)
        else:
            for here in seen.touched:
                row = self.index.get(here.path)
                if row is not None and moved(row, here):
                    same[here.path] = replace(row, stat=here.stat)
        for path in out.unreadable:
            row = same.get(path) or self.index.get(path)
            if row is not None and row.entry.flag != "unreadable":
                same[path] = replace(row, entry=replace(row.entry, flag="unreadable"), settled=False)
        if same:
            self.index.touch(same.values())
        self._flag_folders(out, staging.torn)

    def _flag_folders(self, out: Survey, torn: set[str]) -> None:
        """Flag each folder of ``torn``, or the nearest one above it that the snapshot has."""
        at = {s.entry.path: n for n, s in enumerate(out.staged)}
        gone = {row.entry.path for row in out.gone}
        for path in torn:
            while path:
                n = at.get(path)
                row = out.staged[n].row if n is not None else None if path in gone else self.index.get(path)
                if row is not None and row.entry.kind == "dir":
                    flagged = Staged(replace(row, entry=replace(row.entry, flag="unsettled"), settled=False), None)
                    if n is None:
                        at[path] = len(out.staged)
                        out.staged.append(flagged)
                    else:
                        out.staged[n] = flagged
                    break
                path = path.rpartition("/")[0]

    def _bury(self, out: Survey, how: Look) -> None:
        """What main deleted of what the image brought, or the next container would have it again."""
        staged = {s.entry.path for s in out.staged}
        out.buried = self.index.shipped_among({row.entry.path for row in out.gone} - staged - out.forgotten)
        if not self.index.unlooked():
            return
        there = {n: at for n, at in self._places.items() if out.kinds.get(n) == "dir" and n not in out.held}
        out.buried |= (new := unseen(self.index, there, staged))
        out.reason = out.reason or bool(new)
        out.looked = how.hints is None and not out.held and "unreadable" not in out.kinds.values()

    def _again(self, without: set[str], folder: Path) -> list[Staged]:
        found: list[Found] = []
        for root in self.roots:
            at = self._places[root.name]
            for row in self.index.under(root.name):
                e = row.entry
                if e.path in without or e.kind != "file" or row.stat is None:
                    continue
                found.append(Found(e.path, at + e.path[len(root.name) :], "file", e.mode, e.uid, e.gid, row.stat))
        again = folder / "again"
        again.mkdir(parents=True)
        return stage(found, self.index, again, force=True).staged
