"""What stands on this disk where a snapshot's entries go. Only looks; no link is followed below a root."""

from __future__ import annotations

import os
import stat as st
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from sidecar.recovery.choice import (
    Action,
    Image,
    Local,
    Mode,
    decide,
    mains_folders,
    printed,
    same_content,
    wants_hash,
)
from sidecar.recovery.plan import Place, Step, at_or_under, ordered
from sidecar.recovery.tree import Tick, Tree, is_database, steady_digest
from sidecar.recovery.trouble import failed, in_the_way
from sidecar.roots import Root
from sidecar.snapshot import mounts
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.index import Row, Stat
from sidecar.snapshot.manifest import FOLDER, Entry, Manifest, root_of

STAGING = f"{STAGING_PREFIX}restore"

RowOf = Callable[[str], Row | None]


def places(manifest: Manifest, roots: Sequence[Root]) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """Where the declared roots that the snapshot has go, and the names of its roots that aren't declared."""
    declared = {r.name: r for r in roots}
    out = []
    for record in manifest.roots:
        root = declared.get(record.name)
        if root is None:
            continue
        real = os.path.realpath(root.path)
        entry = manifest.entries.get(record.name)
        buried = entry is None and manifest.tombstones.get(record.name, FOLDER) != FOLDER
        if buried or (entry is not None and entry.kind == "file"):
            base, leaf = os.path.split(real)
            mark = sha256(record.name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
            out.append(Place(record.name, root.path, base, leaf, f"{base.rstrip('/')}/{STAGING}-{mark}"))
        else:
            out.append(Place(record.name, root.path, real, "", f"{real}/{STAGING}"))
    return tuple(out), tuple(r.name for r in manifest.roots if r.name not in declared)


def whole(dest: Path) -> Place:
    """One folder that all of a snapshot is laid out in."""
    base = os.path.realpath(dest)
    return Place("", str(dest), base, "", f"{base}/{STAGING}")


def survey(
    manifest: Manifest,
    where: Sequence[Place],
    row_of: RowOf,
    mode: Mode,
    *,
    only: str | None = None,
    own: str | None = None,
    image: Image | None = None,
    bury: bool = False,
    tick: Tick,
) -> list[Step]:
    """Look at every entry's place and decide on it; reads what only its content can tell.

    ``own`` is our state dir, which no entry may reach into. ``image`` is a fresh disk's; with ``bury`` the snapshot's
    tombstones act. Raises RestoreFailed where something can't be
    looked at, or a folder and a file stand for each other at a root itself. Blocks.
    """
    steps: list[Step] = []
    with ExitStack() as stack:
        looker = _Looker(manifest, row_of, mode, own, image, tick)
        for n, place in enumerate(where):
            tree = _open(place, mode, stack)
            names = [place.root] if place.root else [r.name for r in manifest.roots]
            for entry, implied in ordered(manifest, names, only, whole=not place.root):
                steps.append(looker.step(entry, implied, n, place, tree))
            if bury and mode == "bring" and tree is not None:
                for path in sorted(manifest.tombstones, key=lambda p: p.split("/")):
                    if root_of(path, names) is not None and at_or_under(path, only):
                        steps += looker.buried(path, n, place, tree)
    return steps


def _open(place: Place, mode: Mode, stack: ExitStack) -> Tree | None:
    try:
        return stack.enter_context(Tree(place.base))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if mode == "confirm":
            return None
        raise failed("look into", place.base, error) from error


class _Looker:
    """Goes down the entries in order and remembers which folder they may not enter."""

    def __init__(
        self, manifest: Manifest, row_of: RowOf, mode: Mode, own: str | None, image: Image | None, tick: Tick
    ) -> None:
        self.manifest, self.row_of, self.mode, self.image, self.tick = manifest, row_of, mode, image, tick
        self.mains: set[str] | None = None
        self.own = os.path.realpath(own) if own else None
        self.may_chown = os.geteuid() == 0
        self.closed: tuple[str, Step] | None = None
        self.absent: tuple[int, str] | None = None  # place and path of a folder that isn't there: nothing is in it

    def step(self, entry: Entry, implied: bool, n: int, place: Place, tree: Tree | None) -> Step:
        rel = place.rel(entry.path)
        if self.closed is not None and entry.path.startswith(self.closed[0]):
            above = self.closed[1]
            return Step(above.action, entry, n, rel, None, implied, above.known)
        here = f"{place.base}/{rel}" if rel else place.base
        if self.own is not None and _reaches(here, self.own):
            return self._close(Step("blocked", entry, n, rel, None, implied))
        if self.absent is not None and n == self.absent[0] and entry.path.startswith(self.absent[1]):
            return Step("fetch", entry, n, rel, None, implied)
        row = self.row_of(entry.path)
        known = self.mode == "resume" and row is not None and same_content(row.entry, entry)
        try:
            local = self._local(entry, row, place, rel, tree)
        except OSError as error:
            if self.mode == "confirm" or (isinstance(error, PermissionError) and known):
                # The app locked itself out: its doing, and newer than the snapshot.
                return self._close(Step("newer", entry, n, rel, None, implied, known))
            raise failed("look at", here, error) from error
        if local is None and entry.kind == "dir" and self.mode != "resume":
            self.absent = n, entry.path + "/"
        action = decide(entry, local, row, self.mode, self.may_chown, self.image)
        if action == "image" and entry.kind == "dir" and self._has_mains(entry.path):
            action = "conflict"
        if implied and action == "meta":
            action = "keep"
        if action == "conflict" and local is not None and local.kind == "dir" and tree is not None:
            ours = self.own is not None and _reaches(self.own, here)
            if ours or tree.mount_point(rel) or mounts.within(here):
                action = "blocked"
        if action == "replace" and local is not None and local.kind == "file" and not local.sha256 and row is not None:
            local = replace(local, sha256=row.entry.sha256)  # untouched since, as its stat says
        step = Step(action, entry, n, rel, local, implied, known, _recordable(action, entry, local, row))
        if step.changes and local is not None and self.mode != "confirm":
            self._refuse_unmovable(step, local, place, here)
        if entry.kind == "dir" and (action == "blocked" or (local is not None and action in ("newer", "image"))):
            return self._close(step)
        return step

    def _has_mains(self, folder: str) -> bool:
        """Whether anything in ``folder`` is main's: then an image that ships no folder there doesn't win."""
        if self.mains is None:
            self.mains = mains_folders(self.manifest)
        return folder in self.mains

    def buried(self, path: str, n: int, place: Place, tree: Tree) -> list[Step]:
        """The step that takes away what main had deleted, where it is still what an image brought; else none."""
        rel, what = place.rel(path), self.manifest.tombstones[path]
        here = f"{place.base}/{rel}"
        if not rel or path in self.manifest.entries or (self.own is not None and _reaches(here, self.own)):
            return []
        entry = Entry(path, "dir" if what == FOLDER else "file", 0, 0, 0, 0)
        try:
            local = self._local(entry, None, place, rel, tree)
            if local is None or local.live or (local.kind == "dir" and tree.mount_point(rel)):
                return []
            if local.kind == "file" and not local.sha256:
                local = replace(local, sha256=steady_digest(tree, rel, self.tick))
        except OSError:
            return []  # what can't be looked at is not what it was for sure
        if local.kind == "other" or printed(local) != what:
            return []
        return [Step("gone", replace(entry, kind=local.kind), n, rel, local)]

    def _close(self, step: Step) -> Step:
        self.closed = (step.entry.path + "/", step)
        return step

    def _refuse_unmovable(self, step: Step, local: Local, place: Place, here: str) -> None:
        """The root itself is never moved: it may be a mount point, HOME or somebody's working directory."""
        top = step.rel in ("", place.leaf)
        crossed = (local.kind == "dir") != (step.entry.kind == "dir")
        if crossed and (top or (self.mode == "overwrite" and local.kind == "dir")):
            raise in_the_way(place.shown if top else here, step.entry.kind, local.kind)

    def _local(self, entry: Entry, row: Row | None, place: Place, rel: str, tree: Tree | None) -> Local | None:
        if tree is not None:
            found = tree.lstat(rel)
        else:
            found = _at(place.base) if not rel else None
        if found is None:
            return None
        local = _local(found)
        if tree is not None and local.kind == "symlink":
            return replace(local, target=tree.readlink(rel))
        if tree is None or local.kind != "file":
            return local
        local = _with_sides(local, tree, rel)
        if wants_hash(entry, local, row, self.image):
            local = replace(local, sha256=steady_digest(tree, rel, self.tick))
        return local


def _recordable(action: Action, entry: Entry, local: Local | None, row: Row | None) -> Stat | None:
    """The stat under which a later scan may take a kept file for unchanged, mode and mtime included."""
    if action != "keep" or local is None or local.kind not in ("file", "symlink"):
        return None
    as_committed = row is not None and row.settled and row.stat == local.stat
    dressed = (entry.mode, entry.mtime_ns) == (local.mode, local.mtime_ns)
    return local.stat if as_committed or dressed else None


def _reaches(path: str, own: str) -> bool:
    return path == own or path.startswith(own + "/")


def _at(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _local(found: os.stat_result) -> Local:
    kind: Literal["file", "dir", "symlink", "other"] = "other"
    if st.S_ISREG(found.st_mode):
        kind = "file"
    elif st.S_ISDIR(found.st_mode):
        kind = "dir"
    elif st.S_ISLNK(found.st_mode):
        kind = "symlink"
    return Local(
        *(kind, Stat.of(found), found.st_size, st.S_IMODE(found.st_mode), found.st_uid, found.st_gid),
        *(found.st_mtime_ns, found.st_ctime_ns),
    )


def _with_sides(local: Local, tree: Tree, rel: str) -> Local:
    """``local`` with the stat that a scan would give it: a database changes in its log before in itself."""
    stat, live = local.stat, False
    for ending in ("-wal", "-journal"):
        side = tree.lstat(rel + ending)
        if side is None:
            continue
        stat = Stat(
            *(stat.dev, stat.ino, stat.size + side.st_size),
            max(stat.mtime_ns, side.st_mtime_ns),
            max(stat.ctime_ns, side.st_ctime_ns),
        )
        live = live or (side.st_size > 0 and is_database(tree, rel))
    return replace(local, stat=stat, live=live)
