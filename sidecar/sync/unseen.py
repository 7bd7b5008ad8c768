"""What the image brought and main deleted before any snapshot had it: no row of the index tells of that."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping

from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import root_of


def unseen(index: Index, places: Mapping[str, str], staged: Container[str]) -> dict[str, str]:
    """Path -> what was shipped there. ``places`` are the real paths of roots that are there and readable. Blocks."""
    out: dict[str, str] = {}
    known = index.tombstones()
    for path, sha in index.shipped().items():
        root = root_of(path, places)
        if root is None or path in staged or path in known or index.get(path) is not None:
            continue
        try:
            os.lstat(places[root] + path[len(root) :])
        except (FileNotFoundError, NotADirectoryError):
            out[path] = sha  # anything else is no deletion
        except OSError:
            pass
    return out
