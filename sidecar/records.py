"""Frozen dataclasses that are made by the hundred thousand: mypy keeps them frozen, not a guard in ``__init__``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import dataclass

    def record(*, frozen, slots):
        """``dataclass`` without the guard at run time, which costs ten times the rest of making one."""
        assert frozen
        return dataclass(slots=slots, unsafe_hash=True)


__all__ = ["record"]
