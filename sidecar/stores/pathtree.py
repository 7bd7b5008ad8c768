"""A sorted map from path to content, as a copy-on-write B-tree of small immutable nodes.

A node is named by the sha256 of its bytes, so that revisions share what they have in common: changing 10 of
100,000 paths writes about a dozen nodes. One sorted map instead of a node a folder, because a folder may hold
100,000 files just as well as one. Nothing here does I/O: nodes come from and go to a ``Nodes``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import orjson

LEAF_CAP = 128
INNER_CAP = 512
"""Most items of a node. A child takes about 100 bytes, a path 150: both stay well under 100 KB."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at a path: the sha256 (hex) of its bytes and their number."""

    content: str
    size: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """Paths in order, each with its entry."""

    keys: Sequence[str]
    items: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Inner:
    """Children in order, each an id under its first path. All leaves of a tree are equally deep."""

    keys: Sequence[str]
    items: Sequence[str]


Node = Leaf | Inner


class Nodes(Protocol):
    """Where nodes live."""

    def load(self, node_id: str) -> Node: ...

    def save(self, node: Node) -> str: ...


EMPTY = Leaf((), ())


def encode(node: Node) -> bytes:
    """The node as JSON; equal nodes are equal bytes."""
    if isinstance(node, Inner):
        return orjson.dumps({"first": node.keys, "nodes": node.items})
    columns = {"sha256": [e.content for e in node.items], "sizes": [e.size for e in node.items]}
    return orjson.dumps({"paths": node.keys, **columns})


def decode(raw: bytes) -> Node:
    """The node that ``encode`` made; ``ValueError`` for anything else."""
    document: Any = orjson.loads(raw)
    try:
        if "nodes" in document:
            node: Node = Inner(document["first"], document["nodes"])
        else:
            items = [Entry(s, n) for s, n in zip(document["sha256"], document["sizes"], strict=True)]
            node = Leaf(document["paths"], items)
    except (TypeError, KeyError) as error:
        raise ValueError(f"no tree node: {error}") from None
    if len(node.keys) != len(node.items):
        raise ValueError("no tree node: columns of different lengths")
    return node


def update(nodes: Nodes, root: str, changes: Mapping[str, Entry | None]) -> str:
    """The id of ``root``'s tree with ``changes`` made: None deletes, also what isn't there."""
    pieces = _update(nodes, root, sorted(changes), changes)
    if pieces is None:
        return root
    while len(pieces) > 1:
        pieces = _chop(Inner([p.keys[0] for p in pieces], [nodes.save(p) for p in pieces]))
    top = pieces[0] if pieces else EMPTY
    while isinstance(top, Inner) and len(top.items) == 1:
        top = nodes.load(top.items[0])
    return nodes.save(top)


def find(nodes: Nodes, root: str, paths: Sequence[str]) -> dict[str, Entry]:
    """The entries of those of ``paths`` (sorted) that are in the tree."""
    node = nodes.load(root)
    if isinstance(node, Inner):
        found = {}
        for child, part in _shares(node, paths):
            if part:
                found.update(find(nodes, child, part))
        return found
    known = dict(zip(node.keys, node.items, strict=True))
    return {path: known[path] for path in paths if path in known}


def walk(nodes: Nodes, root: str, start: str = "") -> Iterator[tuple[str, Entry]]:
    """Every path from ``start`` on with its entry, in order."""
    node = nodes.load(root)
    if isinstance(node, Leaf):
        begin = bisect_left(node.keys, start)
        yield from zip(node.keys[begin:], node.items[begin:], strict=True)
        return
    for child in node.items[max(0, bisect_right(node.keys, start) - 1) :]:
        yield from walk(nodes, child, start)


def reach(nodes: Nodes, root: str, trees: set[str], contents: set[str]) -> None:
    """Add every node and content that ``root`` needs; what is below a node in ``trees`` is taken as known."""
    if root in trees:
        return
    node = nodes.load(root)
    if isinstance(node, Leaf):
        contents.update(entry.content for entry in node.items)
    else:
        for child in node.items:
            reach(nodes, child, trees, contents)
    trees.add(root)


def _shares(node: Inner, paths: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Each child with those of ``paths`` (sorted) that belong below it."""
    low = 0
    for i, child in enumerate(node.items):
        last = i + 1 == len(node.keys)
        high = len(paths) if last else bisect_left(paths, node.keys[i + 1], low)
        yield child, paths[low:high]
        low = high


def _update(
    nodes: Nodes, node_id: str, paths: Sequence[str], changes: Mapping[str, Entry | None]
) -> Sequence[Node] | None:
    """What takes the place of a node, not saved yet, as deep as it was; None where nothing changes."""
    node = nodes.load(node_id)
    if isinstance(node, Leaf):
        merged = dict(zip(node.keys, node.items, strict=True))
        for path in paths:
            entry = changes[path]
            if entry is not None:
                merged[path] = entry
            else:
                merged.pop(path, None)
        keys = sorted(merged)
        items = [merged[key] for key in keys]
        return None if (keys, items) == (list(node.keys), list(node.items)) else _chop(Leaf(keys, items))
    children: list[tuple[str, str | Node]] = []
    changed = False
    for first, (child, part) in zip(node.keys, _shares(node, paths), strict=True):
        pieces = _update(nodes, child, part, changes) if part else None
        if pieces is None:
            children.append((first, child))
        else:
            changed = True
            children.extend((piece.keys[0], piece) for piece in pieces)
    if not changed:
        return None
    children = _coalesce(nodes, children)
    return _chop(Inner([f for f, _ in children], [c if isinstance(c, str) else nodes.save(c) for _, c in children]))


def _coalesce(nodes: Nodes, children: list[tuple[str, str | Node]]) -> list[tuple[str, str | Node]]:
    """Join neighbours that fit into half a node, so that deletions leave no crumbs: those with a changed one."""
    out: list[tuple[str, str | Node]] = []
    for first, child in children:
        if out and (_crumb(child) or _crumb(out[-1][1])):
            left, right = (nodes.load(c) if isinstance(c, str) else c for c in (out[-1][1], child))
            if len(left.keys) + len(right.keys) <= _cap(left) // 2:
                out[-1] = (out[-1][0], _like(left, [*left.keys, *right.keys], [*left.items, *right.items]))
                continue
        out.append((first, child))
    return out


def _crumb(child: str | Node) -> bool:
    return not isinstance(child, str) and len(child.keys) <= _cap(child) // 2


def _chop(node: Node) -> Sequence[Node]:
    """The node in as few even pieces as its kind's cap allows; none at all where it is empty."""
    count = -(-len(node.keys) // _cap(node))
    ends = [len(node.keys) * i // count for i in range(count + 1)] if count else [0]
    return [_like(node, node.keys[a:b], node.items[a:b]) for a, b in pairwise(ends)]


def _cap(node: Node) -> int:
    return LEAF_CAP if isinstance(node, Leaf) else INNER_CAP


def _like(node: Node, keys: Sequence[str], items: Sequence[Any]) -> Node:
    return Leaf(keys, items) if isinstance(node, Leaf) else Inner(keys, items)
