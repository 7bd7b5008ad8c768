"""Journey (a): one Space over several lives, each ended in another way, its disk lost each time."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys.space import Space, living, tree

APP = """
import os, sqlite3, sys, time
disk, life, end = sys.argv[1], sys.argv[2], sys.argv[3]
os.makedirs(disk + "/data/deep/empty", exist_ok=True)
os.makedirs(disk + "/conf", exist_ok=True)
db = sqlite3.connect(disk + "/data/app.db")
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE IF NOT EXISTS lives (life TEXT)")
db.execute("INSERT INTO lives VALUES (?)", (life,))
db.commit()
with open(disk + "/data/life-%s.txt" % life, "w") as f: f.write("life " + life)
with open(os.fsencode(disk) + b"/data/odd \\xff\\n'name", "w") as f: f.write("odd " + life)
with open(disk + "/conf/.gitignore", "w") as f: f.write("*.txt\\n")
with open(disk + "/conf/kept.txt", "w") as f: f.write("in spite of .gitignore " + life)
os.chmod(disk + "/conf/kept.txt", 0o640)
if not os.path.islink(disk + "/data/link"): os.symlink("deep/nowhere", disk + "/data/link")
if life != "1": os.unlink(disk + "/data/life-%d.txt" % (int(life) - 1))
print("written", flush=True)
if end == "crash":
    db.close()
    sys.exit(3)
time.sleep(1000)
"""


@pytest.fixture(params=["folder", "hub"])
def space(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Space]:
    if request.param == "folder":
        with living(Space(tmp_path / "space", f"file://{tmp_path}/store")) as made:
            yield made
        return
    with LocalHub(tmp_path / "hub", process=True) as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": DEFAULT_TOKEN, "SPACE_ID": "alice/app"}
        with living(Space(tmp_path / "space", "", **settings)) as made:
            yield made


def test_three_restarts_each_ended_differently(space: Space) -> None:
    app = space.home / "app.py"
    app.write_text(APP)
    before: object = None
    for life, (how, code) in enumerate([("crash", 3), ("kill", None), ("term", 143), ("kill", None)], start=1):
        if life > 1:
            space.lose_disk()
        space.start(sys.executable, "-c", CHECKED, str(app), str(space.disk), str(life), how)
        assert space.process is not None
        if how == "crash":
            assert space.process.wait(30) == code, space.said()
        else:
            status = space.running()
            if life > 1:
                assert status["snapshots"][0]["bytes"] > 0, "what the lives before this one made is known"
            space.wait(lambda s: b"written" in space.log.read_bytes().rsplit(b"starting:", 1)[1])
            space.checkpoint()
            if how == "kill":
                space.kill()
            else:
                assert space.end(signal.SIGTERM) == code, space.said()
        seen = (space.home / "seen").read_text()
        if before is not None:
            assert seen == repr(before), f"life {life} started with something else\n{space.said()}"
        before = contents(space.disk)
    db = sqlite3.connect(space.disk / "data/app.db")
    assert [row[0] for row in db.execute("SELECT life FROM lives ORDER BY life")] == ["1", "2", "3", "4"]
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    assert "Traceback" not in space.said()


CHECKED = f"""
import runpy, sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from pathlib import Path
from tests.journeys.test_lives import contents
disk = Path(sys.argv[2])
(disk.parent / "seen").write_text(repr(contents(disk)))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def contents(disk: Path) -> object:
    """The disk, but for the database's own files, of which the rows count."""
    return {k: v for k, v in sorted(tree(disk).items()) if not os.path.basename(k).startswith("app.db")}


def test_a_second_start_finds_the_port_taken_and_goes_on(space: Space) -> None:
    import socket

    with socket.socket() as s:
        s.bind(("0.0.0.0", space.port))
        s.listen()
        space.start("sh", "-c", f"mkdir -p {space.disk}/data && echo x > {space.disk}/data/x")
        assert space.process is not None
        assert space.process.wait(20) == 0
    assert f"{space.port}" in space.said()
    assert "Traceback" not in space.said()
    space.lose_disk()
    space.start("cat", f"{space.disk}/data/x")
    assert space.process is not None
    assert space.process.wait(20) == 0, space.said()
