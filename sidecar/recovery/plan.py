"""What a restore does with each entry: pure decisions, no disk and no store.

The order in which they are settled is the design's (section 7): what is equal stays, what is *newer* than the
snapshot that this disk was restored from stays, what is exactly as the last restore left it is replaced, and
whatever else differs is moved aside before its place is taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sidecar.errors import ManifestError
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.found import SIDE_FILES
from sidecar.snapshot.index import Row, Stat
from sidecar.snapshot.manifest import Entry, Manifest, fingerprint, root_of

ANY = (1 << 32) - 1
"""As a uid or gid: whatever it is. (chown(2) reads it so too.)"""

Action = Literal["keep", "meta", "newer", "image", "fetch", "replace", "conflict", "blocked", "gone"]
"""keep: as it should be; meta: mode, owner or mtime are to be set; newer: local and later than the snapshot,
stays; image: a newer image's, over what main never changed, stays; fetch: nothing is there; replace: unchanged since
the last restore, or the image's; conflict: moved aside, then replaced; blocked: a socket, pipe, device, mount point or
our own state dir stands there, which stays; gone: shipped, and deleted by main."""

Mode = Literal["resume", "bring", "overwrite", "confirm"]
"""resume: the index is of this very snapshot, so local changes are newer; bring: local changes make way into
conflicts; overwrite: they make way; confirm: only the comparison counts."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a root's entries go: below ``base`` (absolute, links resolved), or there as one file ``leaf``.

    ``root`` is "" where a whole snapshot is laid out in one folder; ``shown`` is how people know the place;
    ``staging`` is the folder that its files wait in until all are verified.
    """

    root: str
    shown: str
    base: str
    leaf: str = ""
    staging: str = ""

    def rel(self, path: str) -> str:
        """Where in ``base`` the entry ``path`` goes; "" is ``base`` itself."""
        if self.leaf:
            return self.leaf
        return path[len(self.root) + 1 :] if self.root else path


@dataclass(frozen=True, slots=True)
class Local:
    """What stands at an entry's place. ``stat`` is as the index has it: with a database's log or journal.

    ``sha256`` is "" where nobody needed to know or the file wouldn't hold still; ``live`` says that a
    database has commits in a log or journal beside it.
    """

    kind: Literal["file", "dir", "symlink", "other"]
    stat: Stat
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    target: str = ""
    sha256: str = ""
    live: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """Of a fresh disk, by path: what the image ``brought``, and what the snapshot knows as ``shipped`` before."""

    brought: Mapping[str, str]
    shipped: Mapping[str, str]

    def has(self, path: str, local: Local) -> bool:
        """Whether ``local`` is what the image brought."""
        mine = printed(local)
        return bool(mine) and self.brought.get(path) == mine


@dataclass(frozen=True, slots=True)
class Step:
    """The verdict on one entry.

    ``implied``: a folder that is only to be there, because of what lies in it. ``known``: the index says that
    this disk held the entry. ``stat``: what the index may say of a kept file; None where it must look again.
    """

    action: Action
    entry: Entry
    place: int
    rel: str
    local: Local | None = None
    implied: bool = False
    known: bool = False
    stat: Stat | None = None

    @property
    def changes(self) -> bool:
        return self.action in ("fetch", "replace", "conflict")

    @property
    def fetches(self) -> bool:
        return self.changes and self.entry.kind == "file"


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, a folder before what lies in it; ``Step.place`` counts in ``places``."""

    places: tuple[Place, ...]
    steps: tuple[Step, ...]
    fresh: bool = False

    def needs(self) -> dict[tuple[int, str], list[Step]]:
        """Which steps wait for which bytes: by place and sha256."""
        out: dict[tuple[int, str], list[Step]] = {}
        for step in self.steps:
            if step.fetches:
                out.setdefault((step.place, step.entry.sha256), []).append(step)
        return out


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a redo journal; doing it again changes nothing.

    ``mtime_ns`` None: the time stays as it is. ``source`` is the staged file's name. ``away``: whatever else
    stands there goes to conflicts first. ``sides``: endings of SQLite's files beside it that go too.
    ``expect``: (size, mtime_ns, ctime_ns) that a kept file must still have, and one that goes.
    """

    what: Literal["dir", "file", "link", "meta", "gone", "seal"]
    place: int
    rel: str
    path: str
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    mtime_ns: int | None = None
    source: str = ""
    size: int = 0
    sha256: str = ""
    target: str = ""
    away: bool = False
    sides: tuple[str, ...] = ()
    expect: tuple[int, int, int] | None = None


def check(manifest: Manifest) -> None:
    """Refuse what no snapshot of ours has and what could reach beyond a root. Raises ManifestError."""
    roots = {r.name for r in manifest.roots}
    for path, entry in manifest.entries.items():
        if path in roots and entry.kind == "symlink":
            # Followed by the next restore, it would be a way to anywhere.
            raise ManifestError(f"root {path!r} is a link in the snapshot, which no root can be")
        if STAGING_PREFIX in path and any(p.startswith(STAGING_PREFIX) for p in path.split("/")):
            raise ManifestError(f"{path!r} is one of the sidecar's own files, which no snapshot holds")
        if entry.kind == "file" and entry.frame is None:
            try:
                path.encode()
            except UnicodeEncodeError:
                raise ManifestError(f"{path!r} is not UTF-8 and in no bundle, so no store can hold it") from None


def at_or_under(path: str, top: str | None) -> bool:
    return top is None or path == top or path.startswith(top + "/")


def ordered(
    manifest: Manifest, roots: Collection[str], only: str | None, *, whole: bool = False
) -> list[tuple[Entry, bool]]:
    """The entries of ``roots`` at or under ``only`` and the folders above them, top down.

    The flag is true for a folder that is only to be there: it has no entry, or lies above ``only``. With
    ``whole`` the folders that only a root's name implies are listed too.
    """
    out: dict[str, tuple[Entry, bool]] = {}
    for path, entry in manifest.entries.items():
        root = root_of(path, roots)
        if root is None or not at_or_under(path, only):
            continue
        out[path] = (entry, False)
        above = path.rpartition("/")[0]
        while above and (whole or len(above) >= len(root)) and above not in out:
            known = manifest.entries.get(above)
            if known is not None and at_or_under(above, only):
                break
            out[above] = (known or Entry(above, "dir", 0o755, ANY, ANY, 0), True)
            above = above.rpartition("/")[0]
    return [out[path] for path in sorted(out, key=lambda p: p.split("/"))]


def same_content(a: Entry, b: Entry) -> bool:
    return (a.kind, a.sha256, a.target) == (b.kind, b.sha256, b.target)


def untouched(local: Local, row: Row | None) -> bool:
    """Whether ``local`` is exactly what the index says was there, by stat or by content."""
    if row is None or row.entry.kind != local.kind or local.kind == "dir":
        return False
    if local.kind == "symlink":
        return local.target == row.entry.target
    if row.stat is not None and row.settled and row.stat == local.stat:
        return True
    return not local.live and bool(local.sha256) and local.sha256 == row.entry.sha256


def printed(what: Entry | Local) -> str:
    """Its fingerprint; "" where it has none or nobody looked."""
    if what.kind == "other" or (what.kind == "file" and not what.sha256):
        return ""
    return fingerprint(what.kind, what.sha256, what.target)


def mains_folders(manifest: Manifest) -> set[str]:
    """The folders that hold anything that isn't as an image brought it."""
    out: set[str] = set()
    for path, entry in manifest.entries.items():
        if manifest.shipped.get(path) != printed(entry):
            above = path.rpartition("/")[0]
            while above and above not in out:
                out.add(above)
                above = above.rpartition("/")[0]
    return out


