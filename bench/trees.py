"""The trees that restores and first uploads are measured with: the same bytes on every machine."""

from __future__ import annotations

import random
from pathlib import Path

SMALL_FILES, SMALL_SIZE = 10_000, 4096
LARGE_SIZE = 1 << 30
_PER_FOLDER = 100


def small(folder: Path, files: int = SMALL_FILES, size: int = SMALL_SIZE) -> None:
    """``files`` files of ``size`` bytes, a hundred to a folder; their bytes can't be compressed."""
    rng = random.Random(1)
    for number in range(files):
        at = folder / f"{number // _PER_FOLDER:03d}"
        if number % _PER_FOLDER == 0:
            at.mkdir(parents=True)
        (at / f"{number:05d}.bin").write_bytes(rng.randbytes(size))


def large(folder: Path, size: int = LARGE_SIZE) -> None:
    """One file of ``size`` bytes, which can't be compressed."""
    rng = random.Random(2)
    folder.mkdir(parents=True)
    with open(folder / "large.bin", "wb") as out:
        for start in range(0, size, 1 << 20):
            out.write(rng.randbytes(min(1 << 20, size - start)))
