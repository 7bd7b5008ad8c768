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
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

LOCKS = ["dev", "lowest"]


def text(lock: str) -> str:
    return (ROOT / "requirements" / f"{lock}.lock").read_text()


def blocks(lock: str) -> list[str]:
    """One string a package: its pin, marker and hashes."""
    bare = re.sub(r"^\s*#.*\n", "", text(lock), flags=re.MULTILINE)
    return [block for block in bare.replace("\\\n", " ").splitlines() if block]


def pins(lock: str) -> dict[str, Version]:
    matches = [re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", block) for block in blocks(lock)]
    return {canonicalize_name(match[1]): Version(match[2]) for match in matches if match}


DECLARED = [
    *PROJECT["project"]["dependencies"],
    *(each for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra),
    *PROJECT["dependency-groups"]["dev"],
    *PROJECT["build-system"]["requires"],
]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_is_one_pinned_package_with_hashes(lock: str) -> None:
    assert len(pins(lock)) == len(blocks(lock)) > 20
    assert [block for block in blocks(lock) if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_line_says_where_to_download_from(lock: str) -> None:
    # That is the machine's own business: its pip configuration says so.
    assert re.findall(r"https?://|--index|--extra-index|--find-links|@ ", text(lock)) == []


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("declared", DECLARED)
def test_declared_is_locked_within_its_range(declared: str, lock: str) -> None:
    requirement = Requirement(declared)
    assert pins(lock)[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("lock", LOCKS)
def test_the_client_brings_its_fast_path(lock: str) -> None:
    # Users run with hf_xet because installing the package brings it; so do our tests.
    assert "hf-xet" in pins(lock)


def test_lowest_is_the_lowest_that_is_promised() -> None:
    (client,) = (each for each in map(Requirement, DECLARED) if each.name == "huggingface_hub")
    (lowest,) = (Version(each.version) for each in client.specifier if each.operator == ">=")
    assert pins("lowest")["huggingface-hub"] == lowest
    assert pins("dev")["huggingface-hub"] > lowest


def test_extras_are_those_that_are_promised() -> None:
    assert set(PROJECT["project"]["optional-dependencies"]) == {"age", "postgres", "s3", "fleet"}


def test_the_hub_client_has_the_promised_range() -> None:
    assert "huggingface_hub>=1.16,<3" in PROJECT["project"]["dependencies"]


def test_one_version_everywhere() -> None:
    assert sidecar.__version__ == PROJECT["project"]["version"]
