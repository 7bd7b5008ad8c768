"""What becomes of one entry, by what stands at its place: pure decisions, no disk and no store.

The order in which they are settled is the design's (section 7): what is equal stays, what is *newer* than the
snapshot that this disk was restored from stays, what is exactly as the last restore left it is replaced, and
whatever else differs is moved aside before its place is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sidecar.records import record
from sidecar.snapshot.index import Row, Stat
from sidecar.snapshot.manifest import Entry, Manifest, fingerprint

Action = Literal["keep", "meta", "newer", "image", "fetch", "replace", "conflict", "blocked", "gone"]
"""keep: as it should be; meta: mode, owner or mtime are to be set; newer: local and later than the snapshot,
stays; image: a newer image's, over what main never changed, stays; fetch: nothing is there; replace: unchanged since
the last restore, or the image's; conflict: moved aside, then replaced; blocked: a socket, pipe, device, mount point or
our own state dir stands there, which stays; gone: shipped, and deleted by main."""


Mode = Literal["resume", "bring", "overwrite", "confirm"]
"""resume: the index is of this very snapshot, so local changes are newer; bring: local changes make way into
conflicts; overwrite: they make way; confirm: only the comparison counts."""


@record(frozen=True, slots=True)
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
