"""``sidecar run -- CMD``: the agent restores, then CMD runs, then the agent makes the last sync.

Read ``Life.live`` for the order of things. Standard library only, and little of it: this process stays for
as long as main does.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from sidecar import family, pid1
from sidecar.keeper import Keeper, Pace
from sidecar.pipe import real_agent
from sidecar.stderr import say

USAGE = """\
usage: sidecar run -- CMD [ARG...]

Restores the declared paths, starts CMD, syncs the paths while it runs, stops it on SIGTERM or SIGINT,
and makes one last sync however it ended. Exits with CMD's own exit code (128+n after signal n, 127 where
it is not found, 126 where it can't be executed); without starting CMD: 69 the store refuses, 75 try again
later, 78 configuration. All settings are environment variables: `sidecar config` shows them.
"""

_STOPS = (signal.SIGTERM, signal.SIGINT)
# Before main there is nobody to forward these to: they end us, as they would end any program.
_EARLY_STOPS = (*_STOPS, signal.SIGHUP, signal.SIGQUIT)

_OVERSLEPT = 1.0  # seconds beyond a timer that say that the whole container stood still


def run(argv: list[str], *, agent: list[str] | None = None, pace: Pace | None = None) -> int:
    """Everything around the command in ``argv`` (what stands behind ``run``); the exit code.

    ``agent`` and ``pace`` are for tests: another command in the agent's place, and shorter waits.
    """
    pid1.fill_stdio()
    if argv[:1] in (["--help"], ["-h"]):
        print(USAGE, end="")
        return 0
    command = argv[1:] if argv[:1] == ["--"] else argv
    if not command or (command is argv and argv[0].startswith("-")):
        wrong = f"unknown option {argv[0]}" if command else "no command was given"
        print(f"sidecar run: {wrong}\n{USAGE}", end="", file=sys.stderr)
        return 2
    return Life(command, agent or real_agent(), pace or Pace()).live()


class Life:
    """One main, from before its start to after its end."""

    def __init__(self, command: list[str], agent_command: list[str], pace: Pace) -> None:
        self.command = command
        self.pace = pace
        self.signals = pid1.Signals()
        self.adopts = pid1.adopt_orphans()
        self.terminal = pid1.has_terminal()
        self.keeper = Keeper(agent_command, self.signals, pace)
        self.stops: list[int] = []  # the signals that asked for the end
        self.deadline = 0.0  # monotonic, once the end has begun
        self.main = 0
        self.main_since = 0  # clock ticks
        self.main_code: int | None = None
        self.main_stopped = False

    def live(self) -> int:
        """From the first agent to the last sync; main's exit code, or why it was never started."""
        if not self.adopts:
            say("can't become subreaper: orphans of main go elsewhere and may outlive it", "warning")
        code = self.recover()
        if code is None:
            code = self.start_main()
        if code is not None:
            self.leave()
            return code
        while self.main_code is None and not self.stops:
            self.step()
        code = self.stop_main()
        self.last_sync()
        return code

    # -- the parts of a life

    def recover(self) -> int | None:
        """Until an agent says ``ready``; else the exit code with which to leave."""
        while True:
            self.step()
            if self.stops:
                say(f"{pid1.signal_name(self.stops[0])}: ending; main was not started yet")
                return 128 + self.stops[0]
            if self.keeper.failed is not None:
                say(f"main was not started ({self.keeper.failed}): {self.shown()}", "error")
                return self.keeper.failed
            if self.keeper.ready:
                return None

    def start_main(self) -> int | None:
        """Start it; or 127, 126 where it can't be."""
        say(f"ready; starting: {self.shown()}")
        locks = self.keeper.kept.locks.values()
        env = pid1.main_environment()
        try:
            self.main = pid1.spawn(self.command, env, self.signals, keep=locks, terminal=self.terminal)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            hint = "Is it in this image, on PATH, and its #! line right?" if missing else "Is it chmod +x?"
            say(f"can't execute {self.command[0]!r}: {error.strerror}. {hint} Nothing was run", "error")
            if self.terminal:
                pid1.give_terminal(os.getpgrp())
            return 127 if missing else 126
        born = family.look_up(self.main)
        # As PID 1 we take everything with us when we go: then everything is to end before the last sync.
        self.main_since = born.since if born and os.getpid() != 1 else 0
        self.keeper.turn("keep")
        self.keeper.main_started(self.main)
        return None

    def stop_main(self) -> int:
        """From the first stop signal, or main's own end, until nothing of main is left; its exit code."""
        self.keeper.turn("end")
        began = time.monotonic()
        grace = self.keeper.grace
        # A little less than all, so that we are gone within it; a fifth belongs to the last sync in any case.
        self.deadline = began + grace - margin(grace)
        until = began + min(self.keeper.stop_timeout, grace * 0.8)
        if self.main_code is None:
            name = pid1.signal_name(self.stops[0])
            say(f"{name}: main has {until - began:g} s to end, then the last sync; all within {grace:g} s")
            self.keeper.order("stop", self.deadline)
        while self.main_code is None and not self.hurried() and time.monotonic() < until:
            self.step(until)
        if self.main_code is None:
            why = "a second signal" if self.hurried() else f"main did not end within {until - began:g} s"
            say(f"{why}: killing main", "warning")
            family.send_group(self.main, signal.SIGKILL)
        self.clear_up(until)
        return 128 + signal.SIGKILL if self.main_code is None else self.main_code

    def clear_up(self, until: float) -> None:
        """SIGTERM for each process that main left behind, SIGKILL at ``until`` or when hurried."""
        told: set[int] | None = None
        kill_until: float | None = None
        while True:
            # Twice: /proc isn't read in one moment, and what forks and ends may slip through once.
            rest = self.left_of_main() or self.left_of_main()
            if not rest and self.main_code is not None:
                return
            now = time.monotonic()
            names = ", ".join(f"{proc.name} ({proc.pid})" for proc in rest[:5])
            if kill_until is None and (now >= until or self.hurried()):
                kill_until = now + min(2.0, (self.deadline - now) / 2)
                if self.main_code is not None:
                    say(f"killing what main left behind: {names}", "warning")
            if kill_until is not None and now >= kill_until:
                say(f"can't be killed: {names}. What it still writes is not in the last sync", "error")
                return
            first, told = told is None, told or set()
            for proc in rest:
                if kill_until is not None:
                    family.send(proc.pid, signal.SIGKILL)
                elif proc.pid not in told and (first or proc.parent == os.getpid()):
                    # Later ones only as orphans: with a parent they may be what it does on SIGTERM.
                    told.add(proc.pid)
                    family.send(proc.pid, signal.SIGTERM)
            self.step(min(now + 0.1, until if kill_until is None else kill_until))

    def last_sync(self) -> None:
        """Tell the agent that main is gone, and wait until it is done; a new one where it is dead."""
        if self.terminal:
            pid1.give_terminal(os.getpgrp())
        self.keeper.order("final", self.deadline)
        while not self.keeper.done and self.keeper.failed is None and time.monotonic() < self.deadline:
            self.step(self.deadline)
        if self.keeper.done:
            self.see_off()
            return
        if self.keeper.failed is None:
            why = f"was not over within {self.keeper.grace:g} s (SIDECAR_SHUTDOWN_GRACE)"
        else:
            why = f"was not made: the agent ended with {self.keeper.failed}"
        say(
            f"the last sync {why}. What changed since the last 'durable' line may be missing from the store; "
            "the snapshot before it is whole. If this disk survives, the next start sends the rest",
            "error",
        )
        self.keeper.turn("leave")
        self.deadline = 0.0
        self.see_off()

    def leave(self) -> None:
        """Main was never started: let the agent withdraw its claim and go, within the grace."""
        now = time.monotonic()
        self.keeper.turn("leave")
        if self.keeper.failed is None:
            self.deadline = now + self.keeper.grace - margin(self.keeper.grace)
            self.keeper.order("stop", self.deadline)
        else:
            self.deadline = now + self.pace.leave
        self.see_off()

    def see_off(self) -> None:
        """Wait for the agent's exit; kill it at the deadline, some time after ``done``, or on a signal."""
        asked = len(self.stops)
        while (agent := self.keeper.agent) is not None and len(self.stops) == asked:
            until = self.deadline
            if agent.done_at is not None:
                until = min(until, agent.done_at + self.pace.leave)
            if time.monotonic() >= until:
                break
            self.step(until)
        if self.keeper.agent is not None:
            self.keeper.agent.kill("it did not exit")
            self.step(time.monotonic() + 0.2)

    # -- one turn of the loop

    def step(self, until: float | None = None) -> None:
        """Wait for what comes first (a signal, the agent, a timer, ``until``) and take it in."""
        now = time.monotonic()
        due = [at for at in (until, self.keeper.timer()) if at is not None]
        fds = {self.signals.wake: select.POLLIN, **self.keeper.interest(now)}
        pid1.wait_for(fds, min(due) - now if due else None)
        if due and time.monotonic() > max(now, min(due)) + _OVERSLEPT:
            self.keeper.overslept()
        for number in self.signals.take():
            self.forward(number)
        self.keeper.listen()
        for pid, status in pid1.reap():
            if os.WIFSTOPPED(status):
                if pid == self.main:
                    self.suspend()
            elif pid == self.main:
                self.bury_main(pid1.shell_code(status))
            elif self.keeper.agent is not None and pid == self.keeper.agent.pid:
                self.keeper.bury(status)
        self.keeper.tend()

    def forward(self, number: int) -> None:
        """Pass a signal on to main, whatever it is; note it if it asks for the end."""
        if number == signal.SIGCHLD:
            return
        if number in (_STOPS if self.main else _EARLY_STOPS):
            self.stops.append(number)
        if self.main and self.main_code is None:
            family.send(self.main, number)
            if number in _STOPS and self.main_stopped:
                family.send_group(self.main, signal.SIGCONT)
        elif self.main and self.deadline and number in _STOPS:
            left = max(0.0, self.deadline - time.monotonic())
            say(f"{pid1.signal_name(number)}: the last sync is under way, {left:.0f} s at most")

    def bury_main(self, code: int) -> None:
        """Main has ended."""
        self.main_code = code
        name = f" ({pid1.signal_name(code - 128)})" if code > 128 else ""
        say(f"main ended with {code}{name}; last sync…")
        self.keeper.main_exited(code)

    def suspend(self) -> None:
        """Main was stopped. On a shell's terminal (Ctrl-Z) we stop with it, and later both continue."""
        self.main_stopped = True
        if not self.terminal or os.getpid() == 1:
            return
        pid1.give_terminal(os.getpgrp())
        self.signals.suspend()
        if pid1.has_terminal():
            pid1.give_terminal(self.main)
        family.send_group(self.main, signal.SIGCONT)
        self.main_stopped = False

    def hurried(self) -> bool:
        """A second stop signal: nobody waits for main any longer."""
        return len(self.stops) > 1

    def left_of_main(self) -> list[family.Proc]:
        """What lives of main now."""
        agent = self.keeper.agent.pid if self.keeper.agent is not None else -1
        return family.left_of_main(family.everyone(), os.getpid(), self.main, self.main_since, agent)

    def shown(self) -> str:
        """The command for a log line."""
        line = " ".join(self.command)
        return line if len(line) <= 200 else line[:199] + "…"


def margin(grace: float) -> float:
    """What we keep of the grace for ourselves, in seconds, so that we are gone when it is over."""
    return min(0.3, grace / 20)