def wants_hash(entry: Entry, local: Local, row: Row | None, image: Image | None = None) -> bool:
    """Whether the verdict on a local file hangs on its content."""
    if local.kind != "file" or local.live or untouched(local, row):
        return False
    if image is not None and entry.path in image.brought:
        return True
    sizes = {e.size for e in (entry, row.entry if row else None) if e is not None and e.kind == "file"}
    return local.size in sizes


def equal(entry: Entry, local: Local, row: Row | None) -> bool:
    """Whether ``local`` already holds what ``entry`` says, mode and times aside."""
    if entry.kind != local.kind:
        return False
    if entry.kind == "dir":
        return True
    if entry.kind == "symlink":
        return entry.target == local.target
    if untouched(local, row) and row is not None:
        return row.entry.sha256 == entry.sha256
    return not local.live and local.sha256 == entry.sha256


def decide(
    entry: Entry, local: Local | None, row: Row | None, mode: Mode, may_chown: bool, image: Image | None = None
) -> Action:
    """The verdict on one entry; ``row`` is what the index has for its path, ``image`` a fresh disk's."""
    if local is None:
        return "fetch"
    if local.kind == "other":
        return "blocked"
    known = mode == "resume" and row is not None and same_content(row.entry, entry)
    if equal(entry, local, row):
        # A mode that was changed since is newer just as content is; the first sync takes it.
        return "keep" if known or not _undressed(entry, local, may_chown) else "meta"
    if known:
        return "newer"
    if image is not None and image.has(entry.path, local):
        was = image.shipped.get(entry.path)
        if was == printed(entry):
            return "image"
        if was == printed(local) and local.kind != "dir":
            return "replace"  # the default that main changed: every container of this image has it
    if local.kind != "dir" and (mode == "overwrite" or untouched(local, row)):
        return "replace"
    return "conflict"


