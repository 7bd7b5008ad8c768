"""How one setting's text becomes a value; whatever can't be read raises ``ValueError`` with the reason.

Each public function takes a reader's limits and returns the reader.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from sidecar.roots import absolute
from sidecar.units import format_duration, parse_duration

Reader = Callable[[str], Any]

DEFAULT_EXCLUDE = (
    "__pycache__/",
    ".cache/huggingface/",
    ".cache/pip/",
    ".cache/uv/",
    "node_modules/.cache/",
    "SingletonLock",
    "SingletonSocket",
    "SingletonCookie",
    ".~lock.*#",
    "*.pid",
)
"""Gitignore-style patterns that are left out unless ``SIDECAR_EXCLUDE`` says otherwise."""

CHECK_KINDS = ("command", "http", "sqlite", "json", "cookies", "jwt", "hf-token")
_PATH_KINDS = ("sqlite", "json", "cookies", "jwt")


class Unreadable(ValueError):
    """Several things wrong with one value; ``details`` has a line of text for each."""

    def __init__(self, *details: str) -> None:
        super().__init__("; ".join(details))
        self.details = details


def choice(*words: str) -> Reader:
    """One of ``words``, whatever its case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return read


def flag(on: str, off: str) -> Reader:
    """True for the word ``on``, False for ``off``."""
    read = choice(on, off)
    return lambda text: read(text) == on


def integer(least: int, most: int) -> Reader:
    """A whole number between the two, both included."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text):
            raise ValueError("not a whole number")
        if not least <= int(text) <= most:
            raise ValueError("too small" if int(text) < least else "too large")
        return int(text)

    return read


def duration(least: float = 0.0) -> Reader:
    """Seconds, at least ``least`` of them."""

    def read(text: str) -> float:
        seconds = parse_duration(text)
        if seconds < least:
            raise ValueError(f"shorter than {format_duration(least)}")
        return seconds

    return read


def off_or(reader: Reader) -> Reader:
    """None for ``off``, else what ``reader`` makes of it."""
    return lambda text: None if text.lower() == "off" else reader(text)


def secret(text: str) -> str:
    """A token: any shape, but no whitespace and no control characters, which a copied secret picks up."""
    bad = [c.isspace() or ord(c) < 32 or ord(c) == 127 for c in text]
    for place, c in enumerate(text):
        if bad[place]:
            what = "a line break" if c in "\r\n" else "whitespace" if c.isspace() else "a control character"
            where = "at its start" if place == 0 else "at its end" if all(bad[place:]) else "inside"
            raise ValueError(f"has {what} {where}")
    return text


def token_file(path: str) -> str:
    """The token in a mounted file, without line breaks at its end. Raises ``ValueError`` naming the path."""
    try:
        # Not blocking: a pipe without a writer would hold up the start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = os.read(descriptor, 65536)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ValueError(f"{path!r} can't be read: {os.strerror(error.errno or 0)}") from None
    try:
        token = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path!r} holds no text") from None
    if not token:
        raise ValueError(f"{path!r} is empty")
    try:
        return secret(token)
    except ValueError as error:
        raise ValueError(f"the token in {path!r} {error} (it is not shown)") from None


def name(text: str) -> str:
    """A word without whitespace or control characters: an identity, a revision."""
    if any(c.isspace() or ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise ValueError("holds whitespace or a control character")
    return text


def space_id(text: str) -> str:
    """OWNER/NAME as the platform sets it."""
    from sidecar.storeurl import is_repo_id

    if not is_repo_id(text):
        raise ValueError
    return text


def host(text: str) -> str:
    """An address or a host name to listen on, without a port."""
    if ":" in text:
        import ipaddress

        try:
            return str(ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]")))
        except ValueError:
            raise ValueError("neither a host name nor an IPv6 address (the port goes into SIDECAR_PORT)") from None
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", text):
        raise ValueError("not a host name")
    return text


def web_url(*schemes: str, bare: bool = False) -> Reader:
    """A URL with one of ``schemes`` and a host; ``bare`` ones have no user, path, query or fragment."""

    def read(text: str) -> str:
        from urllib.parse import urlsplit

        if any(c.isspace() or ord(c) < 32 or ord(c) == 127 for c in text):
            raise ValueError("holds whitespace or a control character")
        try:
            url = urlsplit(text)
            port, hostname, user = url.port, url.hostname, url.username
        except ValueError:
            raise ValueError("host or port can't be read") from None
        if url.scheme not in schemes:
            raise ValueError(f"doesn't start with {' or '.join(f'{s}://' for s in schemes)}")
        if not hostname or port == 0:
            raise ValueError("the host is missing" if not hostname else "no server is reached on port 0")
        if bare and (url.path.strip("/") or url.query or url.fragment or user is not None):
            raise ValueError("more than an address and a port")
        return text.rstrip("/") if bare else text

    return read


def endpoint(text: str) -> str:
    """The Hub's address without a slash at its end, as huggingface_hub has it."""
    return str(web_url("http", "https")(text)).rstrip("/")


