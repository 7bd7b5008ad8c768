"""`python -m tests.snapshot.alone SCENARIO BASE`: scans and staging as another user, on mounts, on full disks.

Each scenario is a function here, run in a process and a mount namespace of its own, so that nothing of it is left
anywhere. Whatever fails ends in a traceback.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.snapshot.stage import Stage, stage
from tests.snapshot.disk import Disk, news

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS: dict[str, Callable[[Path], None]] = {}


def scenario(call: Callable[[Path], None]) -> Callable[[Path], None]:
    SCENARIOS[call.__name__] = call
    return call


def can_unshare() -> bool:
    tried = ["unshare", "-m", "true"]
    return os.geteuid() == 0 and bool(shutil.which("unshare")) and subprocess.run(tried, check=False).returncode == 0


def run_alone(name: str, module: str = "tests.snapshot.alone") -> None:
    """Run one of ``module``'s scenarios; what it prints on stderr is what the test fails with."""
    if not can_unshare():
        pytest.skip("needs root and mount namespaces")
    with tempfile.TemporaryDirectory(prefix="sidecar-alone-") as base:
        os.chmod(base, 0o755)
        argv = ["unshare", "-m", sys.executable, "-m", module, name, base]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-4000:]


def become(uid: int, *own: Path) -> None:
    """Go on as ``uid``, who owns ``own`` and all below it."""
    for path in own:
        for at in [path, *path.rglob("*")]:
            os.chown(at, uid, uid, follow_symlinks=False)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def tmpfs(at: Path, size: str = "1m") -> None:
    at.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], check=True)


def filled(base: Path) -> Disk:
    disk = Disk(base / "w")
    for path in ("open/a", "shut/b", "unlisted/c", "blind/d/e", "f"):
        at = disk.root / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(path)
    disk.learn()
    return disk


@scenario
def unreadable_places(base: Path) -> None:
    disk = filled(base)
    become(1000, base / "w")
    disk.learn()
    (disk.root / "shut").chmod(0)
    (disk.root / "unlisted").chmod(0o300)  # may be entered, not listed
    (disk.root / "blind").chmod(0o400)  # may be listed, nothing in it can be looked at
    modes = {"data/shut", "data/unlisted", "data/blind"}
    whole = disk.scan()
    assert news(whole)[:2] == (modes, set())
    assert set(whole.unreadable) == {"data/shut", "data/unlisted", "data/blind/d"}, whole.unreadable
    hinted = disk.hinted("shut/b", "unlisted/c", "blind/d/e")
    assert news(hinted)[:2] == (modes, set())
    assert set(hinted.unreadable) == {"data/shut/b", "data/blind/d"}, hinted.unreadable
    (disk.root / "unlisted" / "c").unlink()
    # ENOENT, but not under a folder that can be read.
    hinted = disk.hinted("unlisted/c")
    assert news(hinted)[:2] == ({"data/unlisted"}, set())
    assert set(hinted.unreadable) == {"data/unlisted/c"}
    assert disk.scan().missing == []
    (disk.root / "unlisted").chmod(0o700)
    assert disk.hinted("unlisted/c").missing == ["data/unlisted/c"]
    assert disk.scan().missing == ["data/unlisted/c"]


@scenario
def unreadable_root(base: Path) -> None:
    disk = filled(base)
    become(1000, base / "w")
    disk.learn()
    disk.root.chmod(0)
    assert set(disk.scan().unreadable) == {"data"}
    assert disk.scan().missing == []
    disk.root.chmod(0o755)
    (base / "w").chmod(0o300)  # the folder above
    shutil.rmtree(disk.root)
    scan = disk.scan()
    assert (scan.kind, scan.missing) == ("unreadable", []), scan
    (base / "w").chmod(0)
    scan = disk.scan()
    assert (scan.kind, scan.missing) == ("unreadable", []), scan
    (base / "w").chmod(0o700)
    assert disk.scan().kind == "absent"


