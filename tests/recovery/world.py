"""A little world to restore in: folders, a snapshot of them in a real folder store, and comparisons."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat as st
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sidecar.recovery.restore import Restored, restore
from sidecar.roots import Root
from sidecar.snapshot import bundle, codec
from sidecar.snapshot.index import Index
from sidecar.snapshot.manifest import PATH, Entry, Manifest, RootRecord, SnapshotId, mirrored
from sidecar.state import RestoreProgress
from sidecar.stores.base import Progress, Revision, Source, Store
from sidecar.stores.folder import FolderStore

STORE_ID = "test-store"


def entry(path: str, at: str) -> Entry:
    """The entry of what stands at ``at``, without its bytes."""
    found = os.lstat(at)
    mode, who = st.S_IMODE(found.st_mode), (found.st_uid, found.st_gid, found.st_mtime_ns)
    if st.S_ISLNK(found.st_mode):
        return Entry(path, "symlink", mode, *who, target=os.readlink(at))
    if st.S_ISDIR(found.st_mode):
        return Entry(path, "dir", mode, *who)
    data = Path(at).read_bytes()
    return Entry(path, "file", mode, *who, len(data), hashlib.sha256(data).hexdigest())


def entries(root: Root) -> dict[str, Entry]:
    """Every entry of one root, as a scan would find them."""
    out = {root.name: replace(entry(root.name, os.path.realpath(root.path)), path=root.name)}
    for folder, folders, files in os.walk(root.path):
        for name in [*folders, *files]:
            at = os.path.join(folder, name)
            path = root.name + at[len(root.path) :]
            out[path] = entry(path, at)
    return out


def picture(path: str | Path, *, times: bool = True) -> dict[str, tuple[Any, ...]]:
    """All that a restore must bring back, by relative path; our own staging shows too."""
    top = str(path)
    out: dict[str, tuple[Any, ...]] = {}
    todo = [top]
    while todo:
        at = todo.pop()
        found = os.lstat(at)
        seen: tuple[Any, ...] = (st.S_IFMT(found.st_mode),)
        if st.S_ISLNK(found.st_mode):
            seen += (os.readlink(at),)
        else:
            seen += (st.S_IMODE(found.st_mode), found.st_mtime_ns if times else 0)
            if st.S_ISREG(found.st_mode):
                seen += (Path(at).read_bytes(),)
            elif st.S_ISDIR(found.st_mode):
                todo += [os.path.join(at, name) for name in os.listdir(at)]
        out[at[len(top) :]] = seen
    return out


@dataclass
class World:
    """Roots under ``base``, a store and a state dir beside them."""

    base: Path
    names: tuple[str, ...] = ("data",)
    store: Any = None
    sequence: int = 0
    state: Path = field(init=False)
    roots: list[Root] = field(init=False)
    progress: RestoreProgress = field(default_factory=RestoreProgress)

    def __post_init__(self) -> None:
        self.state = self.base / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        self.roots = [Root(name, str(self.base / "disk" / name)) for name in self.names]
        (self.base / "disk").mkdir(exist_ok=True)
        (self.base / "scratch").mkdir(exist_ok=True)

    @property
    def root(self) -> Path:
        return Path(self.roots[0].path)

    def open_store(self) -> FolderStore:
        return FolderStore(self.base / "store")

    def snapshot(
        self,
        *,
        bundled: Callable[[str], bool] = lambda path: not mirrored(path),
        change: Callable[[Manifest], Manifest] = lambda m: m,
        contents: Mapping[str, bytes] | None = None,
    ) -> tuple[str, Manifest]:
        """Commit what the roots hold now; ``contents`` overrides what goes to the store for a path."""
        self.sequence += 1
        found: dict[str, Entry] = {}
        records = []
        for root in self.roots:
            if os.path.lexists(root.path):
                found.update(entries(root))
                records.append(RootRecord(root.name, root.path, "dir" if os.path.isdir(root.path) else "file"))
        where = {e.path: self.where(e.path) for e in found.values() if e.kind == "file"}
        puts: dict[str, Source] = {p: Path(at) for p, at in where.items() if not bundled(p)}
        packed = [(e, Path(where[e.path])) for e in found.values() if e.kind == "file" and bundled(e.path)]
        sizes: dict[str, int] = {}
        if packed:
            into = self.base / "scratch" / f"bundle-{self.sequence}"
            built = bundle.write(packed, into)
            found.update((e.path, e) for e in built.entries)
            sizes[built.sha256] = built.size
            puts[bundle.store_path(built.sha256)] = into
        puts.update(contents or {})
        manifest = change(
            Manifest(
                *(SnapshotId(1, self.sequence), None, "local", 0.0, "test", "0"),
                *(tuple(records), found, sizes),
            )
        )
        puts[PATH] = codec.encode(manifest)
        return self.commit(puts), manifest

    def where(self, path: str) -> str:
        for root in self.roots:
            if path == root.name or path.startswith(root.name + "/"):
                return root.path + path[len(root.name) :]
        raise KeyError(path)

    def commit(self, puts: Mapping[str, Source]) -> str:
        async def run() -> str:
            store = self.open_store()
            try:
                await store.check(create=True)
                return await store.commit(await store.head(), puts, (), f"sidecar: snapshot 1.{self.sequence}")
            finally:
                await store.close()

        return asyncio.run(run())

    def restore(
        self,
        revision: str,
        manifest: Manifest,
        *,
        roots: list[Root] | None = None,
        wrap: Callable[[Store], Store] = lambda store: store,
        alive: Callable[[], None] | None = None,
    ) -> Restored:
        async def run() -> Restored:
            store = self.open_store()
            index = Index(self.state / "index.db")
            try:
                return await restore(
                    *(wrap(store), revision, manifest, self.roots if roots is None else roots),
                    index=index,
                    store_id=STORE_ID,
                    state_dir=self.state,
                    progress=self.progress,
                    instance="test",
                    alive=alive,
                )
            finally:
                index.close()
                await store.close()

        return asyncio.run(run())

    def with_store(self, call: Callable[[Store], Any], wrap: Callable[[Store], Store] = lambda s: s) -> Any:
        async def run() -> Any:
            store = self.open_store()
            try:
                return await call(wrap(store))
            finally:
                await store.close()

        return asyncio.run(run())

    def index(self) -> Index:
        return Index(self.state / "index.db")

    def empty_disk(self) -> None:
        """A fresh container: the roots and the state dir are gone, the store isn't."""
        import shutil

        shutil.rmtree(self.base / "disk")
        shutil.rmtree(self.state)
        (self.base / "disk").mkdir()
        self.state.mkdir()


class Wrapped:
    """A real store with faults in front of ``fetch``; counts what was asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def fetch(
        self, revision: Revision, paths: Iterable[str], into: Path, progress: Progress | None = None
    ) -> None:
        wanted = list(paths)
        self.calls.append(wanted)
        await self.before(wanted)
        await self.store.fetch(revision, wanted, into, progress)
        await self.after(wanted, into)

    async def before(self, paths: list[str]) -> None: ...

    async def after(self, paths: list[str], into: Path) -> None: ...

    @property
    def asked(self) -> list[str]:
        return [path for call in self.calls for path in call]


def fill(root: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
