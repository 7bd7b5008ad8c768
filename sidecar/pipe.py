"""The agent as the supervisor sees it: one process, and a socket on which each line is ``verb arg…``.

What comes over that socket is believed as little as anything from outside: a confused agent may flood
it, tear lines or send garbage, and main goes on.
"""

from __future__ import annotations

import _socket
import os
import select
import signal
import sys
import time

from sidecar import family, pid1

_LINE = 4096  # bytes, the protocol's bound
_READ = 16384  # bytes at a time
_UNSENT = 65536  # bytes that an agent may leave unread
_FDS = 64  # descriptors in one message, and kept in all
_KEPT = 64  # keys
_REST = 0.05  # seconds until a socket that had more than _READ waiting is read again
_VERBS = {"hello": 2, "alive": 0, "keep": 2, "locks": 0, "ready": 0, "fail": 1, "done": 0}


class Lines:
    """Bytes in, whole lines out; a line over the bound is dropped up to its end."""

    def __init__(self) -> None:
        self._rest = b""
        self._dropping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their newline."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if self._dropping and whole:
            self._dropping = False
            del whole[0]
        if self._dropping or len(self._rest) >= _LINE:
            self._rest, self._dropping = b"", True
        return [line for line in whole if len(line) < _LINE]


def read_message(line: bytes) -> list[str] | None:
    """``[verb, arg…]``, or None for what the protocol doesn't know."""
    text = line.decode("utf-8", "replace")
    verb, *rest = text.split(" ", 2 if text.startswith("keep ") else -1)
    if verb not in _VERBS or len(rest) < _VERBS[verb] or not text.isprintable():
        return None
    return [verb, *rest[: _VERBS[verb]]]


def read_seconds(text: str) -> float | None:
    """A limit from ``hello``, or None where it is none: negative, over a day, no number."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 86400 else None


def read_code(text: str) -> int:
    """The exit code of ``fail``; one that would say success, or can't be said, is 1."""
    plain = text.isascii() and text.isdigit() and len(text) <= 3
    return int(text) if plain and 0 < int(text) < 256 else 1


class Kept:
    """What earlier agents handed to later ones: the values of ``keep``, and the root locks."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.locks: dict[tuple[int, int], int] = {}

    def keep(self, key: str, value: str) -> None:
        """Remember; what could not stand on a command line, or is too much, is left out."""
        if key and "=" not in key and (key in self.values or len(self.values) < _KEPT):
            self.values[key] = value

    def lock(self, fds: list[int]) -> None:
        """Hold these descriptors open; one that shows a file already held is closed again.

        A lock belongs to what ``open`` returned: the first descriptor keeps it, whatever comes later.
        """
        for fd in fds:
            stat = os.fstat(fd)
            if (stat.st_dev, stat.st_ino) in self.locks or len(self.locks) >= _FDS:
                os.close(fd)
            else:
                self.locks[stat.st_dev, stat.st_ino] = fd

    def arguments(self) -> list[str]:
        """As options for the next agent."""
        args = []
        for key, value in self.values.items():
            args += ["--keep", f"{key}={value}"]
        if self.locks:
            args += ["--locks", ",".join(map(str, self.locks.values()))]
        return args


def real_agent() -> list[str]:
    """The command in front of the options that make an agent ours."""
    return [*pid1.interpreter(), "-m", "sidecar", "agent"]


class Agent:
    """A running agent; times are monotonic: its start, its last word, its ``done``, its end of file."""

    def __init__(self, command: list[str], options: list[str], kept: Kept, signals: pid1.Signals) -> None:
        """Start it; ``OSError`` where that can't be done."""
        ours, theirs = _socket.socketpair()
        argv = [*command, "--supervised", str(theirs.fileno()), *options, *kept.arguments()]
        try:
            self.pid = pid1.spawn(
                argv,
                dict(os.environ),
                signals,
                keep=[theirs.fileno(), *kept.locks.values()],
                # From its first instruction: a Ctrl-C or a group's SIGTERM is main's, and ours to tell it of.
                ignore=(signal.SIGINT, signal.SIGTERM),
                session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.socket = ours
        self.since = self.heard = time.monotonic()
        self.greeted = False
        self.done_at: float | None = None
        self.closed_at: float | None = None
        self.killed: str | None = None  # why, once it was
        self._lines = Lines()
        self._unsent = b""
        self.rest_until = 0.0

    def interest(self, now: float) -> int:
        """What to poll its socket for; 0 while it is at rest."""
        events = select.POLLOUT if self._unsent else 0
        if now >= self.rest_until:
            events |= select.POLLIN
        return 0 if self.closed_at is not None else events

    def tell(self, line: str) -> None:
        """Queue one line and send what can be sent without waiting."""
        if len(self._unsent) < _UNSENT:
            self._unsent += line.encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it now."""
        while self._unsent and self.closed_at is None:
            try:
                sent = self.socket.send(self._unsent, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                # Its words may still be there to be read: `closed_at` is for what reading finds.
                self._unsent = b""
                return
            self._unsent = self._unsent[sent:]

    def listen(self, kept: Kept) -> list[list[str]]:
        """What it said since the last call, a bounded amount; locks go straight to ``kept``."""
        room = _socket.CMSG_SPACE(_FDS * 4)
        flags = _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
        try:
            data, ancillary, _, _ = self.socket.recvmsg(_READ, room, flags)
        except BlockingIOError:
            return []
        except OSError:
            data, ancillary = b"", []
        now = time.monotonic()
        if not data:
            self.closed_at = now
        if len(data) == _READ:
            self.rest_until = now + _REST
        for level, kind, fds in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                kept.lock([int.from_bytes(fds[i : i + 4], sys.byteorder) for i in range(0, len(fds) - 3, 4)])
        messages = [m for m in map(read_message, self._lines.feed(data)) if m is not None]
        if messages:
            self.heard = now
        return messages

    def last_words(self, kept: Kept) -> list[list[str]]:
        """All that a dead agent had still said."""
        messages = []
        for _ in range(64):
            if self.closed_at is not None:
                break
            said = self.listen(kept)
            if not said and not self._has_more():
                break
            messages += said
        self.socket.close()
        return messages

    def _has_more(self) -> bool:
        return bool(pid1.wait_for({self.socket.fileno(): select.POLLIN}, 0))

    def kill(self, why: str) -> None:
        """End it and all that it started; nothing of it may write to the store any more."""
        if self.killed is None:
            self.killed = why
        family.send(self.pid, signal.SIGKILL)
        family.kill_session(self.pid)
