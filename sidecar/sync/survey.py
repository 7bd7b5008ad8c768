"""One look at all roots: what changed, what is gone, and what is held back because it looks like a fault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidecar.roots import Root
from sidecar.snapshot.exclude import Excluder
from sidecar.snapshot.index import Index, Row
from sidecar.snapshot.manifest import RootRecord
from sidecar.snapshot.scan import Found, RootKind, Scan, scan_paths, scan_root
from sidecar.snapshot.stage import Staged, stage
from sidecar.sync.plan import mass_deletion


@dataclass(frozen=True, slots=True)
class Look:
    """How to look: at ``hints`` (root name -> paths below it) or at everything; and what may be believed.

    ``confirm_held`` are roots whose mass deletion an earlier look saw and this one may confirm; ``confirm_present``
    lets any mass deletion through in a root that is there and readable (a checkpoint: the app says that it means it).
    ``reassert`` puts every file again, after somebody else changed the store's copies.
    """

    hints: Mapping[str, Iterable[str]] | None = None
    confirm_held: frozenset[str] = frozenset()
    confirm_present: bool = False
    reassert: bool = False


@dataclass(slots=True)
class Survey:
    """What a look found. ``reason`` is false where nothing of it is worth a commit."""

    staged: list[Staged] = field(default_factory=list)
    gone: list[Row] = field(default_factory=list)
    roots: list[RootRecord] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)  # root -> entries whose deletion is held back
    confirmed: set[str] = field(default_factory=set)  # roots whose mass deletion goes through: keep what was before
    unreadable: dict[str, str] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, RootKind] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    reason: bool = False


@dataclass(slots=True)
class Surveyor:
    """Looks at the roots; ``devices`` are each root's st_dev as of the restore (None where it was absent)."""

    roots: Sequence[Root]
    index: Index
    patterns: Sequence[str]
    own: Sequence[str]
    devices: dict[str, int | None]

    def look(self, how: Look, folder: Path) -> Survey:
        """Scan and stage into ``folder`` (private, empty). Raises NoRoom. Blocks."""
        out = Survey()
        before = {r.name: r for r in self.index.roots()}
        changed: list[Found] = []
        touched: list[Found] = []
        for root in self.roots:
            hints = None if how.hints is None else how.hints.get(root.name)
            if how.hints is not None and hints is None:
                if root.name in before:
                    out.roots.append(before[root.name])
                    out.kinds[root.name] = before[root.name].kind
                continue
            excluder = Excluder(root.path, self.patterns, self.own)
            device = self.devices.get(root.name)
            if hints is None or ".sidecarignore" in hints or "" in hints:
                scan = scan_root(root.name, root.path, self.index, excluder, device)
            else:
                scan = scan_paths(root.name, root.path, hints, self.index, excluder, device)
            self._take(out, root, scan, before.get(root.name), how)
            changed.extend(scan.changed)
            touched.extend(scan.touched)
            if device is None:
                self._note_device(root, scan)
        declared = {r.name for r in self.roots}
        out.roots.extend(r for name, r in before.items() if name not in declared)
        self._stage(out, changed, touched, how, folder)
        out.reason = out.reason or any(before.get(r.name) != r for r in out.roots)
        return out

    def _note_device(self, root: Root, scan: Scan) -> None:
        for found in (*scan.changed, *scan.touched):
            if found.path == root.name:
                self.devices[root.name] = found.stat.dev

    def _take(self, out: Survey, root: Root, scan: Scan, was: RootRecord | None, how: Look) -> None:
        out.kinds[root.name] = scan.kind
        if scan.full:
            out.excluded[root.name] = scan.excluded
            out.skipped[root.name] = scan.skipped
        out.unreadable.update(scan.unreadable)
        gone = [row for path in dict.fromkeys(scan.missing) if (row := self.index.get(path)) is not None]
        files = sum(1 for row in gone if row.entry.kind != "dir")
        total = self.index.totals(root.name)[0]
        kind_before = was.kind if was else "absent"
        kind = scan.kind if scan.kind != "unreadable" else kind_before
        if mass_deletion(total, files, scan.kind, kind_before):
            sure = root.name in how.confirm_held or (how.confirm_present and scan.kind in ("dir", "file"))
            if sure:
                out.confirmed.add(root.name)
            else:
                out.held[root.name] = files
                gone, kind = [], kind_before
        elif scan.kind == "file" and total == 1 and self._emptied(scan, root) and not how.confirm_present:
            if root.name not in how.confirm_held:
                out.held[root.name] = 1
                scan.changed.clear()
        out.gone.extend(gone)
        # The last look at a root counts: one that was never there and isn't now is no reason for a commit.
        record_kind = kind
        if was is not None or record_kind != "absent":
            out.roots.append(RootRecord(root.name, root.path, record_kind, root.layout))

    def _emptied(self, scan: Scan, root: Root) -> bool:
        row = self.index.get(root.name)
        return row is not None and row.entry.size > 0 and any(f.stat.size == 0 for f in scan.changed)

    def _stage(self, out: Survey, changed: list[Found], touched: list[Found], how: Look, folder: Path) -> None:
        held = {name for name in out.held if out.kinds.get(name) == "absent"}
        result = stage(changed, self.index, folder)
        out.unreadable.update(result.unreadable)
        out.stale.update(result.stale)
        if how.reassert:
            names = {s.entry.path for s in result.staged}
            result.staged.extend(self._again(names, folder))
        out.staged = result.staged
        out.reason = bool(out.gone) or any(self._news(s) for s in result.staged)
        if out.reason and not held:
            out.staged.extend(stage(touched, self.index, folder / "dirs").staged)
        same = {row.entry.path: row for row in result.same}
        for path in out.unreadable:
            row = self.index.get(path)
            if row is not None and row.entry.flag != "unreadable":
                same[path] = replace(row, entry=replace(row.entry, flag="unreadable"), settled=False)
        if same:
            self.index.touch(same.values())

    def _news(self, staged: Staged) -> bool:
        """A folder whose time alone differs, or a row that is what it was, is no news."""
        old = self.index.get(staged.entry.path)
        if old is None:
            return True
        a, b = old.entry, staged.entry
        return replace(a, mtime_ns=0, frame=None) != replace(b, mtime_ns=0, frame=None) or (
            a.kind != "dir" and a.mtime_ns != b.mtime_ns
        )

    def _again(self, without: set[str], folder: Path) -> list[Staged]:
        found: list[Found] = []
        for root in self.roots:
            rows = {r.entry.path: r for r in self.index.under(root.name)}
            for path, row in rows.items():
                e = row.entry
                if path in without or e.kind != "file" or row.stat is None:
                    continue
                where = root.path + path[len(root.name) :]
                found.append(Found(path, where, "file", e.mode, e.uid, e.gid, row.stat))
        again = folder / "again"
        again.mkdir()
        return stage(found, self.index, again, force=True).staged
