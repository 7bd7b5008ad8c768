"""Which paths a store can carry: those that a folder on Linux can hold again, and no file below a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from sidecar.masking import shown
from sidecar.stores import pathtree
from sidecar.stores.base import Refused

MAX_SEGMENT = 255
MAX_PATH = 3072
"""Bytes. Linux takes names of 255 and paths of 4095 (limits.h); the rest is for the folder around them."""


def why_not(path: str) -> str | None:
    """What is wrong with a path, or None."""
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError:
        return "it is not UTF-8"
    segments = raw.split(b"/")
    if any(segment in (b"", b".", b"..") for segment in segments):
        return "it has an empty, '.' or '..' segment"
    if b"\0" in raw:
        return "it holds a NUL"
    if len(raw) > MAX_PATH:
        return f"it is longer than {MAX_PATH} bytes"
    if any(len(segment) > MAX_SEGMENT for segment in segments):
        return f"a name in it is longer than {MAX_SEGMENT} bytes"
    return None


def check_paths(paths: Iterable[str]) -> None:
    """``Refused`` for the first path that a folder store does not carry."""
    for path in paths:
        why = why_not(path)
        if why:
            raise Refused(f"{shown(path)} can't go into a folder store: {why}. Nothing was committed.", path)


def check_clashes(nodes: pathtree.Nodes, tree: str, put: Mapping[str, object], delete: Set[str]) -> None:
    """``Refused`` where a path would be a file and a folder at once. No path is both put and deleted."""
    old = pathtree.find(nodes, tree, sorted(put))
    new = [path for path in put if path not in old]
    above = {path: _above(path) for path in new}
    known = pathtree.find(nodes, tree, sorted({folder for folders in above.values() for folder in folders}))
    for path, folders in above.items():
        for folder in folders:
            if folder in put or (folder in known and folder not in delete):
                raise _clash(path, folder)
        below = _below(nodes, tree, path, delete)
        if below is not None:
            raise _clash(path, below)


def _above(path: str) -> list[str]:
    return [path[:i] for i, c in enumerate(path) if c == "/"]


def _below(nodes: pathtree.Nodes, tree: str, path: str, delete: Set[str]) -> str | None:
    for other, _ in pathtree.walk(nodes, tree, f"{path}/"):
        if not other.startswith(f"{path}/"):
            return None
        if other not in delete:
            return other
    return None


def _clash(path: str, other: str) -> Refused:
    file, below = sorted((path, other), key=len)
    return Refused(
        f"{shown(file)} can't be a file while {shown(below)} is one too. Nothing was committed; delete one "
        "of them in the same commit.",
        path,
    )
