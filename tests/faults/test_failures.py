"""docs/failures.md, row by row: what it promises of a fault is what a real agent on a real local Hub does.

A Space meets the faults of the Hub one after the other, and several do so side by side: a test asks for what became of
its own row.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.faults import check, table
from tests.faults.cases import ALONE, APART, IN_TURN, Case, without_privilege
from tests.faults.patient import Patient
from tests.hub.server import LocalHub
from tests.journeys import past
from tests.journeys.space import can_mount, living, on_tmpfs

ROWS = table.rows()
LANES = 3
AT_ONCE = 5

STARTS = (
    "429 with a Retry-After that lies",
    "cut in the middle of a download",
    "a corrupt byte on the way",
    "401, the token was revoked",
    "404, the dataset was deleted",
    "409, another commit is under way",
    "the clock jumps a day back",
    "the state dir is read-only",
    "the disk is full in staging",
)
"""Which starts the suite makes; `make soak` makes all."""

DIRECT = {"regular_redirect": False}
"""Files come from the dataset's own address: a fault of one dataset's downloads is no other's."""

Outcomes = Mapping[str, Future[None]]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """Every selected row, under way."""
    wanted = {item.name.partition("[")[2].rstrip("]") for item in request.session.items}
    tmp = tmp_path_factory.mktemp("faults")
    with LocalHub(tmp / "hub", process=True, settings=DIRECT) as hub, ThreadPoolExecutor(AT_ONCE) as pool:
        template = past.on_hub(hub, tmp / "template")
        found: dict[str, Future[None]] = {}
        names = [name for name in IN_TURN if f"life-{slug(name)}" in wanted]
        for lane in range(LANES):
            mine = names[lane::LANES]
            futures = {name: Future[None]() for name in mine}
            found |= {f"life-{slug(name)}": future for name, future in futures.items()}
            if mine:
                pool.submit(in_one_life, hub, tmp / f"lane{lane}", f"alice/lane{lane}", futures)
        apart: dict[str, Callable[[], None]] = {
            f"life-{slug(APART[0])}": partial(long_outage, tmp),
            f"life-{slug(APART[1])}": partial(older_snapshot, hub, tmp, template),
            **{f"life-{slug(name)}": partial(alone, hub, tmp, name) for name in ALONE},
            **{f"start-{slug(name)}": partial(start, hub, tmp, template, name) for name in STARTS},
        }
        yield found | {name: pool.submit(job) for name, job in apart.items() if name in wanted}
        pool.shutdown(cancel_futures=True)


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def test_every_row_has_its_fault_and_every_fault_its_row() -> None:
    assert set(ROWS) == {*IN_TURN, *ALONE, *APART}


@pytest.mark.parametrize("row", [f"life-{slug(name)}" for name in ROWS])
def test_while_the_app_runs(row: str, outcomes: Outcomes) -> None:
    outcomes[row].result(100)


@pytest.mark.parametrize("row", [f"start-{slug(name)}" for name in STARTS])
def test_a_start_that_meets_it(row: str, outcomes: Outcomes) -> None:
    outcomes[row].result(100)


# --- what is done -----------------------------------------------------------------------------------------------------


def in_one_life(hub: LocalHub, home: Path, repo: str, futures: Mapping[str, Future[None]]) -> None:
    """Row after row in one Space; after one that fails a new Space takes the rest."""
    rest = dict(futures)
    attempt = 0
    while rest:
        attempt += 1
        own = f"{repo}-{attempt}"
        token = f"hf_{own.replace('/', '_')}"
        hub.add_token(token, "alice")
        patient = Patient(hub, home / str(attempt), own, token)
        with living(patient.space):
            try:
                patient.start()
            except BaseException as error:
                for future in rest.values():
                    future.set_exception(error)
                return
            for name in list(rest):
                future = rest.pop(name)
                try:
                    check.in_life(patient, ROWS[name], IN_TURN[name])
                except BaseException as error:
                    future.set_exception(error)
                    break
                future.set_result(None)
            else:
                assert patient.space.end() == 143, patient.space.said()


