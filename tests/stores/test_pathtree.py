"""The path tree against a plain dict, with nodes so small that every shape occurs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.stores import pathtree
from sidecar.stores.pathtree import EMPTY, Entry, Inner, Leaf, Node


class Memory:
    """Nodes in a dict, as a store keeps them."""

    def __init__(self) -> None:
        self.raw: dict[str, bytes] = {}

    def load(self, node_id: str) -> Node:
        return pathtree.decode(self.raw[node_id])

    def save(self, node: Node) -> str:
        raw = pathtree.encode(node)
        node_id = hashlib.sha256(raw).hexdigest()
        self.raw[node_id] = raw
        return node_id


@pytest.fixture(autouse=True)
def small_nodes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathtree, "LEAF_CAP", 8)
        patch.setattr(pathtree, "INNER_CAP", 4)
        yield


def depths(nodes: Memory, node_id: str, depth: int = 0) -> Iterator[tuple[int, int]]:
    """(depth, number of paths) of every leaf; on the way, what holds for every node but an empty root."""
    node = nodes.load(node_id)
    assert list(node.keys) == sorted(set(node.keys))
    assert node.keys or depth == 0
    if isinstance(node, Leaf):
        assert len(node.keys) <= 8
        yield depth, len(node.keys)
        return
    assert len(node.keys) <= 4
    assert depth or len(node.keys) > 1, "a root with one child"
    children = [nodes.load(child) for child in node.items]
    for left, right in pairwise(children):
        half = 4 if isinstance(left, Leaf) else 2
        assert len(left.keys) + len(right.keys) > half, "crumbs"
    for first, child in zip(node.keys, node.items, strict=True):
        assert nodes.load(child).keys[0] == first
        yield from depths(nodes, child, depth + 1)


paths = st.one_of(
    st.integers(0, 60).map(lambda n: f"r/{n:02}"),
    st.text(alphabet="a/é🦊\n", min_size=1, max_size=4),
)
changes = st.dictionaries(paths, st.one_of(st.none(), st.integers(0, 3)), max_size=40)


@settings(deadline=None, max_examples=60)  # a busy machine is no finding
@given(st.lists(changes, max_size=8))
def test_a_tree_holds_what_a_dict_would(rounds: list[dict[str, int | None]]) -> None:
    nodes, model = Memory(), dict[str, Entry]()
    root = nodes.save(EMPTY)
    for change in rounds:
        entries = {path: None if n is None else Entry(f"{n:064}", n) for path, n in change.items()}
        root = pathtree.update(nodes, root, entries)
        for path, entry in entries.items():
            if entry is None:
                model.pop(path, None)
            else:
                model[path] = entry
        assert list(pathtree.walk(nodes, root)) == sorted(model.items())
        asked = sorted({*change, *list(model)[::3], "never/there"})
        assert pathtree.find(nodes, root, asked) == {p: model[p] for p in asked if p in model}
        for start in asked[:3]:
            later = [(path, entry) for path, entry in sorted(model.items()) if path >= start]
            assert list(pathtree.walk(nodes, root, start)) == later
        leaves = list(depths(nodes, root))
        assert len({depth for depth, _ in leaves}) == 1
        trees, contents = set[str](), set[str]()
        pathtree.reach(nodes, root, trees, contents)
        assert contents == {entry.content for entry in model.values()}
        assert trees <= nodes.raw.keys()


def test_what_changes_nothing_is_the_same_tree() -> None:
    nodes = Memory()
    root = pathtree.update(nodes, nodes.save(EMPTY), {f"r/{n}": Entry("0" * 64, n) for n in range(100)})
    before = dict(nodes.raw)
    assert pathtree.update(nodes, root, {"r/5": Entry("0" * 64, 5), "r/not": None}) == root
    assert nodes.raw == before


def test_a_small_change_writes_few_nodes() -> None:
    nodes = Memory()
    root = pathtree.update(nodes, nodes.save(EMPTY), {f"r/{n:05}": Entry("0" * 64, n) for n in range(5000)})
    before = len(nodes.raw)
    depth = next(depths(nodes, root))[0]
    pathtree.update(nodes, root, {"r/02500": Entry("1" * 64, 1)})
    assert len(nodes.raw) - before == depth + 1


def test_deletions_leave_no_crumbs() -> None:
    nodes = Memory()
    root = pathtree.update(nodes, nodes.save(EMPTY), {f"r/{n:05}": Entry("0" * 64, n) for n in range(2000)})
    full = len(list(depths(nodes, root)))
    for n in range(2000):
        if n % 20:
            root = pathtree.update(nodes, root, {f"r/{n:05}": None})
    leaves = list(depths(nodes, root))
    assert sum(count for _, count in leaves) == 100
    assert len(leaves) <= full / 5
    root = pathtree.update(nodes, root, {f"r/{n:05}": None for n in range(2000)})
    assert nodes.load(root) == Leaf([], [])


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"paths":["a"],"sha256":[],"sizes":[]}', b'{"first":["a"],"nodes":[]}', b"7", b"\xff"]
)  # fmt: skip
def test_what_is_no_node_is_no_node(raw: bytes) -> None:
    with pytest.raises(ValueError):
        pathtree.decode(raw)


def test_nodes_survive_their_bytes() -> None:
    for node in (Leaf(["a", "é/\n"], [Entry("0" * 64, 1), Entry("1" * 64, 2)]), Inner(["a"], ["2" * 64])):
        assert pathtree.decode(pathtree.encode(node)) == node
