"""Xorbs: chunks one after another, each behind 8 bytes of header, each packed for itself.

Source of the rules: https://huggingface.co/docs/xet/xorb
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.hub.merkle import chunk_hash, to_hex, xorb_hash

_FOOTER = b"XETBLOB"
_PLAIN, _LZ4, _GROUPED_LZ4 = 0, 1, 2
_MAX_CHUNK = 128 * 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """`start` and `end` are where it lies in the packed xorb, header included; `size` is unpacked."""

    hash: str
    start: int
    end: int
    size: int


@dataclass(frozen=True, slots=True)
class Xorb:
    hash: str
    chunks: tuple[Chunk, ...]

    @property
    def packed(self) -> int:
        return self.chunks[-1].end


def index(data: bytes) -> Xorb:
    """What a xorb holds, by unpacking and hashing all of it. Raises ValueError for a malformed one."""
    chunks, leaves = [], []
    for start, end, content in unpack(data):
        raw = chunk_hash(content)
        leaves.append((raw, len(content)))
        chunks.append(Chunk(to_hex(raw), start, end, len(content)))
    if not chunks:
        raise ValueError("a xorb without chunks")
    return Xorb(to_hex(xorb_hash(leaves)), tuple(chunks))


def unpack(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Start, end and content of each chunk up to the footer, which a client may leave out."""
    at = 0
    while at < len(data) and data[at : at + 7] != _FOOTER:
        header = data[at : at + 8]
        if len(header) < 8 or header[0] != 0:
            raise ValueError(f"bad chunk header at {at}")
        packed, size = int.from_bytes(header[1:4], "little"), int.from_bytes(header[5:8], "little")
        end = at + 8 + packed
        if end > len(data) or size > _MAX_CHUNK:
            raise ValueError(f"chunk at {at} is cut off or too large")
        content = _unpack_one(header[4], data[at + 8 : end])
        if len(content) != size:
            raise ValueError(f"chunk at {at} has {len(content)} bytes, its header says {size}")
        yield at, end, content
        at = end


def _unpack_one(scheme: int, packed: bytes) -> bytes:
    if scheme == _PLAIN:
        return packed
    if scheme not in (_LZ4, _GROUPED_LZ4):
        raise ValueError(f"unknown compression {scheme}")
    import lz4.frame  # type: ignore[import-untyped]

    try:
        content: bytes = lz4.frame.decompress(packed)
    except RuntimeError as exc:
        raise ValueError(f"LZ4 says {exc}") from None
    return content if scheme == _LZ4 else _regroup(content)


def _regroup(content: bytes) -> bytes:
    """Undo the grouping: all first bytes of every four came first, then all second ones, and so on."""
    size = len(content)
    out, at = bytearray(size), 0
    for n in range(4):
        count = (size - n + 3) // 4
        out[n::4] = content[at : at + count]
        at += count
    return bytes(out)
