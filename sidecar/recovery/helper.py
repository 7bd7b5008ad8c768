"""A second process that unpacks beside us: Python runs one thread at a time, and many small files are all Python.

It is given frame by frame as it keeps up, so that one that starts late, or dies, only leaves more to us. Nobody writes
to staging behind our back: what it was given is waited for, and it ends with us.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidecar.recovery.unpack import Member, Unpacker
from sidecar.snapshot.manifest import Entry, Frame

Groups = deque[tuple[Frame, list[Member]]]
"""Frames of one bundle that are still to be unpacked, with what is wanted of each."""

AHEAD = 2
"""Frames that it has at a time: one in work, and one so that it needn't wait for us."""

MANY = 2000
"""Small files from which on it is worth its start: 0.1 s of the other CPU."""

PIPE = 1 << 18
MOST_BYTES = PIPE // AHEAD - 4
"""Of a request: all that are under way fit into a pipe, so that writing one never waits for it."""

PATIENCE_S = 30.0
"""For how long it may say nothing: a frame takes it a hundredth of a second. Then we do its part."""

_WAIT_S = 0.2
_PR_SET_PDEATHSIG = 1  # prctl(2)
_ROOM = Path(__file__).resolve().parents[2]
_BOOT = "import os, sys; sys.path[:] = sys.argv[1].split(os.pathsep); "
_BOOT += "from sidecar.recovery import helper; helper.main()"


def worth(files: int) -> bool:
    return files >= MANY and len(os.sched_getaffinity(0)) > 1


class Helper:
    """One bundle at a time, between whose frames is ``take``, and at whose end ``wait``; an error in there ends it."""

    def __init__(self) -> None:
        path = os.pathsep.join([os.fspath(_ROOM), *(p for p in sys.path if p)])
        self._process: subprocess.Popen[bytes] | None = None
        self._ready, self._buffer = False, b""
        self._given: deque[tuple[Frame, list[Member]]] = deque()
        self._heard = time.monotonic()
        with suppress(OSError):  # no memory, or no more processes: then we do it all
            self._process = subprocess.Popen(
                [sys.executable or "python3", "-I", "-S", "-c", _BOOT, path, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pipesize=PIPE,
            )

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # nobody waits for what it does
            self.end()

    @property
    def busy(self) -> bool:
        """Whether it has anything that isn't done."""
        return bool(self._given)

    def end(self) -> None:
        """Kill it, and see it gone: whatever it was given, it does no more of it. Blocks, briefly."""
        process, self._process, self._ready, self._buffer = self._process, None, False, b""
        self._given.clear()
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def take(self, packed: Path, todo: Groups, into: Unpacker) -> None:
        """Let it have the last of ``todo``, as much as it keeps up with; note in ``into`` what it has done by now."""
        self._hear(0, todo, into)
        while self._ready and todo and len(self._given) < AHEAD:
            request = _packed(packed, *todo[-1])
            if len(request) > MOST_BYTES:
                return
            if not self._given:
                self._heard = time.monotonic()
            self._given.append(todo.pop())
            try:
                self._send(request)
            except OSError:
                self._lost(todo)

    def wait(self, todo: Groups, into: Unpacker, check: Callable[[], None]) -> None:
        """Until all that it was given is done, or back in ``todo``. ``check`` is called meanwhile, and may raise."""
        while self.busy:
            check()
            self._hear(_WAIT_S, todo, into)
            if self.busy and time.monotonic() - self._heard > PATIENCE_S:
                self._lost(todo)

    def _send(self, data: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        view = memoryview(len(data).to_bytes(4) + data)
        while view:
            view = view[os.write(self._process.stdin.fileno(), view) :]

    def _hear(self, seconds: float, todo: Groups, into: Unpacker) -> None:
        while self._process is not None and self._process.stdout is not None:
            fd, poll = self._process.stdout.fileno(), select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(round(seconds * 1000)):
                return
            data, self._heard = os.read(fd, 1 << 16), time.monotonic()
            if not data:
                self._lost(todo)
                return
            self._buffer += data
            while (answer := self._next()) is not None:
                self._heed(answer, into)
            seconds = 0

    def _next(self) -> Any:
        size = int.from_bytes(self._buffer[:4])
        if len(self._buffer) < 4 + max(size, 1):
            return None
        answer, self._buffer = marshal.loads(self._buffer[4 : 4 + size]), self._buffer[4 + size :]
        return answer

    def _heed(self, answer: Any, into: Unpacker) -> None:
        if answer == "ready":
            self._ready = True
            return
        _, members = self._given.popleft()
        failed, bad, databases, files, size = answer
        if failed is not None:
            raise OSError(*failed)
        into.bad.update(bad)
        into.databases.update((m.entry.sha256, False) for m in members if m.entry.path not in bad)
        into.databases.update(dict.fromkeys(databases, True))
        into.count(files, size)

    def _lost(self, todo: Groups) -> None:
        """It is gone: what it was given is ours again. Half of that may be staged already, which changes nothing."""
        todo.extend(self._given)
        self.end()


def _packed(packed: Path, frame: Frame, members: list[Member]) -> bytes:
    values = [
        (e.path, e.mode, e.mtime_ns, e.size, e.sha256, os.fspath(m.staging), m.uses, m.name)
        for m in members
        for e in (m.entry,)
    ]
    return marshal.dumps((os.fspath(packed), frame.bundle, frame.offset, frame.length, values))


def main() -> None:
    """The process itself: reads frames to unpack from its stdin until that ends."""
    parent = int(sys.argv[2])
    # Else it might write on where the next attempt has begun: at the latest when the kernel lets it run again.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def alive() -> None:
        if os.getppid() != parent:
            os._exit(1)

    def say(answer: Any) -> None:
        data = marshal.dumps(answer)
        sink.write(len(data).to_bytes(4) + data)
        sink.flush()

    say("ready")
    while head := source.read(4):
        say(_unpacked(marshal.loads(source.read(int.from_bytes(head))), alive))


def _unpacked(wanted: Any, alive: Callable[[], None]) -> Any:
    packed, bundle, offset, length, values = wanted
    frame, counts = Frame(bundle, offset, length), [0, 0]

    def done(files: int, size: int) -> None:
        counts[0] += files
        counts[1] += size

    folders = {staging: Path(staging) for staging in {value[5] for value in values}}
    members = [
        Member(Entry(path, "file", mode, 0, 0, mtime_ns, size, sha, "", frame), folders[staging], uses, name)
        for path, mode, mtime_ns, size, sha, staging, uses, name in values
    ]
    try:
        with Unpacker(Path(packed), done, alive) as unpacker:
            unpacker.frame(frame, members)
    except OSError as error:
        return (error.errno, error.strerror, error.filename), {}, [], *counts
    databases = [sha for sha, is_one in unpacker.databases.items() if is_one]
    return None, unpacker.bad, databases, *counts
