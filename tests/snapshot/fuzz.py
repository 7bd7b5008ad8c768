"""What must hold of the readers of manifests, shards and bundles, whatever bytes a store gives them.

Each property takes a Hypothesis ``data`` and is run a little by the suite, for minutes by `make soak`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import zstandard
from hypothesis import strategies as st

from sidecar.errors import ManifestError
from sidecar.snapshot import bundle, codec, shards
from sidecar.snapshot.manifest import FORMAT, Entry, Frame, Manifest, RootRecord, Shard, SnapshotId
from tests.snapshot.shapes import manifests

HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["..", ".", "/", "/etc/passwd", "data/../../x", "data/\0", "data//a", "", "data", "a" * 300]),
    st.sampled_from([-1, 1 << 63, 1 << 70, 10**6, 1e308, [], {}, [[]], [{}], "file", "dir", "symlink", "device"]),
)


SHA, BUNDLE = "ab" * 32, "cd" * 32


def _seeds() -> list[Manifest]:
    """A few manifests with something of everything: drawing whole ones takes most of an example's time."""

    def file(path: str, **more: Any) -> Entry:
        return Entry(path, "file", 0o644, 1000, 1000, 1, 3, SHA, **more)

    def made(roots: tuple[str, ...], entries: list[Entry], bundles: dict[str, int], other: dict[str, str]) -> Manifest:
        records = tuple(RootRecord(name, f"/{name}", "dir", "auto") for name in roots)
        known = {e.path: e for e in entries}
        return Manifest(
            SnapshotId(7, 113), "7.112", "me/space", 1.5, "i-1", "0.1", records, known, bundles, other, other
        )

    links = [Entry("data", "dir", 0o755, 0, 0, 1), Entry("data/l", "symlink", 0o777, 0, 0, 1, target="../x")]
    framed = [file(f"data/{n}", frame=Frame(BUNDLE, 10 * n, 10)) for n in range(5)]
    odd = [file(os.fsdecode(b"home/user/\xff\n")), file("home/user/a/b/c/d", flag="stale")]
    return [
        made(("data",), [*links, file("data/a")], {}, {}),
        made(("data",), [*links, *framed], {BUNDLE: 100}, {"data/gone": SHA}),
        made(("data", "home/user"), [*links, *framed, *odd], {BUNDLE: 100}, {"data/0": BUNDLE}),
        made((), [], {}, {}),
    ]


MANIFESTS = st.one_of(*[st.sampled_from(_seeds())] * 5, manifests())


def spoiled(data: st.DataObject, good: bytes) -> bytes:
    """``good`` after a few edits of single places: bytes changed, cut, doubled, put in between."""
    out = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4), "edits")):
        at = data.draw(st.integers(0, len(out)), "at")
        length = data.draw(st.integers(0, 40), "length")
        match data.draw(st.sampled_from(["set", "cut", "end", "double", "put"]), "how"):
            case "set":
                out[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1), "byte")
            case "cut":
                del out[at : at + length]
            case "end":
                del out[at:]
            case "double":
                out[at:at] = out[at : at + length]
            case _:
                out[at:at] = data.draw(st.binary(max_size=12), "bytes")
    return bytes(out)


def safe(manifest: Manifest) -> None:
    """A manifest that was accepted leads nowhere but into its roots, and means one thing."""
    names = [r.name for r in manifest.roots]
    kinds = {path: e.kind for path, e in manifest.entries.items()}
    for path, entry in manifest.entries.items():
        assert path == entry.path
        parts = path.split("/")
        assert not {"", ".", ".."} & set(parts), path
        assert "\0" not in path
        assert any(path == name or path.startswith(f"{name}/") for name in names), f"{path!r} is in no root"
        assert entry.kind in ("file", "dir", "symlink")
        for n in range(1, len(parts)):
            above = kinds.get("/".join(parts[:n]), "dir")
            assert above == "dir", f"{path!r} goes through a {above}"
        if entry.frame is not None:
            assert entry.frame.offset >= 0
            assert entry.frame.offset + entry.frame.length <= manifest.bundles[entry.frame.bundle]
        assert entry.size >= 0
    assert codec.decode(codec.encode(manifest)) == manifest