def alone(hub: LocalHub, tmp: Path, name: str) -> None:
    patient = Patient(hub, tmp / f"machine-{slug(name)}", f"alice/machine-{slug(name)}")
    _furnish(patient, name)
    with living(patient.space):
        patient.start()
        check.in_life(patient, ROWS[name], ALONE[name])


def _furnish(patient: Patient, name: str) -> None:
    """The machine that a fault needs."""
    if "full" in name:
        if not can_mount():
            pytest.skip("a disk that is full needs a file system of its own, which only root may mount")
        patient.space.within = on_tmpfs(f"3m:{patient.space.state}")
    elif "read-only" in name:
        within = without_privilege()
        if within is None:
            pytest.skip("root can write whatever the modes say, and its privilege can't be dropped here")
        patient.space.within = within


def start(hub: LocalHub, tmp: Path, template: past.Past, name: str) -> None:
    repo = f"alice/start-{slug(name)}"
    template.lay(hub, repo)
    token = f"hf_start_{slug(name)}"
    hub.add_token(token, "alice")
    patient = Patient(hub, tmp / f"start-{slug(name)}", repo, token)
    _furnish(patient, name)
    with living(patient.space):
        if "full" in name:
            # From the first byte on: nothing can be filled before the file system is there.
            patient.space.within = [
                *on_tmpfs(f"3m:{patient.space.state}"),
                "sh",
                "-c",
                FILLED,
                str(patient.space.state),
            ]
            check.at_start(patient, ROWS[name], NOTHING)
            return
        if "read-only" in name:
            patient.space.state.mkdir()
        check.at_start(patient, ROWS[name], {**IN_TURN, **ALONE}[name])


FILLED = 'head -c 4000000 /dev/zero > "$0/fill" 2>/dev/null; exec "$@"'
NOTHING = Case(lambda patient: None, lambda patient: None)


def long_outage(tmp: Path) -> None:
    """The Hub is gone for as long as it takes to be warned of, twice over, and the app writes all the time."""
    row = ROWS[APART[0]]
    with LocalHub(tmp / "outage-hub") as hub:
        patient = Patient(hub, tmp / "outage", "alice/outage")
        patient.hurry(not_durable_s=1.5)
        with living(patient.space):
            patient.start()
            before = len(patient.snapshots())
            hub.stop()
            written = dict(patient.write() for _ in range(3))
            patient.judged(row)
            status, body = patient.checkpoint()
            assert status == row.checkpoint, body
            until = time.monotonic() + 2
            while time.monotonic() < until:
                written |= dict([patient.write()])
                time.sleep(0.05)
            patient.beats()
            hub.start()
            patient.durable(*list(written.items())[-1])
            assert {name: hub.read(patient.repo, name) for name in written} == written
            assert len(patient.snapshots()) - before <= 3, "what waited goes in one commit"
            assert patient.space.get("/health")["status"] == "pass"
            assert patient.space.end() == 143, patient.space.said()


def older_snapshot(hub: LocalHub, tmp: Path, template: past.Past) -> None:
    row, repo = ROWS[APART[1]], "alice/older"
    template.lay(hub, repo)
    patient = Patient(hub, tmp / "older", repo)
    with living(patient.space):
        patient.start(SIDECAR_REVISION=template.snapshots[0])
        assert (patient.space.disk / "data/a.txt").read_bytes() == b"one\n"
        patient.judged(row)
        assert patient.checkpoint()[0] == row.checkpoint
        assert [name for name in hub.branches(repo) if name.startswith("damaged/")], "the head that was left is kept"
        assert patient.space.end() == 143, patient.space.said()
        patient.start()
        assert patient.space.get("/health")["status"] == "pass"
