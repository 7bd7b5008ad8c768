"""`python -m tests.hub --port 0 --data DIR --token hf_x=user:write`: prints its URL, serves until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from tests.hub.identity import ROLES, Token
from tests.hub.serving import prepare
from tests.hub.state import Hub


def _token(text: str) -> Token:
    value, _, holder = text.partition("=")
    user, _, role = holder.partition(":")
    if not value or not user or (role or "write") not in ROLES:
        raise argparse.ArgumentTypeError(f"use TOKEN=USER[:{'|'.join(ROLES)}], not {text!r}")
    return Token(value, user, role or "write")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hub", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--data", type=Path, help="where repos are kept; default: a temporary folder")
    parser.add_argument("--token", type=_token, action="append", default=[], metavar="TOKEN=USER[:ROLE]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="local-hub-") as scratch:
        hub = Hub(options.data or Path(scratch))
        for token in options.token:
            hub.identity.tokens[token.value] = token
        hub.save()
        try:
            server, sockets = prepare(hub, options.port)
        except OSError as exc:
            why = os.strerror(exc.errno or 0)
            print(f"local hub: port {options.port} can't be bound: {why}", file=sys.stderr)
            return 1
        print(f"http://{hub.host}", flush=True)
        asyncio.run(server.serve(sockets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
