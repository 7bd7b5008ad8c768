"""`python -m tests.recovery.cut BASE HUB REVISION [NUMBER]`: restore from a local Hub, in a process of its own.

With NUMBER it dies by SIGKILL before the NUMBER-th member of a bundle is made in staging. Prints the most memory that
it had, in kB.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from sidecar.snapshot import codec
from sidecar.stores.hub import HubStore
from tests.hub.identity import DEFAULT_TOKEN
from tests.recovery.world import World
from tests.stores.hubs import HASTY, REPO

_SHA = re.compile(r"(.*/)?[0-9a-f]{64}")


class HubWorld(World):
    """A world whose store is a dataset on the Hub at ``hub``."""

    hub = ""

    def open_store(self) -> Any:
        return HubStore(REPO, token=DEFAULT_TOKEN, endpoint=self.hub, cache_dir=self.base / "hf", patience=HASTY)


def die_before(number: int) -> None:
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        named = event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT and args[0]
        if isinstance(named, str) and _SHA.fullmatch(named):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> None:
    world = HubWorld(Path(sys.argv[1]))
    world.hub = sys.argv[2]
    if len(sys.argv) > 4:
        die_before(int(sys.argv[4]))
    world.restore(sys.argv[3], codec.decode((world.base / "manifest.json").read_bytes()))
    # Not ru_maxrss, which knows the process that we were started from.
    print(next(w.split()[1] for w in Path("/proc/self/status").read_text().splitlines() if w.startswith("VmHWM:")))


if __name__ == "__main__":
    main()
