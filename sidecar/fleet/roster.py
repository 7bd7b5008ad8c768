"""``fleet.yaml``: which Spaces there are, where they answer, and what is expected of each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sidecar.errors import ConfigError
from sidecar.units import parse_duration

EVERY_S = 45 * 60.0
LEAST_S = 1.0
MOST_BYTES = 4 << 20

_SPACE_KEYS = ("id", "url", "token", "interval", "version")
_TOP_KEYS = ("spaces", "interval", "webhook")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,191}")
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Space:
    """One Space. ``url`` has no slash at its end; ``token_env`` is the variable that holds its bearer token, or None.

    ``every_s`` is how often it is to be pinged; ``version`` the sidecar's that is expected, None where any will do.
    """

    id: str
    url: str
    token_env: str | None = None
    every_s: float = EVERY_S
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """All Spaces in their order, and the URL that is told of changes."""

    spaces: tuple[Space, ...]
    webhook: str | None = field(default=None, repr=False)


def load(path: str) -> Fleet:
    """Read the file ``path``. Raises ConfigError that names every entry that can't be used."""
    try:
        import yaml
    except ModuleNotFoundError:
        raise ConfigError("the fleet commands need PyYAML: pip install 'space-sidecar[fleet]'") from None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no {path!r}: write one, or name another with --file (docs/fleet.md)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path!r} can't be read: {error}") from None
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{path!r} is longer than {MOST_BYTES >> 20} MB: that is no roster")
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path!r} is no YAML: {' '.join(str(error).split())}") from None
    return read(document, path)


def read(document: Any, where: str = "fleet.yaml") -> Fleet:
    """The fleet in a parsed document: a mapping with ``spaces``, or the bare list of them."""
    top: Mapping[Any, Any] = {"spaces": document} if isinstance(document, list) else document
    if not isinstance(top, Mapping) or not isinstance(top.get("spaces"), list):
        raise ConfigError(f"{where}: a list of Spaces is expected under `spaces:`")
    wrong = list(_unknown(top, _TOP_KEYS, "the top"))
    try:
        every = _interval(top.get("interval"), EVERY_S)
    except ValueError as error:
        wrong.append(str(error))
        every = EVERY_S
    spaces: list[Space] = []
    for number, entry in enumerate(top["spaces"], 1):
        try:
            space = _space(entry, every)
            if any(space.id == other.id for other in spaces):
                raise ValueError(f"{space.id!r} is there twice")
            spaces.append(space)
        except ValueError as error:
            wrong.append(f"entry {number}: {error}")
    webhook = top.get("webhook")
    if webhook is not None and not _is_url(webhook):
        wrong.append("webhook: an http:// or https:// URL is expected")
    if not wrong and not spaces:
        wrong.append("no Space is in it")
    if wrong:
        raise ConfigError("\n".join(f"{where}: {line}" for line in wrong))
    return Fleet(tuple(spaces), webhook)


def _space(entry: Any, every_s: float) -> Space:
    if isinstance(entry, str):
        entry = {"id": entry}
    if not isinstance(entry, Mapping):
        raise ValueError("a mapping with `id` is expected")
    for line in _unknown(entry, _SPACE_KEYS, "a Space"):
        raise ValueError(line)
    name = entry.get("id")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise ValueError("`id` is expected: a name such as OWNER/NAME")
    url = entry.get("url", _host(name))
    if url is None:
        raise ValueError(f"{name!r} has no `url`, and is no OWNER/NAME that one could be made of")
    if not _is_url(url):
        raise ValueError(f"{name!r}: `url` is expected to be http:// or https://")
    token = entry.get("token")
    if token is not None and (not isinstance(token, str) or not _VARIABLE.fullmatch(token)):
        # What stands there may be a token itself: it is not repeated.
        raise ValueError(f"{name!r}: `token` names the environment variable that holds the token, never the token")
    if token is not None and token.startswith("hf_"):
        raise ValueError(f"{name!r}: `token` looks like a token: write the name of the variable that holds it")
    parts = urlsplit(url)
    if token is not None and parts.scheme == "http" and parts.hostname not in _LOCAL:
        raise ValueError(f"{name!r}: its token would go over http://, for everybody to read. Use https://")
    version = entry.get("version")
    if version is not None and not isinstance(version, str):
        raise ValueError(f'{name!r}: `version` is expected in quotes, like "0.1.0"')
    return Space(name, url.rstrip("/"), token, _interval(entry.get("interval"), every_s), version)


def _host(name: str) -> str | None:
    """Where the Hub serves the Space OWNER/NAME: its name in small letters, everything else a hyphen."""
    if name.count("/") != 1:
        return None
    return f"https://{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.hf.space"


def _interval(value: Any, default: float) -> float:
    if value is None:
        return default
    try:
        seconds = parse_duration(str(value))
    except ValueError as error:
        raise ValueError(f"interval: {error}; write it like 45m") from None
    if seconds < LEAST_S:
        raise ValueError(f"interval: at least {LEAST_S:.0f}s")
    return seconds


def _is_url(value: Any) -> bool:
    if not isinstance(value, str) or any(c.isspace() or ord(c) < 32 for c in value):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _unknown(given: Mapping[Any, Any], known: tuple[str, ...], what: str) -> Iterator[str]:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"{what} has {', '.join(known)}"
            yield f"there is no {str(key)!r}; {hint}"
