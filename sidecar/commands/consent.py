"""Asking before something is destroyed."""

from __future__ import annotations

import sys
from argparse import Namespace

from sidecar.errors import UsageError


def agreed(args: Namespace, question: str) -> bool:
    """Whether to go on: ``--yes`` was given, or somebody at a terminal says so. Raises UsageError where nobody can."""
    if args.yes:
        return True
    if not _asks():
        raise UsageError("nobody can be asked here, so nothing was changed: add --yes to do it, --dry-run to look")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _asks() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
