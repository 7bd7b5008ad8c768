"""A store in a few lines: every revision is a folder of its own. Only what a restore asks for."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from sidecar.stores.base import NotFound, Progress, Source


class Shelf:
    def __init__(self, path: Path) -> None:
        self.path, self.url, self.persistent = path, f"file://{path}", True

    async def head(self) -> str | None:
        revisions = sorted(self.path.iterdir()) if self.path.exists() else []
        return revisions[-1].name if revisions else None

    async def commit(self, parent: str | None, put: Mapping[str, Source], delete: Iterable[str], message: str) -> str:
        revision = f"{int(parent or 0) + 1:04}"
        for path, source in put.items():
            target = self.path / revision / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
        return revision

    async def fetch(self, revision: str, paths: Iterable[str], into: Path, progress: Progress | None = None) -> None:
        for path in paths:
            source = self.path / revision / path
            if not source.is_file():
                raise NotFound(f"no path {path!r} in revision {revision}")
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            if progress is not None:
                progress(target.stat().st_size)

    async def listing(self, revision: str) -> Mapping[str, int]:
        top = self.path / revision
        if not top.is_dir():
            raise NotFound(f"no revision {revision}")
        return {str(p.relative_to(top)): p.stat().st_size for p in top.rglob("*") if p.is_file()}

    async def check(self, create: bool = False) -> None: ...

    async def close(self) -> None: ...
