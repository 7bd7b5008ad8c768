"""What may differ from the last snapshot, and since when: told by the watcher, or put back by a sync that failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from sidecar.roots import Root
from sidecar.snapshot.manifest import root_of
from sidecar.sync import pace
from sidecar.sync.watch import Hints

Paths = dict[str, set[str]] | None
"""Root -> paths below it; None: everything."""


class Dirty:
    """The paths that the next automatic look has to see. All but ``more`` is for the event loop's thread.

    Monotonic times: the oldest change was seen at ``first``, the newest at ``last``; 0 where there is none (of
    ``last``: where nothing need be waited for).
    """

    def __init__(self, roots: Sequence[Root], wake: Callable[[], None]) -> None:
        self.roots = roots
        self.hints = Hints(wake)
        self.first = self.last = 0.0
        self._paths: Paths = {}

    def hinted(self) -> None:
        """The watcher has told of something."""
        now = time.monotonic()
        self.first = self.first or now
        self.last = now

    def everything(self) -> None:
        """Every entry may differ."""
        self._paths = None
        self.first = self.first or time.monotonic()

    def entries(self, paths: Iterable[str], now: float) -> None:
        """These entries of the manifest (``root/path``) may differ, as of ``now``."""
        self._add(below_roots(paths, [root.name for root in self.roots]))
        self.first = self.first or now

    def waiting(self) -> int:
        """How many paths wait; everything counts as one."""
        return self.hints.waiting() + (1 if self._paths is None else sum(map(len, self._paths.values())))

    def more(self) -> dict[str, set[str]]:
        """What was hinted since a look began; from any thread."""
        return by_root(self.hints.peek(), self.roots)

    def take(self) -> tuple[Paths, float]:
        """All that waits, which is clean from here on, and since when the oldest of it did."""
        paths, everything = self.hints.take()
        if everything:
            self._paths = None
        self._add(by_root(paths, self.roots))
        taken, self._paths = self._paths, {}
        first, self.first = self.first or time.monotonic(), 0.0
        return taken, first

    def put_back(self, paths: Paths, first: float) -> None:
        """Nothing of what was taken is durable: all of it waits still, since ``first``."""
        self.first = min(first, self.first) if self.first else first
        if paths is None:
            self._paths = None
        else:
            self._add(paths)

    def due(self, quiet_s: float, max_delay_s: float) -> float | None:
        """When a snapshot of it is due, budget and failures aside; None where nothing waits."""
        if not self.first:
            return None
        last = max(self.last, self.hints.last) if self.last else 0.0
        return pace.due(self.first, last, quiet_s, max_delay_s)

    def _add(self, paths: Mapping[str, Iterable[str]]) -> None:
        if self._paths is not None:
            for name, relatives in paths.items():
                self._paths.setdefault(name, set()).update(relatives)


def by_root(paths: Iterable[str], roots: Iterable[Root]) -> dict[str, set[str]]:
    """Paths on the disk, as paths below each of ``roots`` that they lie in."""
    roots, out = list(roots), dict[str, set[str]]()
    for path in paths:
        for root in roots:
            if path == root.path or path.startswith(root.path + "/"):
                out.setdefault(root.name, set()).add(path[len(root.path) :].lstrip("/"))
    return out


def below_roots(entries: Iterable[str], names: Iterable[str]) -> dict[str, set[str]]:
    """Paths of entries, as paths below each of the roots with ``names``."""
    names, out = list(names), dict[str, set[str]]()
    for path in entries:
        name = root_of(path, names)
        if name is not None:
            out.setdefault(name, set()).add(path[len(name) + 1 :])
    return out
