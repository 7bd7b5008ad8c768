"""What a session knows of the roots' devices, over the agents of one instance and over instances."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sidecar import session
from sidecar.roots import Root
from sidecar.snapshot.index import Index


def here(index: Index, tmp_path: Path, instance: str, *names: str) -> Any:
    roots = tuple(Root(name, str(tmp_path / name)) for name in names)
    plan = SimpleNamespace(me=SimpleNamespace(instance=instance))
    return SimpleNamespace(settings=SimpleNamespace(roots=roots), index=index, plan=plan)


def test_an_agent_that_follows_another_one_goes_by_the_devices_that_that_one_saw(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    try:
        (tmp_path / "data").mkdir()
        now = os.stat(tmp_path / "data").st_dev
        assert session.devices(here(index, tmp_path, "one", "data", "late"), True) == {"data": now, "late": None}
        (tmp_path / "data").rmdir()
        (tmp_path / "late").mkdir()
        assert session.devices(here(index, tmp_path, "one", "data", "late"), True) == {"data": now, "late": now}
        assert session.devices(here(index, tmp_path, "one", "late"), True) == {"late": now}
        assert session.devices(here(index, tmp_path, "two", "data", "late"), True) == {"data": None, "late": now}
    finally:
        index.close()


def test_what_the_agent_before_saw_elsewhere_is_not_what_is_there_now(tmp_path: Path) -> None:
    """As where a volume went away between two agents: the root is on another device than after the restore."""
    index = Index(tmp_path / "index.db")
    try:
        (tmp_path / "data").mkdir()
        now = os.stat(tmp_path / "data").st_dev
        index.set_note("devices", f'["one", {{"data": {now + 1}}}]')
        assert session.devices(here(index, tmp_path, "one", "data"), True) == {"data": now + 1}
        assert session.devices(here(index, tmp_path, "other", "data"), True) == {"data": now}
        index.set_note("devices", f'["one", {{"data": {now + 1}}}]')
        assert session.devices(here(index, tmp_path, "one", "data"), False) == {"data": now}, "it restored by itself"
    finally:
        index.close()
