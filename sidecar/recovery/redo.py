"""Carrying out a redo journal: each operation can be done again after it was done, or half done.

A file that is still in staging was not put in its place yet: that is all the bookkeeping.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from sidecar.recovery.aside import NO_RENAME, Aside
from sidecar.recovery.copying import pour, settle
from sidecar.recovery.plan import Op, Place
from sidecar.recovery.tree import Tick, Tree, steady_digest
from sidecar.recovery.trouble import failed
from sidecar.snapshot.index import Stat
from sidecar.snapshot.manifest import FOLDER


@dataclass(frozen=True, slots=True)
class Journal:
    """``conflicts`` is the absolute folder for what makes way; with ``record`` the index is to describe this
    snapshot afterwards. ``wary``: its operations say what they replace, so that what was written since is told from it
    (journals of earlier versions don't).
    """

    store: str
    snapshot: str
    revision: str
    instance: str
    record: bool
    conflicts: str | None
    places: tuple[Place, ...]
    ops: tuple[Op, ...]
    wary: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a journal: the stat of each entry that it put in place, and what it couldn't.

    ``lost`` are the entries whose staged bytes are gone; ``blocked`` what nobody could move aside.
    """

    stats: Mapping[str, Stat]
    lost: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()


def apply(journal: Journal, tick: Tick) -> Applied:
    """Do every operation, in order. Raises RestoreFailed where the disk refuses; done again, it goes on."""
    with ExitStack() as stack:
        run = _Run(journal, stack, tick)
        for op in journal.ops:
            if op.what == "file" and "/" in op.source:
                run.inside.setdefault((op.place, op.source.partition("/")[0]), []).append(op)
        for op in journal.ops:
            try:
                run.one(op)
            except OSError as error:
                place = journal.places[op.place]
                raise failed("restore", f"{place.base}/{op.rel}" if op.rel else place.base, error) from error
        for tree in run.trees.values():
            if tree is not None:
                settle(tree.base)
        run.aside.settle()
        return Applied(run.stats, tuple(run.lost), tuple(run.blocked))


class _Run:
    """One pass over a journal: the open folders, and what came of it."""

    def __init__(self, journal: Journal, stack: ExitStack, tick: Tick) -> None:
        self.journal, self.stack, self.tick = journal, stack, tick
        self.trees: dict[int, Tree | None] = {}
        self.staging: dict[int, Tree | None] = {}
        self.aside = stack.enter_context(Aside(journal.conflicts, tick))
        # Of folders that were staged as a whole, by place and name there: their files, and which have come.
        self.inside: dict[tuple[int, str], list[Op]] = {}
        self.came: set[tuple[int, str]] = set()
        self.stats: dict[str, Stat] = {}
        self.lost: list[str] = []
        self.blocked: list[str] = []

    def one(self, op: Op) -> None:
        if op.place not in self.trees:
            place = self.journal.places[op.place]
            self.trees[op.place] = self._tree(place.base, follow=True)
            self.staging[op.place] = self._tree(place.staging, follow=False)
        tree = self.trees[op.place]
        if tree is None:  # the root's folder was removed since: nothing is left to finish it with
            self.lost.append(op.path)
        elif self.blocked and any(op.path.startswith(b + "/") for b in self.blocked):
            self.blocked.append(op.path)
        elif op.what == "dir":
            self._dir(op, tree)
        elif op.what == "file":
            self._file(op, tree)
        elif op.what == "link":
            self._link(op, tree)
        elif op.what == "meta":
            self._meta(op, tree)
        elif op.what == "gone":
            self._gone(op, tree)
        elif tree.lstat(op.rel) is not None:
            tree.dress(op.rel, op.mode, op.uid, op.gid, op.mtime_ns)

    def _tree(self, path: str, *, follow: bool) -> Tree | None:
        try:
            return self.stack.enter_context(Tree(path, follow=follow))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _dir(self, op: Op, tree: Tree) -> None:
        found = tree.lstat(op.rel)
        if found is None or not st.S_ISDIR(found.st_mode):
            if found is not None and not self._make_way(op, tree, found):
                return
            if not op.source or not self._whole(op, tree):
                tree.mkdir(op.rel, 0o700)
        elif found.st_mode & 0o700 != 0o700 and found.st_uid == os.geteuid():
            # Until all is in it; its own mode comes last.
            tree.dress(op.rel, st.S_IMODE(found.st_mode) | 0o700, found.st_uid, found.st_gid, None)

    def _whole(self, op: Op, tree: Tree) -> bool:
        """Have the folder with all that was staged in it; where it doesn't go so, each file goes by itself.

        Its files are as they are to be before it goes: what somebody writes to them from then on is newer.
        """
        staging, files = self.staging[op.place], self.inside.get((op.place, op.source), [])
        if staging is None or tree.lstat(op.rel) is not None or tree.shapes(op.rel) or staging.shapes(op.source):
            return False
        seen: dict[str, Stat] = {}
        for file in files:
            self.tick()
            found = staging.lstat(file.source)
            if found is None or not st.S_ISREG(found.st_mode) or found.st_size != file.size:
                return False
            if not _is_dressed(file, found):
                staging.dress(file.source, file.mode, file.uid, file.gid, file.mtime_ns)
                found = staging.lstat(file.source)
            if found is not None:
                seen[file.path] = Stat.of(found)
        try:
            staging.rename(op.source, tree, op.rel)
        except OSError:
            return False
        self.stats.update(seen)
        self.came.add((op.place, op.source))
        return True

    def _file(self, op: Op, tree: Tree) -> None:
        if self.came and (op.place, op.source.rpartition("/")[0]) in self.came:
            return
        staging = self.staging[op.place]
        there = tree.lstat(op.rel)
        aside = self._goes_aside(op, tree, there)
        if staging is None or ((aside or op.sides) and staging.lstat(op.source) is None):
            self._placed(op, tree)
            return
        if aside and there is not None and not self._away(op, tree):
            return
        for ending in op.sides:
            if tree.lstat(op.rel + ending) is None:
                continue
            if not aside:
                tree.unlink(op.rel + ending)
            elif not self._away(op, tree, ending):
                return
        found = None
        try:
            found = staging.move_file(op.source, tree, op.rel)
        except FileNotFoundError:
            if staging.lstat(op.source) is not None:
                raise
            self._placed(op, tree)
            return
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
            self._in_place(op, staging, tree)
        self.tick()
        self._dressed(op, tree, found)

    def _placed(self, op: Op, tree: Tree) -> None:
        """It isn't in staging: either in its place already, or its bytes are gone with the staging folder."""
        found = tree.lstat(op.rel)
        same = found is not None and st.S_ISREG(found.st_mode) and found.st_size == op.size
        if same and steady_digest(tree, op.rel, self.tick) == op.sha256:
            self._dressed(op, tree, found)
        else:
            self.lost.append(op.path)

    def _dressed(self, op: Op, tree: Tree, found: os.stat_result | None) -> None:
        """Most were dressed in staging, as ``found`` shows: there is nothing left to do for those."""
        if found is not None and _is_dressed(op, found):
            self.stats[op.path] = Stat.of(found)
        else:
            tree.dress(op.rel, op.mode, op.uid, op.gid, op.mtime_ns)
            self._stat(op, tree)

    def _in_place(self, op: Op, staging: Tree, tree: Tree) -> None:
        source = staging.open(op.source)
        try:
            target = tree.open(op.rel, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
            try:
                if not st.S_ISREG(os.fstat(target).st_mode):
                    raise OSError(errno.EEXIST, "something else than a file stands there", op.rel)
                pour(source, target, self.tick)
            finally:
                os.close(target)
        finally:
            os.close(source)
        tree.dress(op.rel, op.mode, op.uid, op.gid, op.mtime_ns)
        staging.unlink(op.source)

    def _link(self, op: Op, tree: Tree) -> None:
        found = tree.lstat(op.rel)
        if found is not None and not (st.S_ISLNK(found.st_mode) and tree.readlink(op.rel) == op.target):
            if not self._make_way(op, tree, found):
                return
            found = None
        if found is None:
            tree.link(op.rel, op.target)
        tree.dress(op.rel, None, op.uid, op.gid, op.mtime_ns)
        self._stat(op, tree)

    def _meta(self, op: Op, tree: Tree) -> None:
        found = tree.lstat(op.rel)
        if found is None or (found.st_size, found.st_mtime_ns, found.st_ctime_ns) != op.expect:
            return  # done before a crash, or changed since: the next look at its content decides
        tree.dress(op.rel, op.mode, op.uid, op.gid, op.mtime_ns)
        self._stat(op, tree)

    def _gone(self, op: Op, tree: Tree) -> None:
        """Remove a shipped path that main had deleted; what is another by now, or not ours to remove, stays."""
        found = tree.lstat(op.rel)
        if found is None:
            return
        with suppress(PermissionError):
            if op.sha256 == FOLDER:
                with suppress(OSError):  # not empty, above all
                    tree.rmdir(op.rel)
            elif (found.st_size, found.st_mtime_ns, found.st_ctime_ns) == op.expect and not st.S_ISDIR(found.st_mode):
                if op.away:
                    self._away(op, tree)
                else:
                    tree.unlink(op.rel)

    def _stat(self, op: Op, tree: Tree) -> None:
        found = tree.lstat(op.rel)
        if found is not None:
            self.stats[op.path] = Stat.of(found)

    def _goes_aside(self, op: Op, tree: Tree, there: os.stat_result | None) -> bool:
        """Whether what stands there, with its sides, is kept: it differed when that was planned, or does since."""
        if op.away or not self.journal.wary:
            return op.away
        if there is None:  # of a database that had none, or went aside before a crash, the log may still be there
            return bool(op.sides) and (op.expect is None or self.aside.has(op.path))
        return not self._as_planned(op, tree, there)

    def _as_planned(self, op: Op, tree: Tree, there: os.stat_result) -> bool:
        """Whether it still is what is replaced, by stat or by content: a chown, or another link to it, is no write."""
        if op.expect is None:
            return False
        sides = [found for ending in ("-wal", "-journal") if (found := tree.lstat(op.rel + ending)) is not None]
        stats = [Stat.of(found) for found in (there, *sides)]
        size = sum(s.size for s in stats)
        if (size, max(s.mtime_ns for s in stats), max(s.ctime_ns for s in stats)) == op.expect:
            return True
        if not op.was or size != op.expect[0] or size != there.st_size or not st.S_ISREG(there.st_mode):
            return False
        return steady_digest(tree, op.rel, self.tick) == op.was

    def _make_way(self, op: Op, tree: Tree, found: os.stat_result) -> bool:
        if self._goes_aside(op, tree, found):
            return self._away(op, tree)
        tree.unlink(op.rel)
        return True

    def _away(self, op: Op, tree: Tree, ending: str = "") -> bool:
        """Move what stands there to conflicts; False where it can't be moved. Never loses it."""
        if not self.aside.move(tree, op.rel + ending, op.path + ending, in_place=op.what == "file"):
            self.blocked.append(op.path)
            return False
        return True


def _is_dressed(op: Op, found: os.stat_result) -> bool:
    return found.st_mtime_ns == op.mtime_ns and (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (
        *(op.mode, op.uid),
        op.gid,
    )
