"""What is said of roots that this user can't write, and of a choice that counts no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.recovery.origin import Origin
from sidecar.recovery.record import Record
from sidecar.recovery.report import check_roots, say
from sidecar.recovery.restore import Restored
from sidecar.recovery.terms import Recovered
from sidecar.roots import Root
from sidecar.state import RootState, State
from sidecar.stores.base import Access
from tests.recovery.world import World, fill


@pytest.mark.parametrize(("target", "good"), [("not/yet", True), ("file/below", False)])
def test_a_link_that_leads_nowhere_yet_is_judged_by_its_target(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, target: str, good: bool
) -> None:
    link = tmp_path / "root"
    link.symlink_to(tmp_path / target)
    (tmp_path / "file").write_text("no folder")
    state = State("i", "0", "local", "file:///x", persistent=True)
    check_roots([Root("data", str(link))], state)
    said = caplog.text
    assert ("root-unwritable" in state.notes) is not good
    assert ("can't be written" in said) is not good
    assert good or f"mkdir -p {tmp_path / target}" in said


def test_the_status_knows_what_came_back_before_a_sync_has_looked(tmp_path: Path) -> None:
    world = World(tmp_path, ("data", "conf", "other"))
    fill(world.root, {"0": "a", "in/1": "bc", "in/2": "def"})
    (world.root / "link").symlink_to("0")
    Path(world.roots[1].path).write_text("[conf]")
    fill(Path(world.roots[2].path), {"x": "not declared any more"})
    revision, manifest = world.snapshot()
    world.empty_disk()
    restored = world.restore(revision, manifest, roots=world.roots[:2])
    assert restored.skipped == ("other",)
    state = State("i", "0", "local", "file:///x", persistent=True)
    state.roots = {name: RootState(name) for name in ("data", "conf", "new")}
    back = Recovered(revision, Origin(revision, manifest, revision), None, None, restored, Access(True, True))
    say(back, [], state, Record("i"))
    roots = {r.name: (r.state, r.files, r.bytes) for r in state.roots.values()}
    assert roots == {"data": ("restored", 4, 6), "conf": ("restored", 1, 6), "new": ("unknown", 0, 0)}


@pytest.mark.parametrize("spent", ["1.1", None])
def test_a_choice_that_an_earlier_start_went_on_from_is_said_to_count_no_more(
    caplog: pytest.LogCaptureFixture, spent: str | None
) -> None:
    """Whoever goes back to the same snapshot a second time would take the newest for it."""
    state = State("i", "0", "local", "file:///x", persistent=True)
    found = Recovered("r2", Origin("r2", None, "r2", spent=spent), None, None, Restored(), Access(True, True))
    say(found, [], state, Record("i"))
    assert ("SIDECAR_REVISION=1.1 counts once" in caplog.text) is (spent is not None)
