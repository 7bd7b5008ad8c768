"""The verdicts, for every combination of what can be: no disk, no store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.recovery.choice import Local, Mode, decide, equal, untouched, wants_hash
from sidecar.recovery.plan import Place, Plan, Step, operations, ordered
from sidecar.snapshot.index import Row, Stat
from sidecar.snapshot.manifest import Entry, Kind, Manifest, RootRecord, SnapshotId
from tests.snapshot.shapes import manifests

# Few values for each field, so that equal and different both come up often.
SHAS = ["aa" * 32, "bb" * 32, "cc" * 32]
stats = st.builds(
    Stat, st.just(1), st.sampled_from([1, 2]), st.sampled_from([3, 4]), st.sampled_from([5, 6]), st.just(7)
)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["file", "file", "file", "dir", "symlink"])
any_kind = st.one_of(kinds, st.just("other"))
file: st.SearchStrategy[Kind] = st.just("file")


@st.composite
def entries(draw: st.DrawFn, kinds: st.SearchStrategy[Kind] = kinds) -> Entry:
    kind = draw(kinds)
    base = Entry("data/x", kind, draw(st.sampled_from([0o644, 0o600])), 0, 0, draw(st.sampled_from([5, 6])))
    if kind == "file":
        return replace(base, size=draw(st.sampled_from([3, 4])), sha256=draw(st.sampled_from(SHAS)))
    return replace(base, target=draw(st.sampled_from(["a", "b"]))) if kind == "symlink" else base


@st.composite
def locals_(draw: st.DrawFn, kinds: st.SearchStrategy[Any] = any_kind, live: bool | None = None) -> Local:
    """With its hash known; ``decide`` may not need it."""
    kind = draw(kinds)
    stat = draw(stats)
    more = {"sha256": draw(st.sampled_from(SHAS))} if kind == "file" else {}
    if kind == "symlink":
        more = {"target": draw(st.sampled_from(["a", "b"]))}
    if live is None:
        live = kind == "file" and draw(st.booleans())
    return Local(
        *(kind, stat, stat.size, draw(st.sampled_from([0o644, 0o600])), 0, 0, stat.mtime_ns, 7),
        **more,  # type: ignore[arg-type]
        live=live,
    )


rows = st.none() | st.builds(Row, entries(), st.none() | stats, st.booleans())
modes: st.SearchStrategy[Mode] = st.sampled_from(["resume", "bring", "overwrite"])


@given(entries(), locals_(), rows, modes)
def test_nothing_local_is_ever_lost_unseen(entry: Entry, local: Local, row: Row | None, mode: Mode) -> None:
    """What is replaced without a copy holds what the entry says, or what the index says was restored, or a person
    said --force."""
    action = decide(entry, local, row, mode, False)
    if action == "replace" and mode != "overwrite":
        assert untouched(local, row)
    assert action != "fetch", "something is there"
    if local.kind == "other":
        assert action == "blocked"


@given(entries(file), locals_(file, True), rows, modes)
def test_what_a_database_has_in_its_log_is_never_taken_for_restored(
    entry: Entry, local: Local, row: Row | None, mode: Mode
) -> None:
    action = decide(entry, local, row, mode, False)
    seen_with_its_log = row is not None and row.stat == local.stat and row.settled and row.entry.kind == "file"
    if not seen_with_its_log and mode != "overwrite":
        assert action in ("newer", "conflict")


@given(entries(), locals_(), rows)
def test_newer_only_where_the_index_and_the_manifest_agree(entry: Entry, local: Local, row: Row | None) -> None:
    action = decide(entry, local, row, "resume", False)
    agreed = row is not None and (row.entry.kind, row.entry.sha256, row.entry.target) == (
        *(entry.kind, entry.sha256, entry.target),
    )
    if agreed:
        assert action in ("keep", "newer", "blocked"), "nothing local gives way to the snapshot that it came from"
    else:
        assert action != "newer"
        assert action == decide(entry, local, row, "bring", False)


@given(entries(file), locals_(file, False), rows, modes)
def test_equal_content_never_moves(entry: Entry, local: Local, row: Row | None, mode: Mode) -> None:
    local = replace(local, sha256=entry.sha256)
    assume(not untouched(local, row) or (row is not None and row.entry.sha256 == local.sha256))
    assert decide(entry, local, row, mode, False) in ("keep", "meta")


@given(entries(), locals_(), rows, modes)
def test_hash_that_is_not_asked_for_changes_nothing(entry: Entry, local: Local, row: Row | None, mode: Mode) -> None:
    # Sizes decide first: equal content has equal size.
    for e in (entry, row.entry if row else None):
        assume(e is None or e.kind != "file" or e.sha256 != local.sha256 or e.size == local.size)
    unknown = replace(local, sha256="")
    if wants_hash(entry, unknown, row):
        return
    assert decide(entry, unknown, row, mode, False) == decide(entry, local, row, mode, False)


@given(entries(), rows, modes)
def test_nothing_there_is_fetched(entry: Entry, row: Row | None, mode: Mode) -> None:
    assert decide(entry, None, row, mode, False) == "fetch"


@pytest.mark.parametrize(("may_chown", "action"), [(True, "meta"), (False, "keep")])
def test_another_owner_counts_only_where_it_can_be_set(may_chown: bool, action: str) -> None:
    entry = Entry("data/x", "dir", 0o755, 1000, 1000, 5)
    local = Local("dir", Stat(1, 1, 0, 5, 5), 0, 0o755, 0, 0, 5, 5)
    assert equal(entry, local, None)
    assert decide(entry, local, None, "bring", may_chown) == action


@given(manifests(), st.booleans(), st.data())
def test_entries_come_top_down_and_complete(manifest: Manifest, whole: bool, data: st.DataObject) -> None:
    names = [r.name for r in manifest.roots]
    only = data.draw(st.none() | st.sampled_from([*manifest.entries, "data"]))
    listed = ordered(manifest, names, only, whole=whole)
    seen: set[str] = set()
    for entry, implied in listed:
        above = entry.path.rpartition("/")[0]
        root = manifest.root_of(entry.path)
        if above and (whole or (root is not None and len(above) >= len(root))):
            assert above in seen, "a folder before what lies in it"
        assert entry.path not in seen
        seen.add(entry.path)
        assert not implied or entry.kind == "dir"
    wanted = {p for p in manifest.entries if only is None or p == only or p.startswith(only + "/")}
    assert {e.path for e, implied in listed if not implied} == wanted


def steps_of(*steps: tuple[str, str, str]) -> list[Step]:
    """(action, path below data, kind)."""
    out = []
    for action, rel, kind in steps:
        path = f"data/{rel}" if rel else "data"
        entry = Entry(path, kind, 0o755, 0, 0, 5, 1, "aa" * 32 if kind == "file" else "")  # type: ignore[arg-type]
        there = action != "fetch"
        local = Local(kind, Stat(1, 1, 1, 9, 9), 1, 0o755, 0, 0, 9, 9) if there else None  # type: ignore[arg-type]
        out.append(Step(action, entry, 0, rel, local))  # type: ignore[arg-type]
    return out


def ops(*steps: tuple[str, str, str]) -> list[tuple[str, str]]:
    found = steps_of(*steps)
    plan = Plan((Place("data", "/data", "/data"),), tuple(found))
    sources = {s.entry.path: "staged" for s in found}
    return [(o.what, o.rel) for o in operations(plan, sources, (), [s.entry.path for s in found], {})]


def test_folders_first_then_files_then_links_and_folders_times_last_deepest_first() -> None:
    assert ops(
        ("keep", "", "dir"),
        ("fetch", "a", "dir"),
        ("fetch", "a/b", "dir"),
        ("fetch", "a/b/f", "file"),
        ("fetch", "a/l", "symlink"),
        ("meta", "g", "file"),
    ) == [
        ("dir", "a"),
        ("dir", "a/b"),
        ("file", "a/b/f"),
        ("link", "a/l"),
        ("meta", "g"),
        ("seal", "a/b"),
        ("seal", "a"),
        ("seal", ""),
    ]


def test_nothing_to_do_is_no_journal() -> None:
    assert ops(("keep", "", "dir"), ("keep", "f", "file"), ("newer", "n", "file"), ("blocked", "s", "file")) == []


def test_side_files_that_are_entries_themselves_stay() -> None:
    found = steps_of(("fetch", "x.db", "file"), ("fetch", "x.db-wal", "file"))
    plan = Plan((Place("data", "/data", "/data"),), tuple(found))
    sources = {s.entry.path: "staged" for s in found}
    made = operations(plan, sources, {"data/x.db"}, {s.entry.path for s in found}, {})
    assert {o.rel: o.sides for o in made} == {"x.db": ("-shm", "-journal"), "x.db-wal": ()}


def test_places() -> None:
    assert Place("data", "/d", "/d").rel("data/a/b") == "a/b"
    assert Place("data", "/d", "/d").rel("data") == ""
    assert Place("x", "/srv/x.json", "/srv", "x.json").rel("x") == "x.json"
    assert Place("", "/out", "/out").rel("data/a") == "data/a"


def test_of_a_manifest_only_the_asked_roots() -> None:
    found = {p: Entry(p, "dir", 0o755, 0, 0, 0) for p in ("data", "data/a", "more", "database")}
    roots = tuple(RootRecord(n, f"/{n}") for n in ("data", "more", "database"))
    manifest = Manifest(SnapshotId(1, 1), None, "", 0.0, "", "", roots, found)
    assert [e.path for e, _ in ordered(manifest, ["data"], None)] == ["data", "data/a"]
