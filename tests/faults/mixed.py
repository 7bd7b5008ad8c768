"""The app of the long run: files, a database, renames and deletes without a pause, until it is asked for one.

usage: mixed.py DISK HOME SEED
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import sys
import time
from pathlib import Path

MOST = 150
ACCOUNTS, EACH = 20, 1000


def main() -> None:
    disk, home, rng = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    data = disk / "data"
    data.mkdir(exist_ok=True)
    db = sqlite3.connect(data / "bank.db", timeout=10, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, has INTEGER NOT NULL)")
    db.executemany("INSERT OR IGNORE INTO accounts VALUES (?, ?)", [(n, EACH) for n in range(ACCOUNTS)])
    while not (home / "pause").exists():
        step(data, rng)
        transfer(db, rng)
        time.sleep(0.02)
    db.close()
    (home / "paused").touch()
    while True:
        time.sleep(1)


def step(data: Path, rng: random.Random) -> None:
    """One change of the files; what isn't there any more is no error."""
    files = [Path(at) / name for at, _, names in os.walk(data) for name in names if not name.startswith("bank.db")]
    target = data / rng.choice("abcdef") / rng.choice(["", "deep", "deep/er"]) / f"{rng.randrange(300)}.txt"
    what = rng.choice(["write", "write", "append", "rename", "delete", "link", "folder"])
    with contextlib.suppress(OSError):
        if what == "write" and len(files) < MOST:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(rng.randbytes(rng.choice([0, 10, 1000, 20_000])))
        elif what == "append" and files:
            with open(rng.choice(files), "ab") as file:
                file.write(rng.randbytes(100))
        elif what == "rename" and files:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(rng.choice(files), target)
        elif what == "delete" and len(files) > MOST // 2:
            rng.choice(files).unlink()
        elif what == "link":
            target.parent.mkdir(parents=True, exist_ok=True)
            target.with_suffix(".link").symlink_to(f"{rng.randrange(300)}.txt")
        elif what == "folder" and rng.random() < 0.05:
            shutil.rmtree(data / rng.choice("abcdef") / "deep")


def transfer(db: sqlite3.Connection, rng: random.Random) -> None:
    a, b, amount = rng.randrange(ACCOUNTS), rng.randrange(ACCOUNTS), rng.randrange(100)
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE accounts SET has = has - ? WHERE id = ?", (amount, a))
    db.execute("UPDATE accounts SET has = has + ? WHERE id = ?", (amount, b))
    db.execute("COMMIT")


if __name__ == "__main__":
    main()
