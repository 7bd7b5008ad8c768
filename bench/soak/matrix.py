"""Every kind of request that the agent makes, failing in every way: while the app runs, and at a start.

What must hold of each: the app runs on, nothing is ever `fail` but a start, no commit lacks what was there before, and
when the fault is over everything is in the store, each snapshot once.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.faults.patient import Patient
from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.past import Past
from tests.journeys.space import living

LANES = 4
LASTS_S = 1.0
"""How long a fault lasts at least; the agent's own waits are as short (see ``patient``)."""

FAULTS: Mapping[str, dict[str, Any]] = {
    "429 Retry-After: 1": {"status": 429, "headers": {"Retry-After": "1"}},
    "429 Retry-After: 86400": {"status": 429, "headers": {"Retry-After": "86400"}},
    "429": {"status": 429},
    "429 RateLimit": {"status": 429, "headers": {"RateLimit": '"api";r=0;t=55'}},
    "500": {"status": 500},
    "502": {"status": 502},
    "503": {"status": 503},
    "504": {"status": 504},
    "401": {"status": 401},
    "403 quota": {"status": 403, "body": '{"error":"You have exceeded your private storage quota"}'},
    "404": {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}},
    "409": {"status": 409},
    "412": {"status": 412},
    "no answer": {"action": "hang"},
    "cut in the request": {"action": "cut_request", "after": 50},
    "cut in the answer": {"action": "cut_response", "after": 20},
    "ends early": {"action": "truncate", "after": 20},
    "shorter": {"action": "short", "after": 20},
    "corrupt": {"action": "corrupt"},
    "done, answered 500": {"action": "land_then_status", "status": 500},
    "done, then cut": {"action": "land_then_cut"},
    "done, no answer": {"action": "land_then_hang"},
}


@dataclass
class Found:
    kinds: tuple[str, ...] = ()
    met: int = 0
    unmet: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return not self.failures and self.met > 0

    def line(self) -> str:
        return (
            f"matrix: {self.met} faults met ({self.unmet} not: no such request came), {len(self.kinds)} kinds of "
            f"requests, {len(self.failures)} failures, {self.seconds:.0f} s"
        )


def run(scale: float, seed: int) -> Found:
    """All of it at scale 1, else as large a part, drawn at random."""
    found, began, rng = Found(), time.monotonic(), random.Random(seed)
    with TemporaryDirectory(prefix="sidecar-soak-") as name, ThreadPoolExecutor(LANES) as pool:
        tmp = Path(name)
        with LocalHub(tmp / "hub", process=True, settings={"lfs_above": 2000}) as hub:
            template = past.on_hub(hub, tmp / "template")
            life, start = _kinds(hub, tmp, template)
            found.kinds = tuple(sorted({*life, *start}))
            lives = _some(rng, list(itertools.product(life, FAULTS)), scale)
            starts = _some(rng, list(itertools.product(start, FAULTS)), scale)
            many = [one for one in lives if not _for_all(*one)]
            jobs = [pool.submit(_lives, hub, tmp, f"lane{n}", many[n::LANES], found) for n in range(LANES)]
            jobs += [
                pool.submit(_start, hub, tmp, template, n, *one, found)
                for n, one in enumerate(starts)
                if not _for_all(*one)
            ]
            for job in jobs:
                job.result()
            _lives(hub, tmp, "alone", [one for one in lives if _for_all(*one)], found)
            for n, one in enumerate(starts):
                if _for_all(*one):
                    _start(hub, tmp, template, n, *one, found)
    found.seconds = time.monotonic() - began
    print(found.line(), flush=True)
    for failure in found.failures[:10]:
        print("  ", failure, flush=True)
    return found


def _some(rng: random.Random, all_of_them: list[tuple[str, str]], scale: float) -> list[tuple[str, str]]:
    return rng.sample(all_of_them, min(len(all_of_them), max(LANES, round(len(all_of_them) * scale))))


def _kinds(hub: LocalHub, tmp: Path, template: Past) -> tuple[list[str], list[str]]:
    """The requests of a life, and of a start with its restore, as the server counts them."""
    patient = Patient(hub, tmp / "kinds", "alice/kinds")
    with living(patient.space):
        patient.start()
        hub.reset()
        list(_writes(patient))
        assert patient.checkpoint()[0] == 200, patient.space.said()
        life = _counted(hub)
    template.lay(hub, "alice/kinds-start")
    hub.reset()
    again = Patient(hub, tmp / "kinds-start", "alice/kinds-start")
    with living(again.space):
        assert again.space.start("true").wait(60) == 0, again.space.said()
    return life, _counted(hub)


