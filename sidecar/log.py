"""Log lines, as section 4 of the design has them: for people by default, JSON on request."""

from __future__ import annotations

import datetime
import json
import logging
import sys

_LEVELS = {
    logging.WARNING: "WARNING ",
    logging.ERROR: "ERROR ",
    logging.CRITICAL: "ERROR ",
    logging.DEBUG: "debug ",
}

logger = logging.getLogger("sidecar")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info and logger.isEnabledFor(logging.DEBUG):
            message += "\n" + self.formatException(record.exc_info)
        head = f"sidecar {_LEVELS.get(record.levelno, '')}"
        return "\n".join(head + line for line in _printable(message).split("\n"))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        if record.exc_info and logger.isEnabledFor(logging.DEBUG):
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def _printable(message: str) -> str:
    """File names are anybody's bytes: no terminal escape and no lone surrogate leaves here."""
    return "".join(
        c
        if c == "\n" or (c.isprintable() and not 0xD800 <= ord(c) <= 0xDFFF)
        else f"\\x{ord(c) & 0xFF:02x}"
        if ord(c) < 256 or 0xDC80 <= ord(c) <= 0xDCFF
        else f"\\u{ord(c):04x}"
        for c in message
    )


def setup(form: str = "text", level: str = "info") -> None:
    """Send this package's log lines to stderr, in ``form`` ("text" or "json"), from ``level`` up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logger.handlers[:] = [handler]
    logger.setLevel(getattr(logging, level.upper(), logging.INFO))
    logger.propagate = False


info = logger.info
warning = logger.warning
error = logger.error
debug = logger.debug
