"""Keeps the files of a container that has no disk of its own: restore, run, sync, flush.

This file is imported by the supervisor, which must stay small: nothing else is imported here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__version__ = "0.1.0"


def launch(*argv: str) -> NoReturn:
    """Replace this process by ``sidecar run -- argv…``: two lines of ``app.py`` where there is no Dockerfile.

    Never returns; raises ``OSError`` only where the interpreter itself can't be started again.
    """
    import os
    import sys

    from sidecar.pid1 import interpreter

    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os.execv(sys.executable, [*interpreter(), "-m", "sidecar", "run", "--", *argv])
