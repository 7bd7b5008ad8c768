"""What an init owes its child, after tini: signals, process groups, the terminal, orphans, exit codes."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType
    from typing import NoReturn

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>

# Raised by a fault of our own: nothing to forward. STOP and KILL can't be caught.
_OURS = frozenset(
    (
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGABRT,
        signal.SIGTRAP,
        signal.SIGSYS,
    )
)
# Python ignores these two at start; nobody else did.
_PYTHONS = frozenset((signal.SIGPIPE, signal.SIGXFSZ))
_TERMINALS = frozenset((signal.SIGTTIN, signal.SIGTTOU))


class Signals:
    """All signals from here on: noted, never acted upon by themselves, and as found again in each child.

    A signal that was ignored when we were started (``nohup``, a shell's ``&``) stays so, for us and
    for main, as for any program. SIGTERM is heard nevertheless, and SIGCHLD is how we live.
    """

    def __init__(self) -> None:
        self._noted: list[int] = []
        self.wake, self._tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        everything = [n for n in signal.valid_signals() if n not in _OURS]
        ignored = {n for n in everything if signal.getsignal(n) is signal.SIG_IGN}
        self._ignored = ignored - _PYTHONS - {signal.SIGCHLD}
        self._changed = everything
        # The handler notes, the pipe only wakes: a full pipe loses no signal.
        signal.set_wakeup_fd(self._tell, warn_on_full_buffer=False)
        for number in everything:
            if number in _TERMINALS:
                # Main has the terminal, so that our own log lines come from the background.
                signal.signal(number, signal.SIG_IGN)
            elif number not in _PYTHONS and (number not in self._ignored or number == signal.SIGTERM):
                signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append(number)

    def take(self) -> list[int]:
        """The signals since the last call, each at most a few times."""
        try:
            while len(os.read(self.wake, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        noted, self._noted = self._noted, []
        return noted

    def as_found(self, ignore: Iterable[int]) -> None:
        """In a child, with all signals blocked: dispositions and mask as we found them, ``ignore`` apart."""
        signal.set_wakeup_fd(-1)
        for number in self._changed:
            quiet = number in self._ignored or number in ignore
            signal.signal(number, signal.SIG_IGN if quiet else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def suspend(self) -> None:
        """Stop this process as Ctrl-Z would; returns when it is continued.

        SIGTSTP and not SIGSTOP: the kernel drops it where no shell is there to continue us.
        """
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note)


def spawn(
    argv: list[str],
    env: dict[str, str],
    signals: Signals,
    *,
    keep: Iterable[int] = (),
    ignore: Iterable[int] = (),
    session: bool = False,
    terminal: bool = False,
) -> int:
    """Start ``argv`` and return its pid once it *is* that program; ``OSError`` with exec's errno otherwise.

    It gets a process group of its own (and the ``terminal``'s foreground), or with ``session`` a session,
    /dev/null as stdin and our stderr as stdout; of our descriptors only those that were handed to us,
    and ``keep``.
    """
    told, tell = os.pipe()
    try:
        # A signal between fork and exec would run our handlers, and write to our pipe, in the child.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _become(argv, env, signals, keep, ignore, session, terminal, tell)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(tell)
        failed = os.read(told, 16)
    finally:
        os.close(told)
    if failed:
        os.waitpid(pid, 0)
        raise OSError(int(failed), os.strerror(int(failed)), argv[0])
    return pid


def _become(
    argv: list[str],
    env: dict[str, str],
    signals: Signals,
    keep: Iterable[int],
    ignore: Iterable[int],
    session: bool,
    terminal: bool,
    tell: int,
) -> NoReturn:
    why = errno.EINVAL
    try:
        if session:
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(2, 1)
        else:
            os.setpgid(0, 0)
            if terminal:
                give_terminal(os.getpid())
        for fd in keep:
            os.set_inheritable(fd, True)
        signals.as_found(ignore)
        execute(argv, env)
    except OSError as error:
        why = error.errno or why
    finally:
        os.write(tell, str(why).encode())
        os._exit(127)


def execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    """``execvp`` with libc's rules: PATH, and /bin/sh for a script without ``#!``. Raises ``OSError``."""
    name = argv[0]
    if "/" in name:
        places = [name]
    else:
        places = [os.path.join(folder or ".", name) for folder in env.get("PATH", os.defpath).split(":")]
    denied: OSError | None = None
    for place in places if name else ():
        try:
            os.execve(place, argv, env)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execve("/bin/sh", ["/bin/sh", place, *argv[1:]], env)
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                denied = denied or error
    raise denied or OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def reap() -> list[tuple[int, int]]:
    """Everything that ended or stopped since the last call, as (pid, wait status)."""
    seen: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return seen
        if pid == 0:
            return seen
        seen.append((pid, status))


def shell_code(status: int) -> int:
    """The number a shell shows for a wait status: the exit code, or 128 and the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def signal_name(number: int) -> str:
    """``SIGTERM``, or ``signal 40`` where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def adopt_orphans() -> bool:
    """Let orphaned descendants come to us to be reaped; False where the kernel or libc won't."""
    if os.getpid() == 1:
        return True
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def interpreter() -> list[str]:
    """How to start this Python again for ``-m sidecar``, whatever the folder that main lives in holds.

    ``-m`` puts the working directory first on the path, where an app's own ``queue.py`` or ``types.py``
    would take the standard library's place; ``-P`` keeps it out, wherever we don't live there ourselves.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    safe = sys.flags.safe_path or home in sys.path[1:]
    return [sys.executable, "-P"] if safe else [sys.executable]


def main_environment() -> dict[str, str]:
    """Our environment as it was handed to us, for main.

    In the C locale Python adds LC_CTYPE to it (PEP 538), which would reach main's children, too.
    """
    env = dict(os.environ)
    if env.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8"):
        try:
            with open("/proc/self/environ", "rb") as given:
                found = [v for v in given.read().split(b"\0") if v.startswith(b"LC_CTYPE=")]
            del env["LC_CTYPE"]
            for value in found[-1:]:
                env["LC_CTYPE"] = os.fsdecode(value[9:])
        except OSError:
            pass
    return env


def fill_stdio() -> None:
    """Open /dev/null where 0, 1 or 2 is closed, lest a socket of ours takes the number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def has_terminal() -> bool:
    """True where stdin is a terminal and we are in its foreground: only then is it ours to give."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def give_terminal(group: int) -> None:
    """Make ``group`` the terminal's foreground; needs SIGTTOU ignored or blocked."""
    try:
        os.tcsetpgrp(0, group)
    except OSError:
        pass


def wait_for(fds: dict[int, int], seconds: float | None) -> dict[int, int]:
    """``poll(2)`` on {fd: events}; {fd: events} again, empty after ``seconds`` (None: no limit)."""
    poll = select.poll()
    for fd, events in fds.items():
        poll.register(fd, events)
    # Rounded up: a timer that is a hair early would make the caller turn in circles until it is due.
    return dict(poll.poll(None if seconds is None else max(0, int(seconds * 1000) + 1)))
