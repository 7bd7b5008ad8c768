"""Any history of edits, synced step by step: every revision of it restores to what was there at that step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.snapshot import shards
from sidecar.sync.look import Look
from tests.recovery.world import picture
from tests.snapshot.disk import FAST
from tests.snapshot.shapes import segments
from tests.sync.rig import Rig

names = st.sampled_from(["a", "b", "c", ".gitignore", "d e"]) | segments.filter(lambda s: s != ".sidecarignore")
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
contents = st.binary(max_size=40) | st.binary(min_size=1, max_size=1).map(lambda b: b * 5000)


@dataclass(frozen=True)
class Edit:
    """One thing that an app does, to ``path`` below the root."""

    how: str
    path: str
    other: str
    content: bytes
    mode: int


edits = st.builds(
    Edit,
    st.sampled_from(["write", "write", "write", "append", "rename", "remove", "link", "folder", "chmod", "touch"]),
    paths,
    paths,
    contents,
    st.sampled_from([0o644, 0o600, 0o755, 0o444]),
)


@dataclass(frozen=True)
class Step:
    """What happens between two syncs, and whether the watcher told of it."""

    edits: tuple[Edit, ...]
    told: bool


steps = st.lists(st.builds(Step, st.lists(edits, max_size=5).map(tuple), st.booleans()), min_size=2, max_size=6)


def write(at: Path, edit: Edit) -> None:
    cleared(at)
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_bytes(edit.content)


def append(at: Path, edit: Edit) -> None:
    with open(at, "ab") as file:
        file.write(edit.content)


def link(at: Path, edit: Edit) -> None:
    cleared(at)
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(edit.other)


def cleared(at: Path) -> None:
    if at.is_dir() and not at.is_symlink():
        shutil.rmtree(at)
    elif os.path.lexists(at):
        at.unlink()


def touch(at: Path, edit: Edit) -> None:
    os.utime(at, ns=(1, edit.mode * 1_000_000_007), follow_symlinks=False)


DEEDS: Mapping[str, Callable[[Path, Edit], None]] = {
    "write": write,
    "append": append,
    "link": link,
    "remove": lambda at, edit: cleared(at),
    "folder": lambda at, edit: at.mkdir(parents=True, exist_ok=True),
    "chmod": lambda at, edit: at.chmod(edit.mode | 0o100 if at.is_dir() else edit.mode),
    "touch": touch,
}


def do(root: Path, edit: Edit) -> set[str]:
    """The paths that a watcher would tell of."""
    at, other = root / edit.path, root / edit.other
    through = [p for each in (at, other) for p in each.parents if p.is_relative_to(root)]
    if any(p.is_symlink() for p in (*through, *([at] if edit.how in ("append", "chmod") else []))):
        return set()  # the watcher tells of the path that a link leads to
    try:
        if edit.how == "rename":
            other.parent.mkdir(parents=True, exist_ok=True)
            at.rename(other)
        else:
            DEEDS[edit.how](at, edit)
    except OSError:
        pass  # as apps meet it; what it did until then counts
    whole = [edit.path, *([edit.other] if edit.how == "rename" else [])]
    return {"/".join(path.split("/")[:n]) for path in whole for n in range(1, path.count("/") + 2)}


def seen(root: Path) -> dict[str, tuple[Any, ...]]:
    """All but the times of folders: they alone are no reason for a snapshot."""
    return {p: (*v[:2], *v[3:]) if os.path.isdir(f"{root}{p}") else v for p, v in picture(root).items()}


@given(steps, st.sampled_from(["auto", "bundle", "mirror"]), st.booleans())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_revision_restores_to_what_was_there(history: list[Step], layout: str, compacting: bool) -> None:
    with TemporaryDirectory(dir=FAST) as folder, pytest.MonkeyPatch.context() as patch:
        for key, value in {"WHOLE": 4, "TARGET": 4, "SOFT": 3, "HARD": 6, "FOLDS": 1}.items():
            patch.setattr(shards, key, value)
        rig = Rig(Path(folder), layout=layout, compacting=compacting)
        then: dict[str | None, dict[str, tuple[Any, ...]]] = {}
        for step in history:
            told = set().union(*(do(rig.root, edit) for edit in step.edits)) if step.edits else set()
            rig.sync(Look(hints={"data": told} if step.told and then else None, confirm_present=True))
            now = seen(rig.root)
            assert then.setdefault(rig.head, now) == now, "a change that no snapshot has"
        rig.close()
        for revision, was in then.items():
            assert seen(rig.restored(revision)) == was
