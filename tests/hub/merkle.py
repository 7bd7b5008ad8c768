"""Xet's hashes: BLAKE3 of chunks, and the trees over them that name xorbs and files.

Source of the rules: https://huggingface.co/docs/xet/hashing and the openapi description in xet-core.
"""

from __future__ import annotations

from collections.abc import Sequence

# Published keys that keep the three uses of BLAKE3 apart.
_CHUNK_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
_RANGE_KEY = bytes.fromhex("7f1857d6ce56ed66127ff913e7a5c3f3a4cd26d5b5db49e64124987f28fb94c3")
_BRANCHING = 4


def to_hex(raw: bytes) -> str:
    """A hash as text: each 8 bytes are a little-endian number, written big-endian."""
    return b"".join(raw[n : n + 8][::-1] for n in range(0, 32, 8)).hex()


def from_hex(text: str) -> bytes:
    """Raises ValueError for anything but 64 hex digits."""
    raw = bytes.fromhex(text)
    if len(raw) != 32:
        raise ValueError(f"not a hash: {text!r}")
    return b"".join(raw[n : n + 8][::-1] for n in range(0, 32, 8))


def _keyed(key: bytes, data: bytes) -> bytes:
    # Here and not above: a Hub that serves LFS only, as the demo's may, does without the package.
    from blake3 import blake3

    return blake3(data, key=key).digest()


def chunk_hash(data: bytes) -> bytes:
    return _keyed(_CHUNK_KEY, data)


def range_hash(chunks: Sequence[bytes]) -> bytes:
    """What a shard offers as proof that its sender had these chunks."""
    return _keyed(_RANGE_KEY, b"".join(chunks))


def remainder(raw: bytes, modulus: int) -> int:
    return int.from_bytes(raw[24:], "little") % modulus


def xorb_hash(chunks: Sequence[tuple[bytes, int]]) -> bytes:
    """The root over (hash, unpacked size) of chunks; a node has 2 to 9 children, cut by their hashes."""
    level = list(chunks)
    if not level:
        return bytes(32)
    while len(level) > 1:
        above = []
        at = 0
        while at < len(level):
            end = at + _cut(level, at)
            group = level[at:end]
            text = "".join(f"{to_hex(raw)} : {size}\n" for raw, size in group)
            above.append((_keyed(_NODE_KEY, text.encode()), sum(size for _, size in group)))
            at = end
        level = above
    return level[0][0]


def file_hash(chunks: Sequence[tuple[bytes, int]]) -> bytes:
    """A file's name in Xet: the root over all its chunks, keyed once more with zeros."""
    return _keyed(bytes(32), xorb_hash(chunks)) if chunks else bytes(32)


def _cut(level: Sequence[tuple[bytes, int]], at: int) -> int:
    left = len(level) - at
    if left <= 2:
        return left
    end = min(2 * _BRANCHING + 1, left)
    for n in range(2, end):
        if remainder(level[at + n][0], _BRANCHING) == 0:
            return n + 1
    return end
