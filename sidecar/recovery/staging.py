"""Bringing a snapshot's bytes into staging: fetched, verified, and kept by name of their content.

What was verified before a cut is found again by its name and not fetched twice. A file that comes wrong is
fetched again over a call of its own, three times in all; what is wrong then is damaged.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat as st
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import BinaryIO

from sidecar.errors import ManifestError
from sidecar.recovery.meter import Meter
from sidecar.recovery.tree import Tick, digest
from sidecar.recovery.trouble import Damaged, failed
from sidecar.snapshot import bundle
from sidecar.snapshot import manifest as names
from sidecar.snapshot.manifest import Entry, Frame, Manifest
from sidecar.stores.base import Corrupt, NotFound, Store, StoreError, Unavailable

TRIES = 3
PARALLEL = 4
BATCH_FILES = 50
BATCH_BYTES = 64 * 1024 * 1024

_EMPTY = sha256(b"").hexdigest()
_inboxes = count()

Job = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Want:
    """The bytes of ``entry``, to become ``<staging>/<sha256>``; so many entries use them (0: a bundle)."""

    staging: Path
    entry: Entry
    uses: int = 1


def reuse(staging: Path, wanted: Mapping[str, int], tick: Tick) -> set[str]:
    """Which of ``wanted`` (sha256 -> size) an earlier attempt has left in ``staging``; all else there goes.

    Empty content is made, not looked for. Blocks.
    """
    found: set[str] = set()
    for name in os.listdir(staging):
        path = staging / name
        if name in wanted and _is(path, wanted[name], name, tick):
            found.add(name)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if wanted.get(_EMPTY) == 0 and _EMPTY not in found:
        (staging / _EMPTY).touch(0o600)
        found.add(_EMPTY)
    return found


def _is(path: Path, size: int, sha: str, tick: Tick) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        return st.S_ISREG(found.st_mode) and found.st_size == size and digest(fd, tick) == sha
    finally:
        os.close(fd)


def _inbox(staging: Path) -> Path:
    """A new empty folder in ``staging``."""
    path = staging / f"in-{os.getpid()}-{next(_inboxes)}"
    path.mkdir(mode=0o700)
    return path


async def fetch(store: Store, revision: str, manifest: Manifest, wants: Iterable[Want], meter: Meter) -> None:
    """Fetch and verify ``wants`` (each staging and sha256 once).

    Raises what the store raises, Damaged, or RestoreFailed where the staging's disk refuses.
    """
    fetcher = _Fetcher(store, revision, manifest, meter)
    plain: list[Want] = []
    bundled: dict[str, list[Want]] = {}
    for want in wants:
        if want.entry.frame is not None:
            bundled.setdefault(want.entry.frame.bundle, []).append(want)
        else:
            plain.append(want)
    jobs: list[Job] = [partial(fetcher.bundle, sha, members) for sha, members in bundled.items()]
    jobs += [partial(fetcher.batch, batch) for batch in _batches(plain)]
    try:
        await _all(jobs)
    except asyncio.CancelledError:
        meter.stop()
        raise
    except OSError as error:
        raise failed("stage a restore in", os.fsdecode(error.filename or "?"), error) from error


def _batches(wants: list[Want]) -> Iterable[list[Want]]:
    batch: list[Want] = []
    size = 0
    for want in wants:
        full = len(batch) >= BATCH_FILES or size + want.entry.size > BATCH_BYTES
        if batch and (full or batch[0].staging != want.staging):
            yield batch
            batch, size = [], 0
        batch.append(want)
        size += want.entry.size
    if batch:
        yield batch


async def _all(jobs: list[Job]) -> None:
    """Run ``jobs``, ``PARALLEL`` at a time.

    After a failure no new one starts, and those under way are waited for: what they bring isn't lost.
    """
    waiting = iter(jobs)
    failures: list[Exception] = []

    async def worker() -> None:
        for job in waiting:
            if failures:
                return
            try:
                await job()
            except Exception as error:
                failures.append(error)

    workers = [asyncio.create_task(worker()) for _ in range(min(PARALLEL, len(jobs)))]
    try:
        if workers:
            await asyncio.wait(workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if failures:
        # A refusal or damage says more than the timeouts around it.
        raise min(failures, key=lambda e: isinstance(e, Unavailable))


class _Fetcher:
    """One restore's fetching: the store, and the revision that it reads."""

    def __init__(self, store: Store, revision: str, manifest: Manifest, meter: Meter) -> None:
        self.store, self.revision, self.manifest, self.meter = store, revision, manifest, meter

    async def batch(self, wants: list[Want]) -> None:
        """Mirrored files: all in one call, then what came wrong or not at all in calls of its own."""
        left = {w.entry.path: w for w in wants}
        wrong: dict[str, int] = {}
        error = await self._call(wants, left, wrong)
        while left:
            path = next(iter(left))
            if wrong.get(path, 0) >= TRIES:
                await self._give_up(path, error)
            error = await self._call([left[path]], left, wrong)

    async def _call(self, asked: list[Want], left: dict[str, Want], wrong: dict[str, int]) -> StoreError | None:
        """One fetch; takes what is good out of ``left``, and counts in ``wrong`` what isn't."""
        box = await self.meter.work(_inbox, asked[0].staging)
        error: StoreError | None = None
        bad: list[str] = []
        try:
            with self.meter.flight() as arrived:
                await self.store.fetch(self.revision, [w.entry.path for w in asked], box, arrived)
        except (Corrupt, NotFound) as failure:
            error = failure
        finally:
            good, bad = await self.meter.work(self._adopt, box, asked)
            for path in good:
                del left[path]
        if len(asked) == 1 and not good:
            bad = [asked[0].entry.path]
        for path in bad:
            wrong[path] = wrong.get(path, 0) + 1
        return error

    def _adopt(self, box: Path, asked: list[Want]) -> tuple[list[str], list[str]]:
        """Verify what lies in ``box``, and keep the good: which paths are good, which have wrong bytes."""
        good, bad = [], []
        for want in asked:
            path = box / want.entry.path
            if not os.path.lexists(path):
                continue
            if self._keep(path, want):
                good.append(want.entry.path)
            else:
                bad.append(want.entry.path)
        shutil.rmtree(box, ignore_errors=True)
        return good, bad

    def _keep(self, path: Path, want: Want) -> bool:
        entry = want.entry
        if not _is(path, entry.size, entry.sha256, self.meter.tick):
            return False
        os.chmod(path, 0o600)
        os.replace(path, want.staging / entry.sha256)
        self.meter.done(want.uses, want.uses * entry.size)
        self.meter.tick()
        return True

    async def _give_up(self, path: str, error: StoreError | None) -> None:
        if isinstance(error, NotFound):
            await self._still_there(error)
        why = f"{TRIES} fetches brought other bytes than were committed" if error is None else error.message
        raise Damaged(path, str(self.manifest.snapshot), why)

    async def _still_there(self, error: NotFound) -> None:
        """A revision that a squash took away is no damage: raises ``error`` where its manifest is gone."""
        with suppress(NotFound):
            if names.PATH in await self.store.listing(self.revision):
                return
        raise error

    async def bundle(self, sha: str, wants: list[Want]) -> None:
        """A bundle, whole, and its members unpacked."""
        staging = wants[0].staging
        whole = Entry(bundle.store_path(sha), "file", 0o600, 0, 0, 0, self.manifest.bundles[sha], sha)
        try:
            await self.batch([Want(staging, whole, 0)])
        except Damaged as error:
            inside = f"it carries {wants[0].entry.path!r}" + (f" and {len(wants) - 1} more" if wants[1:] else "")
            raise Damaged(error.path, str(self.manifest.snapshot), f"{error.why} ({inside})") from None
        packed = staging / sha
        try:
            await self.meter.work(self._unpack, packed, wants)
        finally:
            packed.unlink(missing_ok=True)

    def _unpack(self, packed: Path, wants: list[Want]) -> None:
        groups: dict[tuple[int, int, Path], dict[str, Want]] = {}
        for want in wants:
            frame = want.entry.frame
            assert frame is not None
            groups.setdefault((frame.offset, frame.length, want.staging), {})[want.entry.path] = want
        with open(packed, "rb") as file:
            for offset, length, staging in sorted(groups):
                self._frame(file, Frame(packed.name, offset, length), groups[offset, length, staging], staging)

    def _frame(self, file: BinaryIO, frame: Frame, wants: dict[str, Want], staging: Path) -> None:
        """The members of one frame. The bundle's own bytes are right: what is wrong was committed so."""
        box = _inbox(staging)
        snapshot = str(self.manifest.snapshot)
        left = dict(wants)
        try:
            for path, member in bundle.read(file, frame, {p: w.entry for p, w in wants.items()}, box):
                want = left.pop(path, None)
                if want is not None and not self._keep(member, want):
                    raise Damaged(path, snapshot, "its bundle holds other bytes than were committed")
        except ManifestError as error:
            raise Damaged(next(iter(left), frame.bundle), snapshot, error.message) from error
        finally:
            shutil.rmtree(box, ignore_errors=True)
        if left:
            raise Damaged(next(iter(left)), snapshot, "it isn't where its bundle should hold it")
