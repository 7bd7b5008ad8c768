"""The app of the crash campaign: checks what was acknowledged to earlier lives, then writes and has it acknowledged."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import sys
import time
from pathlib import Path


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def main() -> None:
    disk, home, state = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    ledger, wrong = home / "ledger", home / "wrong"
    (disk / "data").mkdir(exist_ok=True)
    newest = {}
    for line in ledger.read_text().splitlines() if ledger.exists() else []:
        entry = json.loads(line)
        newest[entry["name"]] = entry["version"]
    for name, version in newest.items():
        path = disk / "data" / name
        # It may be newer than what was acknowledged, never older; each file says itself whether it is whole.
        found = version_of(path.read_bytes()) if path.exists() else -2
        if found < version:
            with open(wrong, "a") as out:
                out.write(f"{time.time():.1f} {name}: version {found} instead of {version} (-1 torn, -2 missing)\n")
    if sys.argv[4:] == ["check"]:
        return
    number = len(newest)
    while True:
        name = f"f{number % 40}"
        version = time.time_ns()
        body = version.to_bytes(8, "big") + os.urandom(200 + number % 5000)
        data = hashlib.sha256(body).digest() + body
        scratch = disk / f".{name}"
        scratch.write_bytes(data)
        os.rename(scratch, disk / "data" / name)
        number += 1
        try:
            connection = _Unix(f"{state}/agent.sock")
            connection.request("POST", "/checkpoint")
            good = connection.getresponse().status == 200
            connection.close()
        except OSError:
            good = False
        if good:
            with open(ledger, "a") as out:
                out.write(json.dumps({"name": name, "version": version}) + "\n")
                out.flush()
                os.fsync(out.fileno())
        time.sleep(0.05)


def version_of(data: bytes) -> int:
    """The version that a file says it is, or -1 where its checksum doesn't hold."""
    return int.from_bytes(data[32:40], "big") if hashlib.sha256(data[32:]).digest() == data[:32] else -1


if __name__ == "__main__":
    main()
