"""What is left to do once all is in its place: staging goes, and roots look as they should."""

from __future__ import annotations

import os
from contextlib import suppress

from sidecar.recovery.plan import Place
from sidecar.recovery.redo import Journal
from sidecar.recovery.tree import Tree
from sidecar.snapshot.exclude import STAGING_PREFIX


def clear(place: Place) -> None:
    """Remove what this and earlier starts staged for ``place``; what can't be removed is in nobody's way."""
    above, name = os.path.split(place.staging)
    with suppress(OSError), Tree(above) as tree:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.folder(""))
        try:
            names = os.listdir(fd)
        finally:
            os.close(fd)
        for found in names:
            # Beside a single file others may stage too; in a folder root nobody but us.
            if found == name or (not place.leaf and found.startswith(STAGING_PREFIX)):
                with suppress(OSError):
                    tree.remove(found)


def seal_tops(journal: Journal) -> None:
    """Set the roots' own times again, which removing the staging folder has changed."""
    for op in journal.ops:
        if op.what == "seal" and not op.rel:
            with suppress(OSError), Tree(journal.places[op.place].base) as tree:
                tree.dress("", None, op.uid, op.gid, op.mtime_ns)
