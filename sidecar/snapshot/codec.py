"""The manifest as JSON, and what of a foreign one may be believed.

Restore trusts nothing that comes from a store: ``decode`` refuses whatever could write outside of a root before
anything is touched, and names the entry.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import orjson

from sidecar.errors import ManifestError
from sidecar.snapshot.manifest import FORMAT, Entry, Frame, Manifest, RootRecord, SnapshotId, root_of

KNOWN_REQUIREMENTS: frozenset[str] = frozenset({"bundles"})
"""Parts of the format that this version reads. A manifest may require more; then it is refused, never half read."""

MAX_BYTES = 512 * 1024 * 1024
MAX_PATH = 4096
MAX_DEPTH = 256

_SHA = re.compile(r"[0-9a-f]{64}")


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON, entries in path order, so that equal snapshots are equal bytes."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "requires": ["bundles"] if manifest.bundles else [],
        "snapshot": str(manifest.snapshot),
        "parent": manifest.parent,
        "space": manifest.space,
        "at": round(manifest.at, 3),
        "instance": manifest.instance,
        "version": manifest.version,
        "roots": [
            _named({"kind": r.kind, "layout": r.layout, **_named({}, "at", r.path)}, "name", r.name)
            for r in manifest.roots
        ],
        "entries": [_entry(manifest.entries[p]) for p in sorted(manifest.entries)],
        "shards": [],
        "bundles": dict(sorted(manifest.bundles.items())),
        "shipped": [_named({"sha256": s}, "path", p) for p, s in sorted(manifest.shipped.items())],
        "tombstones": [_named({"sha256": s}, "path", p) for p, s in sorted(manifest.tombstones.items())],
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _named(rest: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """``value`` under ``key`` where JSON can say it, else its bytes under ``<key>_b64``."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raw = value.encode("utf-8", "surrogateescape")
        return {f"{key}_b64": base64.b64encode(raw).decode(), **rest}
    return {key: value, **rest}


def _entry(e: Entry) -> dict[str, Any]:
    out = _named({"kind": e.kind, "mode": e.mode, "uid": e.uid, "gid": e.gid, "mtime_ns": e.mtime_ns}, "path", e.path)
    if e.kind == "file":
        out["size"] = e.size
        out["sha256"] = e.sha256
        if e.frame is not None:
            out["bundle"] = e.frame.bundle
            out["frame"] = [e.frame.offset, e.frame.length]
    elif e.kind == "symlink":
        out.update(_named({}, "target", e.target))
    if e.flag:
        out["flag"] = e.flag
    return out


def decode(raw: bytes) -> Manifest:
    """Read and check a manifest. Raises ManifestError that names the entry; nothing of a bad one is used."""
    if len(raw) > MAX_BYTES:
        raise ManifestError(f"the manifest has {len(raw):,} bytes, more than {MAX_BYTES:,}: refused unread")
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ManifestError(f"the manifest is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise ManifestError("the manifest is no JSON object")
    form = document.get("format")
    if form != FORMAT or isinstance(form, bool):
        raise ManifestError(
            f"the manifest has format {form!r}; this version reads {FORMAT}. Update space-sidecar",
            damage=False,
        )
    unknown = [r for r in _list(document, "requires") if not isinstance(r, str) or r not in KNOWN_REQUIREMENTS]
    if document.get("shards"):
        unknown.append("shards")
    if unknown:
        raise ManifestError(
            f"the snapshot needs {', '.join(map(repr, unknown))}, which this version can't read. Update space-sidecar",
            damage=False,
        )
    roots = tuple(_root(r) for r in _list(document, "roots"))
    names = [r.name for r in roots]
    for name in names:
        if sum(1 for other in names if other == name or other.startswith(name + "/")) > 1:
            raise ManifestError(f"root {name!r} stands twice or inside of another root")
    bundles = document.get("bundles") or {}
    if not isinstance(bundles, dict) or not all(
        isinstance(k, str) and _SHA.fullmatch(k) and _whole(v) for k, v in bundles.items()
    ):
        raise ManifestError("the list of bundles is malformed")
    entries: dict[str, Entry] = {}
    for item in _list(document, "entries"):
        entry = _read_entry(item, names, bundles)
        if entry.path in entries:
            raise ManifestError(f"{entry.path!r} stands twice in the manifest")
        entries[entry.path] = entry
    _check_tree(entries, names)
    parent = document.get("parent")
    if parent is not None:
        SnapshotId.parse(parent)
    at = document.get("at")
    return Manifest(
        snapshot=SnapshotId.parse(document.get("snapshot", "")),
        parent=parent,
        space=_text(document, "space"),
        at=float(at) if isinstance(at, (int, float)) and not isinstance(at, bool) else 0.0,
        instance=_text(document, "instance"),
        version=_text(document, "version"),
        roots=roots,
        entries=entries,
        bundles=bundles,
        shipped=_hashes(document, "shipped"),
        tombstones=_hashes(document, "tombstones"),
    )


def _list(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key, [])
    if not isinstance(value, list):
        raise ManifestError(f"{key!r} in the manifest is no list")
    return value


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str):
        raise ManifestError(f"{key!r} in the manifest is no text")
    return value


