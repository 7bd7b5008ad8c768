"""The app of the crash campaign: checks what was acknowledged to earlier lives, then writes and has it acknowledged.

usage: writer.py DISK HOME STATE [check]
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

FILES = 40
SHELF = 300
"""Files of another root, which are written once: enough of them that a kill may come in the middle of a restore."""
SHELF_NAME = "the shelf"
FROZEN = "frozen"
JOURNAL = "restore-journal.jsonl"
STAGING = ".sidecar-tmp-"


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def main() -> None:
    disk, home, state = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    (disk / "data").mkdir(exist_ok=True)
    newest = acknowledged(home, before_frozen(home, state))
    with open(home / "wrong", "a") as out:
        for line in wrong(disk, state, newest):
            out.write(f"{time.time():.1f} {line}\n")
    with open(home / "begun", "a") as out:
        out.write(".")
    if sys.argv[4:] != ["check"]:
        if SHELF_NAME not in newest:
            fill(disk, home, state)
        write(disk, home, state, len(newest))


def before_frozen(home: Path, state: Path) -> int | None:
    """How many lines of the ledger a container must know of that was frozen before it began main; None: of all.

    Another one holds the lease since. What that had acknowledged is in the main line, and no business of who is fenced.
    """
    frozen = home / FROZEN
    whose, lines = frozen.read_text().split("\n") if frozen.exists() else ("", "")
    return int(lines) if whose == str(state) else None


def acknowledged(home: Path, most: int | None) -> Mapping[str, int]:
    """The newest version of each file that a checkpoint has confirmed, by the first ``most`` lines of the ledger."""
    ledger = home / "ledger"
    lines = ledger.read_text().splitlines()[:most] if ledger.exists() else []
    newest: dict[str, int] = {}
    for entry in map(json.loads, lines):
        newest[entry["name"]] = max(entry["version"], newest.get(entry["name"], 0))  # two may write it at a time
    return newest


def wrong(disk: Path, state: Path, newest: Mapping[str, int]) -> Iterator[str]:
    """What a main that starts must never find: each finding in a line."""
    for name, version in newest.items():
        if name == SHELF_NAME:
            continue
        # It may be newer than what was acknowledged, never older; each file says itself whether it is whole.
        found = version_of(disk / "data" / name)
        if found < version:
            yield f"{name}: version {found} instead of {version} (-1 torn, -2 missing)"
    for name in {path.name for path in (disk / "data").iterdir()} - newest.keys():
        if not name.startswith(STAGING) and version_of(disk / "data" / name) == -1:
            yield f"{name}: torn"
    if SHELF_NAME in newest:
        whole = sum(path.read_bytes() == data for path, data in shelf(disk) if path.exists())
        if whole < SHELF:
            yield f"half restored: {whole} of {SHELF} files of a root are there and whole"
    if (state / JOURNAL).exists():
        yield "main was started on a restore that is half in place"


def shelf(disk: Path) -> Iterator[tuple[Path, bytes]]:
    """The files of the other root, and what stands in each."""
    for n in range(SHELF):
        yield disk / "conf" / f"{n % 7}" / f"{n}", hashlib.sha256(b"%d" % n).digest() * (n % 50)


def fill(disk: Path, home: Path, state: Path) -> None:
    """Write the other root, and have it acknowledged as a whole."""
    for path, data in shelf(disk):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if checkpoint(state):
        note(home, SHELF_NAME, 1)


def note(home: Path, name: str, version: int) -> None:
    """Remember, come what may, that this was acknowledged."""
    with open(home / "ledger", "a") as out:
        out.write(json.dumps({"name": name, "version": version}) + "\n")
        out.flush()
        os.fsync(out.fileno())


def write(disk: Path, home: Path, state: Path, number: int) -> None:
    while True:
        name = f"f{number % FILES}"
        version = time.time_ns()
        body = version.to_bytes(8, "big") + os.urandom(200 + number % 5000)
        scratch = disk / f".{name}"
        scratch.write_bytes(hashlib.sha256(body).digest() + body)
        os.rename(scratch, disk / "data" / name)
        number += 1
        if checkpoint(state):
            note(home, name, version)
        time.sleep(0.05)


def checkpoint(state: Path) -> bool:
    try:
        connection = _Unix(f"{state}/agent.sock")
        connection.request("POST", "/checkpoint")
        good = connection.getresponse().status == 200
        connection.close()
        return good
    except (OSError, http.client.HTTPException):
        return False


def version_of(path: Path) -> int:
    """The version that a file says it is; -1 where its checksum doesn't hold, -2 where there is none."""
    try:
        data = path.read_bytes()
    except OSError:
        return -2
    return int.from_bytes(data[32:40], "big") if hashlib.sha256(data[32:]).digest() == data[:32] else -1


if __name__ == "__main__":
    main()
