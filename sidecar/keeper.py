"""Keeps an agent running beside main: starts it, hears it, kills it when it hangs, starts the next one."""

from __future__ import annotations

import os
import time

from sidecar import family, pid1
from sidecar.pipe import Agent, Kept, read_code, read_seconds
from sidecar.stderr import say

# An agent that ends with one of these before `ready` has decided so: no restart would change it.
_VERDICTS = (69, 75, 78)
# The same for one that ends while the last sync is due; 75 is worth another try then.
_LAST_VERDICTS = (69, 78)


class Pace:
    """How long is waited for what, in seconds; tests wait less."""

    def __init__(
        self,
        hello: float = 30.0,
        silence: float = 60.0,
        hush: float = 6.0,
        backoff: float = 1.0,
        ceiling: float = 30.0,
        steady: float = 300.0,
        leave: float = 5.0,
        tries: int = 5,
    ) -> None:
        self.hello = hello  # from an agent's start to its `hello`
        self.silence = silence  # between two of its words
        self.hush = hush  # the same once main is ending; three times what a sound agent takes
        self.backoff = backoff  # before a restart; doubles each time
        self.ceiling = ceiling  # but at most this
        self.steady = steady  # an agent that lived this long has no failures behind it
        self.leave = leave  # for its exit, once it has said that it is done or has failed
        self.tries = tries  # restarts before `ready`


def pause(pace: Pace, failures: int, chance: float) -> float:
    """Seconds before the restart after ``failures`` in a row; ``chance`` (0..1) spreads it by a fifth."""
    doubled = pace.backoff * 2.0 ** min(failures - 1, 16)
    return float(min(pace.ceiling, doubled) * (0.8 + 0.4 * chance))


