from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.cli.desk import Desk
from tests.recovery.world import World, fill


@pytest.fixture
def desk(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(capsysbinary, monkeypatch)


class Kept(World):
    """A world whose settings the desk has: what its roots hold can be made a snapshot of."""

    revisions: list[str]

    def keep(self) -> str:
        """One more snapshot of what the roots hold now; its revision."""
        self.revisions.append(self.snapshot()[0])
        return self.revisions[-1]


ODD = "odd \udcff\n\x1b[31mname"
"""A file's name that is not UTF-8 and would colour a terminal."""


def furnished(base: Path) -> Kept:
    """Two roots, `data` (a folder) and `conf` (one file), and two snapshots of them, 1.1 and 1.2."""
    made = Kept(base, ("data", "conf"))
    made.revisions = []
    data = made.root
    fill(data, {"a.txt": "one\n", "sub/b.bin": bytes(range(256)), "sub/run.sh": "#!/bin/sh\n", "gone": "soon"})
    fill(data, {ODD: "odd"})
    (data / "empty").mkdir()
    (data / "link").symlink_to("a.txt")
    Path(made.roots[1].path).write_text("[conf]\n")
    db = sqlite3.connect(data / "app.db")
    db.executescript("CREATE TABLE t (n); INSERT INTO t VALUES (1), (2);")
    db.close()
    made.keep()
    (data / "a.txt").write_text("one\ntwo\n")
    (data / "gone").unlink()
    (data / "new").write_text("new\n")
    (data / "sub/run.sh").chmod(0o750)
    made.keep()
    return made


def settings(world: World) -> dict[str, str | None]:
    return {
        "SIDECAR_PATHS": "".join(f"{r.name}={r.path}\n" for r in world.roots),
        "SIDECAR_STORE": f"file://{world.base}/store",
        "SIDECAR_STATE_DIR": str(world.state),
    }


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return furnished(tmp_path_factory.mktemp("world"))


@pytest.fixture
def shelf(desk: Desk, _shared: Kept) -> Kept:
    """A furnished world that many tests look at: nobody may change it."""
    desk.set(**settings(_shared))
    return _shared


@pytest.fixture
def world(desk: Desk, tmp_path: Path) -> Kept:
    """A furnished world of the test's own."""
    made = furnished(tmp_path)
    desk.set(**settings(made))
    return made
