"""The agent's end of the socket to its supervisor: lines of ``verb arg…``, both ways (see ``pipe``)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

ALIVE_S = 2.0
_LINE = 4096


@dataclass(slots=True)
class Main:
    """What is known of the main process; ``exited`` holds its shell code."""

    pid: int | None = None
    exited: int | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Orders:
    """What the supervisor asked for: monotonic deadlines, once they are known."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    final: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    until: float | None = None


class Link:
    """Says what the agent has to say, and turns what it hears into events. Without a socket it is silent."""

    def __init__(self, fd: int | None) -> None:
        self.main = Main()
        self.orders = Orders()
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        if fd is not None:
            self._socket = socket.socket(fileno=fd)
            self._socket.setblocking(False)
            self._socket.set_inheritable(False)

    @property
    def supervised(self) -> bool:
        return self._socket is not None

    def start(self) -> None:
        if self._socket is not None:
            self._task = asyncio.create_task(self._listen(self._socket))

    def close(self) -> None:
        """Hear and say no more."""
        if self._task is not None:
            self._task.cancel()
        if self._socket is not None:
            self._socket.close()

    async def _listen(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        rest = b""
        while True:
            try:
                data = await loop.sock_recv(sock, _LINE)
            except OSError:
                data = b""
            if not data:
                self.orders.gone.set()
                return
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-_LINE:]
            for line in lines:
                with contextlib.suppress(ValueError, IndexError):
                    self._hear(line.decode("ascii", "replace").split())

    def _hear(self, words: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        if words[:2] == ["main", "started"]:
            self.main.pid = int(words[2])
            self.main.started.set()
        elif words[:2] == ["main", "exited"]:
            self.main.exited = int(words[2])
        elif words[:1] == ["stop"]:
            self.orders.until = loop.time() + _seconds(words[1])
            self.orders.stop.set()
        elif words[:1] == ["final"]:
            self.orders.until = loop.time() + _seconds(words[1])
            self.orders.final.set()

    def say(self, *words: object) -> None:
        """Send one line; one that the supervisor can't take now is lost, as it would be if it were gone."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(" ".join(map(str, words)).encode() + b"\n")

    def hand_over(self, fds: Sequence[int]) -> None:
        """Give the supervisor, and through it main, copies of the locks' descriptors."""
        if self._socket is not None and fds:
            with contextlib.suppress(OSError):
                socket.send_fds(self._socket, [b"locks\n"], list(fds))


def _seconds(word: str) -> float:
    """Raises ValueError for what is no time to wait: a deadline that is no number would never pass."""
    seconds = float(word)
    if not 0 <= seconds <= 86400:
        raise ValueError(word)
    return seconds
