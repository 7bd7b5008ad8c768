"""How commands say things: names, sizes, times, and JSON that carries any name."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any


def name(text: str) -> str:
    """``text`` on one line of a terminal: a file's name may be any bytes, escape sequences among them."""
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def named(path: str, key: str = "path") -> dict[str, str]:
    """``path`` as the manifest's JSON has it: under ``key``, or its bytes under ``<key>_b64``."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return {f"{key}_b64": base64.b64encode(path.encode("utf-8", "surrogateescape")).decode()}
    return {key: path}


def unnamed(item: Mapping[str, Any], key: str = "path") -> str:
    """The path that ``named`` wrote into ``item``."""
    raw = item.get(f"{key}_b64")
    return os.fsdecode(base64.b64decode(raw)) if raw is not None else str(item.get(key, ""))


def size(count: float) -> str:
    """Bytes in three digits or less: ``38 MB``."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def files(count: int) -> str:
    return f"{count:,} file" if count == 1 else f"{count:,} files"


def age(seconds: float) -> str:
    """How long, by its largest unit: ``4 min``."""
    for unit, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {word}"
    return f"{max(seconds, 0.0):.0f} s"


def when(at: float, *, seconds: bool = False) -> str:
    """Seconds since the epoch as local time, to the minute or the second."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return f"{at:.0f} s"  # beyond what the calendar of this machine has


def table(rows: Iterable[Iterable[str]], indent: str = "") -> None:
    """Print columns; the last one is not padded."""
    lines = [list(row) for row in rows]
    if not lines:
        return
    widths = [max(len(row[n]) for row in lines) for n in range(len(lines[0]) - 1)]
    for row in lines:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print((indent + "  ".join([*padded, row[-1]])).rstrip())


def document(value: Any) -> None:
    """Print JSON that every reader takes (a lone surrogate, which none does, is for ``named`` to avoid)."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    print()
