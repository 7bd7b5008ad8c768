"""Memory that a large sync or restore needed goes back to the system, or an idle agent would hold it for days."""

from __future__ import annotations

import contextlib
import ctypes
import gc

MANY = 2000
"""Entries whose rows take some MB. For fewer there is nothing to win."""


def give_back() -> None:
    """Let the C library return what is free in the middle of its heap, as it never does by itself. Blocks, briefly."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # musl has no such call, and gives back at once
        ctypes.CDLL(None).malloc_trim(0)
