"""The commands on a Hub: a first snapshot, looking at it, and what its refusals come to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.desk import Desk
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.recovery.world import fill


@pytest.fixture
def hub(desk: Desk, tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as local:
        desk.set(
            HF_ENDPOINT=local.url,
            HF_TOKEN=DEFAULT_TOKEN,
            SIDECAR_STORE="hf://datasets/alice/state",
            SIDECAR_STATE_DIR=str(tmp_path / "state"),
            SIDECAR_PATHS=f"data={tmp_path}/data",
        )
        yield local


def test_the_first_snapshot_and_a_look_at_it(desk: Desk, hub: LocalHub, tmp_path: Path) -> None:
    fill(tmp_path / "data", {"x": "one", ".gitignore": "*\n", "sub/big": bytes(100_000)})
    assert desk("snapshots").code == 69
    foreseen = desk("sync", "--dry-run")
    assert (foreseen.code, "+ data/x" in foreseen.lines) == (0, True), foreseen.err
    assert hub.repos() == []
    made = desk("sync")
    assert made.code == 0, made.err
    assert made.out.strip() == hub.head("alice/state")
    assert desk("cat", "data/x").out == "one"
    assert desk("cat", "data/.gitignore", "--revision", made.out[:10]).out == "*\n"
    assert desk("verify", "--full").code == 0
    assert desk("restore", "--to", tmp_path / "out").code == 0
    assert (tmp_path / "out/data/sub/big").read_bytes() == bytes(100_000)
    assert [s["revision"] for s in desk("snapshots", "--json").json] == [made.out.strip()]


def test_what_the_hub_refuses_and_when_it_is_away(desk: Desk, hub: LocalHub) -> None:
    desk.set(HF_TOKEN="hf_somebodyelsestoken00")
    refused = desk("ls")
    assert (refused.code, refused.out) == (69, "")
    assert "somebodyelses" not in refused.err
    hub.stop()
    away = desk("ls")
    assert (away.code, away.out) == (75, "")
    assert "Traceback" not in refused.err + away.err
