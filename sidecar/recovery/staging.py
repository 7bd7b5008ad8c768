"""Bringing a snapshot's bytes into staging: fetched, verified, and kept by name of their content.

What was verified before a cut is found again by its name and not fetched twice; of a large file that was cut the
bytes that had come are gone on from. A file that comes wrong is fetched again over a call of its own, three times in
all; what is wrong then is damaged.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from itertools import count
from pathlib import Path

from sidecar.records import record
from sidecar.recovery import parallel
from sidecar.recovery.follow import Follower
from sidecar.recovery.helper import Helper, worth
from sidecar.recovery.meter import Meter
from sidecar.recovery.shelf import PART, is_content
from sidecar.recovery.trouble import Damaged, failed
from sidecar.recovery.unpack import Member, Unpacker, groups, spans
from sidecar.snapshot import bundle
from sidecar.snapshot import manifest as names
from sidecar.snapshot.manifest import Entry, Manifest
from sidecar.stores.base import Corrupt, NotFound, Ranged, Store, StoreError

TRIES = 3
PARALLEL = 4
BATCH_FILES = 50
BATCH_BYTES = 64 * 1024 * 1024

LARGE = 8 * 1024 * 1024
"""From so many bytes on a file is fetched by itself: hashed as it comes, and gone on with after a cut."""

SMALL = 64 * 1024
"""Below this mean size a bundle is unpacked by itself: threads that make many small files only wait for each other."""

_inboxes = count()


@record(frozen=True, slots=True)
class Want:
    """The bytes of ``entry``, to become ``<staging>/<name>``; so many entries use them (0: a bundle).

    ``name`` "" stands for their sha256.
    """

    staging: Path
    entry: Entry
    uses: int = 1
    name: str = ""

    @property
    def target(self) -> Path:
        return self.staging / (self.name or self.entry.sha256)


def _inbox(staging: Path) -> Path:
    """A new empty folder in ``staging``."""
    path = staging / f"in-{os.getpid()}-{next(_inboxes)}"
    path.mkdir(mode=0o700)
    return path


async def fetch(
    store: Store, revision: str, manifest: Manifest, wants: Iterable[Want], meter: Meter
) -> Mapping[str, bool]:
    """Fetch and verify ``wants`` (each staging and sha256 once).

    Returns which of them are databases, by sha256, as far as that showed on the way. Raises what the store raises,
    Damaged, or RestoreFailed where the staging's disk refuses.
    """
    fetcher = _Fetcher(store, revision, manifest, meter)
    plain: list[Want] = []
    bundled: dict[str, list[Want]] = {}
    jobs: list[parallel.Job] = []
    where = "?"
    for want in wants:
        where = str(want.staging)
        if want.entry.frame is not None:
            bundled.setdefault(want.entry.frame.bundle, []).append(want)
        elif want.entry.size >= LARGE:
            jobs.append(partial(fetcher.one, want))
        else:
            plain.append(want)
    jobs += [partial(fetcher.bundle, sha, members) for sha, members in bundled.items()]
    jobs += [partial(fetcher.batch, batch) for batch in _batches(plain)]
    try:
        if worth(sum(len(members) for sha, members in bundled.items() if fetcher.small(sha, len(members)))):
            fetcher.helper = await meter.work(Helper)
        await parallel.run(jobs, PARALLEL)
    except asyncio.CancelledError:
        meter.stop()
        raise
    except OSError as error:
        # A name alone is one in there, and a full disk names none.
        path = os.path.join(where, os.fsdecode(error.filename or ""))
        raise failed("stage a restore in", path.rstrip("/"), error) from error
    finally:
        if fetcher.helper is not None:
            await meter.to_the_end(fetcher.helper.end)
    return fetcher.databases


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


class _Fetcher:
    """One restore's fetching: the store, and the revision that it reads."""

    def __init__(self, store: Store, revision: str, manifest: Manifest, meter: Meter) -> None:
        self.store, self.revision, self.manifest, self.meter = store, revision, manifest, meter
        self.snapshot = str(manifest.snapshot)
        self.databases: dict[str, bool] = {}
        self.helper: Helper | None = None
        self._alone = asyncio.Lock()

    # Files, and bundles as a whole

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

    async def one(self, want: Want) -> None:
        """A large file: by itself, where the store can go on in the middle of it."""
        if want.entry.size < LARGE or not isinstance(self.store, Ranged) or not await self._whole(self.store, want):
            await self.batch([want])

    async def _whole(self, store: Ranged, want: Want) -> bool:
        """Fetch one file, going on from what an earlier start has of it; false where it came wrong."""
        entry, target = want.entry, want.target
        part = target.with_name(f"{target.name}{PART}")
        follower = await self.meter.work(Follower, part, self.meter.tick)
        wrong = False
        try:
            with self.meter.flight(follower.start) as arrived:

                def came(size: int) -> None:
                    follower.more(size)
                    arrived(size)

                await store.fetch_range(self.revision, entry.path, range(follower.start, entry.size), part, came)
        except (Corrupt, NotFound):
            wrong = True
        finally:
            # Also after a cut: nobody may touch the file any more when the next attempt comes.
            found = await self.meter.to_the_end(follower.finish)
        if wrong or found != (entry.sha256, entry.size):
            part.unlink(missing_ok=True)
            return False
        os.replace(part, target)
        self._done(want)
        return True

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
            entry, path = want.entry, f"{box}/{want.entry.path}"
            if not os.path.lexists(path):
                continue
            if is_content(path, entry.sha256, entry.size, self.meter.tick):
                os.chmod(path, 0o600)
                os.replace(path, want.target)
                self._done(want)
                good.append(entry.path)
            else:
                bad.append(entry.path)
        shutil.rmtree(box, ignore_errors=True)
        return good, bad

    def _done(self, want: Want) -> None:
        self.meter.done(want.uses, want.uses * want.entry.size)
        self.meter.tick()

    async def _give_up(self, path: str, error: StoreError | None) -> None:
        if isinstance(error, NotFound):
            await self._still_there(error)
        why = f"{TRIES} fetches brought other bytes than were committed" if error is None else error.message
        raise Damaged(path, self.snapshot, why)

    async def _still_there(self, error: NotFound) -> None:
        """A revision that a squash took away is no damage: raises ``error`` where its manifest is gone."""
        with suppress(NotFound):
            if names.PATH in await self.store.listing(self.revision):
                return
        raise error

    # What lies in bundles

    def small(self, sha: str, members: int) -> bool:
        """Whether so many members of a bundle are small ones, which are better unpacked one after the other."""
        return self.manifest.bundles[sha] < SMALL * members

    async def bundle(self, sha: str, wants: list[Want]) -> None:
        """The members of one bundle: of a large one that little is wanted of, only the parts that have it."""
        size = self.manifest.bundles[sha]
        packed = wants[0].staging / sha
        members = [Member(w.entry, w.staging, w.uses, w.name) for w in wants]
        parts = spans(members, size) if isinstance(self.store, Ranged) and not packed.exists() else []
        if parts and isinstance(self.store, Ranged):
            members = await self._parts(self.store, sha, members, parts)
        if not members:
            return
        whole = Entry(bundle.store_path(sha), "file", 0o600, 0, 0, 0, size, sha)
        try:
            if not packed.exists():  # else an earlier start had it already, verified since
                await self.one(Want(wants[0].staging, whole, 0))
        except Damaged as error:
            inside = f"it carries {wants[0].entry.path!r}" + (f" and {len(wants) - 1} more" if wants[1:] else "")
            raise Damaged(error.path, self.snapshot, f"{error.why} ({inside})") from None
        try:
            # The bundle's own bytes are right: what is wrong was committed so.
            small = self.small(sha, len(members))
            async with self._alone if small else nullcontext():
                bad = await self.meter.work(self._unpack, packed, members, self.helper if small else None)
            for path, why in bad.items():
                raise Damaged(path, self.snapshot, why)
        finally:
            packed.unlink(missing_ok=True)

    async def _parts(self, store: Ranged, sha: str, members: list[Member], parts: list[range]) -> list[Member]:
        """Take ``members`` out of some parts of their bundle; those that it didn't work for."""
        box = await self.meter.work(_inbox, members[0].staging)
        try:
            with self.meter.flight() as arrived:
                for span in parts:
                    await store.fetch_range(self.revision, bundle.store_path(sha), span, box / sha, arrived)
            bad = await self.meter.work(self._unpack, box / sha, members)
        except (Corrupt, NotFound):
            return members
        finally:
            await self.meter.work(shutil.rmtree, box, True)
        return [m for m in members if m.entry.path in bad]

    def _unpack(self, packed: Path, members: list[Member], helper: Helper | None = None) -> dict[str, str]:
        todo = deque(groups(members))
        with Unpacker(packed, self.meter.done, self.meter.tick) as unpacker, helper or nullcontext():
            while todo or (helper is not None and helper.busy):
                if helper is not None:
                    helper.take(packed, todo, unpacker)
                if todo:
                    unpacker.frame(*todo.popleft())
                elif helper is not None:
                    helper.wait(todo, unpacker, self.meter.check)
        self.databases.update(unpacker.databases)
        return unpacker.bad
