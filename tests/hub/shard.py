"""Shards: what a client says about files (which chunks of which xorbs) and gets told about known chunks.

Source of the rules: https://huggingface.co/docs/xet/shard. All numbers little-endian, every record 48 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.hub.merkle import from_hex, to_hex
from tests.hub.xorb import Xorb

_TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
_VERSION, _FOOTER_VERSION, _FOOTER_SIZE = 2, 1, 200
_RECORD = struct.Struct("<32s4I")
_END = b"\xff" * 32
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30
_NEVER = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Term:
    """Chunks [start, end) of a xorb, `size` bytes unpacked."""

    xorb: str
    start: int
    end: int
    size: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    """`proofs` are the range hashes, one a term, or none."""

    hash: str
    terms: tuple[Term, ...]
    proofs: tuple[bytes, ...]
    sha256: str | None


def parse_files(data: bytes) -> list[ShardFile]:
    """The files of an uploaded shard. Raises ValueError for a malformed one."""
    if data[:32] != _TAG or len(data) < 48 or int.from_bytes(data[32:40], "little") != _VERSION:
        raise ValueError("not a shard of version 2")
    records = _records(data)
    files: list[ShardFile] = []
    for name, flags, count, _, _ in records:
        if name == _END:
            return files
        terms = [Term(to_hex(x), start, end, size) for x, _, size, start, end in _take(records, count)]
        proofs = [r[0] for r in _take(records, count)] if flags & _VERIFIED else []
        # The client writes the digest as it writes its own hashes, so it reads back the same way.
        digest = to_hex(next(records)[0]) if flags & _WITH_SHA256 else None
        files.append(ShardFile(to_hex(name), tuple(terms), tuple(proofs), digest))
    raise ValueError("a shard without an end of its files")


def _records(data: bytes) -> Iterator[tuple[bytes, int, int, int, int]]:
    for at in range(48, len(data) - 47, 48):
        yield _RECORD.unpack_from(data, at)


def _take(records: Iterator[tuple[bytes, int, int, int, int]], count: int) -> list[tuple[bytes, int, int, int, int]]:
    taken = [record for _, record in zip(range(count), records, strict=False)]
    if len(taken) < count:
        raise ValueError("a shard that is cut off")
    return taken


def describe(xorbs: Sequence[Xorb]) -> bytes:
    """A shard that tells a client which chunks these xorbs hold, with its lookup tables and footer."""
    head = _TAG + struct.pack("<QQ", _VERSION, _FOOTER_SIZE)
    files = _RECORD.pack(_END, 0, 0, 0, 0)
    body = b""
    xorb_rows: list[tuple[int, int]] = []
    chunk_rows: list[tuple[int, int, int]] = []
    for xorb in sorted(xorbs, key=lambda x: from_hex(x.hash)):
        place = len(body) // 48
        xorb_rows.append((_short(xorb.hash), place))
        size = sum(c.size for c in xorb.chunks)
        body += _RECORD.pack(from_hex(xorb.hash), 0, len(xorb.chunks), size, xorb.packed)
        offset = 0
        for number, chunk in enumerate(xorb.chunks):
            chunk_rows.append((_short(chunk.hash), place, number))
            body += _RECORD.pack(from_hex(chunk.hash), offset, chunk.size, 0, 0)
            offset += chunk.size
    body += _RECORD.pack(_END, 0, 0, 0, 0)
    file_table = len(head) + len(files) + len(body)
    tables = b"".join(struct.pack("<QI", *row) for row in sorted(xorb_rows))
    chunk_table = file_table + len(tables)
    tables += b"".join(struct.pack("<QII", *row) for row in sorted(chunk_rows))
    total = sum(c.size for x in xorbs for c in x.chunks)
    footer = struct.pack("<9Q", _FOOTER_VERSION, len(head), len(head) + len(files), file_table, 0,
                         file_table, len(xorb_rows), chunk_table, len(chunk_rows))  # fmt: skip
    footer += bytes(32)  # no key: chunk hashes stand as they are
    footer += struct.pack("<QQ6Q", 1, _NEVER, 0, 0, 0, 0, 0, 0)
    packed = sum(x.packed for x in xorbs)
    footer += struct.pack("<4Q", packed, 0, total, file_table + len(tables))
    return head + files + body + tables + footer


def _short(text: str) -> int:
    return int.from_bytes(from_hex(text)[:8], "little")
