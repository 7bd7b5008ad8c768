"""An agent that follows a script: ``fake_agent.py DIR SCRIPT… --supervised FD …``.

The n-th agent of a life follows the n-th script (the last one repeats). A script is words: ``hello:S:G``,
``ready``, ``keep:K:V``, ``fail:N``, ``done``: said; ``raw:TEXT``; ``locks:PATH``; ``until:VERB``: serve until
the supervisor says that; ``serve``: as a sound agent does; ``mute``: alive but never done; ``hang``,
``sleep:S``, ``garbage``, ``flood:S``, ``child``, ``kill``, ``exit:N``, ``close``. What it was told lands in
DIR/agent.<n>.
Runs under ``python -I -S``: the standard library only.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import signal
import socket
import sys
import time


class Gone(Exception):
    """End of file: the supervisor is gone."""


class FakeAgent:
    def __init__(self, folder: str, scripts: list[str], options: list[str]) -> None:
        self.number = 1
        while os.path.exists(f"{folder}/agent.{self.number}"):
            self.number += 1
        self.folder = folder
        self.log = open(f"{folder}/agent.{self.number}", "w", buffering=1)  # noqa: SIM115
        self.note("argv " + " ".join(options))
        self.note(f"pid {os.getpid()} session {os.getsid(0)}")
        self.words = scripts[min(self.number, len(scripts)) - 1].split()
        self.socket = socket.socket(fileno=int(options[options.index("--supervised") + 1]))
        self.main = "--main-pid" in options
        self.rest = b""

    def note(self, line: str) -> None:
        self.log.write(f"{time.monotonic():.3f} {line}\n")

    def say(self, line: str) -> None:
        try:
            self.socket.sendall(line.encode() + b"\n")
        except OSError as error:
            raise Gone from error

    def serve(self, until: str = "", done: bool = True) -> None:
        """Alive every 0.1 s; note each line; answer the end, if ``done``, as a sound agent does."""
        while True:
            if not select.select([self.socket], [], [], 0.1)[0]:
                self.say("alive")
                continue
            data = self.socket.recv(4096)
            if not data:
                raise Gone
            *lines, self.rest = (self.rest + data).split(b"\n")
            for line in map(bytes.decode, lines):
                self.note(line)
                verb = line.split()[0]
                self.main = self.main or verb == "main"
                if until and verb == until:
                    return
                if done and (verb == "final" or (verb == "stop" and not self.main)):
                    self.say("done")
                    self.note("said done")
                    sys.exit(0)

    def do(self, word: str) -> None:
        name, *args = word.split(":")
        match name:
            case "until":
                self.serve(args[0], done=False)
            case "serve":
                self.serve()
            case "mute":
                self.serve(done=False)
            case "raw":
                self.say(":".join(args))
            case "garbage":
                self.socket.sendall(b"\xff\x00\x1b[2J\nmain\nkeep\nhello x y\nhello nan -1\nfail\n")
                self.socket.sendall(b"keep a=b c\nkeep a b\x00c\nkeep \xc3 \xff\n" + b"y" * 5000 + b"\n")
            case "locks":
                lock = open(args[0], "w")  # noqa: SIM115
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fds = array.array("i", [lock.fileno()])
                self.socket.sendmsg([b"locks\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            case "hang":
                time.sleep(600)
            case "sleep":
                time.sleep(float(args[0]))
            case "flood":
                end = time.monotonic() + float(args[0])
                while time.monotonic() < end:
                    self.socket.sendall(os.urandom(30000) + b"keep a=b c\nkeep " + b"x" * 9000 + b" y\n")
            case "child":
                if os.fork() == 0:
                    self.note(f"child {os.getpid()}")
                    time.sleep(600)
            case "close":
                self.socket.close()
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                sys.exit(int(args[0]))
            case _:
                self.say(word.replace(":", " "))


def main() -> None:
    cut = sys.argv.index("--supervised")
    folder, *scripts = sys.argv[1:cut]
    agent = FakeAgent(folder, scripts, sys.argv[cut:])
    try:
        for word in agent.words:
            agent.do(word)
    except Gone:
        agent.note("gone")


main()
