"""What one commit carries, as values: the design's table of mass deletions, and where each file goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.snapshot.found import Found
from sidecar.snapshot.index import Row, Stat
from sidecar.snapshot.manifest import Entry, Frame
from sidecar.snapshot.stage import Staged
from sidecar.sync.plan import (
    BUNDLE_LARGE,
    BUNDLE_MEAN,
    PLAIN_MOST,
    PORTION_BYTES,
    PORTION_FILES,
    bundled_below,
    deletes,
    looks_like_database,
    lost,
    mass_deletion,
    place,
    portions,
)

FRAME = Frame("ab" * 32, 0, 9)


def row(path: str, kind: str = "file", frame: Frame | None = None) -> Row:
    return Row(Entry(path, kind, 0o644, 0, 0, 0, 1, "cd" * 32, "", frame))  # type: ignore[arg-type]


def staged(path: str, size: int = 1, source: bytes | None = b"x") -> Staged:
    return Staged(Row(Entry(path, "file", 0o644, 0, 0, 0, size, "cd" * 32)), source)


# before, lost, kind now, kind before -> is it held back?
TABLE = [
    (0, 0, "dir", "dir", False),
    (100, 0, "dir", "dir", False),
    (18, 10, "dir", "dir", True),  # over half, and at least ten
    (20, 10, "dir", "dir", False),  # half isn't over half
    (17, 9, "dir", "dir", False),  # nine aren't ten
    (1000, 499, "dir", "dir", False),
    (1000, 501, "dir", "dir", True),
    (3, 3, "dir", "dir", True),  # it became empty
    (1, 1, "dir", "dir", True),
    (3, 2, "dir", "dir", False),
    (3, 3, "absent", "dir", True),  # it vanished
    (1, 1, "absent", "file", True),
    (5, 0, "absent", "dir", False),
    (3, 1, "file", "dir", True),  # a file stands where the folder was
    (3, 3, "file", "dir", True),
    (1, 0, "dir", "file", False),  # a folder where the file was: nothing is gone
    (100, 0, "unreadable", "dir", False),
]


@pytest.mark.parametrize(("before", "gone", "kind", "kind_before", "held"), TABLE)
def test_what_looks_like_a_fault(before: int, gone: int, kind, kind_before, held: bool) -> None:
    assert mass_deletion(before, gone, kind, kind_before) is held


@given(st.integers(1, 500), st.integers(1, 500))
def test_a_root_is_never_emptied_unasked(before: int, gone: int) -> None:
    gone = min(before, gone)
    held = mass_deletion(before, gone, "dir", "dir")
    assert held or gone < before
    assert held or gone < 10 or gone * 2 <= before


def test_what_has_another_name_is_not_lost() -> None:
    was = Stat(1, 7, 10, 5, 100)
    gone = [replace(row("data/a"), stat=was), row("data/b"), row("data/d", "dir")]

    def found(stat: Stat) -> Found:
        return Found("data/new", "/data/new", "file", 0o644, 0, 0, stat)

    assert lost(gone, [found(replace(was, ctime_ns=999))]) == 1, "a rename moves the ctime only"
    assert lost(gone, []) == 2
    for other in ({"dev": 2}, {"ino": 8}, {"size": 11}, {"mtime_ns": 6}):
        assert lost(gone, [found(replace(was, **other))]) == 2, "its inode was given to another file"


@pytest.mark.parametrize("name", ["app.db", "a/B.SQLITE3", "x.sqlite", "x.db3"])
def test_names_of_databases(name: str) -> None:
    assert looks_like_database(name)
    assert not looks_like_database(name + ".bak")


# Bundles


@pytest.mark.parametrize(
    ("layout", "files", "size", "bundled"),
    [
        ("auto", 500, 500, False),
        ("auto", 501, 501, True),
        ("auto", 501, 501 * BUNDLE_MEAN, False),
        ("auto", 501, 501 * BUNDLE_MEAN - 1, True),
        ("mirror", 100_000, 1, False),
        ("bundle", 0, 0, True),
        ("bundle", 1, 10**9, True),
    ],
)
def test_which_roots_are_bundled(layout: str, files: int, size: int, bundled: bool) -> None:
    assert (bundled_below(layout, files, size) > 1000) is bundled


# Places


def test_files_go_under_their_own_names_where_a_store_may_carry_them() -> None:
    odd = ["data/.gitignore", "data/a/.GIT/config", "data/\udcff", "data/new\nline", "data/" + "x" * 251]
    places = place([staged(p) for p in ["data/a", "x.db", *odd]], {}, {"x.db"})
    assert [s.entry.path for s in places.plain] == ["data/a"]
    assert {s.entry.path for s in places.bundled} == {"x.db", *odd}


def test_a_root_that_is_bundled_is_bundled_whole_and_no_other() -> None:
    paths = ["data/a", "data2/a", "one.json"]
    places = place([staged(p) for p in paths], {"data": 9, "one.json": 9}, ())
    assert [s.entry.path for s in places.plain] == ["data2/a"]
    assert [s.entry.path for s in places.bundled] == ["data/a", "one.json"]


def test_what_has_no_new_bytes_goes_nowhere() -> None:
    places = place([staged("data/a", source=None)], {}, ())
    assert (places.plain, places.bundled) == ((), ())


@given(st.lists(st.integers(0, 10**6), max_size=300), st.booleans())
def test_at_most_a_hundred_plain_files_and_the_small_ones_are_bundled(sizes: list[int], bundled: bool) -> None:
    items = [staged(f"data/{n}", size) for n, size in enumerate(sizes)]
    places = place(items, {"data": 1 << 40} if bundled else {}, ())
    assert len(places.plain) == (0 if bundled else min(len(sizes), PLAIN_MOST))
    both = [s.entry.path for s in (*places.plain, *places.bundled)]
    assert sorted(both) == sorted(s.entry.path for s in items)
    if places.plain and places.bundled:
        assert min(s.entry.size for s in places.plain) >= max(s.entry.size for s in places.bundled)
    assert [s.entry.path for s in places.bundled] == sorted(s.entry.path for s in places.bundled)


# Deletes


def test_the_store_lets_go_of_mirrored_files_only() -> None:
    gone = [row("data/a"), row("data/b", frame=FRAME), row("data/d", "dir"), row("data/l", "symlink")]
    assert deletes(gone, []) == ["data/a"]


@pytest.mark.parametrize(
    ("old", "new", "deleted"),
    [
        (row("data/a"), row("data/a"), False),
        (row("data/a"), row("data/a", frame=FRAME), True),  # it moved into a bundle
        (row("data/a", frame=FRAME), row("data/a"), False),
        (row("data/a"), row("data/a", "dir"), True),
        (row("data/a"), row("data/a", "symlink"), True),
        (row("data/a", "dir"), row("data/a"), False),
        (row("data/a", frame=FRAME), row("data/a", "dir"), False),
    ],
)
def test_a_path_that_is_no_mirrored_file_any_more_is_deleted(old: Row, new: Row, deleted: bool) -> None:
    assert deletes([], [(old, new)]) == (["data/a"] if deleted else [])


# Portions


@given(st.lists(st.integers(0, 200 * 1024 * 1024), max_size=60) | st.integers(0, 9000).map(lambda n: [1] * n))
def test_no_bundle_is_gigantic_and_none_is_empty(sizes: list[int]) -> None:
    counts = portions(sizes)
    assert sum(counts) == len(sizes)
    done = 0
    for count in counts:
        inside = sizes[done : done + count]
        assert 0 < count <= PORTION_FILES
        assert sum(inside) <= PORTION_BYTES or count == 1
        done += count


def test_a_large_file_of_a_bundled_root_stays_plain() -> None:
    assert bundled_below("auto", 501, 501) == BUNDLE_LARGE
    places = place([staged("data/a", BUNDLE_LARGE), staged("data/b", BUNDLE_LARGE - 1)], {"data": BUNDLE_LARGE}, ())
    assert [s.entry.path for s in places.plain] == ["data/a"]
    places = place([staged("data/a", BUNDLE_LARGE)], {"data": bundled_below("bundle", 0, 0)}, ())
    assert places.plain == ()
