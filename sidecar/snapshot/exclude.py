"""What is never kept: the user's patterns, and our own files wherever they lie."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

IGNORE_FILE = ".sidecarignore"
STAGING_PREFIX = ".sidecar-tmp-"


class Patterns:
    """Gitignore-style patterns over paths relative to a root; the last one that matches decides."""

    def __init__(self, lines: Iterable[str]) -> None:
        compiled = [GitIgnoreSpecPattern(line) for line in lines]
        self._all = [(re.compile(p.regex.pattern), bool(p.include)) for p in compiled if p.regex is not None]
        # Almost no path matches anything: one search in one expression settles those.
        self._any = re.compile("|".join(f"(?:{_anonymous(r.pattern)})" for r, _ in self._all)) if self._all else None

    def match(self, relative: str, is_dir: bool) -> bool:
        """Whether ``relative`` (``/``-separated) is excluded; what lies below an excluded folder is never asked."""
        subject = relative + "/" if is_dir else relative
        if self._any is None or self._any.match(subject) is None:
            return False
        for pattern, include in reversed(self._all):
            if pattern.match(subject) is not None:
                return bool(include)
        return False


def _anonymous(expression: str) -> str:
    """Named groups can't stand twice in one expression, and nobody asks for them."""
    return re.sub(r"\(\?P<[^>]+>", "(?:", expression)


def ignore_lines(root: str) -> list[str]:
    """The patterns that the root's own ``.sidecarignore`` adds; none where it can't be read."""
    try:
        with open(os.path.join(root, IGNORE_FILE), encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 20).splitlines()
    except OSError:
        return []


def own_paths(state_dir: str, environ: Mapping[str, str], store_folder: str | None) -> tuple[str, ...]:
    """Absolute real paths that no snapshot may hold: they change because of us, or are rebuilt by a start."""
    home = os.path.expanduser("~")
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    hf_home = environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    own = [state_dir, hf_home, environ.get("HF_XET_CACHE") or os.path.join(hf_home, "xet")]
    if store_folder:
        own.append(store_folder)
    if sys.prefix != sys.base_prefix:
        own.append(sys.prefix)
    own.append(sysconfig.get_path("purelib"))
    own.append(str(Path(__file__).resolve().parents[1]))
    return tuple(sorted({os.path.realpath(p) for p in own}))


class Excluder:
    """Decides for one root; made anew for each scan, since ``.sidecarignore`` may have changed."""

    def __init__(self, root: str, patterns: Sequence[str], own: Iterable[str]) -> None:
        self.patterns = Patterns([*patterns, *ignore_lines(root)])
        real = os.path.realpath(root)
        prefix = real.rstrip("/") + "/"
        self._own = {p[len(prefix) :] for p in own if p.startswith(prefix)}

    def excluded(self, relative: str, name: str, is_dir: bool) -> bool:
        """Whether the file or folder at ``relative`` (its last part is ``name``) stays out of snapshots."""
        if name.startswith(STAGING_PREFIX) or (self._own and relative in self._own):
            return True
        return self.patterns.match(relative, is_dir)

    def hides(self, relative: str) -> bool:
        """Whether ``relative`` or a folder above it is excluded: for entries that are no longer found on disk."""
        parts = relative.split("/")
        return any(
            self.excluded("/".join(parts[: n + 1]), parts[n], is_dir)
            for n in range(len(parts))
            for is_dir in ((True,) if n + 1 < len(parts) else (True, False))
        )