def _undressed(entry: Entry, local: Local, may_chown: bool) -> bool:
    if entry.kind == "symlink":
        return False
    owner = may_chown and (entry.uid, entry.gid) != (local.uid, local.gid)
    return owner or (entry.mode, entry.mtime_ns) != (local.mode, local.mtime_ns)


def operations(plan: Plan, sources: Mapping[str, str], databases: Collection[str], named: Collection[str]) -> list[Op]:
    """The journal of ``plan``: folders, files, links, kept files' modes, what goes, then folders' modes, deepest first.

    ``sources`` has the staged file's name for each path that is fetched, ``databases`` the paths whose staged
    bytes are SQLite's, ``named`` every path of the snapshot.
    """
    folders: list[Op] = []
    files: list[Op] = []
    links: list[Op] = []
    meta: list[Op] = []
    gone: list[Op] = []
    seals: list[Op] = []
    touched = {(s.place, s.rel.rpartition("/")[0]) for s in plan.steps if (s.changes or s.action == "gone") and s.rel}
    touched |= {(place, "") for place, _ in touched}  # by the staging folder
    for s in plan.steps:
        e = s.entry
        if s.action == "gone":
            gone.append(_removal(s, plan.fresh))
            continue
        away = s.action == "conflict"
        common = (s.place, s.rel, e.path, e.mode, e.uid, e.gid, e.mtime_ns)
        if e.kind == "file" and s.changes:
            sides = SIDE_FILES if e.path in databases or (s.local is not None and s.local.live) else ()
            left = tuple(x for x in sides if e.path + x not in named)
            files.append(Op("file", *common, sources[e.path], e.size, e.sha256, away=away, sides=left))
            continue
        base = Op("seal", *common)
        if e.kind == "dir":
            taking = (s.place, s.rel) in touched
            folders += _folder(s, base, away, taking)
            seals += _seal(s, base, taking, e.path in named)
        elif e.kind == "symlink" and s.changes:
            links.append(replace(base, what="link", target=e.target, away=away))
        elif s.action == "meta" and s.local is not None:
            now = (s.local.size, s.local.mtime_ns, s.local.ctime_ns)
            meta.append(replace(base, what="meta", expect=now))
    return [*folders, *files, *links, *meta, *reversed(gone), *reversed(seals)]


def _removal(step: Step, fresh: bool) -> Op:
    """Of a fresh disk the image has another copy of it; on any other it is moved aside."""
    assert step.local is not None
    now = (step.local.size, step.local.mtime_ns, step.local.ctime_ns)
    aside = not fresh and step.local.kind != "dir"
    return Op("gone", step.place, step.rel, step.entry.path, sha256=printed(step.local), away=aside, expect=now)


def _folder(step: Step, base: Op, away: bool, touched: bool) -> list[Op]:
    if step.changes:
        return [replace(base, what="dir", away=away)]
    if touched and step.local is not None and step.local.mode & 0o700 != 0o700:
        return [replace(base, what="dir")]  # opened for what is put in it; its own mode comes at the end
    return []


def _seal(step: Step, base: Op, touched: bool, named: bool) -> list[Op]:
    """What makes a folder look as it should once all is in it; ``named`` where the snapshot says how."""
    local = step.local
    if step.changes:
        return [base if named else replace(base, mtime_ns=None)]
    if local is None or local.kind != "dir":
        return []
    if step.action == "meta" and not step.implied:
        return [base]
    if touched:
        if step.implied or step.known:
            return [replace(base, mode=local.mode, uid=local.uid, gid=local.gid, mtime_ns=local.mtime_ns)]
        return [base]
    return []
