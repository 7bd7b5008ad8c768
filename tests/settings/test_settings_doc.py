from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sidecar.settings_doc import markdown
from sidecar.settings_table import SETTINGS

PROJECT = Path(__file__).parents[2]


def test_the_page_is_what_the_table_makes():
    page = (PROJECT / "docs/settings.md").read_text()
    assert page == markdown(), "run: python -m sidecar.settings > docs/settings.md"


def test_the_module_prints_it():
    done = subprocess.run(
        [sys.executable, "-m", "sidecar.settings"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == (markdown(), "")


def test_every_setting_has_one_row_of_four_cells():
    rows = re.findall(r"^\| `((?:SIDECAR|HF|SPACE)_\w+)` \|(.*)\|$", markdown(), re.MULTILINE)
    assert [name for name, _ in rows] == [s.name for s in SETTINGS]
    for name, rest in rows:
        assert len(re.split(r"(?<!\\)\|", rest)) == 3, name


def test_no_setting_is_read_that_the_table_does_not_know():
    known = {s.name for s in SETTINGS}
    for path in sorted((PROJECT / "sidecar").rglob("*.py")):
        named = set(re.findall(r"\bSIDECAR_[A-Z][A-Z_]*[A-Z]\b", path.read_text()))
        # What we hand to children of ours: the resume commands, and the probe that makes a check.
        named = {name for name in named if not name.startswith(("SIDECAR_RECOVERY", "SIDECAR_CHECK_"))}
        assert named - known == set(), path
