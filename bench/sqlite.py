"""SQLite under load: what a snapshot costs its writer, whether each one is whole, and what a large one sends."""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench.figure import Figure
from bench.hubs import command, fresh
from sidecar.recovery.reading import read_manifest
from sidecar.recovery.restore import restore_to
from sidecar.snapshot.manifest import TITLE
from sidecar.state import RestoreProgress
from sidecar.stores.folder import FolderStore
from tests.hub.server import LocalHub
from tests.journeys.space import Space, living
from tests.snapshot.bank import audit, teller

SNAPSHOTS = 200
WITHIN_S = 1500
"""For all of them: a writer in DELETE mode leaves a gap every five seconds where nothing else slows it down."""
ACCOUNTS, PAD = 50, 3000
LARGE = 1 << 30
ROWS = 100


def measure(folder: Path) -> Iterator[Figure]:
    for mode in ("WAL", "DELETE"):
        yield from _bank(folder / mode, mode)
    yield from _large(folder / "large")


def _bank(folder: Path, mode: str) -> Iterator[Figure]:
    """Transfers at full speed while one snapshot follows the other; then each of these is restored."""
    settings = {"SIDECAR_COMMITS_PER_HOUR": "100000"}
    with living(
        Space(folder / "space", f"file://{folder}/store", f"data={folder}/space/disk/data", **settings)
    ) as space:
        at = space.disk / "data/bank.db"
        at.parent.mkdir()
        # A teller alone first: what it waits for without us, on this machine as it is now.
        busy_ms = 0 if mode == "WAL" else 1000
        with teller(at, f"journal_mode={mode}", timeout_ms=busy_ms, accounts=ACCOUNTS, pad=PAD) as alone:
            time.sleep(10)
            bare = alone.stop()
        space.start()
        space.running()
        ids = set()
        began = time.monotonic()
        with teller(at, f"journal_mode={mode}", timeout_ms=busy_ms, accounts=ACCOUNTS, pad=PAD) as working:
            while len(ids) < SNAPSHOTS and time.monotonic() < began + WITHIN_S:
                status, body = space.post("/checkpoint")
                if status == 200:
                    ids.add(body["snapshot"])
                elif status != 422:  # no gap was found: the last good copy stays, flagged
                    raise AssertionError((status, body, space.said()))
            fared = working.stop()
        took = time.monotonic() - began
        space.end()
    wrong = asyncio.run(_audited(folder))
    whole, bad = len(wrong) - sum(map(bool, wrong)), [w for w in wrong if w]
    how = f"{fared['done']:,} transfers in {took:.0f} s, {len(ids)} snapshots, worst {fared['worst']:.0f} ms"
    how += f"; alone p99 {bare['p99']:.2f}, worst {bare['worst']:.0f} ms"
    goal = 20 if mode == "WAL" else math.inf
    yield Figure(f"SQLite {mode}: writer stall p99 meanwhile", fared["p99"], goal, "ms", how)
    yield Figure(f"SQLite {mode}: SQLITE_BUSY seen by the writer", fared["busy"], 0, "", f"busy_timeout {busy_ms} ms")
    yield Figure(f"SQLite {mode}: restored snapshots that are wrong", len(bad), 0, "", f"{whole} are whole; {bad[:1]}")
    missing, limit = max(SNAPSHOTS - len(wrong), 0), f"in {WITHIN_S // 60} minutes"
    yield Figure(f"SQLite {mode}: snapshots missing of {SNAPSHOTS}", missing, 0, "", limit)


async def _audited(folder: Path) -> list[str]:
    """What is wrong with the bank in each snapshot of the store, "" for nothing; one that has no bank is left out."""
    store, out = FolderStore(str(folder / "store")), []
    try:
        for number, commit in enumerate(await store.history(10_000)):
            if not commit.title.startswith(TITLE):
                continue
            manifest = await read_manifest(store, commit.revision, folder)
            assert manifest is not None
            entry = manifest.entries.get("data/bank.db")
            if entry is None or not entry.size:
                continue
            to = folder / f"to-{number}"
            await restore_to(store, commit.revision, manifest, to, progress=RestoreProgress())
            out.append(audit(to / "data/bank.db"))
            (to / "data/bank.db").unlink()
    finally:
        await store.close()
    return out


def _large(folder: Path) -> Iterator[Figure]:
    """What small changes of a database of 1 GB send over Xet, and how it is paced."""
    with LocalHub(folder / "hub", process=True) as hub, living(fresh(folder / "space", hub, {})) as space:
        at = space.disk / "data/large.db"
        at.parent.mkdir()
        with closing(sqlite3.connect(at, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, b BLOB)")
            rng, each = random.Random(1), 3000
            db.execute("BEGIN")
            db.executemany("INSERT INTO a VALUES (?, ?)", ((n, rng.randbytes(each)) for n in range(LARGE // 4096)))
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            began = time.monotonic()
            space.start()
            space.wait(lambda status: status["roots"][0]["bytes"] >= LARGE // 2 and not status["sync"]["pending"], 600)
            first, took = _sent(hub), time.monotonic() - began
            sent, seconds = [], []
            for _ in range(3):
                for number in rng.sample(range(LARGE // 4096), ROWS):
                    db.execute("UPDATE a SET b = ? WHERE id = ?", (rng.randbytes(each), number))
                time.sleep(3)
                paced = space.get()["sync"]["paced"]
                hub.reset()
                began = time.monotonic()
                command(space, "checkpoint", "--timeout", "2m")
                sent.append(_sent(hub))
                seconds.append(time.monotonic() - began)
    size = LARGE // 4096 * 4096
    how = f"{ROWS} rows anew, a checkpoint; {', '.join(f'{s:.1f}' for s in seconds)} s"
    yield Figure("SQLite 1 GB, first snapshot: bytes sent", first / size, 1.1, "x", f"of the database; {took:.0f} s")
    yield Figure("SQLite 1 GB, small changes: bytes sent over Xet", max(sent) / 1e6, 100, "MB", how)
    yield Figure("SQLite 1 GB: held back until its turn", 1 - paced, 0, "", "an automatic sync after the change")


def _sent(hub: LocalHub) -> int:
    return sum(c["bytes_in"] for c in hub.counters().values())
