"""``drill``: restore the head into a temporary folder at low priority, compare it, and write down what came of it."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import threading
import time
from argparse import Namespace
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from sidecar import log
from sidecar.commands import words
from sidecar.commands.reading import Reader, Unreadable, reading
from sidecar.errors import EX_FAILED, EX_OK, EX_TEMPFAIL, SidecarError
from sidecar.recovery import rehearsal
from sidecar.recovery.rehearsal import Outcome
from sidecar.recovery.scratch import scratch

LAST_S = 5.0
"""So long may clearing up take once whoever watches is gone."""

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_IDLE = 3 << 13


def drill(args: Namespace) -> int:
    _step_back()
    if args.watched:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    outcome = reading(_drill)
    if args.json:
        words.document(asdict(outcome))
    line = words.name(rehearsal.text(asdict(outcome)))
    if outcome.result == "pass":
        log.info(line)
        return EX_OK
    log.error(line)
    return EX_FAILED if outcome.result == "fail" else EX_TEMPFAIL


async def _drill(reader: Reader) -> Outcome:
    settings = reader.settings
    began = time.time()
    try:
        found = await reader.find()
    except Unreadable as error:
        outcome = Outcome("fail" if error.damage else "error", reader.store.url, began, error.message)
    except SidecarError as error:
        outcome = Outcome("error", reader.store.url, began, error.message)
    else:
        with scratch(Path(settings.state_dir), "drill") as box:
            outcome = await rehearsal.rehearse(
                reader.store, found.revision, found.manifest, settings.roots, settings.verify, box
            )
    with suppress(OSError):  # no state dir: nobody will ask
        rehearsal.note(settings.state_dir, outcome)
    return outcome


def _step_back() -> None:
    """Everybody else goes first, at the processor and, where the system knows how, at the disk."""
    with suppress(OSError):
        os.nice(19)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).syscall(number, 1, 0, _IOPRIO_IDLE)  # ioprio_set(2) of this process


def _end_with_parent() -> None:
    """Clear up and end when stdin does: whoever started us is gone, or wants us gone."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_S)
    os._exit(EX_TEMPFAIL)