@scenario
def volume_inside_goes(base: Path) -> None:
    disk = Disk(base / "w")
    tmpfs(disk.root / "vol")
    (disk.root / "vol" / "a").write_text("a")
    (disk.root / "b").write_text("b")
    disk.learn()
    subprocess.run(["umount", str(disk.root / "vol")], check=True)
    (disk.root / "b").unlink()
    for scan in (disk.scan(), disk.hinted("vol/a", "b"), disk.hinted("vol", "b")):
        assert scan.missing == ["data/b"], scan.missing
        assert set(scan.unreadable) == {"data/vol/a"}
        assert "another device" in scan.unreadable["data/vol/a"]
        assert "data/vol" not in {f.path for f in scan.touched + scan.changed}, "its old place is not unlearnt"


@scenario
def volume_covers(base: Path) -> None:
    disk = filled(base)
    tmpfs(disk.root / "open")
    for scan in (disk.scan(), disk.hinted("open/a")):
        assert scan.missing == []
        assert set(scan.unreadable) == {"data/open/a"}
    subprocess.run(["umount", str(disk.root / "open")], check=True)
    assert news(disk.scan()) == (set(), set(), {})
    tmpfs(disk.root)
    scan = disk.scan()
    assert (scan.kind, scan.missing) == ("unreadable", [])


# Staging


def stage_all(disk: Disk, folder: Path) -> Stage:
    return stage([f for f in disk.scan().changed if f.path != "data"], disk.index, folder)


@scenario
def full_staging(base: Path) -> None:
    disk = Disk(base / "w")
    tmpfs(base / "staging", "1m")
    (disk.root / "small").write_bytes(b"in memory")
    (disk.root / "big").write_bytes(b"x" * 3_000_000)
    done = stage_all(disk, base / "staging")
    assert [s.source for s in done.staged] == [b"in memory"]  # one file without room never blocks the rest
    assert "no room to copy its 3,000,000 bytes" in done.unreadable["data/big"]
    assert list((base / "staging").iterdir()) == []


@scenario
def holes_stay_holes(base: Path) -> None:
    disk = Disk(base / "w")
    tmpfs(base / "staging", "8m")
    with open(disk.root / "sparse", "wb") as out:
        out.seek(400_000_000)
        out.write(b"end")
    done = stage_all(disk, base / "staging")
    assert [s.entry.size for s in done.staged] == [400_000_003]
    assert os.stat(next((base / "staging").iterdir())).st_blocks * 512 < 3_000_000


@scenario
def mounted_in_a_files_place(base: Path) -> None:
    disk = filled(base)
    before = disk.root / "precious"
    before.write_text("x")
    disk.learn()
    before.unlink()
    tmpfs(before)
    for scan in (disk.scan(), disk.hinted("precious")):
        assert scan.missing == []
        assert set(scan.unreadable) == {"data/precious"}


@scenario
def database_without_room(base: Path) -> None:
    disk = Disk(base / "w")
    tmpfs(base / "staging", "1m")
    for mode in ("wal", "delete"):
        db = sqlite3.connect(disk.root / f"{mode}.db", isolation_level=None)
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE t AS SELECT zeroblob(3000000)")
        assert set(stage_all(disk, base / "staging").unreadable) == {f"data/{mode}.db"}
        assert list((base / "staging").iterdir()) == []
        db.close()
        (disk.root / f"{mode}.db").unlink()


@scenario
def unreadable_file(base: Path) -> None:
    disk = Disk(base / "w")
    (disk.root / "a").write_text("a")
    (disk.root / "b").write_text("b")
    (disk.root / "x.db").write_bytes(b"SQLite format 3\0")
    become(1000, base / "w")
    (disk.root / "a").chmod(0)
    (disk.root / "x.db").chmod(0)
    result = stage_all(disk, base / "w")
    assert set(result.unreadable) == {"data/a", "data/x.db"}
    assert [s.entry.path for s in result.staged] == ["data/b"]


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
    os._exit(0)  # no clean-up as another user
