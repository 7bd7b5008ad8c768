"""The locked set of versions: every package pinned with its hashes, and nothing declared is missing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import sidecar

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements" / "dev.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

BLOCKS = [
    block
    for block in re.sub(r"^\s*#.*\n", "", LOCK, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    if block
]
PINS = {
    canonicalize_name(match[1]): Version(match[2])
    for block in BLOCKS
    if (match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", block))
}
DECLARED = [
    *PROJECT["project"]["dependencies"],
    *(each for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra),
    *PROJECT["dependency-groups"]["dev"],
    *PROJECT["build-system"]["requires"],
]


def test_every_line_is_one_pinned_package_with_hashes() -> None:
    assert len(PINS) == len(BLOCKS) > 20
    assert [block for block in BLOCKS if "--hash=sha256:" not in block] == []


def test_no_line_says_where_to_download_from() -> None:
    # That is the machine's own business: its pip configuration says so.
    assert re.findall(r"https?://|--index|--extra-index|--find-links|@ ", LOCK) == []


@pytest.mark.parametrize("declared", DECLARED)
def test_declared_is_locked_within_its_range(declared: str) -> None:
    requirement = Requirement(declared)
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_client_brings_its_fast_path() -> None:
    # Users run with hf_xet because installing the package brings it; so do our tests.
    assert "hf-xet" in PINS


def test_extras_are_those_that_are_promised() -> None:
    assert set(PROJECT["project"]["optional-dependencies"]) == {"age", "postgres", "s3", "fleet"}


def test_the_hub_client_has_the_promised_range() -> None:
    assert "huggingface_hub>=1.16,<3" in PROJECT["project"]["dependencies"]


def test_one_version_everywhere() -> None:
    assert sidecar.__version__ == PROJECT["project"]["version"]
