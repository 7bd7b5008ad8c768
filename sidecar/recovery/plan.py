"""What a restore does with each entry of a snapshot: its steps, and the journal that puts them in their places.

Pure decisions, no disk and no store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

from sidecar.errors import ManifestError
from sidecar.records import record
from sidecar.recovery.choice import Action, Local, printed
from sidecar.snapshot.exclude import STAGING_PREFIX
from sidecar.snapshot.found import SIDE_FILES
from sidecar.snapshot.index import Stat
from sidecar.snapshot.manifest import Entry, Manifest, root_of

ANY = (1 << 32) - 1
"""As a uid or gid: whatever it is. (chown(2) reads it so too.)"""


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


@record(frozen=True, slots=True)
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

    def needs(self) -> Needs:
        """Which steps wait for which bytes: by place and sha256."""
        out: dict[tuple[int, str], list[Step]] = {}
        for step in self.steps:
            if step.fetches:
                out.setdefault((step.place, step.entry.sha256), []).append(step)
        return out


Needs = dict[tuple[int, str], list[Step]]

WHOLE = 8
"""Files from which on a folder that isn't there yet is staged as it will be, and comes to its place by one rename."""


def wholes(steps: Iterable[Step]) -> dict[tuple[int, str], str]:
    """The folders that are staged as a whole, by place and rel: the name of each in staging, the same every time."""
    files = Counter((s.place, s.rel.rpartition("/")[0]) for s in steps if s.action == "fetch" and s.fetches)
    return {
        (s.place, s.rel): f"folder-{sha256(s.entry.path.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
        for s in steps
        if s.entry.kind == "dir" and s.action == "fetch" and s.rel and files[s.place, s.rel] >= WHOLE
    }


def staged(needs: Needs, folders: Mapping[tuple[int, str], str], most: int) -> dict[tuple[int, str], str]:
    """Where in staging the bytes that are needed come, by place and sha256: under their sha256, or in their folder.

    What two entries need, and what has ``most`` bytes or more, is known by its content alone.
    """
    out: dict[tuple[int, str], str] = {}
    for key, of in needs.items():
        above, _, name = of[0].rel.rpartition("/")
        folder = folders.get((key[0], above)) if len(of) == 1 and of[0].entry.size < most else None
        out[key] = key[1] if folder is None else f"{folder}/{name}"
    return out


@record(frozen=True, slots=True)
class Op:
    """One operation of a redo journal; doing it again changes nothing.

    ``mtime_ns`` None: the time stays as it is. ``source`` is the staged file's name, or of a folder that is staged as
    a whole the folder's. ``away``: whatever else
    stands there goes to conflicts first. ``sides``: endings of SQLite's files beside it that go too.
    ``expect``: (size, mtime_ns, ctime_ns) that a kept file must still have, and one that goes, else they stay. Of what
    is replaced it counts a database's log too, and ``was`` is its sha256 where it is known: whatever else stands there
    was written since, and makes way into conflicts. None there: nothing stood in the way.
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
    was: str = ""


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


def operations(
    plan: Plan,
    sources: Mapping[str, str],
    databases: Collection[str],
    named: Collection[str],
    folders: Mapping[tuple[int, str], str],
) -> list[Op]:
    """The journal of ``plan``: folders, files, links, kept files' modes, what goes, then folders' modes, deepest first.

    ``sources`` has the staged file's name for each path that is fetched, ``databases`` the paths whose staged
    bytes are SQLite's, ``named`` every path of the snapshot, ``folders`` those that are staged as a whole.
    """
    made: list[Op] = []
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
        seen, was = _replaced(s)
        common = (s.place, s.rel, e.path, e.mode, e.uid, e.gid, e.mtime_ns)
        if e.kind == "file" and s.changes:
            sides = SIDE_FILES if e.path in databases or (s.local is not None and s.local.live) else ()
            left = tuple(x for x in sides if e.path + x not in named)
            files.append(Op("file", *common, sources[e.path], e.size, e.sha256, "", away, left, seen, was))
            continue
        base = Op("seal", *common)
        if e.kind == "dir":
            taking = (s.place, s.rel) in touched
            made += _folder(s, replace(base, expect=seen), away, taking, folders.get((s.place, s.rel), ""))
            seals += _seal(s, base, taking, e.path in named)
        elif e.kind == "symlink" and s.changes:
            links.append(replace(base, what="link", target=e.target, away=away, expect=seen))
        elif s.action == "meta" and s.local is not None:
            meta.append(replace(base, what="meta", expect=_seen(s.local)))
    return [*made, *files, *links, *meta, *reversed(gone), *reversed(seals)]


def _removal(step: Step, fresh: bool) -> Op:
    """Of a fresh disk the image has another copy of it; on any other it is moved aside."""
    assert step.local is not None
    aside = not fresh and step.local.kind != "dir"
    return Op(
        "gone", step.place, step.rel, step.entry.path, sha256=printed(step.local), away=aside, expect=_seen(step.local)
    )


def _replaced(step: Step) -> tuple[tuple[int, int, int] | None, str]:
    """``expect`` and ``was`` of what is replaced."""
    if step.action != "replace" or step.local is None:
        return None, ""
    stat = step.local.stat
    return (stat.size, stat.mtime_ns, stat.ctime_ns), step.local.sha256


def _seen(local: Local) -> tuple[int, int, int]:
    return local.size, local.mtime_ns, local.ctime_ns


def _folder(step: Step, base: Op, away: bool, touched: bool, source: str) -> list[Op]:
    if step.changes:
        return [replace(base, what="dir", away=away, source=source)]
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
