"""The manifest as JSON, and back."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from sidecar.errors import ManifestError
from sidecar.snapshot import draft, shards
from sidecar.snapshot.manifest import FORMAT, Entry, Manifest, Shard


def encode(manifest: Manifest) -> bytes:
    """The whole manifest as JSON, entries in path order, so that equal snapshots are equal bytes."""
    whole = replace(manifest, hashed={})
    return compose(whole, [document(manifest.entries[p]) for p in sorted(manifest.entries)])


def compose(
    head: Manifest,
    entries: Sequence[dict[str, Any]],
    gone: Iterable[str] = (),
    parts: Sequence[Shard] = (),
) -> bytes:
    """The manifest ``head``, but with these ``entries`` (see ``document``), and the rest of them in ``parts``.

    With parts the entries are the delta, and ``gone`` is what only a part has.
    """
    requires = [*(["bundles"] if head.bundles else []), *(["shards"] if parts or any(head.hashed.values()) else [])]
    whole: dict[str, Any] = {
        "format": FORMAT,
        "requires": requires,
        "snapshot": str(head.snapshot),
        "parent": head.parent,
        "space": head.space,
        "at": round(head.at, 3),
        "instance": head.instance,
        "version": head.version,
        "roots": [
            _named({"kind": r.kind, "layout": r.layout, **_named({}, "at", r.path)}, "name", r.name) for r in head.roots
        ],
        "entries": entries,
        "shards": [_part(s) for s in parts],
        **({"gone": [_named({}, "path", p) for p in gone]} if parts else {}),
        "bundles": dict(sorted(head.bundles.items())),
        **({"packed": dict(sorted(head.packed.items()))} if head.packed else {}),
        "shipped": hash_documents(head.shipped),
        "tombstones": hash_documents(head.tombstones),
        **{f"{key}_in": [_part(s) for s in stored] for key, stored in head.hashed.items() if stored},
    }
    return orjson.dumps(whole, option=orjson.OPT_APPEND_NEWLINE)


def hash_documents(hashes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Paths and what is known of them, in the order of their bytes, as they stand in the JSON."""
    return [_named({"sha256": hashes[p]}, "path", p) for p in sorted(hashes, key=shards.raw)]


def _part(s: Shard) -> dict[str, Any]:
    return _named({"sha256": s.sha256, "size": s.size, "plain": s.plain, "entries": s.entries}, "first", s.first)


def _named(rest: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """``value`` under ``key`` where JSON can say it, else its bytes under ``<key>_b64``."""
    return {**_coded(key, shards.raw(value)), **rest}


def document(e: Entry) -> dict[str, Any]:
    """The entry as it stands in the JSON."""
    f = e.frame
    return document_of(
        *(shards.raw(e.path), e.kind, e.mode, e.uid, e.gid, e.mtime_ns, e.size, e.sha256, shards.raw(e.target)),
        *(f.bundle if f else None, f.offset if f else None, f.length if f else None, e.flag),
    )


def document_of(
    path: bytes,
    kind: str,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    size: int,
    sha256: str,
    target: bytes,
    bundle: str | None,
    offset: int | None,
    length: int | None,
    flag: str,
) -> dict[str, Any]:
    """An entry's values, in the order in which the index has them, as they stand in the JSON."""
    out = _coded("path", path)
    out.update(kind=kind, mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns)
    if kind == "file":
        out["size"] = size
        out["sha256"] = sha256
        if bundle is not None:
            out["bundle"] = bundle
            out["frame"] = [offset, length]
    elif kind == "symlink":
        out.update(_coded("target", target))
    if flag:
        out["flag"] = flag
    return out


def _coded(key: str, value: bytes) -> dict[str, Any]:
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {f"{key}_b64": base64.b64encode(value).decode()}


def decode(raw: bytes, stored: Mapping[str, bytes] | None = None) -> Manifest:
    """Read and check a manifest; ``stored`` has the bytes of its shards by their sha256.

    Raises ManifestError that names the entry; nothing of a bad one is used.
    """
    have = stored or {}

    def fetch(shard: Shard) -> bytes:
        if shard.sha256 not in have:
            raise ManifestError(f"shard {shard.sha256[:12]}… of the manifest is missing")
        return have[shard.sha256]

    return draft.finish(draft.begin(raw), fetch)
