"""A Space as its owner sees it: a container that starts, runs, is killed, and loses its disk."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]


def not_last_in_line(home: Path) -> str:
    """A PYTHONPATH with which a drill is as urgent as anybody: on a busy machine nice 19 may wait for minutes."""
    (home / "site").mkdir(exist_ok=True)
    (home / "site/sitecustomize.py").write_text("import os\nos.nice = lambda n: 0\n")
    return f"{home}/site:{REPO}"


def _ports() -> Iterator[int]:
    """This process's part of the ports below those that the kernel gives away (ip_local_port_range), round and round.

    All of them are above 10080, the highest that browsers refuse.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    each = 20_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for n in itertools.count(os.getpid() * 97):  # another run of the suite begins elsewhere
        yield 11_000 + worker * each + n % each


_PORTS = _ports()
_CHOOSING = threading.Lock()


def free_port() -> int:
    """A port that stays a Space's own while it is down between two lives.

    The kernel's choice may be given to another test meanwhile: then one Space's status is taken for another's.
    """
    with _CHOOSING:
        for port in itertools.islice(_PORTS, 2000):
            with socket.socket() as s, contextlib.suppress(OSError):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", port))
                return port
    raise AssertionError("no port is free")


def on_tmpfs(*where: str) -> list[str]:
    """A command that has small file systems of its own: ``SIZE:FOLDER`` each, seen by nobody else."""
    mounts = [
        f"mkdir -p '{folder}' && mount -t tmpfs -o size={size},mode=755 tmpfs '{folder}' &&"
        for size, _, folder in (item.partition(":") for item in where)
    ]
    return ["unshare", "--mount", "sh", "-c", f'{" ".join(mounts)} exec "$@"', "sh"]


def can_mount() -> bool:
    """May this machine's user have mounts of its own?"""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


class Space:
    """One Space under ``home``: its roots' folder ``disk``, its state dir, and its environment."""

    def __init__(self, home: Path, store: str, paths: str | None = None, **settings: str) -> None:
        self.home = home
        self.disk = home / "disk"
        self.state = home / "state"
        self.log = home / "log"
        self.disk.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SIDECAR_", "HF_", "SPACE_"))}
        self.env |= {
            "PYTHONPATH": str(REPO),
            "SIDECAR_PATHS": paths or f"data={self.disk}/data\nconf={self.disk}/conf",
            "SIDECAR_STORE": store,
            "SIDECAR_STATE_DIR": str(self.state),
            "SIDECAR_QUIET": "0.2s",
            "SIDECAR_PORT": str(self.port),
            "SIDECAR_HANDOFF_WAIT": "1s",
            **settings,
        }
        self.python = sys.executable
        self.cwd = home
        self.within: list[str] = []
        """A command that goes before ours, and executes what follows it."""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str, **extra: str) -> subprocess.Popen[bytes]:
        """`sidecar run -- command`, in a session of its own; its output goes to ``log``."""
        argv = [*self.within, self.python, "-m", "sidecar", "run", "--", *(command or ("sleep", "1000"))]
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                argv, env={**self.env, **extra}, stdout=out, stderr=out, start_new_session=True, cwd=self.cwd
            )
        return self.process

    def hurry(self, **constants: float) -> None:
        """Let the agent have other ``constants``: ``NAME`` of syncing, ``room.module.NAME``. Nobody waits so long."""
        full = {name if "." in name else f"syncing.{name}": value for name, value in constants.items()}
        lines = [
            f"    import sidecar.{name.rpartition('.')[0]}; sidecar.{name} = {value}" for name, value in full.items()
        ]
        script = "\n".join(["import sys", "if 'agent' in sys.orig_argv:", *lines, ""])
        (self.home / "site").mkdir(exist_ok=True)
        (self.home / "site/sitecustomize.py").write_text(script)
        self.env["PYTHONPATH"] = f"{self.home}/site:{REPO}"

    def sidecar(self, *argv: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """One of our other commands, run to its end."""
        return subprocess.run(
            [sys.executable, "-m", "sidecar", *argv],
            env={**self.env, **extra},
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def get(self, path: str = "/status") -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=3) as reply:
                return dict(json.load(reply))
        except urllib.error.HTTPError as error:
            return dict(json.load(error))

    def post(self, path: str) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, dict(json.load(reply))
        except urllib.error.HTTPError as error:
            return error.code, dict(json.load(error))

    def wait(self, what: Callable[[dict[str, Any]], bool], seconds: float = 20) -> dict[str, Any]:
        """Wait until the status is as ``what`` wants it."""
        until = time.monotonic() + seconds
        last: dict[str, Any] = {}
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                last = self.get()
                if what(last):
                    return last
            if self.process is not None and self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {last}\n{self.said()}")

    def running(self, seconds: float = 20) -> dict[str, Any]:
        return self.wait(lambda s: s["main"]["state"] == "running", seconds)

    def checkpoint(self) -> dict[str, Any]:
        status, body = self.post("/checkpoint")
        assert status == 200, (status, body, self.said())
        return body

    def settle(self) -> None:
        """Until the agent has looked at everything by itself: what changes from now on waits for its time."""
        self.wait(lambda s: s["sync"]["watcher"] != "off")
        for _ in range(2):  # its own first look may be under way beside the first of these, but not beside the next
            self.checkpoint()

    def end(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal to the supervisor and wait for its end."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """What the platform does without warning: everything in the container is gone at once."""
        assert self.process is not None
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def lose_disk(self) -> None:
        shutil.rmtree(self.disk)
        shutil.rmtree(self.state, ignore_errors=True)
        self.disk.mkdir()

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


@contextlib.contextmanager
def living(space: Space) -> Iterator[Space]:
    try:
        yield space
    finally:
        space.close()


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, deepest last."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    out, waiting = [], [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            out.append(child)
            waiting.append(child)
    return out


def agent_of(space: Space) -> int:
    """The pid of the running agent."""
    assert space.process is not None
    for pid in descendants(space.process.pid):
        with contextlib.suppress(OSError):
            if b"\0agent\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise AssertionError(f"no agent\n{space.said()}")


def tree(folder: Path) -> Mapping[str, tuple[object, ...]]:
    """What is in ``folder``, comparable: kind, mode, bytes, mtime of files, targets of links."""
    out: dict[str, tuple[object, ...]] = {}
    for at, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(at, name)
            key = os.fsdecode(os.path.relpath(path, os.fsencode(folder)))
            status = os.lstat(path)
            if os.path.islink(path):
                out[key] = ("link", os.fsdecode(os.readlink(path)))
            elif os.path.isdir(path):
                out[key] = ("dir", status.st_mode & 0o7777)
            else:
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                out[key] = ("file", status.st_mode & 0o7777, status.st_mtime_ns, digest)
    return out
