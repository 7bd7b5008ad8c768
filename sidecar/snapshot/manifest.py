"""The manifest: what a snapshot holds, entry by entry.

Paths are ``<root name>/<relative path>`` (a single-file root is just
``<root name>``), as ``str`` in the way of ``os.fsdecode``: bytes that aren't UTF-8 are lone surrogates in memory and
``path_b64`` in the JSON.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from sidecar.errors import ManifestError
from sidecar.records import record

FORMAT = 1
PATH = ".sidecar/manifest.json"
BUNDLES = ".sidecar/bundles/"
SHARDS = ".sidecar/shards/"
LEASE = ".sidecar/lease.json"
RECOVERY = ".sidecar/recovery.jsonl"
TITLE = "sidecar: snapshot "
"""How the title of every commit that carries a snapshot starts; a squash keeps it."""

ASKS = "sidecar: lease requested by "
"""How the title of a commit starts that changes nothing but the lease, to ask its holder for it."""

HANDS = "sidecar: lease handing over"
"""The title of a commit that changes nothing but the lease: its holder answers that it hands over, or still does."""

CLAIM = re.compile(r"sidecar: lease (\d{1,17}) claimed by (\S+)")
"""How the title of a commit starts that takes the lease, see ``claim_title``: its epoch, and the instance."""

Kind = Literal["file", "dir", "symlink"]
Flag = Literal["", "unsettled", "stale", "unreadable"]

_ID = re.compile(r"(0|[1-9][0-9]{0,17})\.(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True, order=True)
class SnapshotId:
    """``<epoch>.<sequence>``: ordered, unique within a store's life, and never the store's own revision."""

    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> SnapshotId:
        """Read ``7.113``; raises ManifestError for anything else."""
        match = _ID.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ManifestError(f"{text!r} is no snapshot id (it looks like 7.113)")
        return cls(int(match[1]), int(match[2]))


@record(frozen=True, slots=True)
class Frame:
    """Where a bundled file's bytes are: ``length`` bytes at ``offset`` of the bundle are one zstd frame of tar."""

    bundle: str  # sha256 of the whole bundle, which is also its name
    offset: int
    length: int


@record(frozen=True, slots=True)
class Entry:
    """One file, folder or link of a snapshot. ``size`` in bytes and ``sha256`` in hex stand for files only."""

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    sha256: str = ""
    target: str = ""
    frame: Frame | None = None
    flag: Flag = ""


@dataclass(frozen=True, slots=True)
class RootRecord:
    """A root as the snapshot's writer had it; ``path`` is for people (where to declare it)."""

    name: str
    path: str
    kind: Literal["dir", "file", "absent"] = "dir"
    layout: str = "auto"


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a large manifest: ``entries`` of them, from the path ``first`` up to the next shard's.

    ``size`` is that of the stored bytes, whose ``sha256`` is also their name, ``plain`` of what they unpack to.
    """

    sha256: str
    size: int
    plain: int
    entries: int
    first: str


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a manifest was stored: its shards, and in what way the snapshot differs from them.

    ``replaced`` are entries that a shard has otherwise, ``added`` those that none has, ``gone`` what only a shard has.
    """

    shards: tuple[Shard, ...]
    replaced: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Manifest:
    snapshot: SnapshotId
    parent: str | None
    space: str
    at: float  # seconds since the epoch by the writer's clock: for people, decides nothing
    instance: str
    version: str
    roots: tuple[RootRecord, ...]
    entries: Mapping[str, Entry]
    bundles: Mapping[str, int] = field(default_factory=dict)  # sha256 -> size in bytes
    shipped: Mapping[str, str] = field(default_factory=dict)  # path -> fingerprint of what the image brought
    tombstones: Mapping[str, str] = field(default_factory=dict)  # shipped path that main deleted -> the same
    packed: Mapping[str, int] = field(default_factory=dict)  # bundle's sha256 -> bytes of all files ever put into it
    sharding: Sharding | None = field(default=None, compare=False)
    hashed: Mapping[str, tuple[Shard, ...]] = field(default_factory=dict, compare=False)
    """The parts in which ``shipped`` and ``tombstones`` are stored where they are long; by these names."""

    def root_of(self, path: str) -> str | None:
        """The name of the root that ``path`` belongs to."""
        return root_of(path, [r.name for r in self.roots])


FOLDER = sha256(b"folder").hexdigest()
"""The fingerprint of every folder."""


def fingerprint(kind: Kind, content: str, target: str) -> str:
    """What shipped paths and tombstones know an entry by: a file's sha256 (``content``), a link's of its target."""
    if kind == "dir":
        return FOLDER
    return content if kind == "file" else sha256(b"link\0" + os.fsencode(target)).hexdigest()


def root_of(path: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that ``path`` equals or lies under; names are no prefixes of each other."""
    for name in names:
        if path == name or path.startswith(name + "/"):
            return name
    return None


def title(snapshot: SnapshotId, words: str = "") -> str:
    return f"{TITLE}{snapshot}" + (f" ({words})" if words else "")


def claim_title(epoch: int, instance: str) -> str:
    return f"sidecar: lease {epoch} claimed by {instance}"


def snapshot_in(commit_title: str) -> str | None:
    """The snapshot id that a commit's title names, if it is one of ours."""
    if not commit_title.startswith(TITLE):
        return None
    word = commit_title[len(TITLE) :].split(" ", 1)[0].strip()
    return word if _ID.fullmatch(word) else None


def mirrored(path: str) -> bool:
    """Whether a store may carry ``path`` under its own name.

    Git's own names are obeyed by a Hub instead of kept (a ``.gitignore`` drops other files), names that aren't
    UTF-8 can't be sent, and control characters or backslashes are refused by one server or another.
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    if any(ord(c) < 32 or ord(c) == 127 or c == "\\" for c in path):
        return False
    parts = path.split("/")
    if any(p.lower() in (".git", ".gitignore", ".gitattributes", ".gitmodules", ".lfsconfig") for p in parts):
        return False
    return all(len(p.encode()) <= 250 for p in parts) and len(path.encode()) <= 1000
