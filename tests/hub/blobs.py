"""File contents on disk, named by their sha256."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

_SERIAL = itertools.count()


def git_oid(data: bytes) -> str:
    """The sha1 that git gives a blob with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def pointer_for(sha256: str, size: int) -> bytes:
    """The text that git stores for an LFS file: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md"""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class Blobs:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._tmp = root / "tmp"
        self._tmp.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    def read(self, sha256: str) -> bytes:
        return self.path(sha256).read_bytes()

    def scratch(self) -> Path:
        return self._tmp / f"{os.getpid()}-{next(_SERIAL)}"

    def adopt(self, scratch: Path, sha256: str) -> None:
        """Move a finished scratch file to its name; readers see all of it or nothing."""
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        os.replace(scratch, target)

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256):
            scratch = self.scratch()
            scratch.write_bytes(data)
            self.adopt(scratch, sha256)
        return sha256

    async def receive(self, stream: AsyncIterator[bytes]) -> tuple[Path, str, int]:
        """Write a request body to a scratch file: its path, sha256, size. Nothing stays if it breaks."""
        scratch, digest, size = self.scratch(), hashlib.sha256(), 0
        try:
            # Writing to the page cache takes microseconds a chunk: cheaper than a hop to a thread.
            with scratch.open("wb") as out:
                async for chunk in stream:
                    digest.update(chunk)
                    out.write(chunk)
                    size += len(chunk)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        return scratch, digest.hexdigest(), size
