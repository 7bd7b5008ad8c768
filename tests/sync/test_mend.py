"""After somebody else edited the store: all that the snapshot names is there again, and no part that it doesn't."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sidecar.snapshot import bundle, shards
from sidecar.snapshot import stage as staging
from sidecar.snapshot.manifest import PATH
from sidecar.sync import plan
from sidecar.sync.look import Look
from sidecar.sync.mend import carried, strays
from tests.sync.rig import Rig


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(staging, "SETTLE_NS", 0)
    monkeypatch.setattr(shards, "WHOLE", 50)
    made = Rig(tmp_path / "rig", ("data", "more"))
    yield made
    made.close()


def test_what_this_disk_has_not_is_taken_from_before_the_edit(rig: Rig) -> None:
    """130 mirrored files and a bundle of a root that is declared no more; somebody deleted all and left litter."""
    names = [f"{n:03}" for n in range(130)]
    for name in names[:80]:
        (rig.base / "disk/more" / name).write_text(name)
    (rig.base / "disk/more/.gitignore").write_text("*")
    rig.sync()
    for name in names[80:]:
        (rig.base / "disk/more" / name).write_text(name)
    (rig.root / "here").write_text("here")
    rig.sync()
    before = rig.head
    expected = rig.manifest()
    litter = {bundle.store_path("ab" * 32): b"x", shards.store_path("ab" * 32): b"x"}
    gone = [path for path in rig.listing() if path != PATH]
    rig.head = rig.with_store(lambda store: store.commit(before, litter, gone, "by hand"))
    rig.roots = rig.roots[:1]
    rig.surveyor = rig.new_surveyor()
    with TemporaryDirectory(dir=rig.base) as name:
        folder = Path(name)
        survey = rig.surveyor.look(Look(reassert=True), folder)
        taken = rig.with_store(lambda store: carried(store, before, survey, rig.index, folder))
        survey.staged.extend(taken.staged)
        package = rig.pack(survey, folder, anew=True)
        put = {**taken.put, **package.put}
        assert sum(not path.startswith(".sidecar/") for path in put) <= plan.PLAIN_MOST
        delete = rig.with_store(lambda store: strays(store, rig.head, package.parts))
        assert set(delete) == litter.keys()
        rig.head = rig.with_store(lambda store: store.commit(rig.head, put, delete, package.title))
        rig.index.promote("test-store", rig.head)
    after = rig.manifest()
    assert after.sharding is not None
    shown = {p: (e.kind, e.mode, e.sha256) for p, e in after.entries.items()}
    assert shown == {p: (e.kind, e.mode, e.sha256) for p, e in expected.entries.items()}
    restored = rig.restored().parent / "more"
    assert {at.name: at.read_text() for at in restored.iterdir()} == {**{n: n for n in names}, ".gitignore": "*"}
