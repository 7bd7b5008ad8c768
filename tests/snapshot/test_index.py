from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import SidecarError
from sidecar.snapshot.index import Index, Known, Row, Stat
from sidecar.snapshot.manifest import Entry, Manifest, RootRecord, SnapshotId
from sidecar.snapshot.tally import Tally
from tests.snapshot.shapes import manifests, shas

STORE = "store-1"
numbers = st.integers(0, (1 << 64) - 1)
signed = st.integers(-(1 << 63), (1 << 63) - 1)
stats = st.builds(Stat, numbers, numbers, st.integers(0, (1 << 63) - 1), signed, signed)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index.db")
    yield opened
    opened.close()


def entry(path: str, content: str = "ab", kind: Any = "file") -> Entry:
    return Entry(path, kind, 0o644, 0, 0, 1, 3, content * 32 if kind == "file" else "")


def manifest(*paths: str, sequence: int = 1) -> Manifest:
    entries = {p: entry(p) for p in paths}
    return Manifest(SnapshotId(1, sequence), None, "me", 0.0, "i", "0", (RootRecord("data", "/data"),), entries)


def known(sequence: int = 1, revision: str = "r1") -> Known:
    return Known(STORE, SnapshotId(1, sequence), revision)


@given(manifests(), st.data())
@settings(deadline=None, max_examples=40)
def test_replace_keeps_all_of_a_manifest(found: Manifest, data: st.DataObject) -> None:
    some = {p: data.draw(stats) for p in found.entries if data.draw(st.booleans())}
    with tempfile.TemporaryDirectory() as name:
        index = Index(Path(name) / "index.db")
        this = Known(STORE, found.snapshot, "r")
        index.replace(this, found, some)
        index.close()
        index = Index(Path(name) / "index.db")
        try:
            rows = list(index.rows())
            assert {r.entry.path: r.entry for r in rows} == found.entries
            assert {r.entry.path: r.stat for r in rows if r.stat} == some
            assert [os.fsencode(r.entry.path) for r in rows] == sorted(map(os.fsencode, found.entries))
            assert (index.known(), index.pending()) == (this, None)
            assert (index.bundles(), index.shipped(), index.tombstones()) == (
                *(found.bundles, found.shipped, found.tombstones),
            )
            assert index.roots() == list(found.roots)
            assert {r.entry.path for r in index.flagged()} == {e.path for e in found.entries.values() if e.flag}
            live = {e.frame.bundle for e in found.entries.values() if e.frame}
            assert {sha for sha, b in index.tally().bundles.items() if b.files} == live
            for path in found.entries:
                row = index.get(path)
                assert row is not None
                assert row.entry == found.entries[path]
                below = {p for p in found.entries if p == path or p.startswith(path + "/")}
                assert {r.entry.path for r in index.under(path)} == below
                children = {p for p in found.entries if p.rpartition("/")[0] == path}
                assert set(index.children(path)) == children
        finally:
            index.close()


_puts = st.dictionaries(st.sampled_from(["data/a", "data/b", "data/b/c", "data/d"]), shas, max_size=4)
_gone = st.sets(st.sampled_from(["data/a", "data/b", "data/b/c", "data/never"]))


@given(st.lists(st.tuples(_puts, _gone, st.sampled_from(["promote", "discard", "again"]), st.booleans())))
@settings(deadline=None, max_examples=30)
def test_pending_changes_count_only_when_promoted(
    steps: list[tuple[dict[str, str], set[str], str, bool]],
) -> None:
    """Against a plain dict, with the index closed and opened in between."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "index.db"
        index = Index(path)
        model: dict[str, str] = {}
        at: Known | None = None
        for number, (puts, gone, end, reopen) in enumerate(steps):
            new = SnapshotId(1, number)
            rows = [Row(Entry(p, "file", 0, 0, 0, 0, 1, sha)) for p, sha in puts.items()]
            index.begin(new, rows, gone - puts.keys(), {}, [RootRecord("data", "/data")])
            if reopen:
                index.close()
                index = Index(path)
            assert index.pending() == new
            assert {r.entry.path: r.entry.sha256 for r in index.rows()} == model
            if end == "promote":
                index.promote(STORE, f"r{number}")
                model = {p: s for p, s in model.items() if p not in gone - puts.keys()} | puts
                at = Known(STORE, new, f"r{number}")
                assert index.tally() == Tally(len(model), {"data": (len(model), len(model))})
            elif end == "discard":
                index.discard()
            if end != "again":
                assert index.pending() is None
            assert index.known() == at
            assert {r.entry.path: r.entry.sha256 for r in index.rows()} == model
        index.close()


CHILD = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from sidecar.snapshot.index import Index, Row
    from sidecar.snapshot.manifest import Entry, RootRecord, SnapshotId
    index = Index(Path(sys.argv[1]))
    rows = (Row(Entry(f"data/{n}", "file", 0, 0, 0, 0, 1, "cd" * 32)) for n in range(int(sys.argv[2])))
    index.begin(SnapshotId(1, 2), rows, ["data/old"], {}, [RootRecord("data", "/data")])
    print("begun", flush=True)
    sys.stdin.readline()
    index.promote("store-1", "r2")
    print("done", flush=True)
    sys.stdin.readline()
    """
)


