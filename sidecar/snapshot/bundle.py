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
from collections.abc import Iterable, Iterator, Mapping
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


def write(members: Iterable[tuple[Entry, bytes | Path]], into: Path) -> Built:
    """Pack ``members`` (an entry and its bytes, or the staged file that has them) as the file ``into``. Blocks."""
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
            header = header_of(entry)
            if filled and filled + len(header) + entry.size > FRAME:
                start, filled, writer = close(start), 0, frame()
            writer.write(header)
            written = 0
            for piece in (source,) if isinstance(source, bytes) else _pieces(source):
                writer.write(piece)
                written += len(piece)
            if written != entry.size:
                raise OSError(f"{entry.path!r} changed while it was bundled")
            writer.write(b"\0" * (-written % 512))
            filled += len(header) + written
            waiting.append(entry)
        if filled:
            close(start)
            writer = frame()
        writer.write(b"\0" * 1024)
        writer.flush(zstandard.FLUSH_FRAME)
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


def header_of(e: Entry) -> bytes:
    """The tar header of a member, in GNU's format; ``tarfile`` makes the odd ones, at ten times the cost."""
    name, mtime = e.path.encode("utf-8", "surrogateescape"), e.mtime_ns // 1_000_000_000
    if len(name) >= 100 or max(e.uid, e.gid) >= 1 << 21 or e.size >= 1 << 33 or not 0 <= mtime < 1 << 33:
        info = tarfile.TarInfo(e.path)
        info.size, info.mode, info.uid, info.gid, info.mtime = e.size, e.mode, e.uid, e.gid, mtime
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (e.mode, e.uid, e.gid, e.size, mtime)
    start, end = name.ljust(100, b"\0") + numbers, b"0".ljust(101, b"\0") + b"ustar  \0"
    total = sum(start) + sum(end) + 8 * 32  # the sum's own field counts as blanks
    return b"%b%06o\0 %b" % (start, total, end.ljust(356, b"\0"))


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            yield piece


Pieces = Iterable[memoryview]


def read(bundle: int, frame: Frame, wanted: Mapping[str, Entry]) -> Iterator[tuple[Entry, Pieces]]:
    """The members of one frame that ``wanted`` names, each with its bytes in pieces; ``bundle`` is a descriptor.

    Pieces are read before the next member is asked for. The bytes are not trusted: no member grows past the size
    that its entry states, what isn't wanted is skipped, and a frame that isn't what it should be raises
    ManifestError. Nothing is said of a member's bytes: that is for whoever knows its sha256. Blocks.
    """
    most = max(sum(e.size for e in wanted.values()) + FRAME + (len(wanted) + 1) * 16384, 2 * FRAME)
    window = cast(BinaryIO, _Window(bundle, frame))
    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(window, closefd=False) as plain:
        yield from _members(_Tar(plain, most, frame), wanted)


def _members(tar: _Tar, wanted: Mapping[str, Entry]) -> Iterator[tuple[Entry, Pieces]]:
    """What ``write`` makes of GNU's tar format, and no more: headers, long names, regular files.

    A header's checksum isn't looked at: what it would tell, the member's sha256 tells better.
    """
    long_name = None
    while (header := tar.take(_BLOCK)) is not None and header[0]:
        kind, size = header[156:157], tar.number(header[124:136])
        if kind in _NO_DATA or size < 0:  # int() takes a sign
            size = 0
        if kind == _LONG_NAME and size <= _LONGEST_NAME:
            name = tar.take(size)
            long_name = None if name is None else _text(name)
        else:
            name_here, long_name = long_name or _text(header[:100]), None
            entry = wanted.get(name_here) if kind in _REGULAR else None
            if entry is None:
                tar.skip(size)
            elif size != entry.size:
                raise ManifestError(f"{entry.path!r} has another size in its bundle than in the manifest")
            else:
                pieces = tar.pieces(size)
                yield entry, pieces
                for _ in pieces:
                    pass
        tar.skip(-size % _BLOCK)


_BLOCK = 512
_LONGEST_NAME = 1 << 16
_REGULAR = (b"0", b"\0")
_LONG_NAME = b"L"
_NO_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


class _Tar:
    """At most ``most`` bytes of an unpacked frame: more is a decompression bomb, not a snapshot."""

    def __init__(self, plain: zstandard.ZstdDecompressionReader, most: int, frame: Frame) -> None:
        self.plain, self.left, self.frame = plain, most, frame
        self.buffer, self.at = b"", 0

    def _bad(self, why: object) -> ManifestError:
        return ManifestError(f"bundle {self.frame.bundle[:12]}… can't be read at {self.frame.offset}: {why}")

    def _more(self) -> bool:
        """Read on; false at the end."""
        try:
            data = self.plain.read(min(_PIECE, self.left + 1))
        except zstandard.ZstdError as error:
            raise self._bad(error) from None
        self.left -= len(data)
        if self.left < 0:
            raise ManifestError(f"bundle {self.frame.bundle[:12]}… unpacks to more than its members need: refused")
        self.buffer, self.at = self.buffer[self.at :] + data, 0
        return bool(data)

    def number(self, field: bytes) -> int:
        """Octal digits, or GNU's binary form from 8 GiB on."""
        if field[0] == 0x80:
            return int.from_bytes(field[1:])
        try:
            return int(field.rstrip(b"\0 ").lstrip(b" "), 8)
        except ValueError:
            raise self._bad(f"{field!r} is no size") from None

    def take(self, size: int) -> bytes | None:
        """The next ``size`` bytes, a few; None at the end."""
        while len(self.buffer) - self.at < size:
            if not self._more():
                if self.at < len(self.buffer):
                    raise self._bad("it ends too early")
                return None
        start, self.at = self.at, self.at + size
        return self.buffer[start : self.at]

    def pieces(self, size: int) -> Pieces:
        """The next ``size`` bytes, as they come, each piece once. Raises ManifestError where they don't."""
        if 0 < size <= len(self.buffer) - self.at:  # nearly always: a frame is read at once
            start, self.at = self.at, self.at + size
            return iter((memoryview(self.buffer)[start : self.at],))
        return self._pieces(size)

    def _pieces(self, size: int) -> Iterator[memoryview]:
        while size:
            if self.at == len(self.buffer) and not self._more():
                raise self._bad("it ends too early")
            piece = memoryview(self.buffer)[self.at : self.at + size]
            self.at += len(piece)
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        if size <= len(self.buffer) - self.at:
            self.at += size
        else:
            for _ in self.pieces(size):
                pass


_PIECE = 1 << 20


class _Window(io.RawIOBase):
    """The bytes of one frame of a file, as a file; several may read different frames at once."""

    def __init__(self, fd: int, frame: Frame) -> None:
        self.fd, self.at, self.end = fd, frame.offset, frame.offset + frame.length

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = os.pread(self.fd, min(self.end - self.at, _PIECE if size < 0 else size), self.at)
        self.at += len(data)
        return data
