"""What an idle agent costs on the Hub store, after a sync: memory, and CPU over a minute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bench.figure import Figure, cpu_s, pss_mb
from tests.hub.identity import DEFAULT_TOKEN
from tests.hub.server import LocalHub
from tests.journeys.space import Space, descendants, living

SECONDS = 60


def measure(folder: Path) -> Iterator[Figure]:
    with LocalHub(folder / "hub", process=True) as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": DEFAULT_TOKEN, "SPACE_ID": "alice/app"}
        with living(Space(folder / "space", "", **settings)) as space:
            (space.disk / "data").mkdir()
            (space.disk / "data" / "text").write_text("text")
            (space.disk / "data" / "binary").write_bytes(bytes(range(256)) * 40_000)
            space.start()
            space.running()
            space.checkpoint()
            time.sleep(5)
            supervisor = space.process.pid if space.process else 0
            agent = next(p for p in descendants(supervisor) if b"agent" in Path(f"/proc/{p}/cmdline").read_bytes())
            before = cpu_s(agent) + cpu_s(supervisor)
            time.sleep(SECONDS)
            used = (cpu_s(agent) + cpu_s(supervisor) - before) / SECONDS * 100
            yield Figure("idle agent, Hub store, after a sync: PSS", pss_mb(agent), 55, "MB", "one agent")
            yield Figure("supervisor: PSS", pss_mb(supervisor), 12, "MB", "one supervisor")
            yield Figure("idle CPU, agent and supervisor", used, 0.3, "%", f"of a core over {SECONDS} s")
