from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.errors import ManifestError
from sidecar.snapshot import codec, draft, parse
from sidecar.snapshot.manifest import Entry, Frame, Manifest, RootRecord, SnapshotId
from tests.snapshot.shapes import manifests

SHA = "ab" * 32
BUNDLE = "cd" * 32


def small(*entries: Entry, roots: tuple[str, ...] = ("data",), bundles: dict[str, int] | None = None) -> Manifest:
    return Manifest(
        *(SnapshotId(7, 113), "7.112", "me/space", 1.5, "i-1", "0.1"),
        tuple(RootRecord(n, f"/{n}") for n in roots),
        {e.path: e for e in entries},
        bundles or {},
    )


def file(path: str, **more: Any) -> Entry:
    return Entry(path, "file", 0o644, 0, 0, 0, 3, SHA, **more)


GOOD = small(
    Entry("data", "dir", 0o755, 0, 0, 1),
    file("data/a"),
    file("data/b", frame=Frame(BUNDLE, 10, 20)),
    Entry("data/l", "symlink", 0o777, 0, 0, 1, target="../x"),
    Entry("data/d", "dir", 0o755, 0, 0, 1),
    bundles={BUNDLE: 100},
)


@given(manifests())
def test_round_trip(manifest: Manifest) -> None:
    assert codec.decode(codec.encode(manifest)) == manifest


@given(manifests())
def test_equal_snapshots_are_equal_bytes(manifest: Manifest) -> None:
    entries = dict(reversed(list(manifest.entries.items())))
    bundles = dict(reversed(list(manifest.bundles.items())))
    shuffled = Manifest(
        *(
            manifest.snapshot,
            manifest.parent,
            manifest.space,
            manifest.at,
            manifest.instance,
            manifest.version,
        ),
        *(manifest.roots, entries, bundles, manifest.shipped, manifest.tombstones),
    )
    assert codec.encode(shuffled) == codec.encode(manifest)


def test_what_people_see_is_plain_json() -> None:
    document = json.loads(codec.encode(GOOD))
    assert document["format"] == 1
    assert document["snapshot"] == "7.113"
    assert document["requires"] == ["bundles"]
    assert {e["path"] for e in document["entries"]} == {"data", "data/a", "data/b", "data/l", "data/d"}


def test_name_that_is_no_utf8_travels_as_its_bytes() -> None:
    path = b"data/\xff\xfe".decode("utf-8", "surrogateescape")
    document = json.loads(codec.encode(small(file(path))))
    assert base64.b64decode(document["entries"][0]["path_b64"]) == b"data/\xff\xfe"


def test_root_whose_own_path_is_no_utf8() -> None:
    manifest = small(file("data/a"))
    odd = Manifest(*(manifest.snapshot, None, "", 0.0, "", "", (RootRecord("data", "/srv/\udcff"),), manifest.entries))
    assert codec.decode(codec.encode(odd)).entries == manifest.entries


def broken(change: Callable[[dict[str, Any]], Any]) -> bytes:
    document = json.loads(codec.encode(GOOD))
    change(document)
    return json.dumps(document).encode()


