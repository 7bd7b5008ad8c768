"""What a start says of itself: its log lines, its record, its notes in the status, and the store's README."""

from __future__ import annotations

import os
import time

from sidecar import log
from sidecar.recovery.record import Record
from sidecar.recovery.terms import Recovered
from sidecar.roots import Root, spell
from sidecar.state import State
from sidecar.statedir import can_hold


def say(recovered: Recovered, roots: list[Root], state: State, record: Record) -> None:
    """The line a person looks for after a restart, and the warnings that go with it."""
    manifest, restored = recovered.manifest, recovered.restored
    seconds = sum(s["ms"] for s in record.steps if s["step"] == "restore") / 1000
    record.facts.update(epoch=state.epoch, revision=recovered.head, clean=recovered.clean)
    if manifest is None:
        state.cold_start = True
        state.note("cold-start", "started with nothing: the store was empty; the first snapshot is not durable yet")
        log.info("cold start: nothing was ever kept here; what the roots hold now becomes the first snapshot")
        record.facts["cold_start"] = True
    else:
        age = max(0.0, time.time() - manifest.at)
        ended = {True: "ended cleanly", False: "ended uncleanly", None: "no lease before"}[recovered.clean]
        log.info(
            f"restored {_files(restored.files)}, {_size(restored.bytes)} from {manifest.snapshot}"
            f" ({_age(age)} old, {ended}) in {seconds:.1f} s; {restored.fetched:,} of them fetched"
        )
        record.facts.update(
            snapshot=str(manifest.snapshot),
            snapshot_age_s=round(age),
            files=restored.files,
            bytes=restored.bytes,
            fetched=restored.fetched,
            fetched_bytes=restored.fetched_bytes,
            kept_newer=restored.kept_newer,
            conflicts=restored.conflict_count,
            image_newer=restored.image_newer,
            buried=restored.buried,
            skipped=list(restored.skipped),
        )
        for name, (files, size) in restored.roots.items():
            root = state.roots[name]  # until a sync has looked, what came back is what they hold
            root.state, root.files, root.bytes = "restored", files, size
    if recovered.origin.spent is not None:
        log.warning(
            f"SIDECAR_REVISION={recovered.origin.spent} counts once, and an earlier start has gone on from it: this one"
            " starts from the newest snapshot. Unset it; to go back there once more, name the same snapshot the other"
            " way, by its id or its revision (`sidecar snapshots`)"
        )
    if restored.kept_newer:
        log.info(f"{_files(restored.kept_newer, 'local ')} newer than the snapshot stay")
    if restored.image_newer:
        log.info(
            f"{_files(restored.image_newer)} of the image stay: newer than the snapshot's, which main never changed"
        )
    if restored.buried:
        log.info(f"{_files(restored.buried)} of the image removed again: main had deleted what it ships there")
    if restored.conflict_count:
        log.warning(
            f"{_files(restored.conflict_count, 'local ')} differed from the snapshot: moved to {restored.conflicts}"
        )
    if restored.blocked:
        count = len(restored.blocked)
        what = f"{count:,} {'entry' if count == 1 else 'entries'}"
        state.note("blocked", f"{what} could not be put in place")
        log.warning(f"{what} left out: what stands at {restored.blocked[0]!r} is in the way")
    _undeclared(recovered, roots, state)
    if recovered.tenure is None:
        state.note("unleased", "this instance has no lease: nothing that it writes is kept yet")
        log.warning(
            f"UNLEASED: nothing can be written to the store ({recovered.why_unleased}). Main runs on what was"
            " restored; what it writes is kept on this disk only until that is mended"
        )


def _undeclared(recovered: Recovered, roots: list[Root], state: State) -> None:
    manifest = recovered.manifest
    if manifest is None:
        return
    declared = {root.name for root in roots}
    known = {r.name for r in manifest.roots}
    lost = [r for r in manifest.roots if r.name not in declared and r.kind != "absent"]
    new = sorted(declared - known)
    if not lost:
        return
    state.note("undeclared-root", f"the snapshot has {lost[0].name!r}, which SIDECAR_PATHS doesn't name")
    hint = ""
    if new:
        path = next(root.path for root in roots if root.name == new[0])
        hint = f". If {path} is where it belongs now, write SIDECAR_PATHS={spell(Root(lost[0].name, path))}"
    log.warning(
        f"the snapshot has root {lost[0].name!r}, which SIDECAR_PATHS doesn't name: it was not restored and stays"
        f" in the store{hint}"
    )


def check_roots(roots: list[Root], state: State) -> None:
    """Say of each root that this user can't write, before a restore or main trips over it."""
    for root in roots:
        at = os.path.realpath(root.path)  # of a link it is the target that is written, or made by main
        writable = os.access(at, os.W_OK) if os.path.lexists(at) else can_hold(at)
        if not writable:
            uid = os.getuid()
            state.note("root-unwritable", f"root {root.name!r} can't be written by this user")
            log.error(
                f"{root.path} can't be written by uid {uid}: main can't keep anything there, and nothing can be"
                f" restored into it. Add to the Dockerfile, before USER: RUN mkdir -p {at} && chown {uid} {at}"
            )


def _files(count: int, what: str = "") -> str:
    return f"{count:,} {what}{'file' if count == 1 else 'files'}"


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _age(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def readme(space: str, url: str) -> bytes:
    """The dataset card: what this is, and how to get at it without us."""
    return f"""---
viewer: false
tags:
- space-sidecar
---
# Snapshots of {space}

Kept by [space-sidecar](https://pypi.org/project/space-sidecar/) from a running Space. Each commit titled
`sidecar: snapshot <epoch>.<sequence>` is one complete, consistent state. Don't edit the files here: the Space owns
them.

- `<root name>/…` are mirrored files, byte for byte.
- `.sidecar/manifest.json` lists every entry of the snapshot: path, kind, mode, mtime, size, sha256, and the bundle that
  holds its bytes where it isn't mirrored.
- `.sidecar/bundles/<sha256>.tar.zst` carry many small files, or files whose names can't be mirrored.

## Restore by hand

With the sidecar: `SIDECAR_STORE={url} sidecar restore --to somewhere`.

Without it: `hf download <this dataset> --repo-type dataset --local-dir somewhere`, then for each bundle in the manifest
`zstd -dc .sidecar/bundles/<sha256>.tar.zst | tar x`, and take from both only what the manifest names: a bundle holds
older copies too. The sidecar's docs/snapshots.md has a script of ten lines for it.
""".encode()
