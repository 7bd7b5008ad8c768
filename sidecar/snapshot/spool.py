"""Many small copies in one file: a hundred thousand files made and removed again cost a minute of CPU."""

from __future__ import annotations

import os
from pathlib import Path

from sidecar.records import record


@record(frozen=True, slots=True)
class Slice:
    """``size`` bytes at ``offset`` of the file ``path``."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Raises OSError where they are gone."""
        with open(self.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), self.size, self.offset)
        if len(data) != self.size:
            raise OSError(f"{self.path} is cut off")
        return data


class Spool:
    """The file ``path``, made with the first bytes that are added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._end = 0

    def add(self, data: bytes) -> Slice:
        """Append ``data``. Raises OSError; then nothing of it counts."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        view, at = memoryview(data), self._end
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written
        added = Slice(self.path, self._end, len(data))
        self._end = at
        return added

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
