"""The container that `sidecar demo` plays with: real processes, a disk of its own, and their end."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import sqlite3
import stat as st
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sidecar
from sidecar.commands.agent_client import OWN, Nobody, over_socket, socket_of
from sidecar.errors import SidecarError, TryLater

APP = Path(__file__).with_name("demo_app.py")
MARK = "DEMO_OF_SIDECAR"
"""Set in every process of the container, so that each is found however it was started."""
DATABASE = "data/shop.db"
LIMIT_S = 25.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Picture:
    """What the two folders hold: entries by path, and the rows of the database (its file is SQLite's business)."""

    entries: dict[str, tuple[Any, ...]]
    rows: list[tuple[Any, ...]]
    integrity: str

    def count(self, kind: str) -> int:
        return sum(entry[0] == kind for entry in self.entries.values())

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr((sorted(self.entries.items()), self.rows)).encode()).hexdigest()


class Container:
    """One container under ``home``: two folders, a state dir, and whatever runs in it."""

    def __init__(self, home: Path, store: str, say: Callable[[str], None], **settings: str) -> None:
        self.home, self.say = home, say
        self.notes, self.data, self.state = home / "notes", home / "data", home / "state"
        self.port = _free_port()
        self.settings = {
            "SIDECAR_PATHS": f"notes={self.notes}\ndata={self.data}",
            "SIDECAR_STORE": store,
            "SIDECAR_STATE_DIR": str(self.state),
            "SIDECAR_HOST": "127.0.0.1",
            "SIDECAR_PORT": str(self.port),
            "SIDECAR_QUIET": "0.2s",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._log = home / "log"
        self._shown = 0

    def start(self, **more: str) -> None:
        """`sidecar run -- python demo_app.py …`, in a session of its own."""
        argv = [sys.executable, "-P", "-m", "sidecar", "run", "--"]
        argv += [sys.executable, str(APP), str(self.notes), str(self.data)]
        env = {**clean_environment(), **self.settings, **more, MARK: str(self.home)}
        with open(self._log, "ab") as out:
            self.process = subprocess.Popen(
                argv, env=env, cwd=self.home, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def show_log(self) -> str:
        """Pass on what was said since the last call; returns it."""
        with contextlib.suppress(FileNotFoundError), open(self._log, "rb") as file:
            file.seek(self._shown)
            new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._shown += len(new)
            text = new.decode("utf-8", "replace")
            for line in text.splitlines():
                self.say(f"| {line}")
            return text
        return ""

    def wait(self, what: str, done: Callable[[dict[str, Any], str], bool]) -> dict[str, Any]:
        """Show the log until ``done(status, everything said since)``; raises SidecarError past the limit."""
        until, said = time.monotonic() + LIMIT_S, ""
        while True:
            said += self.show_log()
            with contextlib.suppress(Nobody, TryLater):
                status = self.status()
                if done(status, said):
                    return status
            if self.process is None or self.process.poll() is not None:
                self.show_log()
                raise SidecarError(f"the demo's container ended before {what}")
            if time.monotonic() > until:
                raise SidecarError(f"not within {LIMIT_S:g} s: {what}")
            time.sleep(POLL_S)

    def status(self) -> dict[str, Any]:
        return over_socket(socket_of(str(self.state)), "GET", f"{OWN}/status", 5).body

    def checkpoint(self) -> dict[str, Any]:
        """What `sidecar checkpoint` asks for; raises SidecarError where it is refused."""
        reply = over_socket(socket_of(str(self.state)), "POST", f"{OWN}/checkpoint?timeout=20s", 30)
        self.show_log()
        if reply.status != 200:
            raise SidecarError(f"the checkpoint failed: {reply.why}")
        return reply.body

    def end(self) -> int:
        """SIGTERM, as a platform sends it; the exit code of `sidecar run`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise SidecarError(f"`sidecar run` did not end within {LIMIT_S:g} s of SIGTERM") from None
        finally:
            self.show_log()

    def kill(self) -> list[tuple[int, str]]:
        """SIGKILL for every process of the container at once; (pid, name) of each."""
        found = members(self.home)
        # Stopped first: none of them is to notice the end of another.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid, _ in found:
                _send(pid, number)
        until = time.monotonic() + 5
        while (rest := members(self.home)) and time.monotonic() < until:
            for pid, _ in rest:
                _send(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait(5)
        return found

    def lose_disk(self) -> None:
        for folder in (self.notes, self.data, self.state):
            shutil.rmtree(folder)

    def picture(self) -> Picture:
        entries: dict[str, tuple[Any, ...]] = {}
        for top in (self.notes, self.data):
            for folder, folders, files in os.walk(top):
                for name in (*folders, *files):
                    path = os.path.join(folder, name)
                    key = os.path.relpath(path, self.home)
                    if not key.startswith(DATABASE):
                        entries[key] = _entry(path)
        database = self.home / DATABASE
        if not database.exists():
            return Picture(entries, [], "the database is missing")
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as db:
            rows = db.execute("SELECT * FROM orders ORDER BY id").fetchall()
            return Picture(entries, rows, str(db.execute("PRAGMA integrity_check").fetchone()[0]))


def _entry(path: str) -> tuple[Any, ...]:
    found = os.lstat(path)
    if st.S_ISLNK(found.st_mode):
        return ("link", os.readlink(path))
    if st.S_ISDIR(found.st_mode):
        return ("folder", st.S_IMODE(found.st_mode))
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return ("file", st.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_size, digest)


def differences(before: Picture, after: Picture) -> list[str]:
    """One line for whatever is not as it was."""
    out = []
    for path in sorted(before.entries.keys() | after.entries.keys()):
        a, b = before.entries.get(path), after.entries.get(path)
        if a != b:
            out.append(f"{path}: {'missing' if b is None else 'was not there before' if a is None else f'{a} -> {b}'}")
    if before.rows != after.rows:
        out.append(f"{DATABASE}: {len(before.rows)} rows before, {len(after.rows)} now, not the same ones")
    if after.integrity != "ok":
        out.append(f"{DATABASE}: {after.integrity}")
    return out


def members(home: Path) -> list[tuple[int, str]]:
    """Every live process of the container, by its environment: (pid, what it is)."""
    mark = os.fsencode(f"{MARK}={home}")
    out = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    out.append((int(name), _what(Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"))))
    return sorted(out)


def _what(words: list[bytes]) -> str:
    for n, word in enumerate(words[:-1]):
        if word == b"-m" or word.endswith(b"/sidecar"):
            return f"sidecar {os.fsdecode(words[n + 2 if word == b'-m' else n + 1])}"
    return next((APP.name for word in words if word.endswith(os.fsencode(APP.name))), os.fsdecode(words[0]))


def clean_environment() -> dict[str, str]:
    """The caller's, without a setting that could lead the demo to the caller's own store, token or Space."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SIDECAR_", "HF_", "SPACE_", "HUGGING"))}
    package = str(Path(sidecar.__file__).resolve().parents[1])
    env["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [env.get("PYTHONPATH")])])
    env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost"
    return env


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder for all of it; at the end everything that runs in it is killed and it is removed, come what may."""
    home = Path(tempfile.mkdtemp(prefix="sidecar-demo-")).resolve()
    try:
        yield home
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for pid, _ in members(home):
            _send(pid, signal.SIGKILL)
        until = time.monotonic() + 5
        while members(home) and time.monotonic() < until:
            time.sleep(0.02)
        shutil.rmtree(home, ignore_errors=True)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
