"""Reading files out of a folder store: whole and verified, or a part of one."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from sidecar.masking import shown
from sidecar.stores import disk, paths
from sidecar.stores.base import NotFound, Progress, Revision, StoreError, Unavailable
from sidecar.stores.disk import Alive, Sink
from sidecar.stores.ledger import Ledger
from sidecar.stores.objects import Key, damaged
from sidecar.stores.pathtree import Entry


@dataclass(frozen=True, slots=True)
class Reader:
    """What a store's ``ledger`` holds below the prefix ``below``; ``root`` and ``url`` are for people. Blocks."""

    ledger: Ledger
    root: Path
    below: str
    url: str

    def fetch(self, revision: Revision, wanted: list[str], into: Path, progress: Progress | None, alive: Alive) -> None:
        """Write ``wanted`` below ``into``; see ``Store.fetch``."""
        found = self._find(revision, wanted)
        for path in wanted:
            try:
                self._one(path, found[path], into, progress, alive)
            except OSError as error:
                raise _unwritable(path, into, error) from error

    def fetch_range(self, revision: Revision, path: str, sink: Sink, progress: Progress | None, alive: Alive) -> None:
        """Fill ``sink`` from ``path``; see ``Ranged``."""
        entry = self._find(revision, [path])[path]
        if sink.stop > entry.size:
            raise damaged(("contents", entry.content), f"it ends before byte {sink.stop:,} ({shown(path)})")
        with self._open(path, entry) as source:
            try:
                if range(sink.at, sink.stop) == range(entry.size) and sink.clone(source):
                    sink.at = entry.size
                    if progress is not None:
                        progress(entry.size)
                source.seek(sink.at)
                for chunk in disk.chunks(source, alive, self._failed(path)):
                    before = sink.at
                    sink.write([chunk])
                    if progress is not None:
                        progress(sink.at - before)
                    if sink.at == sink.stop:
                        break
            except OSError as error:
                raise _unwritable(path, sink.path, error) from error
        if sink.at < sink.stop:
            raise damaged(("contents", entry.content), f"its bytes have changed on the disk ({shown(path)})")

    def _find(self, revision: Revision, wanted: Iterable[str]) -> dict[str, Entry]:
        """What ``revision`` has at each of ``wanted``. Raises NotFound."""
        for path in wanted:
            if paths.why_not(path):  # before any tree is believed: a hostile one could name ../../etc
                raise NotFound(f"no path {shown(path)} in revision {revision[:12]}: {paths.why_not(path)}.")
        found = self.ledger.find(revision, [self.below + path for path in wanted])
        for path in wanted:
            if self.below + path not in found:
                raise NotFound(f"no path {shown(path)} in revision {revision[:12]} of {self.url}.")
        return {path: found[self.below + path] for path in wanted}

    def _open(self, path: str, entry: Entry) -> FileIO:
        key: Key = ("contents", entry.content)
        try:
            source = self.ledger.objects.open(key)
        except OSError as error:
            raise self._failed(path)(error) from error
        if source is None:
            raise damaged(key, f"it is missing ({shown(path)})")
        return source

    def _failed(self, path: str) -> Callable[[OSError], StoreError]:
        return lambda error: disk.trouble(error, f"reading {shown(path)}", self.root)

    def _one(self, path: str, entry: Entry, into: Path, progress: Progress | None, alive: Alive) -> None:
        key: Key = ("contents", entry.content)
        source = self._open(path, entry)
        temporary = into / f".sidecar-fetch-{secrets.token_hex(8)}"
        try:
            with source, disk.create(temporary) as file:
                got = disk.copy(source, file, alive, self._failed(path), progress)
            if got != (entry.content, entry.size):
                raise damaged(key, f"its bytes have changed on the disk ({shown(path)})")
            target = into / path
            disk.make_folders(target.parent)
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _unwritable(path: str, into: Path, error: OSError) -> Unavailable:
    """The caller's disk failed: nothing that the store denies or doesn't have."""
    return Unavailable(
        f"{shown(path)} can't be written below {shown(str(into))} ({disk.free_space(into)} free there): "
        f"{error.strerror or type(error).__name__}. The store is not affected."
    )