class Keeper:
    """The agents of one life, one after the other.

    ``mode`` says what the death of one means: in ``recover`` a few restarts, or its verdict; in ``keep``
    a restart after a pause, for ever; in ``end`` a restart at once, for main has written what only this
    disk has; in ``leave`` nothing.
    """

    def __init__(self, command: list[str], signals: pid1.Signals, pace: Pace) -> None:
        self._command = command
        self._signals = signals
        self._pace = pace
        self._main: list[str] = []  # the options that tell a new agent of main
        self._order: tuple[str, float] | None = None
        self._failures = 0
        self._retry_at = 0.0
        self.instance = os.urandom(8).hex()
        self.agent: Agent | None = None
        self.kept = Kept()
        self.mode = "recover"
        self.stop_timeout, self.grace = 6.0, 25.0  # the defaults, until a `hello` says what is set
        self.ready = False
        self.failed: int | None = None  # the exit code of what can't be mended
        self.done = False

    # -- what main's side has to say

    def turn(self, mode: str) -> None:
        """Enter ``mode``; failures of before are forgotten, a pending restart in ``end`` is due at once."""
        self.mode = mode
        self._failures = 0
        if mode == "end":
            self._retry_at = 0.0

    def main_started(self, pid: int) -> None:
        """Tell this agent, and each later one."""
        self._main = ["--main-pid", str(pid)]
        self._tell(f"main started {pid}")

    def main_exited(self, code: int) -> None:
        """Tell this agent, and each later one."""
        self._main += ["--main-exit", str(code)]
        self._tell(f"main exited {code}")

    def order(self, verb: str, deadline: float) -> None:
        """``stop`` or ``final``, and the seconds up to ``deadline``: now, or after the agent's hello."""
        self._order = verb, deadline
        if self.agent is not None and self.agent.greeted:
            self._tell_order()

    def _tell_order(self) -> None:
        if self._order is not None:
            verb, deadline = self._order
            self._tell(f"{verb} {max(0.0, deadline - time.monotonic()):.3f}")

    def _tell(self, line: str) -> None:
        if self.agent is not None:
            self.agent.tell(line)

    # -- what the loop asks

    def interest(self, now: float) -> dict[int, int]:
        """{fd: poll events} of the agent's socket."""
        events = self.agent.interest(now) if self.agent is not None else 0
        return {self.agent.socket.fileno(): events} if self.agent is not None and events else {}

    def timer(self) -> float | None:
        """When ``tend`` has something to do, if nothing is heard before."""
        if self.agent is None:
            return None if self._at_rest() else self._retry_at
        if self.agent.killed is not None:
            return None
        due = self._limit(self.agent)[0]
        resting = self.agent.rest_until
        return min(due, resting) if resting > time.monotonic() else due

    def _at_rest(self) -> bool:
        return self.mode == "leave" or self.failed is not None or self.done

    def _limit(self, agent: Agent) -> tuple[float, str]:
        """Until when its silence is borne, and what it is called then."""
        if agent.closed_at is not None:
            return agent.closed_at + self._pace.leave, "it closed its socket and did not exit"
        if not agent.greeted:
            return agent.since + self._pace.hello, f"no hello within {self._pace.hello:g} s"
        limit = self._pace.silence
        if self.mode == "end":
            # There is no time for more: who is silent for long now won't make the last sync.
            limit = min(limit, max(self._pace.hush, self.grace / 3))
        return agent.heard + limit, f"silent for {limit:g} s"

    # -- what the loop has us do

    def listen(self) -> None:
        """Take in what the agent said, and send what it had no room for."""
        if self.agent is not None and self.agent.closed_at is None:
            self.agent.flush()
            if time.monotonic() >= self.agent.rest_until:
                for message in self.agent.listen(self.kept):
                    self._hear(self.agent, message)

    def tend(self) -> None:
        """Kill an agent that hangs; start one where there is none."""
        now = time.monotonic()
        if self.agent is not None:
            due, why = self._limit(self.agent)
            if now >= due and self.agent.killed is None:
                self.agent.kill(why)
        elif not self._at_rest() and now >= self._retry_at:
            options = ["--instance", self.instance, *self._main]
            try:
                self.agent = Agent(self._command, options, self.kept, self._signals)
            except OSError as error:
                self._next_after(f"can't be started ({error.strerror})")

    def overslept(self) -> None:
        """We were stopped or frozen for a while, and the agent perhaps with us: its silence says nothing."""
        if self.agent is not None:
            self.agent.heard = self.agent.since = time.monotonic()

    def bury(self, status: int) -> None:
        """The agent has ended with this wait status."""
        agent, self.agent = self.agent, None
        assert agent is not None
        # Killed or crashed, it may have left a child in the middle of an upload.
        family.kill_session(agent.pid)
        for message in agent.last_words(self.kept):
            self._hear(agent, message)
        code = pid1.shell_code(status)
        last = self._order is not None and self._order[0] == "final"
        if self._at_rest():
            return
        if (self.mode == "recover" and code in _VERDICTS) or (last and code in _LAST_VERDICTS):
            self.failed = code
            return
        if time.monotonic() - agent.since >= self._pace.steady:
            self._failures = 0
        if agent.killed is not None:
            self._next_after(f"was killed ({agent.killed})")
        elif code > 128:
            self._next_after(f"ended by {pid1.signal_name(code - 128)}")
        else:
            self._next_after(f"ended with {code}")

    def _next_after(self, how: str) -> None:
        self._failures += 1
        if self.mode == "recover" and self._failures > self._pace.tries:
            self.failed = 1
            say(
                f"the agent {how}: {self._failures} failures in a row before recovery was done, giving up. "
                "Its own lines above say more; `sidecar config` shows the settings",
                "error",
            )
            return
        seconds = pause(self._pace, self._failures, os.urandom(1)[0] / 255)
        if self.mode == "end":
            seconds = 0.0 if self._failures == 1 else seconds / 2
        self._retry_at = time.monotonic() + seconds
        main = {"recover": "main waits", "keep": "main goes on untouched"}.get(self.mode, "main is ending")
        say(f"the agent {how}; {main}; a new one starts in {seconds:.1f} s", "warning")

    def _hear(self, agent: Agent, message: list[str]) -> None:
        verb, *args = message
        if verb == "hello":
            stop, grace = read_seconds(args[0]), read_seconds(args[1])
            if stop is not None and grace is not None:
                self.stop_timeout, self.grace = stop, grace
            first, agent.greeted = not agent.greeted, True
            if first:
                self._tell_order()
        elif verb == "keep":
            self.kept.keep(*args)
        elif verb == "ready":
            self.ready = True
        elif verb == "fail" and self.mode == "recover":
            self.failed = read_code(args[0])
        elif verb == "done" and (self.mode == "leave" or (self._order or ("",))[0] == "final"):
            # Earlier it would be a promise about what main has yet to write.
            self.done = True
            agent.done_at = agent.done_at or time.monotonic()
