"""Git's ignore patterns as regular expressions over one path, exactly as git's ``wildmatch.c`` reads them.

A pattern says yes to a path itself, never to what lies below it: whoever goes down a tree doesn't enter what is
excluded, and that is also why git can't bring a file back out of an excluded folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t\\n\\v\\f\\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """``expression`` matches the whole of a ``/``-separated path without a slash at its end (``re.DOTALL``).

    ``name`` matches the last part of every such path, and of others too.
    """

    expression: str
    name: str
    folders_only: bool
    excludes: bool  # False: the line starts with "!" and takes back what an earlier one excluded


def parse(line: str) -> Pattern | None:
    """Read one line of an ignore file; None for blank lines and comments.

    Raises ValueError, saying why, for what could never match: git passes over such a line in silence.
    """
    text = _without_trailing_spaces(line.removesuffix("\r"))
    if not text or text.startswith("#"):
        return None
    excludes = not text.startswith("!")
    text = text if excludes else text[1:]
    folders_only = text.endswith("/")
    text = text.removesuffix("/")
    if not text:
        raise ValueError("it names nothing")
    if "/" not in text:
        name = _translate(text)
        return Pattern("(?:.*/)?" + name, name, folders_only, excludes)
    # Where a slash may stand in brackets, or behind a backslash, the last part can't be told so simply.
    name = ".*" if "[" in text or "\\" in text else _translate(text.rpartition("/")[2])
    return Pattern(_translate(text.removeprefix("/")), name, folders_only, excludes)


def _without_trailing_spaces(line: str) -> str:
    kept = line.rstrip(" ")
    backslashes = len(kept) - len(kept.rstrip("\\"))
    return kept + " " if backslashes % 2 and kept != line else kept


def _translate(glob: str) -> str:
    out: list[str] = []
    at = 0
    while at < len(glob):
        c = glob[at]
        if c == "*":
            end = at
            while end < len(glob) and glob[end] == "*":
                end += 1
            whole = end - at > 1 and (at == 0 or glob[at - 1] == "/") and glob[end : end + 1] in ("", "/")
            if whole and end < len(glob):
                out.append("(?:.*/)?")  # the slash behind it goes with it: "no folder at all" matches too
                end += 1
            else:
                out.append(".*" if whole else "[^/]*")
            at = end
        elif c == "?":
            out.append("[^/]")
            at += 1
        elif c == "[":
            part, at = _bracket(glob, at)
            out.append(part)
        else:
            if c == "\\":
                at += 1
                if at == len(glob):
                    raise ValueError("it ends with a single backslash")
                c = glob[at]
            out.append(re.escape(c))
            at += 1
    return "".join(out)


def _bracket(glob: str, start: int) -> tuple[str, int]:
    """The set that begins at ``start``, and where what follows it begins."""
    at = start + 1
    negated = glob[at : at + 1] in ("!", "^")
    at += negated
    parts: list[str] = []
    first = True
    while True:
        c = glob[at : at + 1]
        if not c:
            raise ValueError("its '[' is never closed")
        if c == "]" and not first:
            break
        first = False
        if c == "[" and glob[at + 1 : at + 2] == ":":
            end = glob.find("]", at + 2)
            name = glob[at + 2 : end - 1] if end > 0 and glob[end - 1] == ":" else None
            if name is not None:
                if name not in _CLASSES:
                    raise ValueError(f"[:{name}:] is no class of characters")
                parts.append(_CLASSES[name])
                at = end + 1
                continue
        low, at = _one(glob, at)
        if glob[at : at + 1] == "-" and glob[at + 1 : at + 2] not in ("", "]"):
            high, at = _one(glob, at + 1)
            if low > high:
                raise ValueError(f"{low}-{high} is a range that nothing lies in")
            parts.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            parts.append(re.escape(low))
    return f"(?!/)[{'^' if negated else ''}{''.join(parts)}]", at + 1


def _one(glob: str, at: int) -> tuple[str, int]:
    if glob[at] == "\\":
        at += 1
        if at == len(glob):
            raise ValueError("its '[' is never closed")
    return glob[at], at + 1
