"""From a survey to the bytes of one commit: bundles written, the manifest composed, the index told. Blocks."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sidecar.snapshot import bundle, manifest
from sidecar.snapshot.bundle import Built
from sidecar.snapshot.index import Index, Row
from sidecar.snapshot.manifest import Entry, Manifest, SnapshotId
from sidecar.snapshot.spool import Slice
from sidecar.snapshot.stage import Staged
from sidecar.snapshot.tally import Bundle
from sidecar.stores.base import Source
from sidecar.sync import history, plan
from sidecar.sync.compact import moved
from sidecar.sync.compose import compose
from sidecar.sync.lists import Hashes
from sidecar.sync.look import Survey


class Writer(Protocol):
    """Who makes the snapshot."""

    @property
    def space(self) -> str: ...
    @property
    def instance(self) -> str: ...
    @property
    def version(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Package:
    """One commit, ready to be sent; ``title`` and ``body`` are its message's.

    ``changed`` counts entries put or gone, ``bytes`` what their contents weigh. ``parts`` are the paths of all bundles
    and shards that the snapshot has.
    """

    snapshot: SnapshotId
    title: str
    body: str
    put: dict[str, Source]
    delete: list[str]
    changed: int
    bytes: int
    parts: frozenset[str] = frozenset()


def pack(
    survey: Survey,
    index: Index,
    folder: Path,
    number: SnapshotId,
    parent: SnapshotId | None,
    writer: Writer,
    refused: Collection[str],
    *,
    anew: bool = False,
    compacting: bool = False,
) -> Package:
    """Compose snapshot ``number`` and note it in the index as pending.

    With ``anew`` nothing that the store should have of the manifest is relied on; ``compacting`` says that there is
    time to move what lives in bundles that are mostly dead.
    """
    gone = {row.entry.path for row in survey.gone}
    staged = {s.entry.path: s for s in survey.staged}
    gone -= staged.keys()
    places = plan.place(list(staged.values()), _bundled_roots(survey, index), refused)
    put: dict[str, Source] = {s.entry.path: _source(s) for s in places.plain}
    rows: dict[str, Row] = {path: s.row for path, s in staged.items()}
    old = index.many(list(rows))
    more = moved(index, _tops(survey), folder, staged.keys() | gone, number) if compacting else []
    rows.update((s.entry.path, s.row) for s in more)
    new_bundles: dict[str, Bundle] = {}
    for built, at in _bundles(sorted([*places.bundled, *more], key=lambda s: s.entry.path), folder):
        put[bundle.store_path(built.sha256)] = at
        new_bundles[built.sha256] = Bundle(built.size, sum(e.size for e in built.entries))
        for entry in built.entries:
            rows[entry.path] = replace(rows[entry.path], entry=entry)
    delete = plan.deletes([r for r in survey.gone if r.entry.path in gone], [(o, rows[p]) for p, o in old.items()])
    risen = index.buried_among(rows)
    coming = index.begin(
        number, rows.values(), gone, new_bundles, survey.roots, survey.buried, risen, looked=survey.looked
    )
    delete += [bundle.store_path(sha) for sha in index.bundles() if sha not in coming.bundles]
    head = Manifest(
        number,
        str(parent) if parent else None,
        writer.space,
        time.time(),
        writer.instance,
        writer.version,
        tuple(survey.roots),
        {},
        {sha: b.size for sha, b in coming.bundles.items()},
        packed={sha: b.packed for sha, b in coming.bundles.items()},
    )
    composed = compose(head, index, coming.entries, folder, Hashes(survey.buried, risen), anew=anew)
    put |= composed.put
    delete += composed.delete
    weight = sum(s.entry.size for s in (*places.plain, *places.bundled, *more))
    changed = len(gone) + sum(1 for path, s in staged.items() if s.entry.kind != "dir" or path not in old)
    files, size = (sum(counts) for counts in zip(*coming.roots.values(), strict=True)) if coming.roots else (0, 0)
    body = history.body(files, size, changed)
    delete = [path for path in delete if path not in put]
    parts = frozenset((*composed.parts, *map(bundle.store_path, coming.bundles)))
    return Package(number, manifest.title(number), body, put, delete, changed, weight, parts)


def unpack_failed(index: Index) -> None:
    """The package was not committed and will be composed anew."""
    index.discard()


def _bundled_roots(survey: Survey, index: Index) -> dict[str, float]:
    out: dict[str, float] = {}
    for root in survey.roots:
        files, size = index.totals(root.name)
        if not files:
            new = [s for s in survey.staged if s.entry.kind == "file" and s.entry.path.startswith(root.name + "/")]
            files, size = len(new), sum(s.entry.size for s in new)
        out[root.name] = plan.bundled_below(root.layout, files, size)
    return out


def _tops(survey: Survey) -> dict[str, str]:
    """Where the declared roots lie that can be read now."""
    return {r.name: r.path for r in survey.roots if survey.kinds.get(r.name) in ("dir", "file")}


def _bundles(members: list[Staged], folder: Path) -> Iterator[tuple[Built, Path]]:
    done = 0
    for number, count in enumerate(plan.portions(s.entry.size for s in members)):
        at = folder / f"bundle-{number}"
        yield bundle.write(_let_go(members[done : done + count]), at), at
        done += count


def _let_go(members: list[Staged]) -> Iterator[tuple[Entry, Source]]:
    """The members, whose staged files are removed once they were read: the disk needs no room for both."""
    for s in members:
        source = _source(s)
        yield s.entry, source
        if isinstance(source, Path):
            source.unlink(missing_ok=True)


def _source(staged: Staged) -> Source:
    assert staged.source is not None
    return staged.source.read() if isinstance(staged.source, Slice) else staged.source
