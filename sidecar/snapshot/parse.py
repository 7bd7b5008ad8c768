"""The pieces of a manifest's JSON, each checked by itself: what of a foreign one may be believed.

Every function here raises ManifestError, and nothing else, for whatever a store may bring.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from sidecar.errors import ManifestError
from sidecar.snapshot.manifest import Entry, Frame, RootRecord, root_of

MAX_PATH = 4096
MAX_DEPTH = 256

MAX_PARTS = 1_000_000
"""Lists and objects in one document. Of 64 bytes each at least, from two bytes of JSON: they are what fills memory."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_SHA = re.compile(r"[0-9a-f]{64}")
_MOST_OWNER, _MOST_TIME = 1 << 32, 1 << 63


def parsed(raw: bytes, what: str) -> Any:
    """The JSON in ``raw``; a document that would need much more memory than its bytes is refused unread."""
    if _parts(raw) > MAX_PARTS and _parts(_STRING.sub(b"", raw)) > MAX_PARTS:  # names may hold brackets
        raise ManifestError(f"{what} has more than {MAX_PARTS:,} lists and objects: refused unread")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ManifestError(f"{what} is no JSON: {error}") from None


def _parts(raw: bytes) -> int:
    return raw.count(b"[") + raw.count(b"{")


def is_sha(value: Any) -> bool:
    return isinstance(value, str) and _SHA.fullmatch(value) is not None


def items(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key, [])
    if not isinstance(value, list):
        raise ManifestError(f"{key!r} in the manifest is no list")
    return value


def text(document: dict[str, Any], key: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str):
        raise ManifestError(f"{key!r} in the manifest is no text")
    return value


def name_of(item: dict[str, Any], key: str) -> str:
    """The text under ``key`` or the bytes under ``<key>_b64``; exactly one of them."""
    plain, coded = item.get(key), item.get(f"{key}_b64")
    if isinstance(plain, str) and coded is None:
        if not plain.isascii() and any(0xD800 <= ord(c) <= 0xDFFF for c in plain):
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
    slashed = f"/{path}/"
    if not path or "\0" in path or "//" in slashed or "/./" in slashed or "/../" in slashed:
        raise ManifestError(f"{path[:200]!r} is no path inside of a root")
    size = len(path) if path.isascii() else len(path.encode("utf-8", "surrogateescape"))
    if size > MAX_PATH or path.count("/") >= MAX_DEPTH:
        raise ManifestError(f"{path[:200]!r}… is longer or deeper than a path can be")


def root(item: Any) -> RootRecord:
    if not isinstance(item, dict):
        raise ManifestError("a root in the manifest is no object")
    name = name_of(item, "name")
    check_path(name)
    if name.startswith(".") or name == "README.md":
        raise ManifestError(f"{name!r} can't be the name of a root")
    kind: Any = item.get("kind", "dir")
    if kind not in ("dir", "file", "absent"):
        raise ManifestError(f"root {name!r} has the unknown kind {kind!r}")
    at = name_of(item, "at") if "at" in item or "at_b64" in item else ""
    return RootRecord(name, at, kind, str(item.get("layout", "auto")))


def is_whole(value: Any, most: int = 1 << 62) -> bool:
    return type(value) is int and 0 <= value <= most  # a bool is none


def sizes(document: dict[str, Any], key: str) -> dict[str, int]:
    """Numbers of bytes by sha256."""
    value = document.get(key) or {}
    if not isinstance(value, dict) or not all(is_sha(k) and is_whole(v) for k, v in value.items()):
        raise ManifestError(f"the list of {key!r} is malformed")
    return value


Frames = dict[tuple[str, int, int], Frame]
"""Those that were read already: a hundred entries share one, and it is checked and kept once."""


def path_of(item: Any) -> str:
    """The path of an entry."""
    if not isinstance(item, dict):
        raise ManifestError("an entry in the manifest is no object")
    return name_of(item, "path")


def entry_of(item: dict[str, Any], path: str, names: list[str], bundles: Mapping[str, int], frames: Frames) -> Entry:
    """The entry ``item``, whose ``path_of`` is ``path``. Ten thousand of them are read while a Space waits."""
    check_path(path)
    if root_of(path, names) is None:
        raise ManifestError(f"{path!r} belongs to no root of the snapshot")
    kind, flag = item.get("kind"), item.get("flag", "")
    if kind not in ("file", "dir", "symlink"):
        raise ManifestError(f"{path!r} has the unknown kind {kind!r}")
    if flag not in ("", "unsettled", "stale", "unreadable"):
        raise ManifestError(f"{path!r} has the unknown flag {flag!r}")
    mode, uid, gid, mtime_ns = item.get("mode"), item.get("uid"), item.get("gid"), item.get("mtime_ns")
    if type(mode) is not int or type(uid) is not int or type(gid) is not int:
        raise ManifestError(f"{path!r} has a malformed mode or owner")
    if not (0 <= mode <= 0o7777 and 0 <= uid <= _MOST_OWNER and 0 <= gid <= _MOST_OWNER):
        raise ManifestError(f"{path!r} has a malformed mode or owner")
    if type(mtime_ns) is not int or not -_MOST_TIME < mtime_ns < _MOST_TIME:
        raise ManifestError(f"{path!r} has a malformed mtime_ns")
    size: Any = 0
    sha256: Any = ""
    target, frame = "", None
    if kind == "file":
        size, sha256 = item.get("size"), item.get("sha256")
        if not is_whole(size) or not is_sha(sha256):
            raise ManifestError(f"{path!r} has a malformed size or sha256")
        if "bundle" in item:
            frame = _frame_of(path, item, bundles, frames)
    elif kind == "symlink":
        target = name_of(item, "target")
        if not target or "\0" in target or len(target.encode("utf-8", "surrogateescape")) > MAX_PATH:
            raise ManifestError(f"{path!r} has a malformed link target")
    return Entry(path, kind, mode, uid, gid, mtime_ns, size, sha256, target, frame, flag)


def _frame_of(path: str, item: dict[str, Any], bundles: Mapping[str, int], frames: Frames) -> Frame:
    bundle, where = item["bundle"], item.get("frame")
    if not isinstance(bundle, str) or bundle not in bundles:
        raise ManifestError(f"{path!r} is in a bundle that the manifest doesn't list")
    if not isinstance(where, list) or len(where) != 2 or not is_whole(where[0]) or not is_whole(where[1]):
        raise ManifestError(f"{path!r} has a malformed place in its bundle")
    offset, length = where
    if (known := frames.get((bundle, offset, length))) is not None:
        return known
    if length == 0 or offset + length > bundles[bundle]:
        raise ManifestError(f"{path!r} lies beyond the end of its bundle")
    return frames.setdefault((bundle, offset, length), Frame(bundle, offset, length))


def hashes(found: Iterable[Any], key: str) -> dict[str, str]:
    """Hashes by path; ``key`` is what they are called."""
    out: dict[str, str] = {}
    for item in found:
        if not isinstance(item, dict) or not is_sha(item.get("sha256")):
            raise ManifestError(f"{key!r} in the manifest is malformed")
        path = name_of(item, "path")
        check_path(path)
        if path in out:
            raise ManifestError(f"{path[:200]!r} stands twice in {key!r} of the manifest")
        out[path] = item["sha256"]
    return out
