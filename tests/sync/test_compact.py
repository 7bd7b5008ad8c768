"""Compaction: half of what bundles hold may be dead, not more; what no file gives stays; every step restores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.snapshot import bundle
from sidecar.snapshot import stage as staging
from sidecar.snapshot.manifest import PATH
from sidecar.snapshot.tally import Bundle
from sidecar.sync import compact
from sidecar.sync.compact import JOINED, SMALL_FILES, SMALL_MOST, victims
from tests.recovery.world import picture
from tests.sync.rig import Rig


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(staging, "SETTLE_NS", 0)
    made = Rig(tmp_path / "rig", layout="bundle", compacting=True)
    yield made
    made.close()


def fill(rig: Rig, numbers: range, text: str = "") -> None:
    for n in numbers:
        (rig.root / f"{n:03}").write_text(f"{text or n}".ljust(1000))


def dead(rig: Rig) -> float:
    bundles = rig.index.tally().bundles.values()
    return 1 - sum(b.live for b in bundles) / sum(b.packed for b in bundles)


def whole(rig: Rig) -> None:
    """The store holds what the manifest names and no more, and it restores to what is on disk."""
    assert set(rig.listing()) == {PATH, *(bundle.store_path(sha) for sha in rig.manifest().bundles)}
    assert picture(rig.restored()) == picture(rig.root)


def test_over_half_dead_is_rewritten_and_the_dead_go(rig: Rig) -> None:
    fill(rig, range(60))
    rig.sync()
    first = set(rig.manifest().bundles)
    fill(rig, range(20), "x")
    rig.sync()
    fill(rig, range(20), "y")
    rig.sync()
    assert len(rig.manifest().bundles) == 2, "the middle one died as a whole"
    fill(rig, range(20, 35), "z")
    rig.sync()
    assert first < set(rig.manifest().bundles), "37 % is not over half"
    whole(rig)
    fill(rig, range(35, 60), "z")
    rig.sync()
    assert dead(rig) < 0.5
    fill(rig, range(20), "again")
    rig.sync()
    fill(rig, range(20, 30), "again")
    rig.sync()
    assert dead(rig) <= 0.5
    whole(rig)


def test_what_lives_moves_in_steps_that_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "FILES", 3)
    rig.compacting = False
    for n, count in enumerate([60, 52, 44, 36, 28]):
        fill(rig, range(count), f"{n}")
        rig.sync()
    known = rig.index.tally().bundles
    (rig.root / "in a hurry").write_text("nothing is moved")
    rig.sync()
    assert known.items() <= rig.index.tally().bundles.items()
    assert dead(rig) > 0.5
    rig.compacting = True
    moved: list[int] = []
    while dead(rig) > 0.5:
        before = rig.manifest().entries
        (rig.root / "more").write_text(f"{len(moved)}")
        rig.sync()
        after = rig.manifest().entries
        same = [p for p, e in before.items() if e.sha256 == after[p].sha256]
        moved.append(sum(before[p].frame != after[p].frame for p in same))
        whole(rig)
    assert 0 < max(moved) <= 3
    assert len(moved) < 12


def test_what_no_file_gives_stays_in_its_bundle_and_is_left_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(rig, range(60))
    rig.sync()
    first = next(iter(rig.manifest().bundles))
    before = rig.manifest().entries["data/000"]
    rig.compacting = False
    fill(rig, range(3, 60), "x")
    rig.sync()
    fill(rig, range(3, 30), "y")
    rig.sync()
    rig.compacting = True
    # The index believes that these are what was committed; their bytes are not.
    for n in range(3):
        at = rig.root / f"{n:03}"
        stat = at.stat()
        with open(at, "r+") as out:
            out.write("LIE")
        os.utime(at, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        row = rig.index.get(f"data/{n:03}")
        assert row is not None
        new = os.stat(at)
        rig.index.touch([type(row)(row.entry, type(row.stat).of(new), True)])  # type: ignore[union-attr]
    looked: list[str] = []
    kept = compact._bytes
    monkeypatch.setattr(compact, "_bytes", lambda row, *a: looked.append(row.entry.path) or kept(row, *a))  # type: ignore[func-returns-value]
    (rig.root / "more").write_text("1")
    rig.sync()
    assert looked == ["data/000", "data/001", "data/002"]
    assert first in rig.manifest().bundles
    assert rig.manifest().entries["data/000"] == before, "its bytes are the committed ones still"
    (rig.root / "more").write_text("2")
    rig.sync()
    assert len(looked) == 3, "and it is not tried again and again"
    assert (rig.restored() / "000").read_text() == "0".ljust(1000)


def test_one_that_is_moved_alone_and_comes_out_as_it_was_stays(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "FILES", 1)
    rig.compacting = False
    for n in range(SMALL_MOST + 2):
        fill(rig, range(n, n + 1))
        rig.sync()
    rig.compacting = True
    (rig.root / "000").unlink()
    rig.sync()
    whole(rig)
    assert {b.files for b in rig.index.tally().bundles.values()} == {1}


def test_small_bundles_are_joined(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "SMALL_MOST", 10)
    for n in range(25):
        fill(rig, range(n, n + 1))
        rig.sync()
        assert len(rig.manifest().bundles) <= 11
    whole(rig)


# As values

bundles = st.dictionaries(
    st.integers(0, 1 << 255).map(lambda n: f"{n:064x}"),
    st.tuples(st.integers(1, 2000), st.integers(0, 10**6), st.floats(0, 1)).map(
        lambda t: Bundle(1, t[1], t[0], int(t[1] * t[2]))
    ),
    max_size=80,
)


@given(bundles)
def test_only_what_is_worth_it_is_emptied(found: dict[str, Bundle]) -> None:
    chosen = victims(found)
    live, packed = sum(b.live for b in found.values()), sum(b.packed for b in found.values())
    if live * 2 < packed:
        assert chosen
        assert all(found[sha].live * 2 < found[sha].packed for sha in chosen)
        shares = [found[sha].live / found[sha].packed for sha in chosen]
        assert shares == sorted(shares)
    elif chosen:
        assert len(chosen) == JOINED
        assert all(found[sha].files <= SMALL_FILES for sha in chosen)
        assert len(found) > SMALL_MOST
