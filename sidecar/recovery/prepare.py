"""Before anything is fetched: may we write where we must, is there room, and what is staged already.

And after it: a staged file for each entry, all of them on disk.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sidecar.recovery.copying import pour, settle
from sidecar.recovery.meter import Meter
from sidecar.recovery.plan import Needs, Place, Plan, Step, staged, wholes
from sidecar.recovery.shelf import begun, reuse
from sidecar.recovery.staging import LARGE, PARALLEL, Want
from sidecar.recovery.tree import Tick, Tree, is_database
from sidecar.recovery.trouble import failed, no_room, unwritable
from sidecar.snapshot.manifest import Manifest

BLOCK = 4096
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class Ready:
    """Where each place stages, what is needed, what of it is still to be fetched, and the names it has in staging.

    ``names`` are by place and sha256, ``folders``, which are staged as a whole, by place and rel.
    """

    places: tuple[Place, ...]
    wants: tuple[Want, ...]
    needs: Needs
    names: Mapping[tuple[int, str], str]
    folders: Mapping[tuple[int, str], str]


def prepare(plan: Plan, manifest: Manifest, state_dir: Path | None, meter: Meter) -> Ready:
    """Make the staging folders of all places that something is put into.

    Raises RestoreFailed where a place can't be written (final, 78) or has too little room, before anything of
    a root is changed. Blocks.
    """
    snapshot = str(manifest.snapshot)
    changing = {n: [s for s in plan.steps if s.place == n and s.changes] for n in range(len(plan.places))}
    for n, steps in changing.items():
        _check_folders(plan.places[n], steps, snapshot)
    where = list(plan.places)
    wants: list[Want] = []
    needs, folders = plan.needs(), wholes(plan.steps)
    names = staged(needs, folders, LARGE)
    for n, steps in changing.items():
        if steps:
            where[n] = _stage_at(where[n], steps[0], snapshot, state_dir)
            of_place = [(names[key], of) for key, of in needs.items() if key[0] == n]
            wants += _missing(Path(where[n].staging), of_place, manifest, meter)
    _check_room(plan, needs, manifest, where, wants, state_dir)
    return Ready(tuple(where), tuple(wants), needs, names, folders)


def _missing(staging: Path, needs: list[tuple[str, list[Step]]], manifest: Manifest, meter: Meter) -> list[Want]:
    """What of a place's ``needs``, by name, no earlier attempt has left in ``staging``; all else there goes."""
    packed = {of[0].entry.frame.bundle for _, of in needs if of[0].entry.frame is not None}
    wanted = {sha: (sha, manifest.bundles[sha]) for sha in packed}
    wanted.update((name, (of[0].entry.sha256, of[0].entry.size)) for name, of in needs)
    try:
        there = reuse(staging, wanted, meter.tick)
    except OSError as error:
        raise failed("stage a restore in", str(staging), error) from error
    wants = []
    for name, of in needs:
        if name in there:
            meter.done(len(of), len(of) * of[0].entry.size)
        else:
            wants.append(Want(staging, of[0].entry, len(of), name))
    return wants


def _check_folders(place: Place, steps: list[Step], snapshot: str) -> None:
    """Every folder that is there already and gets something must take it."""
    try:
        tree = Tree(place.base)
    except OSError:
        return  # missing: it is made, or that fails, next
    with tree:
        for above in sorted({s.rel.rpartition("/")[0] for s in steps if s.rel}):
            with suppress(FileNotFoundError, NotADirectoryError):
                if above and not tree.writable(above):
                    raise unwritable(place.shown, f"{place.base}/{above}", snapshot, "no permission")


def _stage_at(place: Place, first: Step, snapshot: str, state_dir: Path | None) -> Place:
    """Make the folder that ``place`` stages in: in the state dir where only its one file can be written."""
    try:
        os.makedirs(place.base, exist_ok=True)
        _private(place.staging)
        return place
    except OSError as error:
        if error.errno not in _REFUSED:
            raise failed("stage a restore in", place.staging, error) from error
        file = f"{place.base}/{place.leaf}"
        if place.leaf and state_dir is not None and first.local is not None and os.access(file, os.W_OK):
            # A single file that was mounted into a folder of somebody else's: it is written in place.
            other = replace(place, staging=str(state_dir / f"staging-{place.staging.rpartition('-')[2]}"))
            _private(other.staging)
            return other
        inside = place.base if os.path.isdir(place.base) else os.path.dirname(place.base)
        why = error.strerror or type(error).__name__
        raise unwritable(place.shown, inside if place.leaf else place.shown, snapshot, why) from error


