"""From a survey to the bytes of one commit: bundles written, the manifest composed, the index told. Blocks."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sidecar.snapshot import bundle, manifest
from sidecar.snapshot.index import Index, Row
from sidecar.snapshot.manifest import Manifest, SnapshotId
from sidecar.snapshot.stage import Staged
from sidecar.snapshot.tally import Bundle
from sidecar.stores.base import Source
from sidecar.sync import history, plan
from sidecar.sync.compose import compose
from sidecar.sync.survey import Survey


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

    ``changed`` counts entries put or gone, ``bytes`` what their contents weigh.
    """

    snapshot: SnapshotId
    title: str
    body: str
    put: dict[str, Source]
    delete: list[str]
    changed: int
    bytes: int


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
) -> Package:
    """Compose snapshot ``number`` and note it in the index as pending.

    With ``anew`` nothing that the store should have of the manifest is relied on.
    """
    gone = {row.entry.path for row in survey.gone}
    staged = {s.entry.path: s for s in survey.staged}
    gone -= staged.keys()
    places = plan.place(list(staged.values()), _bundled_roots(survey, index), refused)
    put: dict[str, Source] = {s.entry.path: _source(s) for s in places.plain}
    rows: dict[str, Row] = {path: s.row for path, s in staged.items()}
    new_bundles: dict[str, Bundle] = {}
    if places.bundled:
        target = folder / "bundle"
        members = [(s.entry, _on_disk(s, folder / f"member-{n}")) for n, s in enumerate(places.bundled)]
        built = bundle.write(members, target)
        put[bundle.store_path(built.sha256)] = target
        new_bundles[built.sha256] = Bundle(built.size, sum(e.size for e in built.entries))
        for entry in built.entries:
            rows[entry.path] = Row(entry, rows[entry.path].stat, rows[entry.path].settled)
    old = index.many(list(rows))
    delete = plan.deletes([r for r in survey.gone if r.entry.path in gone], [(o, rows[p]) for p, o in old.items()])
    risen = index.buried_among(rows)
    tombstones = {path: sha for path, sha in {**index.tombstones(), **survey.buried}.items() if path not in risen}
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
        index.shipped(),
        tombstones,
        {sha: b.packed for sha, b in coming.bundles.items()},
    )
    composed = compose(head, index, coming.entries, folder, anew=anew)
    put |= composed.put
    delete += composed.delete
    weight = sum(s.entry.size for s in (*places.plain, *places.bundled))
    changed = len(gone) + sum(1 for path, s in staged.items() if s.entry.kind != "dir" or path not in old)
    files, size = (sum(counts) for counts in zip(*coming.roots.values(), strict=True)) if coming.roots else (0, 0)
    body = history.body(files, size, changed)
    return Package(number, manifest.title(number), body, put, [d for d in delete if d not in put], changed, weight)


def unpack_failed(index: Index) -> None:
    """The package was not committed and will be composed anew."""
    index.discard()


def _bundled_roots(survey: Survey, index: Index) -> set[str]:
    out: set[str] = set()
    for root in survey.roots:
        files, size = index.totals(root.name)
        new = [s for s in survey.staged if s.entry.kind == "file" and s.entry.path.startswith(root.name + "/")]
        if not files:
            files, size = len(new), sum(s.entry.size for s in new)
        if plan.bundles_root(root.layout, files, size):
            out.add(root.name)
    return out


def _source(staged: Staged) -> Source:
    assert staged.source is not None
    return staged.source


def _on_disk(staged: Staged, target: Path) -> Path:
    if isinstance(staged.source, Path):
        return staged.source
    assert staged.source is not None
    target.write_bytes(staged.source)
    return target
