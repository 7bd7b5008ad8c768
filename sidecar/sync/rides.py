"""Small files that ride with the next commit: the recovery record, say, which is worth no snapshot of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping

ALONE_S = 10.0
"""What is to go along with a commit waits so long for one before it goes alone: a start that ends sooner has one."""
ALONE_AGAIN_S = 60.0


class Rides:
    """What waits for a commit: ``files`` are store paths with their bytes. ``alone_at``: when it goes by itself."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.alone_at = 0.0

    def put(self, files: Mapping[str, bytes]) -> None:
        """Let ``files`` wait; after a while they go alone."""
        self.files.update(files)
        self.alone_at = time.monotonic() + ALONE_S

    def try_later(self) -> None:
        """They are about to be sent: what fails is tried again later."""
        self.alone_at = time.monotonic() + ALONE_AGAIN_S

    def sent(self, rides: Mapping[str, bytes]) -> None:
        """A commit had ``rides``; what was put in their place meanwhile waits on."""
        self.files = {path: data for path, data in self.files.items() if rides.get(path) is not data}
