"""What is never kept: the user's patterns, and our own files wherever they lie."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from sidecar import log
from sidecar.snapshot.gitignore import Pattern, parse

IGNORE_FILE = ".sidecarignore"
STAGING_PREFIX = ".sidecar-tmp-"


class Patterns:
    """Gitignore-style patterns over paths relative to a root; the last one that matches decides."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._all = [pattern for line in lines if (pattern := _compiled(line)) is not None]
        # Almost no path matches anything: one search in one expression settles those.
        self._any = re.compile("|".join(f"(?:{e.pattern})" for e, _ in self._all), re.DOTALL) if self._all else None
        self.names = [pattern.name for _, pattern in self._all]

    def match(self, relative: str, is_dir: bool) -> bool:
        """Whether ``relative`` (``/``-separated) is excluded; what lies below an excluded folder is never asked."""
        if self._any is None or self._any.fullmatch(relative) is None:
            return False
        for expression, pattern in reversed(self._all):
            if (is_dir or not pattern.folders_only) and expression.fullmatch(relative) is not None:
                return pattern.excludes
        return False


@lru_cache(maxsize=1024)
def _compiled(line: str) -> tuple[re.Pattern[str], Pattern] | None:
    try:
        pattern = parse(line)
        return None if pattern is None else (re.compile(pattern.expression, re.DOTALL), pattern)
    except (ValueError, re.error) as error:
        log.warning(f"the exclude pattern {line!r} is passed over: {error}. Nothing is excluded by it")
        return None


def ignore_lines(root: str) -> list[str]:
    """The patterns that the root's own ``.sidecarignore`` adds. Raises OSError where it can't be read."""
    try:
        # A pipe of that name must not stop a scan for good.
        fd = os.open(os.path.join(root, IGNORE_FILE), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO):  # the last is a socket's
            return []
        raise
    try:
        raw = os.pread(fd, 1 << 20, 0) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    return raw.decode("utf-8-sig", "surrogateescape").split("\n")


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
        self.unread = ""
        """Why the root's ``.sidecarignore`` can't be read: then nobody knows what else is excluded."""
        try:
            added = ignore_lines(root)
        except OSError as error:
            added, self.unread = [], error.strerror or type(error).__name__
        self.patterns = Patterns([*patterns, *added])
        real = os.path.realpath(root)
        prefix = real.rstrip("/") + "/"
        self._own = {p[len(prefix) :] for p in own if p.startswith(prefix)}
        ours = [re.escape(STAGING_PREFIX) + ".*", *(re.escape(os.path.basename(p)) for p in self._own)]
        names = "|".join(f"(?:{expression})" for expression in dict.fromkeys([*ours, *self.patterns.names]))
        self.suspects: Callable[[str], object] = re.compile(names, re.DOTALL).fullmatch
        """Asked with the name alone: false where nothing of that name is excluded, wherever it lies."""

    def excluded(self, relative: str, name: str, is_dir: bool) -> bool:
        """Whether the file or folder at ``relative`` (its last part is ``name``) stays out of snapshots."""
        if name.startswith(STAGING_PREFIX) or (self._own and relative in self._own):
            return True
        return self.patterns.match(relative, is_dir)

    def hides(self, relative: str, is_dir: bool) -> bool:
        """Whether ``relative`` or a folder above it is excluded: for entries that are no longer found on disk."""
        parts = relative.split("/")
        last = len(parts) - 1
        return any(
            self.excluded("/".join(parts[: n + 1]), parts[n], is_dir if n == last else True) for n in range(len(parts))
        )
