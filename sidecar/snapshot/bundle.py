"""Bundles: one object that carries many small files, or files whose names a store won't take.

A bundle is a tar archive in independent zstd frames laid end to end, so that ``zstd -d | tar x`` opens the whole
and a range of bytes is enough for one member: each frame holds whole members, about ``FRAME`` bytes of them or a
single larger one, and the last frame holds only the end-of-archive mark.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from sidecar.errors import ManifestError
from sidecar.snapshot.manifest import BUNDLES, Entry, Frame

FRAME = 256 * 1024
"""Bytes of tar in one frame: small enough to read one file without the others, large enough to compress."""

LEVEL = 3


def store_path(sha256: str) -> str:
    return f"{BUNDLES}{sha256}.tar.zst"


@dataclass(frozen=True, slots=True)
class Built:
    """A finished bundle: its name, its size in bytes, and each entry with its place in it."""

    sha256: str
    size: int
    entries: tuple[Entry, ...]


def write(members: Iterable[tuple[Entry, Path]], into: Path) -> Built:
    """Pack ``members`` (an entry and the staged file with its bytes) as the file ``into``. Blocks."""
    placed: list[tuple[Entry, int, int]] = []
    waiting: list[Entry] = []
    digest = hashlib.sha256()
    with open(into, "xb") as out:

        class Tee(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def write(self, data: object) -> int:
                view = memoryview(data).cast("B")  # type: ignore[arg-type]
                digest.update(view)
                out.write(view)
                return len(view)

        def frame() -> zstandard.ZstdCompressionWriter:
            return zstandard.ZstdCompressor(level=LEVEL).stream_writer(cast(BinaryIO, Tee()), closefd=False)

        def close(start: int) -> int:
            writer.flush(zstandard.FLUSH_FRAME)
            end = out.tell()
            placed.extend((e, start, end - start) for e in waiting)
            waiting.clear()
            return end

        writer, start, filled = frame(), 0, 0
        for entry, source in members:
            info = tarfile.TarInfo(entry.path)
            info.size, info.mode, info.uid, info.gid = entry.size, entry.mode, entry.uid, entry.gid
            info.mtime = entry.mtime_ns // 1_000_000_000
            header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            if filled and filled + len(header) + entry.size > FRAME:
                start, filled, writer = close(start), 0, frame()
            writer.write(header)
            with open(source, "rb") as data:
                written = 0
                while piece := data.read(1 << 20):
                    writer.write(piece)
                    written += len(piece)
            if written != entry.size:
                raise OSError(f"{source} changed while it was bundled")
            writer.write(b"\0" * (-written % 512))
            filled += len(header) + written
            waiting.append(entry)
        if filled:
            close(start)
            writer = frame()
        writer.write(b"\0" * 1024)
        writer.flush(zstandard.FLUSH_FRAME)
        out.flush()
        os.fsync(out.fileno())
        size = out.tell()
    name = digest.hexdigest()
    entries = tuple(
        Entry(
            *(e.path, e.kind, e.mode, e.uid, e.gid, e.mtime_ns, e.size, e.sha256, e.target),
            Frame(name, offset, length),
            e.flag,
        )
        for e, offset, length in placed
    )
    return Built(name, size, entries)


def read(bundle: BinaryIO, frame: Frame, wanted: dict[str, Entry], into: Path) -> Iterator[tuple[str, Path]]:
    """Unpack the members of one frame that ``wanted`` names, each to a file of its own in ``into``.

    Yields the member's path and the file. The bytes are not trusted: no member grows past the size that its entry
    states, what isn't wanted is skipped, and a frame that isn't what it should be raises ManifestError. Blocks.
    """
    bundle.seek(frame.offset)
    source = cast(BinaryIO, _Window(bundle, frame.length))
    most = sum(e.size for e in wanted.values()) + FRAME + (len(wanted) + 1) * 16384
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(source, closefd=False) as plain:
            limited = _Limit(plain, max(most, 2 * FRAME), frame.bundle)
            with tarfile.open(fileobj=limited, mode="r|", errorlevel=1, encoding="utf-8") as tar:
                for number, info in enumerate(tar):
                    entry = wanted.get(info.name)
                    if entry is None or not info.isreg():
                        continue
                    if info.size != entry.size:
                        raise ManifestError(f"{entry.path!r} has another size in its bundle than in the manifest")
                    data = tar.extractfile(info)
                    assert data is not None
                    target = into / f"{frame.offset}-{number}"
                    with open(target, "xb") as out:
                        while piece := data.read(1 << 20):
                            out.write(piece)
                    yield info.name, target
    except (tarfile.TarError, zstandard.ZstdError, EOFError, ValueError) as error:
        raise ManifestError(f"bundle {frame.bundle[:12]}… can't be read at {frame.offset}: {error}") from None


class _Window(io.RawIOBase):
    """The next ``length`` bytes of a file, as a file."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self.file, self.left = file, length

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(data)
        return data


class _Limit(io.RawIOBase):
    """At most ``most`` bytes of ``file``: more is a decompression bomb, not a snapshot."""

    def __init__(self, file: zstandard.ZstdDecompressionReader, most: int, bundle: str) -> None:
        self.file, self.left, self.bundle = file, most, bundle

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size if size >= 0 else self.left + 1)
        self.left -= len(data)
        if self.left < 0:
            raise ManifestError(f"bundle {self.bundle[:12]}… unpacks to more than its members need: refused")
        return data
