"""What the image itself brought into the roots: noted once, on a fresh disk, before anything else writes there.

A restore is three-way with it (design, section 5, *Shipped files*): a default that main never touched gives way to the
one of a newer image, and what main deleted of an image doesn't come back with the next container.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sidecar.recovery import journal
from sidecar.recovery.choice import Image
from sidecar.recovery.tree import Tick, Tree, steady_digest
from sidecar.roots import Root
from sidecar.snapshot.exclude import Excluder
from sidecar.snapshot.found import Found
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import Manifest, fingerprint
from sidecar.snapshot.scan import scan_root

MOST_FILES = 100_000
MOST_BYTES = 1024 * 1024 * 1024
"""So much of an image is hashed before main may start; of the rest the snapshot's is always what counts."""


@dataclass(frozen=True, slots=True)
class Brought:
    """``hashes`` by path, read from so many bytes; ``left`` files were past the bound and are not known."""

    hashes: dict[str, str]
    bytes: int = 0
    left: int = 0


def note(
    index: Index, state_dir: Path, roots: Sequence[Root], patterns: Sequence[str], own: Sequence[str], tick: Tick
) -> Brought | None:
    """On a fresh disk: note in ``index`` what the image brought. None where the disk is not fresh. Blocks.

    Fresh is a disk whose index knows of no snapshot, no start and no restore that was cut off.
    """
    if index.known() is not None or index.brought() is not None:
        return None
    if index.pending() is not None or index.note(journal.NOTE) is not None or journal.is_open(state_dir):
        index.note_brought({})  # half of it may be a snapshot's: none of it is called the image's
        return None
    found = look(index, roots, patterns, own, tick)
    index.note_brought(found.hashes)
    return found


def close(index: Index) -> None:
    """Main runs without a restore: what lies in the roots from now on may be main's. Blocks."""
    if index.known() is None and index.brought() is None:
        index.note_brought({})


def look(index: Index, roots: Sequence[Root], patterns: Sequence[str], own: Sequence[str], tick: Tick) -> Brought:
    """What lies in ``roots`` and would get into a snapshot; ``index`` is one without entries. Blocks."""
    hashes: dict[str, str] = {}
    size = left = 0
    for root in roots:
        at = os.path.realpath(root.path)
        changed = scan_root(root.name, at, index, Excluder(at, patterns, own), None).changed
        tick()
        if not changed:
            continue
        single = changed[0].path == root.name and changed[0].kind == "file"
        base = os.path.dirname(at) if single else at
        with Tree(base) as tree:
            for here in changed:
                weight = here.stat.size if here.kind == "file" else 0
                if len(hashes) >= MOST_FILES or size + weight > MOST_BYTES:
                    left += 1
                    continue
                print_ = _print(here, tree, here.absolute[len(base) :].lstrip("/"), tick)
                if print_:
                    hashes[here.path] = print_
                    size += weight
    return Brought(hashes, size, left)


def _print(here: Found, tree: Tree, rel: str, tick: Tick) -> str:
    try:
        target = tree.readlink(rel) if here.kind == "symlink" else ""
    except OSError:
        return ""
    content = steady_digest(tree, rel, tick) if here.kind == "file" else ""
    return "" if here.kind == "file" and not content else fingerprint(here.kind, content, target)


def image_of(index: Index, manifest: Manifest) -> Image | None:
    """What a restore of ``manifest`` goes by; None where this disk is not fresh."""
    brought = index.brought()
    return None if brought is None else Image(brought, manifest.shipped)


def described(manifest: Manifest, index: Index, *, same: bool) -> Manifest:
    """``manifest`` with what the index is to say of shipped files after its restore.

    ``same``: the index is of this very snapshot already, and may know of what no commit has said yet.
    """
    if same:
        return replace(manifest, shipped=index.shipped(), tombstones=index.tombstones())
    brought = index.brought()
    return manifest if brought is None else replace(manifest, shipped=merged(manifest, brought))


def merged(manifest: Manifest, brought: dict[str, str]) -> dict[str, str]:
    """What counts as shipped after ``manifest`` was restored over what a fresh disk's image ``brought``.

    Bytes that the snapshot has from main stay main's, also where they lie on this disk already: then it is a volume
    whose index was lost rather than an image, and an older copy of it must never win over the snapshot.
    """
    known = manifest.shipped
    out = {p: sha for p, sha in known.items() if p in manifest.entries or p in manifest.tombstones}
    for path, sha in brought.items():
        entry = manifest.entries.get(path)
        mains = entry is not None and fingerprint(entry.kind, entry.sha256, entry.target) == sha
        if not mains or known.get(path) == sha:
            out[path] = sha
    return out
