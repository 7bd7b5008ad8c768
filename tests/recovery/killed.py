"""`python -m tests.recovery.killed WORLD REVISION STEP`: restore, and die by SIGKILL before the n-th change to
the disk, for every n (or every STEP-th); each time a later start must finish it without the store. Prints how
many points of death there were.

An audit hook sees every call that changes a file just before it is made, so nothing in the program helps here.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from sidecar.recovery import journal
from sidecar.recovery.restore import finish_journal
from sidecar.snapshot import codec
from sidecar.snapshot.index import Index
from tests.recovery.world import World, picture

CHANGES = {
    f"os.{name}"
    for name in ("rename", "remove", "mkdir", "rmdir", "symlink", "chmod", "chown", "utime", "truncate", "link")
} | {"shutil.rmtree"}


def die_before(number: int, world: World) -> None:
    """SIGKILL ourselves before the ``number``-th change that is made while the journal is open."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (event in CHANGES or writes) and journal.is_open(world.state):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def lives(number: int, world: World, revision: str) -> bool:
    """One restore that may die; whether it lived to its end."""
    child = os.fork()
    if child == 0:
        try:
            die_before(number, world)
            manifest = codec.decode((world.base / "manifest.json").read_bytes())
            world.restore(revision, manifest)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.waitstatus_to_exitcode(status) == 0, "the restore itself failed"
    return True


def main() -> None:
    base, revision, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    before, wanted = base / "before", picture(base / "wanted")
    number = 1 - step
    while True:
        number += step
        for name in ("disk", "state"):
            shutil.rmtree(base / name, ignore_errors=True)
            shutil.copytree(before / name, base / name, symlinks=True)
        empty(base / "state/conflicts")
        world = World(base)
        if lives(number, world, revision):
            break
        assert journal.is_open(world.state)
        # The store is gone; now and then the first start that finishes the journal dies half-way as well.
        if number % 4 == 1:
            child = os.fork()
            if child == 0:
                die_before(3, world)
                finish_journal(world.state)
                os._exit(0)
            os.waitpid(child, 0)
        with closing(Index(world.state / "index.db")) as index:
            outcome = finish_journal(world.state, index)
            assert outcome is None or (outcome.complete, outcome.lost, outcome.blocked) == (True, (), ()), outcome
            check(world, wanted, number)
            if outcome is not None:
                known = index.known()
                assert known is not None
                assert str(known.snapshot) == outcome.snapshot
                assert index.note(journal.NOTE) is None
    check(World(base), wanted, number)
    print(number - step)


def empty(folder: Path) -> None:
    """``conflicts`` may be a link to another filesystem, where a rename can't go."""
    if folder.is_symlink():
        for path in folder.resolve().iterdir():
            shutil.rmtree(path)


def check(world: World, wanted: dict[str, Any], number: int) -> None:
    found = picture(world.root)
    assert found == wanted, f"death {number}: {differences(found, wanted)}"
    moved = [s[-1] for s in picture((world.state / "conflicts").resolve()).values()]
    for content in (b"mine", b"mine, in a folder", "/mine", b"mine, beside a database"):
        assert content in moved, f"death {number}: {content!r} is lost"
    assert not journal.is_open(world.state)
    assert not any("restore" in name for name in os.listdir(world.state))


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[Any]:
    return [(p, found.get(p), wanted.get(p)) for p in found.keys() | wanted.keys() if found.get(p) != wanted.get(p)]


if __name__ == "__main__":
    main()
