"""`drill`: a restore of the head that touches no root, and what is written down of it."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sidecar.recovery.rehearsal import FILE
from tests.cli.conftest import Kept
from tests.cli.desk import Desk
from tests.cli.test_verify import spoil
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys.space import tree


@pytest.fixture(autouse=True)
def _polite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own process must not become the last in the queue for good."""
    monkeypatch.setattr("sidecar.commands.rehearse._step_back", lambda: None)


def noted(world: Kept) -> dict[str, Any]:
    return dict(json.loads((world.state / FILE).read_text()))


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(("drill-", "verify-")))


def test_the_head_comes_back_whole_and_no_root_is_touched(desk: Desk, world: Kept) -> None:
    before = tree(world.base)
    answer = desk("drill", "--json")
    assert answer.code == 0
    assert "restore drill: 1.2 came back whole (7 files" in answer.err
    assert answer.json == noted(world)
    assert {"result": "pass", "snapshot": "1.2", "revision": world.revisions[1], "files": 7, "by": "drill"}.items() <= (
        answer.json.items()
    )
    (world.state / FILE).unlink()
    assert tree(world.base) == before
    assert desk("doctor").code in (0, 1)


@pytest.mark.parametrize("what", [bytes(range(256)), b"new\n"])
def test_a_flipped_byte_fails_it_and_doctor(desk: Desk, world: Kept, what: bytes) -> None:
    spoil(world, what)
    answer = desk("drill")
    assert (answer.code, answer.out) == (1, "")
    assert "FAILED" in answer.err
    assert "data/" in noted(world)["why"]
    assert left(world.state) == []
    told = desk("doctor", "--json")
    assert told.code == 1
    assert {i["id"]: i["state"] for i in told.json}["restore-drill"] == "fail"


def test_a_store_that_is_away_says_nothing_of_the_snapshot(desk: Desk, world: Kept) -> None:
    desk.set(SIDECAR_STORE=f"file://{world.base}/gone")
    assert desk("drill").code == 75
    assert noted(world)["result"] == "error"


def test_too_little_room_is_said_and_nothing_is_fetched(
    desk: Desk, world: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    class Full:
        f_bavail, f_frsize, f_blocks = 1, 4096, 1000

    monkeypatch.setattr(os, "statvfs", lambda path: Full() if "drill-" in str(path) else real(path))
    answer = desk("drill")
    assert (answer.code, noted(world)["result"]) == (75, "no-room")
    assert "4,096 bytes free" in answer.err
    assert left(world.state) == []


def test_the_checks_of_files_are_made_on_the_copy(desk: Desk, world: Kept) -> None:
    db, good, bad = (world.root / name for name in ("app.db", "good.json", "bad.json"))
    good.write_text('{"a": 1}')
    bad.write_text("{")
    world.keep()
    # What is in use now is no business of a drill: the copy is what counts.
    db.write_bytes(b"overwritten since")
    bad.write_text("{}")
    desk.set(SIDECAR_VERIFY=f"!sqlite: {db}\njson: {good}\njson: {bad}\njson: /elsewhere/x.json\ncommand: touch /no")
    answer = desk("drill", "--json")
    assert answer.code == 1
    assert {check["check"]: check["result"] for check in answer.json["checks"]} == {
        f"!sqlite: {db}": "pass",
        f"json: {good}": "pass",
        f"json: {bad}": "fail",
        "json: /elsewhere/x.json": "unknown",
    }
    assert "bad.json" in answer.json["why"]


def test_a_link_leads_no_check_out_of_the_copy(desk: Desk, world: Kept) -> None:
    real, absolute, beside, out = (world.root / name for name in ("real.db", "absolute.db", "beside.db", "out.db"))
    elsewhere = world.base / "elsewhere.db"
    sqlite3.connect(elsewhere).executescript("CREATE TABLE t (x)").connection.close()
    writer = (
        "import sqlite3, os, sys; db = sqlite3.connect(sys.argv[1]); db.execute('PRAGMA journal_mode=WAL');"
        "db.executescript('CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (1)'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", writer, str(real)], check=True)
    absolute.symlink_to(real)
    beside.symlink_to("real.db")
    out.symlink_to(elsewhere)
    world.keep()
    subprocess.run([sys.executable, "-c", writer, str(real)], check=True)  # killed, and its log not folded in
    before = {p.name: p.read_bytes() for p in world.root.iterdir() if p.name.startswith("real.db")}
    assert "real.db-wal" in before
    desk.set(SIDECAR_VERIFY=f"sqlite: {absolute}\nsqlite: {beside}\nsqlite: {out}")
    answer = desk("drill", "--json")
    assert answer.code == 0
    assert [check["result"] for check in answer.json["checks"]] == ["pass", "pass", "unknown"]
    assert {p.name: p.read_bytes() for p in world.root.iterdir() if p.name.startswith("real.db")} == before


