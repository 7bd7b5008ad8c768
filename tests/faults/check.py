"""Hold a real agent against one row of docs/failures.md."""

from __future__ import annotations

import time

from tests.faults.cases import Case
from tests.faults.patient import Patient
from tests.faults.table import Row


def in_life(patient: Patient, row: Row, case: Case) -> None:
    """The fault comes while the app runs and writes, lasts until everybody has seen it, and goes."""
    patient.until(lambda: patient.space.get("/health")["status"] == "pass", 10, lambda: f"before: {patient.said()}")
    main = patient.space.get()["main"]["pid"]
    case.make(patient)
    try:
        name, data = patient.write()
        seen = patient.judged(row)
        assert all(verdict != "fail" for verdict, _ in seen), f"a restart would lose what only this disk has: {seen}"
        if row.verdict == "pass":
            assert len(seen) == 1, f"nobody is to be woken for it: {seen}"
        status, body = patient.checkpoint()
        assert status == row.checkpoint, body
        patient.beats()
        assert (patient.space.disk / name).read_bytes() == data
    finally:
        case.unmake(patient)
    if case.asks:
        assert patient.checkpoint()[0] == 200
    patient.durable(name, data)
    patient.until(lambda: patient.space.get("/health")["status"] == "pass", 10, lambda: f"after: {patient.said()}")
    assert patient.space.get()["main"]["pid"] == main, "main is the same process"
    assert "Traceback" not in patient.space.said()
    case.after(patient)


def at_start(patient: Patient, row: Row, case: Case) -> None:
    """The fault is there before a Space starts on an empty disk, and stays."""
    earlier = patient.space.home / "ran"
    case.make(patient)
    patience = "20s" if row.code is None else "1s"
    process = patient.space.start("sh", "-c", "touch ran; exec sleep 1000", SIDECAR_RESTORE_TIMEOUT=patience)
    if row.code is not None:
        code = process.wait(40)
        assert code == row.code, patient.space.said()
        assert not earlier.exists(), "main isn't started on files that are not there"
    else:
        patient.space.running()
        notes = frozenset(patient.space.get("/health")["notes"])
        assert notes == row.start_notes, patient.space.said()
        if "cold-start" not in row.start_notes:
            assert (patient.space.disk / "data/a.txt").read_bytes() == b"two\n"
        end = time.monotonic() + 5
        while not earlier.exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert earlier.exists()
        patient.space.end()
    assert "Traceback" not in patient.space.said()
