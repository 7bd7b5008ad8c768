"""`python -m tests.sync.alone SCENARIO BASE`: syncs as another user; see `tests.snapshot.alone`."""

from __future__ import annotations

import ctypes  # noqa: F401  (its library may lie where only root may read)
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sidecar.snapshot import stage as staging
from tests.snapshot.alone import become
from tests.sync.rig import Rig

SCENARIOS: dict[str, Callable[[Path], None]] = {}


def scenario(call: Callable[[Path], None]) -> Callable[[Path], None]:
    SCENARIOS[call.__name__] = call
    return call


def filled(base: Path) -> Rig:
    staging.SETTLE_NS = 0
    os.chown(base, 1000, 1000)
    become(1000)
    rig = Rig(base / "rig")
    for name in ("open", "shut/a", "shut/b"):
        (rig.root / name).parent.mkdir(exist_ok=True)
        (rig.root / name).write_text(name)
    rig.sync()
    return rig


@scenario
def locked_folder_is_no_endless_news(base: Path) -> None:
    rig = filled(base)
    (rig.root / "shut").chmod(0)
    survey = rig.sync()
    assert survey.reason, "its mode is news"
    assert set(survey.unreadable) == {"data/shut"}
    entry = rig.manifest().entries["data/shut"]
    assert (entry.mode, entry.flag) == (0, "unreadable")
    for _ in range(4):
        survey = rig.sync()
        assert not survey.reason, survey.staged
        assert set(survey.unreadable) == {"data/shut"}
    assert {"data/shut/a", "data/shut/b"} <= set(rig.manifest().entries)
    (rig.root / "shut").chmod(0o700)
    (rig.root / "shut" / "a").write_text("changed")
    assert rig.sync().unreadable == {}
    assert rig.manifest().entries["data/shut"].flag == ""
    assert (rig.restored() / "shut" / "a").read_text() == "changed"
    assert not rig.sync().reason


@scenario
def locked_file_is_carried(base: Path) -> None:
    rig = filled(base)
    (rig.root / "open").write_text("changed")
    (rig.root / "open").chmod(0)
    for _ in range(4):
        survey = rig.sync()
        assert set(survey.unreadable) == {"data/open"}
        assert not survey.reason
    assert rig.manifest().entries["data/open"].size == len("open")
    assert [r.entry.flag for r in rig.index.flagged()] == ["unreadable"]
    (rig.root / "new").write_text("new")
    rig.sync()
    assert rig.manifest().entries["data/open"].flag == "unreadable"
    (rig.root / "open").chmod(0o600)
    assert rig.sync().unreadable == {}
    assert (rig.restored() / "open").read_text() == "changed"
    assert not rig.sync().reason


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
    os._exit(0)  # no clean-up as another user