@pytest.mark.parametrize("outcome", ["committed", "not committed"])
def test_crash_between_begin_and_the_commits_answer(tmp_path: Path, outcome: str) -> None:
    """The head tells at the next start whether the pending snapshot is durable."""
    path = tmp_path / "index.db"
    index = Index(path)
    index.replace(known(), manifest("data/old", "data/0"), {})
    index.close()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, path, "3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        child.kill()
    index = Index(path)
    assert index.known() == known()
    assert index.pending() == SnapshotId(1, 2)
    assert [r.entry.path for r in index.rows()] == ["data/0", "data/old"]
    if outcome == "committed":
        index.promote(STORE, "r2")
        assert index.known() == known(2, "r2")
        assert {r.entry.path: r.entry.sha256[:2] for r in index.rows()} == dict.fromkeys(
            ["data/0", "data/1", "data/2"], "cd"
        )
    else:
        index.discard()
        assert index.known() == known()
        assert [r.entry.path for r in index.rows()] == ["data/0", "data/old"]
    index.close()


def test_kill_in_the_middle_of_a_promotion_leaves_all_of_it_or_none(tmp_path: Path) -> None:
    pick = random.Random(7)
    seen = set()
    for attempt in range(8):
        path = tmp_path / f"index-{attempt}.db"
        index = Index(path)
        index.replace(known(), manifest("data/old"), {})
        index.close()
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, path, "4000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdin is not None
            assert child.stdout.readline() == b"begun\n"
            child.stdin.write(b"\n")
            child.stdin.flush()
            time.sleep(pick.uniform(0, 0.03))
            os.kill(child.pid, signal.SIGKILL)
        index = Index(path)
        count = sum(1 for _ in index.rows())
        if index.pending() is None:
            assert (index.known(), count) == (known(2, "r2"), 4000)
        else:
            assert (index.known(), count) == (known(), 1)
        seen.add(index.pending() is None)
        index.close()
    assert seen, "each attempt was looked at"


@pytest.mark.parametrize("damage", ["garbage", "torn", "other schema"])
def test_damaged_index_is_set_aside_and_treated_as_lost(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "index.db"
    index = Index(path)
    index.replace(known(), manifest(*(f"data/{n}" for n in range(500))), {})
    index.close()
    if damage == "garbage":
        path.write_bytes(b"no database at all" * 100)
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:50] + b"\0" * 5000)
    else:
        db = sqlite3.connect(path)
        db.execute("UPDATE meta SET value='99' WHERE key='schema'")
        db.commit()
        db.close()
    index = Index(path)
    assert index.known() is None
    assert list(index.rows()) == []
    assert (tmp_path / "index.db.damaged").exists()
    index.replace(known(), manifest("data/x"), {})
    index.close()


def test_locked_index_is_not_taken_for_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.db"
    index = Index(path)
    index.replace(known(), manifest("data/x"), {})
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.05}))
    holder = connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(SidecarError, match="SIDECAR_STATE_DIR"):
            Index(path).close()
    finally:
        holder.close()
        index.close()
    assert not (tmp_path / "index.db.damaged").exists()


def test_forget_is_for_good(tmp_path: Path, index: Index) -> None:
    index.replace(known(), manifest("data/x"), {})
    index.begin(SnapshotId(1, 2), [Row(entry("data/y"))], [], {}, [])
    index.set_note("something", "kept")
    index.forget()
    index.close()
    again = Index(tmp_path / "index.db")
    assert (again.known(), again.pending(), again.note("something")) == (None, None, None)
    assert list(again.rows()) == []
    again.close()


def test_notes_survive_a_replacement(index: Index) -> None:
    assert index.note("restoring") is None
    index.set_note("restoring", "1.1")
    index.replace(known(), manifest("data/x"), {})
    assert index.note("restoring") == "1.1"
    index.set_note("restoring", None)
    assert index.note("restoring") is None


def test_moved_changes_the_revision_alone(index: Index) -> None:
    index.replace(known(), manifest("data/x"), {})
    index.moved("r9")
    assert index.known() == known(1, "r9")


def test_failed_transaction_changes_nothing(index: Index) -> None:
    index.replace(known(), manifest("data/x"), {})

    def rows() -> Iterator[Row]:
        yield Row(entry("data/y"))
        raise OSError("the scan broke off")

    with pytest.raises(OSError, match="broke off"):
        index.begin(SnapshotId(1, 2), rows(), ["data/x"], {}, [])
    assert index.pending() is None
    index.touch([Row(entry("data/z"))])
    assert [r.entry.path for r in index.rows()] == ["data/x", "data/z"]


def test_rows_in_pieces_and_totals(index: Index) -> None:
    paths = [f"data/{n:04}" for n in range(2500)] + ["data-2/x", "data0/y"]
    index.replace(known(), manifest(*paths), {})
    assert [r.entry.path for r in index.rows()] == sorted(paths)
    assert index.totals("data") == (2500, 7500)
    assert index.totals("data/0001") == (1, 3)
    assert index.totals("nothing") == (0, 0)


def test_another_versions_index_and_a_folder_in_its_place_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE entries (path TEXT PRIMARY KEY, value TEXT)")
    other.commit()
    other.close()
    index = Index(path)
    assert index.known() is None
    index.close()
    for made in tmp_path.glob("index.db*"):
        made.unlink()
    path.mkdir()
    index = Index(path)
    assert index.known() is None
    index.close()


def test_a_time_far_beyond_2262_is_kept_as_near_as_64_bits_say(tmp_path: Path) -> None:
    (tmp_path / "far").write_text("x")
    os.utime(tmp_path / "far", (13_569_465_600, 13_569_465_600))  # 2400-01-01
    stat = Stat.of(os.stat(tmp_path / "far"))
    assert stat.mtime_ns == (1 << 63) - 1
    index = Index(tmp_path / "index.db")
    found = Row(entry("data/far"), stat)
    index.begin(SnapshotId(1, 2), [found], [], {}, [])
    index.promote("store", "r")
    assert index.get("data/far") == found
    index.close()