def of(document: dict[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = next(e for e in document["entries"] if e.get("path") == path)
    return found


def setting(path: str, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda d: of(d, path).update(values)


def adding(**values: Any) -> Callable[[dict[str, Any]], Any]:
    base = {"kind": "file", "mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0, "size": 3, "sha256": SHA}
    return lambda d: d["entries"].append({**base, **values})


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "up and out": (adding(path="data/../etc/passwd"), "data/../etc/passwd"),
    "up and out in bytes": (adding(path_b64=b64(b"data/../x\xff")), "data/../x"),
    "absolute": (adding(path="/etc/passwd"), "/etc/passwd"),
    "dot": (adding(path="data/./x"), "data/./x"),
    "empty segment": (adding(path="data//x"), "data//x"),
    "trailing slash": (adding(path="data/x/"), "data/x/"),
    "NUL": (adding(path="data/x\0y"), "data/x"),
    "lone surrogate": (adding(path="data/\udcff"), "no JSON"),
    "no root": (adding(path="other/x"), "other/x"),
    "a root's name as a prefix only": (adding(path="database"), "database"),
    "our own folder": (adding(path=".sidecar/lease.json"), ".sidecar/lease.json"),
    "too long": (adding(path="data/" + "x" * 5000), "longer or deeper"),
    "too deep": (adding(path="data/" + "/".join("x" * 300)), "longer or deeper"),
    "twice": (adding(path="data/a"), "data/a"),
    "twice, once in bytes": (adding(path_b64=b64(b"data/a")), "data/a"),
    "path and bytes": (adding(path="data/z", path_b64=b64(b"data/y")), "path"),
    "no path": (adding(), "path"),
    "bytes that are no base64": (adding(path_b64="ÿ!"), "path"),
    "under a link": (adding(path="data/l/x"), "data/l/x"),
    "far under a link": (adding(path="data/l/no/entry/x"), "data/l/no/entry/x"),
    "under a file": (adding(path="data/a/x"), "data/a/x"),
    "unknown kind": (setting("data/a", kind="socket"), "data/a"),
    "kind of another type": (setting("data/a", kind=["file"]), "data/a"),
    "unknown flag": (setting("data/a", flag="fine"), "data/a"),
    "flag of another type": (setting("data/a", flag=[]), "data/a"),
    "mode beyond 07777": (setting("data/a", mode=0o10000), "data/a"),
    "mode is true": (setting("data/a", mode=True), "data/a"),
    "negative mode": (setting("data/a", mode=-1), "data/a"),
    "no owner": (setting("data/a", uid=None), "data/a"),
    "huge owner": (setting("data/a", gid=1 << 40), "data/a"),
    "time in words": (setting("data/a", mtime_ns="now"), "data/a"),
    "time as a fraction": (setting("data/a", mtime_ns=1.5), "data/a"),
    "time beyond 64 bits": (setting("data/a", mtime_ns=1 << 63), "data/a"),
    "negative size": (setting("data/a", size=-1), "data/a"),
    "size in words": (setting("data/a", size="3"), "data/a"),
    "short sha256": (setting("data/a", sha256="ab"), "data/a"),
    "upper-case sha256": (setting("data/a", sha256=SHA.upper()), "data/a"),
    "sha256 with a newline": (setting("data/a", sha256=SHA + "\n"), "data/a"),
    "no sha256": (setting("data/a", sha256=None), "data/a"),
    "empty link": (setting("data/l", target=""), "data/l"),
    "link with NUL": (setting("data/l", target="a\0b"), "data/l"),
    "endless link": (setting("data/l", target="x" * 5000), "data/l"),
    "bundle that isn't listed": (setting("data/b", bundle="ef" * 32), "data/b"),
    "beyond the bundle": (setting("data/b", frame=[90, 20]), "data/b"),
    "before the bundle": (setting("data/b", frame=[-1, 20]), "data/b"),
    "empty frame": (setting("data/b", frame=[10, 0]), "data/b"),
    "half a frame": (setting("data/b", frame=[10]), "data/b"),
    "no frame": (setting("data/b", frame=None), "data/b"),
    "an entry that is a list": (lambda d: d["entries"].append([]), "entry"),
    "entries that are an object": (lambda d: d.update(entries={}), "entries"),
    "root that hides": (lambda d: d["roots"][0].update(name=".sidecar"), ".sidecar"),
    "root named README.md": (lambda d: d["roots"][0].update(name="README.md"), "README.md"),
    "root that goes up": (lambda d: d["roots"][0].update(name="../x"), "../x"),
    "root twice": (lambda d: d["roots"].append(dict(d["roots"][0])), "data"),
    "root in a root": (lambda d: d["roots"].append({"name": "data/d"}), "data"),
    "root of unknown kind": (lambda d: d["roots"][0].update(kind="pipe"), "data"),
    "root that is a word": (lambda d: d["roots"].append("data2"), "root"),
    "bundle with a path as name": (lambda d: d.update(bundles={"../x": 1}), "bundles"),
    "bundles in a list": (lambda d: d.update(bundles=["x"]), "bundles"),
    "no snapshot id": (lambda d: d.pop("snapshot"), "snapshot id"),
    "snapshot id with zeros": (lambda d: d.update(snapshot="07.1"), "07.1"),
    "snapshot id of another type": (lambda d: d.update(snapshot=7.1), "snapshot id"),
    "parent of another type": (lambda d: d.update(parent=[]), "snapshot id"),
    "space of another type": (lambda d: d.update(space=1), "space"),
    "tombstone that goes up": (lambda d: d.update(tombstones=[{"path": "../x", "sha256": SHA}]), "../x"),
    "shipped without hash": (lambda d: d.update(shipped=[{"path": "x"}]), "shipped"),
}


@pytest.mark.parametrize("change", [setting("data/b", bundle=[]), lambda d: d.update(requires=[["bundles"]])])
def test_list_where_a_name_belongs(change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(ManifestError):
        codec.decode(broken(change))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifest_is_refused_and_the_culprit_named(name: str) -> None:
    change, culprit = HOSTILE[name]
    with pytest.raises(ManifestError) as refused:
        codec.decode(broken(change))
    assert culprit in refused.value.message
    assert refused.value.damage
    assert len(refused.value.message) < 600


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format=2),
        lambda d: d.update(format=True),
        lambda d: d.update(requires=["bundles", "age"]),
    ],
)
def test_what_only_a_newer_version_reads_is_no_damage(change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(ManifestError) as refused:
        codec.decode(broken(change))
    assert not refused.value.damage
    assert "Update" in refused.value.message


@pytest.mark.parametrize("raw", [b"", b"{", b"{}", b"[]", b"null", b"\xff\xfe", b'{"format":1', b"[" * 100_000])
def test_what_is_no_manifest_is_damage(raw: bytes) -> None:
    with pytest.raises(ManifestError) as refused:
        codec.decode(raw)
    assert refused.value.damage
    assert "Update" not in refused.value.message


def test_brackets_that_fill_memory_are_refused_and_those_in_names_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "MAX_PARTS", 50)
    odd = small(*(file("data/" + r"\"{[" * n) for n in range(1, 9)))
    assert codec.decode(codec.encode(odd)).entries == odd.entries
    with pytest.raises(ManifestError, match="unread"):
        codec.decode(b'{"format":1,"entries":[' + b"[]," * 50 + b"[]]}")


def test_too_large_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = codec.encode(GOOD)
    monkeypatch.setattr(draft, "MAX_BYTES", len(raw) - 1)
    with pytest.raises(ManifestError, match="unread"):
        codec.decode(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.data(), json_values)
@example(None, [])
def test_any_value_anywhere_is_read_or_refused_in_words(data: Any, value: Any) -> None:
    """One value of a good manifest replaced by any other: a manifest or a ManifestError, nothing else."""
    document = json.loads(codec.encode(GOOD))
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(inner, (dict, list)):
                collect(inner)

    collect(document)
    chosen = range(len(places)) if data is None else [data.draw(st.integers(0, len(places) - 1))]
    for n in chosen:
        node, key = places[n]
        before = node[key]
        node[key] = value
        with suppress(ManifestError):
            codec.decode(json.dumps(document).encode())
        node[key] = before


def test_a_time_with_more_digits_than_we_write_comes_back_as_it_was_read() -> None:
    manifest = Manifest(SnapshotId(1, 1), None, "s", 0.0625, "i", "0", (), {})
    raw = json.dumps({**json.loads(codec.encode(manifest)), "at": 0.0625}).encode()
    found = codec.decode(raw)
    assert codec.decode(codec.encode(found)) == found
