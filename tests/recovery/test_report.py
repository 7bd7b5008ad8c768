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
from sidecar.state import State
from sidecar.stores.base import Access


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


@pytest.mark.parametrize("spent", ["1.1", None])
def test_a_choice_that_an_earlier_start_went_on_from_is_said_to_count_no_more(
    caplog: pytest.LogCaptureFixture, spent: str | None
) -> None:
    """Whoever goes back to the same snapshot a second time would take the newest for it."""
    state = State("i", "0", "local", "file:///x", persistent=True)
    found = Recovered("r2", Origin("r2", None, "r2", spent=spent), None, None, Restored(), Access(True, True))
    say(found, [], state, Record("i"))
    assert ("SIDECAR_REVISION=1.1 counts once" in caplog.text) is (spent is not None)
