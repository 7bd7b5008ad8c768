"""What the Hub does by a file's path and first bytes: refuse it, ignore it, or make it a large file."""

from __future__ import annotations

import functools

from pathspec import GitIgnoreSpec

from tests.hub.wire import HubError


def check_path(path: str) -> None:
    """Raises HubError 400 for a path that git or the Hub does not take."""
    parts = path.split("/")
    if not path or any(p in ("", ".", "..") for p in parts) or "\0" in path:
        raise HubError(400, f"Invalid path in repo: {path!r}")
    if any(p.lower() == ".git" for p in parts):
        raise HubError(400, f"Your push was rejected: {path!r} lies in a .git folder")


def looks_binary(sample: bytes) -> bool:
    """Whether the first 512 bytes of a file make the Hub store it as a large file."""
    if b"\0" in sample:
        return True
    try:
        sample.decode()
    except UnicodeDecodeError as exc:
        # A sample may end inside a character.
        cut = len(sample) >= 512 and exc.reason == "unexpected end of data"
        return not (cut and exc.start >= len(sample) - 3)
    return False


@functools.lru_cache(maxsize=64)
def _spec(text: str) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(text.splitlines())


@functools.lru_cache(maxsize=64)
def _lfs_rules(text: str) -> tuple[tuple[GitIgnoreSpec, bool], ...]:
    rules = []
    for line in text.splitlines():
        words = line.split()
        for word in words[1:]:
            if word == "filter=lfs":
                rules.append((GitIgnoreSpec.from_lines([words[0]]), True))
            elif word in ("-filter", "!filter"):
                rules.append((GitIgnoreSpec.from_lines([words[0]]), False))
    return tuple(rules)


def tracked_by_lfs(path: str, gitattributes: str) -> bool:
    """Whether `.gitattributes` at the root sends `path` to LFS; the last matching line decides."""
    return next((on for spec, on in reversed(_lfs_rules(gitattributes)) if spec.match_file(path)), False)


def ignored(path: str, gitignores: dict[str, str]) -> bool:
    """Whether one of the repo's `.gitignore` files (by folder, "" for the root) names `path`.

    The file in the deepest folder that says anything decides, as in git.
    """
    parts = path.split("/")[:-1]
    for depth in range(len(parts), -1, -1):
        folder = "/".join(parts[:depth])
        text = gitignores.get(folder)
        if text is not None:
            verdict = _spec(text).check_file(path[len(folder) + 1 if folder else 0 :]).include
            if verdict is not None:
                return bool(verdict)
    return False
