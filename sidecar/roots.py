"""The declared roots: how ``SIDECAR_PATHS`` spells them, and which sets of them are refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

Layout = Literal["auto", "bundle", "mirror"]
LAYOUTS: tuple[str, ...] = get_args(Layout)


@dataclass(frozen=True, slots=True)
class Root:
    """A folder or a single file that is kept.

    ``name`` is its stable name in the store, ``path`` absolute and normalised with ``~`` expanded; symlinks
    in it are not resolved and nothing needs to exist there.
    """

    name: str
    path: str
    layout: Layout = "auto"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of reading or checking roots; problems and warnings are one line of text each."""

    roots: tuple[Root, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def home_of(home: str | None) -> str | None:
    """The home directory: ``home`` (the value of HOME) or the account's own; None if neither is absolute."""
    if home and home.startswith("/"):
        return home
    import pwd

    try:
        entry = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None
    return entry if entry.startswith("/") else None


def absolute(path: str, home: str | None) -> str:
    """``path`` normalised, with a leading ``~`` replaced by the home directory (see ``home_of``).

    Raises ``ValueError``, saying why, for what is relative or has a ``..`` segment: collapsing that by text
    alone is wrong behind a symlink.
    """
    if path == "~" or path.startswith("~/"):
        base = home_of(home)
        if base is None:
            raise ValueError(f"{path!r} needs HOME, which is not set to an absolute path")
        path = base + path[1:]
    elif path.startswith("~"):
        raise ValueError(f"{path!r}: only ~ and ~/… are read, not another user's home; write it out")
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is a relative path" if path else "a path is missing")
    if ".." in path.split("/"):
        raise ValueError(f"{path!r} has a '..' segment; write the path that is meant")
    return "/" + os.path.normpath(path).lstrip("/")


def parse_roots(value: str, home: str | None) -> Outcome:
    """Read ``SIDECAR_PATHS``; looks at text only, never at the disk.

    A value that holds a newline is read as one root a line, any other as separated by ``:``.
    """
    lines = "\n" in value
    roots: list[Root] = []
    problems: list[str] = []
    warnings: list[str] = []
    for entry in value.split("\n" if lines else ":"):
        entry = entry.strip()
        if not entry:
            continue
        try:
            root = _parse_root(entry, home)
        except ValueError as error:
            problems.append(str(error))
            continue
        roots.append(root)
        if lines and (":/" in root.path or ":~" in root.path):
            warnings.append(
                f"SIDECAR_PATHS holds a newline, so {root.path!r} is one path with ':' in it; "
                "write one path a line if two are meant"
            )
    if not roots and not problems:
        problems.append("no path in it")
    return Outcome(tuple(roots), tuple(problems + _name_clashes(roots)), tuple(warnings))


def spell(root: Root) -> str:
    """``root`` as an entry of ``SIDECAR_PATHS``; an entry with ``:`` in it needs the one-a-line form."""
    name = "" if root.name == root.path[1:] else f"{root.name}="
    return f"{name}{root.path}" + ("" if root.layout == "auto" else f"?layout={root.layout}")


def _parse_root(entry: str, home: str | None) -> Root:
    name, equals, rest = entry.partition("=")
    named = bool(equals) and not ("/" in name or "?" in name)
    location, question, options = (rest if named else entry).partition("?")
    layout = "auto"
    if question:
        key, _, layout = options.partition("=")
        if key != "layout" or layout not in LAYOUTS:
            raise ValueError(
                f"{entry!r}: after '?' stands layout= with one of {', '.join(LAYOUTS)}; "
                "a path that holds '?' itself can't be a root, its parent folder can"
            )
    path = absolute(location, home)
    if path == "/":
        raise ValueError(f"{entry!r}: the whole file system can't be a root; name the folders to keep")
    if not named:
        name = path[1:]
    wrong = _wrong_name(name)
    if wrong:
        better = next((s for s in reversed(path.split("/")) if not _wrong_name(s.lstrip("."))), "")
        hint = f"; name it, for example {better.lstrip('.')}={location}" if better else ""
        raise ValueError(f"{entry!r}: the root's name {name!r} {wrong}{hint}")
    return Root(name, path, cast(Layout, layout))


def _wrong_name(name: str) -> str | None:
    """What is wrong with a root's name (it is a path in the store), or None."""
    segments = name.split("/")
    if not name:
        return "is empty"
    if name.startswith("."):
        return "starts with '.', which the store keeps for itself"
    if segments[0] == "README.md":
        return "is the store's own README.md"
    if any(segment in ("", ".", "..") for segment in segments):
        return "has an empty, '.' or '..' segment"
    if name != name.strip() or any(ord(c) < 32 or ord(c) == 127 for c in name):
        return "holds a control character or starts or ends with a space"
    if any(0xD800 <= ord(c) <= 0xDFFF for c in name):
        return "is not UTF-8"
    return None


def _name_clashes(roots: Sequence[Root]) -> list[str]:
    problems = []
    for i, first in enumerate(roots):
        for second in roots[i + 1 :]:
            if contains(first.path, second.path) or contains(second.path, first.path):
                continue  # check_roots says so; one complaint about a pair is enough
            if first.name == second.name:
                problems.append(
                    f"{first.path!r} and {second.path!r} are both named {first.name!r}; give one another name"
                )
            elif contains(first.name, second.name) or contains(second.name, first.name):
                problems.append(f"the root names {first.name!r} and {second.name!r} lie in each other; rename one")
    return problems


def check_roots(roots: Sequence[Root], state_dir: str | None, store_dir: str | None) -> Outcome:
    """Compare roots with each other and with our own folders, by their paths with every symlink resolved.

    A root may contain the state dir (which is excluded from it); a folder store may not lie in a root,
    since every snapshot would then be a change of the next, nor a root in the store. A store in the state
    dir is excluded with it.
    """
    problems: list[str] = []
    warnings: list[str] = []
    state = os.path.realpath(state_dir) if state_dir is not None else None
    store = os.path.realpath(store_dir) if store_dir is not None else None
    if state is not None and store is not None and contains(state, store):
        store = None
    real = {root: os.path.realpath(root.path) for root in roots}
    for i, first in enumerate(roots):
        for second in roots[i + 1 :]:
            clash = _overlap(first, second, real)
            if clash:
                problems.append(clash)
        if real[first] == "/":
            problems.append(f"{first.path!r} is a symlink to /: the whole file system can't be a root")
            continue
        if state is not None and contains(state, real[first]):
            problems.append(
                f"{first.path!r} is or lies in the state dir {state_dir!r}, the sidecar's own folder; "
                "take another path, or set SIDECAR_STATE_DIR to another folder"
            )
        if store is not None and (contains(store, real[first]) or contains(real[first], store)):
            problems.append(
                f"one of {first.path!r} and the store's folder {store_dir!r} lies in the other; "
                "set SIDECAR_STORE to a folder outside of every root"
            )
        if os.path.islink(first.path):
            warnings.append(f"the root {first.path!r} is a symlink: what is kept is its target, {real[first]!r}")
    return Outcome(tuple(roots), tuple(problems), tuple(warnings))


def _overlap(first: Root, second: Root, real: dict[Root, str]) -> str | None:
    if real[first] == real[second]:
        if first.path == second.path:
            return f"{first.path!r} is declared twice; keep one of the two"
        return f"{first.path!r} and {second.path!r} are the same folder, {real[first]!r}; keep one of the two"
    for outer, inner in ((first, second), (second, first)):
        if contains(real[outer], real[inner]):
            through = "" if real[inner] == inner.path and real[outer] == outer.path else " (through a symlink)"
            return f"{inner.path!r} lies in {outer.path!r}{through}; declare one of the two"
    return None


def contains(outer: str, inner: str) -> bool:
    """Is ``inner`` the same path as ``outer`` or below it, as text?"""
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")
