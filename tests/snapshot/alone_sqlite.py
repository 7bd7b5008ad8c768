"""`python -m tests.snapshot.alone_sqlite SCENARIO BASE`: databases where nothing can be written; see ``alone``."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from sidecar.snapshot import sqlite
from tests.snapshot.alone import SCENARIOS, scenario


def made(at: Path) -> sqlite3.Connection:
    db = sqlite3.connect(at, isolation_level=None)
    db.execute("PRAGMA journal_mode=wal")
    db.execute("CREATE TABLE t AS SELECT 1 AS x")
    return db


def holds(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT x FROM t").fetchall() == [(1,)]
    copy.unlink()


@scenario
def read_only_mount(base: Path) -> None:
    home, view = base / "home", base / "view"
    home.mkdir()
    view.mkdir()
    db = made(home / "x.db")
    subprocess.run(["mount", "--bind", str(home), str(view)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(view)], check=True)
    outcome = sqlite.copy(str(view / "x.db"), base / "copy")
    assert outcome.how == "live", outcome
    holds(base / "copy")
    db.close()
    outcome = sqlite.copy(str(view / "x.db"), base / "copy")
    assert outcome.how == "gap", outcome
    holds(base / "copy")


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
