"""A store that is many files, kept as LevelDB keeps one: CURRENT names a manifest, that one names a log and tables.

Run as a program it writes such a store without end. Every record has a checksum and the next number, each number is
in exactly one file that is named, and ``refs/head`` (another folder) names a number that the store must have: what was
not captured at one moment doesn't open.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

HEAD = struct.Struct("<IIQ")  # crc32 of what follows, length of the payload, the record's number
RECORDS = 40
"""What a log takes before it is made into a table."""
TABLES = 6
"""Tables that are there before they are merged into one; the numbers below the newest 2 * RECORDS * TABLES go."""
EDITS = 4
"""What a manifest takes before the next one follows it."""


class Torn(Exception):
    """The store doesn't open: what it is made of isn't of one moment."""


def record(number: int, payload: bytes) -> bytes:
    body = HEAD.pack(0, len(payload), number)[4:] + payload
    return struct.pack("<I", zlib.crc32(body)) + body


def records(path: Path, *, live: bool) -> Iterator[tuple[int, bytes]]:
    """The numbers and payloads in a file. A ``live`` one may end within a record, as after a crash."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Torn(f"{path.name} is named and isn't there") from None
    at = 0
    while at < len(data):
        end = at + HEAD.size
        if end <= len(data):
            crc, length, number = HEAD.unpack_from(data, at)
            end += length
        if end > len(data):
            if live:
                return
            raise Torn(f"{path.name} ends within a record")
        if zlib.crc32(data[at + 4 : end]) != crc:
            raise Torn(f"{path.name} has a wrong checksum at {at}")
        yield number, data[at + HEAD.size : end]
        at = end


def opened(folder: Path) -> int:
    """Read all that is named and check it; the number of the newest record. Raises Torn."""
    store = folder / "store"
    try:
        current = (store / "CURRENT").read_text()
    except FileNotFoundError:
        raise Torn("CURRENT isn't there") from None
    if not current.endswith("\n"):
        raise Torn("CURRENT is cut")
    edit: dict[str, object] = {}
    for _, payload in records(store / current.strip(), live=True):
        edit = json.loads(payload)
    if not edit:
        raise Torn(f"{current.strip()} has no whole record")
    tables, log = edit["tables"], edit["log"]
    assert isinstance(tables, list)
    numbers = [n for name in tables for n, _ in records(store / name, live=False)]
    numbers += [n for n, _ in records(store / str(log), live=True)]
    first = int(str(edit["first"]))
    if numbers != list(range(first, first + len(numbers))):
        raise Torn(f"the records from {first} on are not there one by one: {len(numbers)}, the last {numbers[-1:]}")
    last = numbers[-1] if numbers else first - 1
    try:
        head = int((folder / "refs" / "head").read_text())
    except FileNotFoundError:
        raise Torn("refs/head isn't there") from None
    if head > last:
        raise Torn(f"refs/head says {head}, the store ends at {last}")
    return last


class Writer:
    """Writes the store; as LevelDB it never changes what it has written, but for the ends of log and manifest."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.store, self.refs, self.rng = folder / "store", folder / "refs", random.Random(seed)
        self.store.mkdir(parents=True, exist_ok=True)
        self.refs.mkdir(exist_ok=True)
        self.file = 0
        self.number, self.first = 0, 1
        self.tables: list[tuple[str, int]] = []  # with the first number that each has
        self.held: list[bytes] = []
        self.log = self.name("log")
        self.log_at = os.open(self.store / self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        self.manifest_at, self.edits = -1, EDITS
        self.switch()

    def name(self, ending: str) -> str:
        self.file += 1
        return f"{self.file:06}.{ending}"

    def edit(self) -> None:
        payload = {"first": self.first, "tables": [name for name, _ in self.tables], "log": self.log}
        os.write(self.manifest_at, record(self.file, json.dumps(payload).encode()))
        self.edits += 1

    def switch(self) -> None:
        """The next manifest, then CURRENT renamed to name it, then the old one goes."""
        old = (self.store / "CURRENT").read_text().strip() if (self.store / "CURRENT").exists() else None
        if self.manifest_at >= 0:
            os.close(self.manifest_at)
        self.file += 1
        new = f"MANIFEST-{self.file:06}"
        self.manifest_at = os.open(self.store / new, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        self.edits = 0
        self.edit()
        scratch = self.store / f"{self.file:06}.dbtmp"
        scratch.write_text(f"{new}\n")
        os.rename(scratch, self.store / "CURRENT")
        if old:
            os.unlink(self.store / old)

    def add(self) -> None:
        self.number += 1
        data = record(self.number, self.rng.randbytes(self.rng.choice((20, 200, 2000))))
        os.write(self.log_at, data)
        self.held.append(data)
        if self.number % 10 == 0:
            scratch = self.refs / "head.new"
            scratch.write_text(str(self.number))
            os.rename(scratch, self.refs / "head")
        if len(self.held) >= RECORDS:
            self.rotate()

    def rotate(self) -> None:
        """The log becomes a table; the oldest tables go once there are too many."""
        table = self.name("ldb")
        (self.store / table).write_bytes(b"".join(self.held))
        self.tables.append((table, self.number - len(self.held) + 1))
        gone, os_log = [self.log], self.log_at
        self.held, self.log = [], self.name("log")
        self.log_at = os.open(self.store / self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.close(os_log)
        if len(self.tables) > TABLES:
            gone += [name for name, _ in self.tables[: -TABLES // 2]]
            self.tables = self.tables[-TABLES // 2 :]
            self.first = self.tables[0][1]
        if self.edits >= EDITS:
            self.switch()
        else:
            self.edit()
        for name in gone:
            os.unlink(self.store / name)


def main() -> None:
    """``levels FOLDER [SEED [BURST PAUSE]]``: at full speed, or for up to BURST seconds, then none for up to PAUSE."""
    folder, given = Path(sys.argv[1]), [float(each) for each in sys.argv[2:]]
    seed, burst, pause = (*given, 0.0, 0.0, 0.0)[:3]
    rng = random.Random(seed)
    writer = Writer(folder, int(seed))
    while os.getppid() != 1:  # nobody is left who would end it
        until = time.monotonic() + (rng.uniform(0, burst) if burst else 1.0)
        while time.monotonic() < until:
            writer.add()
        time.sleep(rng.uniform(0, pause) if pause else 0)


if __name__ == "__main__":
    main()