def _name(item: dict[str, Any], key: str) -> str:
    """The text under ``key`` or the bytes under ``<key>_b64``; exactly one of them."""
    plain, coded = item.get(key), item.get(f"{key}_b64")
    if isinstance(plain, str) and coded is None:
        if any(0xD800 <= ord(c) <= 0xDFFF for c in plain):
            raise ManifestError(f"{key} {plain!r} is no text")
        return plain
    if isinstance(coded, str) and plain is None:
        try:
            return base64.b64decode(coded, validate=True).decode("utf-8", "surrogateescape")
        except ValueError:
            pass
    raise ManifestError(f"an entry has no readable {key}: {str(item)[:120]}")


def check_path(path: str) -> None:
    """Refuse a path that could lead out of its root, or that no filesystem holds. Raises ManifestError."""
    parts = path.split("/")
    if not path or "\0" in path or any(p in ("", ".", "..") for p in parts):
        raise ManifestError(f"{path[:200]!r} is no path inside of a root")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise ManifestError(f"{path[:200]!r}… is longer or deeper than a path can be")


def _root(item: Any) -> RootRecord:
    if not isinstance(item, dict):
        raise ManifestError("a root in the manifest is no object")
    name = _name(item, "name")
    check_path(name)
    if name.startswith(".") or name == "README.md":
        raise ManifestError(f"{name!r} can't be the name of a root")
    kind: Any = item.get("kind", "dir")
    if kind not in ("dir", "file", "absent"):
        raise ManifestError(f"root {name!r} has the unknown kind {kind!r}")
    at = _name(item, "at") if "at" in item or "at_b64" in item else ""
    return RootRecord(name, at, kind, str(item.get("layout", "auto")))


def _whole(value: Any, most: int = 1 << 62) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _read_entry(item: Any, names: list[str], bundles: Mapping[str, int]) -> Entry:
    if not isinstance(item, dict):
        raise ManifestError("an entry in the manifest is no object")
    path = _name(item, "path")
    check_path(path)
    if root_of(path, names) is None:
        raise ManifestError(f"{path!r} belongs to no root of the snapshot")
    kind, flag = item.get("kind"), item.get("flag", "")
    if kind not in ("file", "dir", "symlink"):
        raise ManifestError(f"{path!r} has the unknown kind {kind!r}")
    if flag not in ("", "unsettled", "stale", "unreadable"):
        raise ManifestError(f"{path!r} has the unknown flag {flag!r}")
    mode: Any = item.get("mode")
    mtime_ns: Any = item.get("mtime_ns")
    if not _whole(mode, 0o7777) or not _whole(item.get("uid"), 1 << 32) or not _whole(item.get("gid"), 1 << 32):
        raise ManifestError(f"{path!r} has a malformed mode or owner")
    if not isinstance(mtime_ns, int) or isinstance(mtime_ns, bool) or abs(mtime_ns) >= 1 << 63:
        raise ManifestError(f"{path!r} has a malformed mtime_ns")
    size: Any = 0
    sha256: Any = ""
    target, frame = "", None
    if kind == "file":
        size, sha256 = item.get("size"), item.get("sha256")
        if not _whole(size) or not isinstance(sha256, str) or not _SHA.fullmatch(sha256):
            raise ManifestError(f"{path!r} has a malformed size or sha256")
        if "bundle" in item:
            frame = _frame(path, item, bundles)
    elif kind == "symlink":
        target = _name(item, "target")
        if not target or "\0" in target or len(target.encode("utf-8", "surrogateescape")) > MAX_PATH:
            raise ManifestError(f"{path!r} has a malformed link target")
    return Entry(path, kind, mode, item["uid"], item["gid"], mtime_ns, size, sha256, target, frame, flag)


def _frame(path: str, item: dict[str, Any], bundles: Mapping[str, int]) -> Frame:
    bundle, where = item["bundle"], item.get("frame")
    if not isinstance(bundle, str) or bundle not in bundles:
        raise ManifestError(f"{path!r} is in a bundle that the manifest doesn't list")
    if not isinstance(where, list) or len(where) != 2 or not all(_whole(n) for n in where):
        raise ManifestError(f"{path!r} has a malformed place in its bundle")
    if where[1] == 0 or where[0] + where[1] > bundles[bundle]:
        raise ManifestError(f"{path!r} lies beyond the end of its bundle")
    return Frame(bundle, where[0], where[1])


def _check_tree(entries: Mapping[str, Entry], names: list[str]) -> None:
    """What stands above an entry must be a folder: a link there could lead its children out of the root."""
    for path in entries:
        parent = path.rpartition("/")[0]
        while parent and root_of(parent, names) is not None:
            above = entries.get(parent)
            if above is not None:
                if above.kind != "dir":
                    raise ManifestError(f"{path!r} lies under {parent!r}, which is a {above.kind}")
                break
            parent = parent.rpartition("/")[0]


def _hashes(document: dict[str, Any], key: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for item in _list(document, key):
        if not isinstance(item, dict) or not isinstance(item.get("sha256"), str) or not _SHA.fullmatch(item["sha256"]):
            raise ManifestError(f"{key!r} in the manifest is malformed")
        path = _name(item, "path")
        check_path(path)
        out[path] = item["sha256"]
    return out
