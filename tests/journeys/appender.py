"""A main program that never rests: one new file after the other, each followed by a checkpoint, and a ledger of both.

``appender.py DISK PORT LEDGER TAG``. A line of the ledger is a file's name and the status that its checkpoint got.
"""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def main() -> None:
    disk, port, ledger, tag = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    (disk / "data").mkdir(parents=True, exist_ok=True)
    number = 0
    with open(ledger, "a") as out:
        while True:
            number += 1
            name = f"{tag}-{number}"
            (disk / "data" / name).write_text(name * 50)
            out.write(f"{name} {checkpoint(port)}\n")
            out.flush()
            time.sleep(0.02)


def checkpoint(port: str) -> int:
    """The status of the answer; 0 where none came."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/checkpoint", method="POST"), timeout=20
        ) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


if __name__ == "__main__":
    main()
