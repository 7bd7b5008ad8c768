"""How an agent was started, and what it may be told on its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Life:
    """``fd`` is the supervisor's pipe; ``main_pid`` is set where main already runs, whatever became of it.

    ``keep`` are the words that an earlier agent of this life left with the supervisor, ``locks`` the roots' locks.
    """

    fd: int | None = None
    instance: str = ""
    keep: tuple[tuple[str, str], ...] = ()
    main_pid: int | None = None
    main_exit: int | None = None
    locks: tuple[int, ...] = ()
    before_main: bool = False


def parse(argv: Sequence[str]) -> Life:
    """Read ``sidecar agent``'s arguments; what only a supervisor says is not in its help."""
    parser = argparse.ArgumentParser("sidecar agent", description="The agent alone, without a supervisor.")
    parser.add_argument("--before-main", action="store_true", help="restore first: main is not running yet")
    for name in ("--supervised", "--main-pid", "--main-exit"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--instance", default="", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--locks", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    keep = tuple((k, v) for k, _, v in (item.partition("=") for item in given.keep))
    locks = tuple(int(fd) for fd in given.locks.split(",") if fd)
    return Life(given.supervised, given.instance, keep, given.main_pid, given.main_exit, locks, given.before_main)
