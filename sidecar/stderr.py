"""The supervisor's log lines: what ``log.py`` writes, without the megabyte that ``logging`` costs."""

from __future__ import annotations

import os
import select
import time

_RANK = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_LIMIT = 2000  # bytes; below PIPE_BUF, so that a line is never torn and, where it fits, never blocks


def say(message: str, level: str = "info") -> None:
    """Write one line to stderr in the form that SIDECAR_LOG asks for; ``level`` as in ``_RANK``.

    A line that nobody reads is dropped: a full pipe must not stop the process that main depends on.
    """
    if _RANK[level] < _RANK.get(os.environ.get("SIDECAR_LOG_LEVEL", "").strip().lower(), 1):
        return
    as_json = os.environ.get("SIDECAR_LOG", "").strip().lower() == "json"
    line = json_line(message, level, time.time()) if as_json else text_line(message, level)
    try:
        ready = select.poll()
        ready.register(2, select.POLLOUT)
        if ready.poll(100):
            os.write(2, line)
    except OSError:
        pass


def text_line(message: str, level: str) -> bytes:
    """``sidecar WARNING …``, printable and on one line whatever ``message`` holds."""
    mark = f"{level.upper()} " if level in ("warning", "error") else ""
    shown = "".join(c if c.isprintable() else " " for c in message)
    return f"sidecar {mark}{shown}".encode("utf-8", "replace")[: _LIMIT - 1] + b"\n"


def json_line(message: str, level: str, at: float) -> bytes:
    """The same as one JSON object in ASCII; ``at`` in seconds since 1970."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"
    head, foot = f'{{"at": "{stamp}", "level": "{level}", "message": "', '"}\n'
    room = _LIMIT - len(head) - len(foot)
    parts = []
    for c in message:
        escaped = _escape(c)
        room -= len(escaped)
        if room < 0:
            break
        parts.append(escaped)
    return (head + "".join(parts) + foot).encode("ascii")


def _escape(c: str) -> str:
    number = ord(c)
    if c in '"\\':
        return "\\" + c
    if 0x20 <= number < 0x7F:
        return c
    if number > 0xFFFF:
        number -= 0x10000
        return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
    return f"\\u{number:04x}"
