"""Durations and sizes as people write them: ``1h30m``, ``500ms``, ``64MB``, ``1GiB``."""

from __future__ import annotations

import re

MAX_DURATION_S = 366 * 86400.0
"""Longest duration that is read, in seconds: beyond it an event loop's clock arithmetic gets doubtful."""
MAX_SIZE = 2**63 - 1
"""Largest size that is read, in bytes: what a file offset can hold."""

_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)"
_DURATION_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
_DURATION = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit, _ in _DURATION_UNITS))
_SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,12}))? ?([A-Za-z]+)")


def parse_duration(text: str) -> float:
    """Seconds of ``text``: numbers with the units d, h, m, s, ms in this order, each at most once, or ``0``.

    Raises ``ValueError`` whose message says what is wrong with it.
    """
    if text == "0":
        return 0.0
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text):
        raise ValueError(f"a number without a unit (is it {text}s?)")
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError("not a duration")
    parts = zip(match.groups(), _DURATION_UNITS, strict=True)
    seconds = sum(float(number) * ms for number, (_, ms) in parts if number) / 1000
    if seconds > MAX_DURATION_S:
        raise ValueError("longer than 366 days")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` reads as ``seconds`` (of at least 0), to the millisecond."""
    rest = round(seconds * 1000)
    text = ""
    for unit, ms in _DURATION_UNITS:
        count, rest = divmod(rest, ms)
        if count:
            text += f"{count}{unit}"
    return text or "0"


def parse_size(text: str) -> int:
    """Bytes of ``text``: a number with B, kB, MB, GB, TB (powers of 1000) or KiB … TiB (of 1024), or ``0``.

    Raises ``ValueError`` whose message says what is wrong with it.
    """
    if text == "0":
        return 0
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text):
        raise ValueError(f"a number without a unit (is it {text}B or {text}MB?)")
    match = _SIZE.fullmatch(text)
    if match is None or match[3] not in _SIZE_UNITS:
        raise ValueError("not a size")
    fraction = match[2] or ""
    size, odd = divmod(int(f"{match[1]}{fraction}") * _SIZE_UNITS[match[3]], int("1" + "0" * len(fraction)))
    if odd:
        raise ValueError("not a whole number of bytes")
    if size > MAX_SIZE:
        raise ValueError("larger than a file can be")
    return size


def format_size(size: int) -> str:
    """The shortest text that ``parse_size`` reads as exactly ``size`` bytes."""
    if size == 0:
        return "0"
    exact = [f"{size // factor}{unit}" for unit, factor in _SIZE_UNITS.items() if size % factor == 0]
    return min(exact, key=len)


def size_text(size: float) -> str:
    """A number of bytes as people say it, in three digits or less: ``38 MB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
