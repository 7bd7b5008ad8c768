"""How each fault of docs/failures.md is made, and unmade."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.patient import Patient
from tests.journeys.past import MANIFEST

Deed = Callable[[Patient], None]

DAY = 86_400


@dataclass(frozen=True)
class Case:
    """``make`` it and ``unmake`` it, while the Space of a patient runs, or before it starts.

    ``asks``: it heals at once only where somebody asks for a checkpoint. ``after`` tells what must hold when all is
    well again, beyond what holds of every fault.
    """

    make: Deed
    unmake: Deed
    asks: bool = False
    after: Deed = lambda patient: None


def rule(action: str, *, endpoints: tuple[str | None, ...] = (None,), **fields: Any) -> tuple[Deed, Deed]:
    """A fault of the Hub's for all requests (or those to ``endpoints``) that name the dataset."""
    made: dict[str, list[int]] = {}

    def make(patient: Patient) -> None:
        how = {"path": rf"{patient.repo}[./?]", "times": None, **fields}
        made[patient.repo] = [patient.hub.fault(action, endpoint=endpoint, **how) for endpoint in endpoints]

    def unmake(patient: Patient) -> None:
        for one in made.pop(patient.repo):
            patient.hub.clear_faults(one)

    return make, unmake


def answer(status: int, words: str = "", *, endpoints: tuple[str | None, ...] = (None,), **headers: str) -> Case:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = f'{{"error": "{words or "it is what it is"}"}}'
    return Case(*rule("status", endpoints=endpoints, status=status, body=body, headers=named))


def revoke(patient: Patient) -> None:
    patient.hub.revoke_token(patient.token)


def renew(patient: Patient) -> None:
    patient.hub.add_token(patient.token, "alice")


def delete(patient: Patient) -> None:
    patient.hub.delete_repo(patient.repo)


def recreate(patient: Patient) -> None:
    patient.hub.create_repo(patient.repo)


def rename(patient: Patient) -> None:
    patient.hub.rename_repo(patient.repo, f"{patient.repo}-since")


def rename_back(patient: Patient) -> None:
    patient.hub.rename_repo(f"{patient.repo}-since", patient.repo)


def edit(patient: Patient) -> None:
    """Somebody's own file, where no root is."""
    patient.hub.edit(patient.repo, {"theirs.txt": b"theirs"})


def theirs_is_there(patient: Patient) -> None:
    assert patient.hub.read(patient.repo, "theirs.txt") == b"theirs"


def rot(patient: Patient) -> None:
    """One byte of the newest manifest is another, for good."""
    data = bytearray(patient.hub.read(patient.repo, MANIFEST))
    data[len(data) // 2] ^= 0xFF
    patient.hub.edit(patient.repo, {MANIFEST: bytes(data)})


def each_once(patient: Patient) -> None:
    titles = patient.snapshots()
    assert len(titles) == len(set(titles)), titles


def shift(seconds: float) -> Deed:
    def make(patient: Patient) -> None:
        patient.clock.write_text(str(seconds))

    return make


def nothing(_: Patient) -> None:
    return None


def state_of(patient: Patient) -> Path:
    """The state dir as the Space sees it, with the mounts that it has of its own."""
    process = patient.space.process
    assert process is not None
    return Path(f"/proc/{process.pid}/root{patient.space.state}")


def fill(patient: Patient) -> None:
    with open(state_of(patient) / "fill", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


def make_room(patient: Patient) -> None:
    (state_of(patient) / "fill").unlink()


def shut(patient: Patient) -> None:
    """Nothing new can be made in the state dir: what a read-only mount, or another user's folder, does."""
    (patient.space.state / "staging").mkdir(exist_ok=True)
    for folder in (patient.space.state / "staging", patient.space.state):
        folder.chmod(0o500)


def open_again(patient: Patient) -> None:
    for folder in (patient.space.state, patient.space.state / "staging"):
        if folder.exists():
            folder.chmod(0o700)


IN_TURN: Mapping[str, Case] = {
    "429 with a true Retry-After": answer(429, Retry_After="1"),
    "429 with a Retry-After that lies": Case(*rule("status", status=429, headers={"Retry-After": "86400"}), asks=True),
    "429 without Retry-After": answer(429),
    "500": answer(500),
    "502": answer(502),
    "503": answer(503),
    "504": answer(504),
    "no answer": Case(*rule("hang")),
    "cut in the middle of an upload": Case(*rule("cut_request", endpoints=("commit",), after=100)),
    "cut in the middle of a download": Case(
        *rule("cut_response", endpoints=("resolve",), method="GET", after=20, times=2)
    ),
    "a corrupt byte on the way": Case(*rule("corrupt", endpoints=("resolve",), method="GET", times=1)),
    "a corrupt byte in the store": Case(rot, nothing),
    "401, the token was revoked": Case(revoke, renew),
    "409, another commit is under way": answer(409, "Another commit is under way", endpoints=("commit",)),
    "412, somebody else committed": Case(edit, nothing, after=theirs_is_there),
    "the storage quota refuses": answer(403, "You have exceeded your private storage quota", endpoints=("commit",)),
    "a commit that landed, answered 500": Case(
        *rule("land_then_status", endpoints=("commit",), status=500, times=1), after=each_once
    ),
    "the clock jumps a day ahead": Case(shift(DAY), shift(0)),
    "the clock jumps a day back": Case(shift(-DAY), shift(0)),
    "404, the dataset was renamed": Case(rename, rename_back),
    "404, the dataset was deleted": Case(delete, recreate),
}
"""What one Space can go through in one life, one after the other; the last two cost the dataset its name."""

ALONE: Mapping[str, Case] = {
    "the disk is full in staging": Case(fill, make_room),
    "the state dir is read-only": Case(shut, open_again),
}

APART = ("a long outage while the app writes", "started from an older snapshot")
"""Told by tests of their own."""


def without_privilege() -> list[str] | None:
    """A command that lets root's processes be held up by modes, as everybody else's are; None where none can."""
    if os.geteuid() != 0:
        return []
    drop = [
        "setpriv",
        "--bounding-set",
        "-dac_override,-dac_read_search",
        "--inh-caps",
        "-dac_override,-dac_read_search",
    ]
    return drop if subprocess.run([*drop, "true"], capture_output=True).returncode == 0 else None
