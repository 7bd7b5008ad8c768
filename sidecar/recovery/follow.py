"""Hashing a file while it is still being written, and sending it on its way to the disk.

A gigabyte that is hashed and flushed only when it has come takes as long again; its bytes are in memory now.
"""

from __future__ import annotations

import os
import threading
from hashlib import sha256
from pathlib import Path

from sidecar.recovery.copying import begin_writing
from sidecar.recovery.meter import Stopped
from sidecar.recovery.tree import PIECE, Tick

_WAKE = 4 * PIECE
_FLUSH = 16 * PIECE
_LOOK_S = 0.5


class Follower:
    """Reads ``path`` (made where it is missing) in a thread of its own, as far as it has come.

    ``start``: how long it is already. ``more`` says, from one thread, how much was appended. Every ``Follower``
    is to be ended by ``finish``. Raises OSError.
    """

    def __init__(self, path: Path, tick: Tick) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.start = os.fstat(self.fd).st_size
        self._tick = tick
        self._total, self._at, self._flushed = sha256(), 0, 0
        self._woken, self._over, self._come = threading.Event(), False, 0
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sidecar-follow", daemon=True)
        self._thread.start()

    def more(self, size: int) -> None:
        self._come += size
        if self._come >= _WAKE:  # for each piece that a socket brings the two threads would only wait for each other
            self._come = 0
            self._woken.set()

    def finish(self) -> tuple[str, int]:
        """All was written, or nothing more will be: the sha256 (hex) and size of what is there. Blocks."""
        self._over = True
        self._woken.set()
        self._thread.join()
        os.close(self.fd)
        if isinstance(self._error, Stopped):
            return "", 0  # nobody waits for it
        if self._error is not None:
            raise self._error
        return self._total.hexdigest(), self._at

    def _run(self) -> None:
        try:
            buffer = bytearray(PIECE)
            while True:
                over = self._over
                self._woken.clear()
                self._read(memoryview(buffer))
                if over:
                    return
                self._woken.wait(_LOOK_S)
        except Exception as error:
            self._error = error

    def _read(self, buffer: memoryview) -> None:
        while count := os.preadv(self.fd, [buffer], self._at):
            self._total.update(buffer[:count])
            self._at += count
            if self._at - self._flushed >= _FLUSH:
                begin_writing(self.fd, self._flushed, self._at - self._flushed)
                self._flushed = self._at
            if self._at > self.start:  # the rest is what an earlier attempt brought: no progress
                self._tick()
