"""The app of `sidecar demo`: writes files and a table, then waits for SIGTERM. It knows nothing of the sidecar.

Called as ``demo_app.py NOTES DATA``. What it finds from an earlier life it only reads.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import sys
from pathlib import Path

ORDERS = 500


def write(notes: Path, data: Path) -> None:
    """The kinds of things that apps leave on a disk."""
    chance = random.Random()
    for number in range(12):
        note = notes / f"2026/{number + 1:02}" / f"note {number}.md"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"# Note {number}\n\n" + "a line of text\n" * chance.randrange(1, 200))
    (notes / "grüße, 'quoted'.txt").write_text("a name that needs care\n")
    (notes / "latest").symlink_to("2026/12/note 11.md")
    (notes / "drafts").mkdir()
    data.mkdir(exist_ok=True)
    (data / "model.bin").write_bytes(chance.randbytes(1 << 20))
    script = data / "run.sh"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o750)


def orders(database: sqlite3.Connection) -> tuple[int, int]:
    count, cents = database.execute("SELECT count(*), coalesce(sum(cents), 0) FROM orders").fetchone()
    return int(count), int(cents)


def main() -> int:
    notes, data = Path(sys.argv[1]), Path(sys.argv[2])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    fresh = not (data / "shop.db").exists()
    if fresh:
        write(notes, data)
    database = sqlite3.connect(data / "shop.db")
    if fresh:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents INTEGER)")
        rows = [(f"item {n}", random.randrange(100, 100_000)) for n in range(ORDERS)]
        database.executemany("INSERT INTO orders (item, cents) VALUES (?, ?)", rows)
        database.commit()
    count, cents = orders(database)
    what = "wrote notes" if fresh else "found my notes" if (notes / "latest").exists() else "found NO notes"
    print(f"app: {what}, and {count} orders worth {cents / 100:,.2f}", flush=True)
    # The database stays open, its newest rows in the write-ahead log: as it is when a container is killed.
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    (notes / "goodbye.txt").write_text("written after SIGTERM, in the last moment of this life\n")
    print("app: SIGTERM, wrote goodbye.txt, ending", flush=True)
    database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
