"""What is said of roots that this user can't write."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.recovery.report import check_roots
from sidecar.roots import Root
from sidecar.state import State


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