def _private(path: str) -> None:
    """A folder of our own; whatever else stands there under our name is removed."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
            os.mkdir(path, 0o700)
        elif found.st_uid != os.geteuid():
            shutil.rmtree(path)
            os.mkdir(path, 0o700)
        else:
            os.chmod(path, 0o700)
            if not os.access(path, os.W_OK | os.X_OK):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path) from None


def _check_room(
    plan: Plan,
    needs: Needs,
    manifest: Manifest,
    where: Sequence[Place],
    wants: Sequence[Want],
    state_dir: Path | None,
) -> None:
    """Compare what is still to come with what each filesystem has free."""
    needed: dict[int, int] = {}
    shown: dict[int, tuple[str, str]] = {}
    devices: dict[str, int] = {}

    def add(path: str, size: int, name: str = "") -> None:
        if (device := devices.get(path)) is None:
            device = devices[path] = os.stat(path).st_dev
            shown.setdefault(device, (path, name or os.path.dirname(path)))
        needed[device] = needed.get(device, 0) + -(-size // BLOCK) * BLOCK

    bundles: dict[str, Path] = {}
    for want in wants:
        entry = want.entry
        add(str(want.staging), entry.size - (begun(want.staging, entry.sha256) if entry.size >= LARGE else 0))
        if entry.frame is not None:
            bundles.setdefault(entry.frame.bundle, want.staging)
    coming = {sha: size for sha in bundles if (size := _to_come(bundles[sha], sha, manifest.bundles[sha]))}
    # Only so many are on the disk at a time; each is removed once it is unpacked.
    for sha in sorted(coming, key=lambda s: -coming[s])[:PARALLEL]:
        add(str(bundles[sha]), coming[sha])
    for (n, _), of in needs.items():
        for step in of[1:]:
            add(where[n].staging, step.entry.size)  # its own copy
    if state_dir is not None:
        own = os.stat(state_dir).st_dev
        for step in plan.steps:
            if step.action == "conflict" and step.local is not None and step.local.stat.dev != own:
                add(str(state_dir), step.local.size, str(state_dir))
    for device, size in needed.items():
        path, name = shown[device]
        room = os.statvfs(path)
        free = room.f_bavail * room.f_frsize
        if room.f_blocks and size > free:
            raise no_room(name, size, free)


def _to_come(staging: Path, sha: str, size: int) -> int:
    """How much of a bundle isn't in ``staging`` yet."""
    return 0 if (staging / sha).exists() else size - begun(staging, sha)


def gather(ready: Ready, looked: Mapping[str, bool], tick: Tick) -> tuple[dict[str, str], set[str]]:
    """The staged file's name for each path that is fetched, and which paths are databases. Blocks.

    ``looked``: whether it is one, by sha256, where somebody knows. Each entry gets a file of its own, so that putting
    one in its place never takes another's.
    """
    sources: dict[str, str] = {}
    databases: set[str] = set()
    by_place: dict[int, list[tuple[str, list[Step]]]] = {}
    for (n, sha), of in ready.needs.items():
        by_place.setdefault(n, []).append((sha, of))
    for n, items in by_place.items():
        place = ready.places[n]
        try:
            with Tree(place.staging, follow=False) as staging:
                for sha, of in items:
                    for number, step in enumerate(of):
                        sources[step.entry.path] = ready.names[n, sha] if not number else f"{sha}.{number}"
                        if number:
                            _copy(staging, sha, sources[step.entry.path], tick)
                    if looked[sha] if sha in looked else is_database(staging, ready.names[n, sha]):
                        databases.update(s.entry.path for s in of)
        except OSError as error:
            raise failed("stage a restore in", place.staging, error) from error
    return sources, databases


@contextmanager
def settling(places: Iterable[Place]) -> Iterator[Callable[[], None]]:
    """Bring what is staged for ``places`` to the disk, while other work goes on; what is yielded waits for it."""

    def all_of_it() -> None:
        for place in places:
            try:
                settle(place.staging)
            except OSError as error:
                raise failed("stage a restore in", place.staging, error) from error

    with ThreadPoolExecutor(1, thread_name_prefix="sidecar-settle") as pool:
        yield pool.submit(all_of_it).result


def _copy(staging: Tree, name: str, new: str, tick: Tick) -> None:
    staging.unlink(new)
    source = staging.open(name)
    try:
        target = staging.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            pour(source, target, tick, durable=False)  # all of staging is, at the end
        finally:
            os.close(target)
    finally:
        os.close(source)
