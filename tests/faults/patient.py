"""A Space that is watched while its store, or its machine, fails: a real agent whose waits are short."""

from __future__ import annotations

import itertools
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.table import Row
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys.past import IDENTITY
from tests.journeys.space import REPO, Space

HASTY = """
import os, sys, time

if "agent" in sys.orig_argv:
    from sidecar.stores import hubcall
    from sidecar.sync import pace
    from sidecar.web import health

    # connect, read, commit, request, stall, rate, tries, pause, longest, hint
    hubcall.Patience.__init__.__defaults__ = (2.0, 0.8, 1.0, 5.0, 3.0, 1 << 18, 2, 0.02, 0.1, 3600.0)
    health.NOT_DURABLE_S = {not_durable}
    backoff, clock = pace.backoff, time.time
    pace.backoff = lambda *given, **named: backoff(*given, **named) / 40

    def shifted():
        try:
            with open({shift!r}) as file:
                return clock() + float(file.read() or 0)
        except OSError:
            return clock()

    time.time = shifted
    from sidecar.sync import line

    line.LONG_S = 0.5
"""
"""What takes a minute in life takes a second or two; the wall clock is off by what stands in a file."""

APP = "while :; do date +%s%N > beat; sleep 0.3; done"
"""The app lives outside of its roots; what it keeps in them the test writes in its place."""

OWNER = "the-owners-own-token"

SETTINGS = {
    "SIDECAR_QUIET": "0.05s",
    "SIDECAR_MAX_DELAY": "0.3s",
    "SIDECAR_COMMITS_PER_HOUR": "100000",
    "SIDECAR_ON_RESTORE_FAILURE": "exit",
    "SIDECAR_API_TOKEN": OWNER,
}


class Patient:
    """One Space with its snapshots in ``repo`` of ``hub``, and what was written into its roots."""

    def __init__(self, hub: LocalHub, home: Path, repo: str, token: str = DEFAULT_TOKEN, **settings: str) -> None:
        self.hub, self.repo, self.token = hub, repo, token
        given = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "SIDECAR_IDENTITY": IDENTITY, **SETTINGS, **settings}
        self.space = Space(home, f"hf://datasets/{repo}", **given)
        self.clock = home / "clock"
        self.names = (f"data/{n}.txt" for n in itertools.count())
        self.hurry()

    def hurry(self, not_durable_s: float = 300.0) -> None:
        site = self.space.home / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(HASTY.format(not_durable=not_durable_s, shift=str(self.clock)))
        self.space.env["PYTHONPATH"] = f"{site}:{REPO}"

    def start(self, **extra: str) -> None:
        """Run the app, and have a first snapshot."""
        (self.space.disk / "data").mkdir(exist_ok=True)
        self.space.start("sh", "-c", APP, **extra)
        self.space.running()
        status, body = self.checkpoint()
        assert status == 200, (body, self.space.said())

    def write(self) -> tuple[str, bytes]:
        """What the app writes next."""
        name, data = next(self.names), os.urandom(40).hex().encode()
        (self.space.disk / name).write_bytes(data)
        return name, data

    def judged(self, row: Row, within: float = 20.0) -> list[tuple[str, frozenset[str]]]:
        """Wait until health says what the table says, the status' words included; all that it said until then."""
        seen: list[tuple[str, frozenset[str]]] = []
        said: list[str] = []

        def as_told() -> bool:
            health = self.space.get("/health")
            now = (health["status"], frozenset(health["notes"]))
            if not seen or seen[-1] != now:
                seen.append(now)
            said[:] = self.said()
            return now == (row.verdict, row.notes) and all(any(w in text for text in said) for w in row.says)

        self.until(as_told, within, lambda: f"{row}\nseen: {seen}\nsaid: {said}")
        return seen

    def said(self) -> list[str]:
        """Every sentence in the status that tells of something wrong."""
        status = self.ask("GET", "/status")[1]
        return [status["sync"]["error"] or "", *status["notes"].values()]

    def ask(self, method: str, path: str, seconds: float = 60.0) -> tuple[int, dict[str, Any]]:
        """One request as the owner makes it, who may see names of files."""
        headers = {"Authorization": f"Bearer {OWNER}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.space.port}{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as reply:
                return reply.status, dict(json.load(reply))
        except urllib.error.HTTPError as error:
            return error.code, dict(json.load(error))

    def checkpoint(self) -> tuple[int, dict[str, Any]]:
        return self.ask("POST", "/checkpoint?timeout=50s")

    def durable(self, name: str, data: bytes, within: float = 20.0, repo: str | None = None) -> None:
        """Wait until the store has ``data`` under ``name``, and health has nothing to say of syncing."""

        def kept() -> bool:
            if self.space.get()["sync"]["error"] is not None:
                return False
            return name in self.hub.entries(repo or self.repo) and self.hub.read(repo or self.repo, name) == data

        self.until(kept, within, lambda: f"{name} is not in the store: {self.space.get()['sync']}")

    def beats(self) -> None:
        """The app runs as ever."""
        before = (self.space.home / "beat").read_text()
        self.until(
            lambda: (self.space.home / "beat").read_text() not in ("", before), 5, lambda: "the app stands still"
        )

    def until(self, true: Callable[[], bool], within: float, why: Callable[[], str]) -> None:
        end = time.monotonic() + within
        while not true():
            if time.monotonic() > end:
                raise AssertionError(f"not within {within} s: {why()}\n{self.space.said()[-4000:]}")
            assert self.space.process is not None
            assert self.space.process.poll() is None, self.space.said()
            time.sleep(0.1)

    def snapshots(self) -> list[str]:
        """Titles of the snapshots on the main line."""
        return [c["title"] for c in self.hub.commits(self.repo) if c["title"].startswith("sidecar: snapshot ")]
