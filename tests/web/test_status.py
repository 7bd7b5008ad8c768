from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.state import Inspection, LocalOnly, RestoreProgress, State, SyncState
from sidecar.web.pages.status import page
from sidecar.web.status import PHASES, status
from tests.web.serving import state_of

NOW = 100_000.0
SECRET = "salaries-2026.xlsx"
PROMISED = {
    "phase": None,
    "main": {"state", "pid", "exit"},
    "roots": None,
    "sync": {"last_durable", "snapshot", "revision", "pending", "lag_s", "error"},
    "recovery": None,
    "lease": None,
    "keepalive": None,
    "commits": {"hour", "total"},
    "checklist": None,
    "version": None,
}


def well(**changes: Any) -> State:
    return state_of(**{"started_mono": NOW - 5000, "loop_beat_mono": NOW - 1, **changes})


def talkative() -> State:
    """A state in which every sentence, error and list names a file."""
    state = well(
        detail=f"copying {SECRET}",
        mode="orphan",
        recovery_error=f"sha256 of data/{SECRET} differs",
        failed_checks=[f"!json: /data/{SECRET}", f"sqlite: /data/{SECRET}"],
        checks=[{"check": f"!json: /data/{SECRET}", "kind": "json", "must": True, "result": "fail", "reason": SECRET}],
        notes={"damaged-head": f"{SECRET} is damaged", "odd": f"/data/{SECRET}"},
        drill={"result": "fail", "at": 1.0, "snapshot": "0.42", "why": f"data/{SECRET} differs", "checks": [SECRET]},
        inspection=Inspection(
            local=LocalOnly(((f"/home/{SECRET}", "login"),), (f"/home/{SECRET}",)), wider=SECRET, trouble=SECRET
        ),
        recovery={
            "at": "2026-11-24T10:00:00Z",
            "snapshot": "0.42",
            "error": SECRET,
            "files": 3,
            "ok": True,
            "steps": [{"step": "restore", "seconds": 1.5, "detail": SECRET}, SECRET],
            f"/data/{SECRET}": 1,
            "checks": {SECRET: "failed", "kept": {"at": "x", "path": SECRET}},
            "previous": None,
        },
        sync=SyncState(
            error=f"the Hub answers 403 for data/{SECRET}",
            denied=True,
            stale=1,
            trouble_since_mono=NOW - 1000,
            files=[{"path": f"data/{SECRET}", "why": "stale"}],
        ),
    )
    state.store = "postgresql://user:hunter2@db.internal/x"
    return state


def test_the_promised_keys_are_there():
    body = status(well(), NOW, names=False)
    assert PROMISED.keys() <= body.keys()
    for key, inside in PROMISED.items():
        if inside is not None:
            assert inside <= body[key].keys()
    assert body["roots"] == [
        {"name": "data", "files": 3, "bytes": 1234, "state": "durable", "excluded": 0, "skipped": 0}
    ]
    assert json.loads(json.dumps(body)) == body


def test_strangers_see_no_name_of_a_file_anywhere():
    body = status(talkative(), NOW, names=False)
    assert SECRET not in json.dumps(body)
    assert SECRET not in page(body)
    assert "files" not in body["sync"]
    assert body["sync"]["error"].startswith("The store refuses access")
    assert "403" in body["sync"]["error"]
    assert set(body["notes"]) >= {"recovery-failed", "check-failed", "store-denied", "damaged-head", "odd"}
    assert all(body["notes"].values())
    assert body["recovery"] == {
        "at": "2026-11-24T10:00:00Z",
        "snapshot": "0.42",
        "files": 3,
        "ok": True,
        "steps": [{"step": "restore", "seconds": 1.5}],
        "checks": {"kept": {"at": "x"}},
        "previous": None,
    }
    assert body["store"] == "postgresql://…"


def test_the_owner_sees_all_of_it_but_no_password():
    state = talkative()
    body = status(state, NOW, names=True)
    assert body["detail"] == state.detail
    assert body["recovery"] == state.recovery
    assert body["sync"]["error"] == state.sync.error
    assert body["sync"]["files"] == state.sync.files
    assert body["notes"]["odd"] == f"/data/{SECRET}"
    assert body["notes"]["recovery-failed"] == state.recovery_error
    assert SECRET in body["notes"]["check-failed"]
    assert "hunter2" not in json.dumps(body)
    assert "db.internal" in body["store"]


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_is_said_in_words(phase):
    assert status(well(phase=phase), NOW, names=True)["detail"] == PHASES[phase]


def test_progress_of_a_restore_is_in_files_and_bytes():
    state = well(phase="restoring", recovered=False, restore=RestoreProgress(3, 10, 1000, 4000))
    body = status(state, NOW, names=False)
    assert body["restore"] == {"files_done": 3, "files_total": 10, "bytes_done": 1000, "bytes_total": 4000}
    text = page(body)
    assert '<progress max="4000" value="1000" ' in text
    assert "3 of 10 files" in text


def test_a_store_that_dies_with_the_machine_stands_on_the_page_in_capitals():
    assert "NOT PERSISTED" in page(status(well(persistent=False), NOW, names=False))
    assert "NOT PERSISTED" not in page(status(well(), NOW, names=False))