def test_a_drill_judges_a_database_as_the_check_itself_does(desk: Desk, world: Kept) -> None:
    values, empty = world.root / "values.db", world.root / "empty.db"
    db = sqlite3.connect(values)
    db.executescript("PRAGMA ignore_check_constraints=ON; CREATE TABLE t (x CHECK (x > 0)); INSERT INTO t VALUES (-1)")
    db.close()
    empty.touch()
    world.keep()
    desk.set(SIDECAR_VERIFY=f"sqlite: {values}\nsqlite: {empty}")
    answer = desk("drill", "--json")
    assert [check["result"] for check in answer.json["checks"]] == ["pass", "fail"]


def test_a_database_that_is_broken_in_the_snapshot_fails_its_check(desk: Desk, world: Kept) -> None:
    path = world.root / "big.db"
    db = sqlite3.connect(path)
    db.executescript("CREATE TABLE t (x); CREATE INDEX i ON t (x);")
    db.executemany("INSERT INTO t VALUES (?)", [(f"{n:0400}",) for n in range(100)])
    db.commit()
    db.close()
    raw = bytearray(path.read_bytes())
    raw[8192:12288] = bytes(4096)
    (world.root / "big.bin").write_bytes(raw)  # not staged as a database under that name, but kept all the same
    world.keep()
    desk.set(SIDECAR_VERIFY=f"sqlite: {world.root}/big.bin")
    answer = desk("drill", "--json")
    assert (answer.code, answer.json["checks"][0]["result"]) == (1, "fail")


def test_verify_counts_as_a_drill_where_it_reads_the_head(desk: Desk, world: Kept) -> None:
    assert desk("verify", "--revision", "1.1").code == 0
    assert not (world.state / FILE).exists()
    assert desk("verify").code == 0
    assert {"result": "pass", "snapshot": "1.2", "by": "verify"}.items() <= noted(world).items()
    spoil(world, b"new\n")
    assert desk("verify").code == 1
    assert noted(world)["result"] == "fail"


def test_what_may_not_be_read_or_entered_is_compared_and_cleared_up(desk: Desk, world: Kept) -> None:
    closed = world.root / "closed"
    closed.mkdir()
    (closed / "key").write_text("key")
    (closed / "key").chmod(0o000)
    closed.chmod(0o500)
    world.keep()
    assert desk("drill").code == 0
    assert left(world.state) == []
    assert stat.S_IMODE(closed.stat().st_mode) == 0o500


def slow_drill(desk: Desk, tmp_path: Path, hub: LocalHub) -> tuple[subprocess.Popen[bytes], Path]:
    """A drill in a process of its own that hangs in a download, and its folder."""
    (tmp_path / "data").mkdir()
    for n in range(5):
        (tmp_path / f"data/{n}.bin").write_bytes(os.urandom(5000))
    state = tmp_path / "state"
    desk.set(
        HF_ENDPOINT=hub.url,
        HF_TOKEN=DEFAULT_TOKEN,
        SIDECAR_STORE="hf://datasets/alice/state",
        SIDECAR_PATHS=f"data={tmp_path}/data?layout=mirror",
        SIDECAR_STATE_DIR=str(state),
    )
    assert desk("sync").code == 0
    hub.fault("pass", endpoint="resolve", path="data/", delay=30)
    process = desk.start("drill", stdout=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while not left(state) or not any((state / left(state)[0]).iterdir()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    return process, state


def test_a_killed_drill_leaves_a_folder_that_the_next_one_removes(desk: Desk, tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        process, state = slow_drill(desk, tmp_path, hub)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
        process.kill()
        process.communicate(timeout=10)
        assert len(left(state)) == 1
        hub.clear_faults()
        assert desk("drill").code == 0
        assert left(state) == []