def _counted(hub: LocalHub) -> list[str]:
    return sorted(name for name in hub.counters() if not name.startswith("admin."))


def _writes(patient: Patient) -> Iterator[tuple[str, bytes]]:
    """A small file that goes into the commit, and one that is uploaded apart."""
    yield patient.write()
    name, data = f"data/large-{time.monotonic_ns()}.bin", os.urandom(5000)
    (patient.space.disk / name).write_bytes(data)
    yield name, data


EVERYBODYS = ("whoami", "cdn", "create_repo", "validate_yaml")


def _everybodys(kind: str) -> bool:
    """Whether such a request doesn't say which dataset it is about."""
    return kind in EVERYBODYS or kind.startswith("xet_")


def _for_all(kind: str, fault: str) -> bool:
    """Whether it would end another Space's start too, which has no fault of its own: then it is tried alone."""
    return _everybodys(kind) and FAULTS[fault].get("status") in (401, 403, 404)


def _rule(hub: LocalHub, repo: str, kind: str, fault: str) -> int:
    """For one dataset where its name is in the request, else for everybody's."""
    path = None if _everybodys(kind) else repo
    return hub.fault(**{"action": "status", "endpoint": kind, "path": path, "times": None, **FAULTS[fault]})


def _lives(hub: LocalHub, tmp: Path, lane: str, combinations: list[tuple[str, str]], found: Found) -> None:
    """One Space after the other; a new one where a combination failed."""
    rest, number = list(combinations), 0
    while rest:
        number += 1
        repo = f"alice/{lane}-{number}"
        patient = Patient(hub, tmp / f"{lane}-{number}", repo)
        with living(patient.space):
            try:
                patient.start()
                while rest:
                    kind, fault = rest.pop()
                    _life(patient, kind, fault, found)
            except Exception as error:
                what = f"{kind}, {fault}" if rest != combinations else "before anything"
                found.failures.append(f"in life: {what}: {type(error).__name__}: {str(error)[:3000]}")


def _life(patient: Patient, kind: str, fault: str, found: Found) -> None:
    main = patient.space.get()["main"]["pid"]
    rule = _rule(patient.hub, patient.repo, kind, fault)
    try:
        written = dict(_writes(patient))
        until = time.monotonic() + LASTS_S
        while time.monotonic() < until:
            health = patient.space.get("/health")
            assert health["status"] != "fail", health
            time.sleep(0.1)
        fired = patient.hub.fired(rule)
    finally:
        patient.hub.clear_faults(rule)
    found.met, found.unmet = found.met + (fired > 0), found.unmet + (fired == 0)
    until = time.monotonic() + 30
    while (answer := patient.checkpoint())[0] != 200 and time.monotonic() < until:
        time.sleep(0.2)
    assert answer[0] == 200, answer
    for name, data in written.items():
        assert patient.hub.read(patient.repo, name) == data, name
    titles = patient.snapshots()
    assert len(titles) == len(set(titles)), titles[:5]
    assert patient.space.get()["main"]["pid"] == main
    assert "Traceback" not in patient.space.said()


MAIN = "cat disk/data/a.txt > ran"


def _start(hub: LocalHub, tmp: Path, template: Past, number: int, kind: str, fault: str, found: Found) -> None:
    try:
        repo = f"alice/start{number}"
        template.lay(hub, repo)
        patient = Patient(hub, tmp / f"start{number}", repo)
        with living(patient.space), past.watched(hub, repo, template.earlier):
            rule = _rule(hub, repo, kind, fault)
            try:
                code = patient.space.start("sh", "-c", MAIN, SIDECAR_RESTORE_TIMEOUT="1s").wait(60)
                fired = hub.fired(rule)
            finally:
                hub.clear_faults(rule)
            found.met, found.unmet = found.met + (fired > 0), found.unmet + (fired == 0)
            ran = patient.space.home / "ran"
            assert code in (0, 69, 75), f"{code}\n{patient.space.said()}"
            assert ran.exists() is (code == 0), patient.space.said()
            assert code != 0 or ran.read_bytes() == b"two\n", "main ran without its files"
            patient.space.lose_disk()
            code = patient.space.start("sh", "-c", MAIN).wait(60)
            assert code == 0, patient.space.said()
            assert ran.read_bytes() == b"two\n"
            assert "Traceback" not in patient.space.said(), patient.space.said()
    except Exception as error:
        found.failures.append(f"at a start: {kind}, {fault}: {type(error).__name__}: {str(error)[:3000]}")
