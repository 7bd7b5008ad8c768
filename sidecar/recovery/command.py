"""A command of the owner's, run beside the agent: bounded in time, in output, and in what it may leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from sidecar import log
from sidecar.masking import mask

GRACE_S = 2.0
"""From SIGTERM, at the limit, to SIGKILL."""

REAP_S = 1.0
"""How long a killed process is waited for: one that hangs in the kernel is left to PID 1."""

LONGEST = 500
"""Characters of one line of output; the rest of it is cut off."""

MOST = 200
"""Lines of one command that are logged."""

_READ = 1 << 16
_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.1

# The agent ignores some signals, and no shell lets go of what was ignored when it was started. And a killed agent
# can't end what it has begun: the next one would run it again beside it.
_WITH_ITS_AGENT = """
import os, signal, sys
agent, usual = int(sys.argv[1]), (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
pid = os.fork()
for number in usual:
    signal.signal(number, signal.SIG_IGN if pid else signal.SIG_DFL)
if not pid:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGCHLD,))
    os.execv(sys.argv[2], sys.argv[2:])
while True:
    signal.sigtimedwait((signal.SIGCHLD,), 0.5)
    if os.getppid() != agent:
        os.killpg(0, signal.SIGKILL)
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
"""


def shell(line: str) -> list[str]:
    """The command that gives ``line`` to /bin/sh, with signals as any program has them; for ``run`` in this process.

    It is killed with its group when this process is gone.
    """
    return [sys.executable, "-I", "-S", "-c", _WITH_ITS_AGENT, str(os.getpid()), "/bin/sh", "-c", line]


async def run(
    argv: Sequence[str],
    limit_s: float,
    on_line: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    *,
    grace_s: float = GRACE_S,
    longest: int = LONGEST,
) -> int | None:
    """Run ``argv`` in a process group of its own, to its end; its exit code as a shell says it (128+n after signal n).

    None where ``limit_s`` came first: it gets SIGTERM then, and SIGKILL ``grace_s`` later. Whatever is left of the
    group when this returns, or is cancelled, is killed. ``on_line`` gets its stdout and stderr line by line, cut where
    they are longer than ``longest`` characters. Raises OSError where it can't be started.
    """
    process = await asyncio.to_thread(_started, argv, env)
    assert process.stdout is not None
    lines, until = Lines(on_line, longest), time.monotonic() + limit_s
    fd, pause, late = process.stdout.fileno(), _PAUSE_S, False
    try:
        while True:
            over = process.poll() is not None
            more = lines.read(fd)
            if over:
                return None if late else _code(process.returncode)
            if time.monotonic() >= until:
                if late:
                    return None
                late, until = True, time.monotonic() + grace_s
                _kill(process.pid, signal.SIGTERM)
            await asyncio.sleep(0 if more else pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)
    finally:
        _kill(process.pid, signal.SIGKILL)
        await _reaped(process)
        lines.read(fd)
        lines.end()
        process.stdout.close()


def _started(argv: Sequence[str], env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=None if env is None else dict(env),
        process_group=0,
        bufsize=0,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    return process


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def _reaped(process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + REAP_S
    while process.poll() is None and time.monotonic() < until:
        await asyncio.sleep(0.01)


def _code(returned: int) -> int:
    return 128 - returned if returned < 0 else returned


class Lines:
    """Bytes in, lines of text out, cut where they are longer than ``longest`` characters."""

    def __init__(self, on_line: Callable[[str], None], longest: int = LONGEST) -> None:
        self._on_line, self._longest, self._rest, self._cut = on_line, longest, b"", False

    def read(self, fd: int) -> bool:
        """Take some of what waits in ``fd``, which must not block; there may be more.

        A little at once: the lines of whoever writes without end would take the loop's time from everybody else.
        """
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return False
        self.feed(data)
        return bool(data)

    def feed(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._say(line)
        if len(self._rest) > 4 * self._longest:
            self._say(self._rest)
            self._rest, self._cut = b"", True

    def end(self) -> None:
        """What stands behind the last newline is a line, too."""
        if self._rest:
            self._say(self._rest)
        self._rest = b""

    def _say(self, line: bytes) -> None:
        cut, self._cut = self._cut, False
        text = line.decode("utf-8", "replace").rstrip()
        if text and not cut:
            self._on_line(text if len(text) <= self._longest else f"{text[: self._longest]}…")


class Logged:
    """Logs each line behind ``prefix``, without ``secrets``; from ``MOST`` on they are only counted."""

    def __init__(self, prefix: str, secrets: Iterable[str] = ()) -> None:
        self._prefix, self._secrets, self._count = prefix, tuple(secrets), 0

    def __call__(self, line: str) -> None:
        self._count += 1
        if self._count <= MOST:
            log.info(f"{self._prefix}{mask(line, self._secrets)}")

    def end(self) -> None:
        if self._count > MOST:
            log.info(f"{self._prefix}({self._count - MOST:,} more lines are left out)")