def url_prefix(text: str) -> str:
    """A path such as ``/_sidecar``, returned without a slash at its end."""
    path = text.rstrip("/")
    segments = path.split("/")[1:]
    if not path.startswith("/") or any(s in (".", "..") or not re.fullmatch(r"[\w.~-]+", s, re.A) for s in segments):
        raise ValueError
    return path


def folder(text: str, home: str | None) -> str:
    """The absolute path of a folder other than ``/``."""
    path = absolute(text, home)
    if path == "/":
        raise ValueError("the whole file system")
    return path


def exclude(text: str) -> tuple[str, ...]:
    """Gitignore-style patterns, one a line; blank lines and comments go, ``+default`` is replaced."""
    from warnings import catch_warnings, simplefilter

    from pathspec import GitIgnoreSpec

    patterns: list[str] = []
    wrong = []
    for line in text.split("\n"):
        line = line.strip("\r").lstrip()
        line = line if re.search(r"\\ +$", line) else line.rstrip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("+"):
            if line == "+default":
                patterns += DEFAULT_EXCLUDE
            else:
                wrong.append(f"{line!r}: only +default starts with '+' (a name that does is written \\{line})")
            continue
        try:
            with catch_warnings():
                simplefilter("ignore")
                matches_something = all(p.include is not None for p in GitIgnoreSpec.from_lines([line]).patterns)
        except (ValueError, re.error):
            matches_something = False
        if matches_something:
            patterns.append(line)
        else:
            wrong.append(f"{line!r} is no pattern")
    if wrong:
        raise Unreadable(*wrong)
    return tuple(patterns)


def parse_check(line: str) -> tuple[bool, str, str]:
    """One line of ``SIDECAR_VERIFY`` as (does a failure stop the start, kind, argument).

    A path keeps its ``~``; ``http`` has its URL, ``hf-token`` nothing. Raises ``ValueError``.
    """
    must = line.startswith("!")
    kind, _, argument = line.removeprefix("!").partition(":")
    kind, argument = kind.strip(), argument.strip()
    if kind not in CHECK_KINDS:
        raise ValueError(f"{line!r} doesn't start with a kind of check")
    if kind == "hf-token":
        if argument:
            raise ValueError(f"{line!r}: hf-token stands alone")
        return must, kind, ""
    if not argument:
        raise ValueError(f"{line!r}: nothing stands behind {kind}:")
    if kind == "http":
        try:
            web_url("http", "https")(argument)
        except ValueError as error:
            raise ValueError(f"{line!r}: {error} (as in http: http://127.0.0.1:7860/ok)") from None
    if kind in _PATH_KINDS and not argument.startswith(("/", "~/")):
        raise ValueError(f"{line!r}: the path is not absolute")
    return must, kind, argument


def checks(text: str) -> tuple[str, ...]:
    """The lines of ``SIDECAR_VERIFY``, each fit for ``parse_check``."""
    return _each_line(text, lambda line: parse_check(line) and line)


AFTER_READY = "after-ready"


def parse_command(line: str) -> tuple[bool, bool, str]:
    """One line of ``SIDECAR_RESUME`` as (does a failure stop the start, does it wait for main, command).

    Raises ``ValueError``.
    """
    must, rest, later = line.startswith("!"), line.removeprefix("!").strip(), False
    while True:
        kind, colon, argument = rest.partition(":")
        kind, argument = kind.strip(), argument.strip()
        if not colon or kind not in (*CHECK_KINDS, AFTER_READY):
            break
        if kind not in ("command", AFTER_READY):
            raise ValueError(f"{line!r} is a check; checks go into SIDECAR_VERIFY")
        if not argument:
            raise ValueError(f"nothing stands behind {kind}:")
        later, rest = later or kind == AFTER_READY, argument
    if rest == "hf-token":
        raise ValueError(f"{line!r} is a check; checks go into SIDECAR_VERIFY")
    if not rest:
        raise ValueError("nothing stands behind !")
    if must and later:
        raise ValueError(f"{line!r}: main runs by then, so that '!' can't keep it from starting")
    return must, later, rest


def commands(text: str) -> tuple[str, ...]:
    """The lines of ``SIDECAR_RESUME``, each fit for ``parse_command``."""
    return _each_line(text, lambda line: parse_command(line) and line)


def _each_line(text: str, read: Callable[[str], str]) -> tuple[str, ...]:
    found, wrong = [], []
    for line in filter(None, map(str.strip, text.split("\n"))):
        try:
            found.append(read(line))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise Unreadable(*wrong)
    return tuple(found)
