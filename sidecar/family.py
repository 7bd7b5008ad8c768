"""Who descends from whom, read from /proc: what is left of main once main is gone.

Fields of /proc/PID/stat as in proc_pid_stat(5).
"""

from __future__ import annotations

import os
import signal


class Proc:
    """One process at one moment; ``since`` in clock ticks after boot."""

    __slots__ = ("alive", "group", "name", "parent", "pid", "session", "since")

    def __init__(
        self, pid: int, parent: int, group: int, session: int, since: int, alive: bool = True, name: str = ""
    ) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session
        self.since = since
        self.alive = alive
        self.name = name


def read_stat(stat: bytes) -> Proc:
    """The text of /proc/PID/stat; ``ValueError`` or ``IndexError`` where it is none."""
    # The name may hold spaces and parentheses of its own: what counts is the last one.
    left, _, right = stat.rpartition(b")")
    pid, _, name = left.partition(b" (")
    field = right.split()
    # A zombie leader whose other threads go on is a living process.
    alive = field[0] not in (b"Z", b"X") or int(field[17]) > 1
    return Proc(
        int(pid),
        parent=int(field[1]),
        group=int(field[2]),
        session=int(field[3]),
        since=int(field[19]),
        alive=alive,
        name=name.decode("utf-8", "replace"),
    )


def look_up(pid: int) -> Proc | None:
    """The process ``pid``, or None where it is gone or hidden."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        return read_stat(os.read(fd, 4096))
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(fd)


def everyone() -> list[Proc]:
    """All processes that /proc shows; none where it isn't mounted."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    return [proc for proc in map(look_up, (int(n) for n in names if n.isdigit())) if proc is not None]


def left_of_main(procs: list[Proc], me: int, main: int, since: int, agent: int) -> list[Proc]:
    """What lives of main (itself included) among ``procs``, given that its orphans come to ``me``.

    Left out are session ``agent`` with all below it, and children of ours that started before
    ``since``: a shell that exec'd us may have had some, and they aren't main's.
    """
    children: dict[int, list[Proc]] = {}
    for proc in procs:
        children.setdefault(proc.parent, []).append(proc)
    found: dict[int, Proc] = {}
    seen: set[int] = set()
    # Where we can't be subreaper, orphans went elsewhere and only the group tells whose they were.
    todo = children.get(me, []) + [proc for proc in procs if proc.group == main]
    while todo:
        proc = todo.pop()
        if proc.pid in seen or proc.pid == me or proc.session == agent or proc.since < since:
            continue
        seen.add(proc.pid)
        todo += children.get(proc.pid, [])
        if proc.alive:
            found[proc.pid] = proc
    return list(found.values())


def kill_session(leader: int) -> None:
    """SIGKILL everything in the session that ``leader`` began, whoever is its parent by now."""
    for proc in everyone():
        if proc.session == leader and proc.alive:
            send(proc.pid, signal.SIGKILL)


def send(pid: int, number: int) -> bool:
    """Signal a process; False where it is gone or isn't ours to signal."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send_group(group: int, number: int) -> bool:
    """Signal a process group; False where it is gone or isn't ours to signal."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