def accepted(raw: bytes, stored: Mapping[str, bytes] | None = None) -> None:
    with contextlib.suppress(ManifestError):
        safe(codec.decode(raw, stored))


def manifest_bytes(data: st.DataObject) -> None:
    """A manifest's bytes, edited anywhere."""
    accepted(spoiled(data, codec.encode(data.draw(MANIFESTS, "manifest"))))


def manifest_values(data: st.DataObject) -> None:
    """A manifest that is good JSON, with any value in it replaced by another one."""
    document = orjson.loads(codec.encode(data.draw(MANIFESTS, "manifest")))
    for _ in range(data.draw(st.integers(1, 3), "edits")):
        _replace(data, document)
    with contextlib.suppress(TypeError):  # what JSON can't say, no store can hold
        accepted(orjson.dumps(document))


def _replace(data: st.DataObject, node: Any) -> None:
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys), "where")
        deeper = isinstance(node[key], dict | list) and bool(node[key])
        if deeper and data.draw(st.booleans(), "deeper"):
            node = node[key]
            continue
        how = data.draw(st.sampled_from(["value", "drop", "double", "other"]), "how")
        if how == "drop":
            del node[key]
        elif how == "double" and isinstance(node, list):
            node.append(node[key])
        elif how == "other":
            node[key] = node[data.draw(st.sampled_from(keys), "of")]
        else:
            node[key] = data.draw(HOSTILE, "value")
        return


def shard_bytes(data: st.DataObject) -> None:
    """A part of a large manifest: edited as it is stored, or before it was packed and named."""
    document = orjson.loads(codec.encode(data.draw(MANIFESTS, "manifest")))
    part, stored = shards.write(document["entries"], "data")
    if data.draw(st.booleans(), "stored"):
        stored = spoiled(data, stored)
    else:
        plain = spoiled(data, orjson.dumps({"format": FORMAT, "entries": document["entries"]}))
        stored = zstandard.compress(plain)
        part = Shard(hashlib.sha256(stored).hexdigest(), len(stored), len(plain), part.entries, part.first)
    with contextlib.suppress(ManifestError):
        assert isinstance(shards.read(part, stored), list)


def bundle_bytes(data: st.DataObject) -> None:
    """A bundle: edited as it is stored, or its tar before it was packed."""
    contents = data.draw(
        st.dictionaries(
            st.sampled_from(["data/a", "data/b", "data/" + "n" * 150]), st.binary(max_size=3000), min_size=1
        ),
        "members",
    )
    with tempfile.TemporaryDirectory(prefix="sidecar-fuzz-") as folder:
        wanted, whole = _built(Path(folder), contents)
        if data.draw(st.booleans(), "stored"):
            spoilt = spoiled(data, whole)
        else:
            spoilt = zstandard.compress(spoiled(data, zstandard.ZstdDecompressor().decompressobj().decompress(whole)))
        path = Path(folder) / "spoilt"
        path.write_bytes(spoilt)
        fd = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(ManifestError):
                for entry, pieces in bundle.read(fd, Frame("ab" * 32, 0, len(spoilt)), wanted):
                    assert entry in wanted.values(), "nothing that nobody asked for"
                    size = sum(len(piece) for piece in pieces)
                    assert size == entry.size, "whoever knows the sha256 judges the rest"
        finally:
            os.close(fd)


def _built(folder: Path, contents: Mapping[str, bytes]) -> tuple[dict[str, Entry], bytes]:
    entries = {path: Entry(path, "file", 0o644, 0, 0, 0, len(body), "cd" * 32) for path, body in contents.items()}
    into = folder / "bundle"
    bundle.write(((entries[path], body) for path, body in contents.items()), into)
    return entries, into.read_bytes()


PROPERTIES: tuple[Callable[[st.DataObject], None], ...] = (manifest_bytes, manifest_values, shard_bytes, bundle_bytes)
