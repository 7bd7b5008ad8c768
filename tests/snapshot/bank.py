"""A bank in a SQLite database: money moves between accounts without a pause, and their sum is always the same."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EACH = 100

# argv: database, pragmas, pause between transfers, busy timeout in ms, accounts, bytes that each account is padded to.
# It says "ready", then works until SIGTERM, and tells how it fared.
TELLER = f"""
import json, random, signal, sqlite3, sys, time
at, pragmas, pause, timeout, accounts, pad = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:7])
accounts, pad = int(accounts), int(pad)
db = sqlite3.connect(at, isolation_level=None, timeout=0)
for pragma in pragmas.split(","):
    if pragma:
        db.execute("PRAGMA " + pragma).fetchall()
db.execute("CREATE TABLE IF NOT EXISTS a (id INTEGER PRIMARY KEY, n INTEGER, pad BLOB)")
if not db.execute("SELECT count(*) FROM a").fetchone()[0]:
    db.execute("BEGIN")
    rows = ((i, {EACH}, random.randbytes(pad)) for i in range(accounts))
    db.executemany("INSERT INTO a VALUES (?, ?, ?)", rows)
    db.execute("COMMIT")
db.execute(f"PRAGMA busy_timeout={{int(timeout)}}")
on = True
def stop(*_):
    global on
    on = False
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
busy, stalls, cpu = 0, [], time.process_time()
while on and len(stalls) < 2_000_000:
    x, y = random.sample(range(accounts), 2)
    began = time.perf_counter()
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE a SET n = n - 1, pad = ? WHERE id = ?", (random.randbytes(pad), x))
        db.execute("UPDATE a SET n = n + 1 WHERE id = ?", (y,))
        db.execute("COMMIT")
    except sqlite3.OperationalError as error:
        busy += 1
        if db.in_transaction:
            db.execute("ROLLBACK")
    stalls.append(time.perf_counter() - began)
    if pause:
        time.sleep(pause)
stalls.sort()
share = lambda part: stalls[min(len(stalls) - 1, int(len(stalls) * part))] * 1000 if stalls else 0.0
print(json.dumps(dict(done=len(stalls) - busy, busy=busy, p50=share(.5), p99=share(.99), p999=share(.999),
    worst=share(1), cpu=time.process_time() - cpu)), flush=True)
"""


@dataclass
class Teller:
    """A process that moves money; ``stop`` ends it and says how it fared: done, busy, and stalls in ms."""

    process: subprocess.Popen[str]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        fared: dict[str, Any] = json.loads(out)
        return fared


@contextmanager
def teller(
    at: Path, pragmas: str, *, pause: float = 0.0, timeout_ms: int = 0, accounts: int = 50, pad: int = 3000
) -> Iterator[Teller]:
    """A teller at work in another process; ``pragmas`` are separated by commas."""
    argv = [sys.executable, "-I", "-S", "-c", TELLER, str(at), pragmas, str(pause), str(timeout_ms)]
    process = subprocess.Popen(
        [*argv, str(accounts), str(pad)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        yield Teller(process)
    finally:
        process.kill()
        process.communicate()


def audit(copy: Path) -> str:
    """What is wrong with a copy that should be whole and stand alone; "" where nothing is."""
    beside = [ending for ending in ("-wal", "-shm", "-journal") if Path(f"{copy}{ending}").exists()]
    if beside:
        return f"{beside} stand beside it"
    with closing(sqlite3.connect(copy)) as db:
        found = db.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            return str(found)
        n, s = db.execute("SELECT count(*), sum(n) FROM a").fetchone()
        return "" if s == n * EACH else f"{n} accounts hold {s}"
