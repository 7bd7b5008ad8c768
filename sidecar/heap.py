"""What a large sync or restore does to Python's memory: it goes back to the system, and isn't searched on the way."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Iterator

MANY = 2000
"""Entries whose rows take some MB. For fewer there is nothing to win."""


def give_back() -> None:
    """Let the C library return what is free in the middle of its heap, as it never does by itself. Blocks, briefly."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # musl has no such call, and gives back at once
        ctypes.CDLL(None).malloc_trim(0)


RARELY = (200_000, 20, 20)
"""New objects to a search for cycles, in place of 700: ten thousand entries are some 100,000, and none of a cycle."""

_lock = threading.Lock()
_inside = 0
_usual = gc.get_threshold()


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """Let Python look for cycles of garbage rarely: among what a snapshot is made of it finds none.

    It took a fifth of the time of a restore of 10,000 files. For the whole process; it may be entered by several.
    """
    global _inside, _usual
    with _lock:
        if not _inside:
            _usual = gc.get_threshold()
            gc.set_threshold(*RARELY)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                gc.set_threshold(*_usual)
