"""Random manifests, as Hypothesis strategies: names in any bytes, all kinds, valid trees."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from sidecar.snapshot.manifest import Entry, Frame, Manifest, RootRecord, SnapshotId

segments = st.one_of(
    st.sampled_from(["a", "b", "é", "a b", 'q"uote', "new\nline", "tab\t", "..x", "-", "~", "\\"]),
    st.binary(min_size=1, max_size=8)
    .filter(lambda b: b"/" not in b and b"\0" not in b and b not in (b".", b".."))
    .map(os.fsdecode),
)
shas = st.binary(min_size=32, max_size=32).map(bytes.hex)
modes = st.integers(0, 0o7777)
owners = st.integers(0, (1 << 32) - 1)
times = st.integers(-(1 << 62), (1 << 62))
ids = st.builds(SnapshotId, st.integers(0, 10**17), st.integers(0, 10**17))
flags = st.sampled_from(["", "", "unsettled", "stale", "unreadable"])
texts = st.text(st.characters(codec="utf-8"), max_size=20)


@st.composite
def paths(draw: st.DrawFn, root: str) -> dict[str, str]:
    """Paths below ``root`` with their kinds; what has something below it is a folder, or has no entry."""
    found: dict[str, str] = {}
    for parts in draw(st.lists(st.lists(segments, min_size=1, max_size=4), max_size=8)):
        path = "/".join([root, *parts])
        above = ["/".join([root, *parts[:n]]) for n in range(len(parts))]
        if any(found.get(a, "dir") != "dir" for a in above):
            continue
        if any(other.startswith(path + "/") for other in found):
            found.setdefault(path, "dir")
            continue
        found[path] = draw(st.sampled_from(["file", "file", "dir", "symlink"]))
        for a in above:
            if draw(st.booleans()):
                found.setdefault(a, "dir")
    return found


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    bundles = draw(st.dictionaries(shas, st.integers(2, 1 << 40), max_size=3))
    entries: dict[str, Entry] = {}
    roots = []
    for name in draw(st.lists(st.sampled_from(["data", "home/user", "x.db", "ä b"]), unique=True, max_size=3)):
        roots.append(RootRecord(name, f"/{name}", draw(st.sampled_from(["dir", "file", "absent"])), "auto"))
        for path, kind in draw(paths(name)).items():
            base = (path, kind, draw(modes), draw(owners), draw(owners), draw(times))
            if kind == "file":
                frame = None
                sha = draw(st.sampled_from([None, *bundles]))
                if sha is not None:
                    offset = draw(st.integers(0, bundles[sha] - 1))
                    frame = Frame(sha, offset, draw(st.integers(1, bundles[sha] - offset)))
                size = draw(st.integers(0, 1 << 62))
                entries[path] = Entry(*base, size, draw(shas), frame=frame, flag=draw(flags))  # type: ignore[arg-type]
            elif kind == "symlink":
                target = draw(st.binary(min_size=1, max_size=20).filter(lambda b: b"\0" not in b).map(os.fsdecode))
                entries[path] = Entry(*base, target=target)  # type: ignore[arg-type]
            else:
                entries[path] = Entry(*base)  # type: ignore[arg-type]
    other = st.dictionaries(st.lists(segments, min_size=1, max_size=3).map("/".join), shas, max_size=2)
    return Manifest(
        draw(ids),
        draw(st.none() | ids.map(str)),
        draw(texts),
        draw(st.integers(0, 4_000_000_000_000)) / 1000,
        draw(texts),
        draw(texts),
        tuple(roots),
        entries,
        bundles,
        draw(other),
        draw(other),
    )
