"""Debian's Chromium: started as a user's would be, but for what a machine without a network and a screen needs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

EXECUTABLE = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser without a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=EXECUTABLE, args=FLAGS)
        try:
            yield found
        finally:
            found.close()


@contextlib.contextmanager
def profile(folder: Path, playwright: Any, **options: Any) -> Iterator[BrowserContext]:
    """A browser whose profile is ``folder``: what it keeps is there for the next one."""
    context = playwright.chromium.launch_persistent_context(
        os.fspath(folder), executable_path=EXECUTABLE, args=FLAGS, **options
    )
    try:
        yield context
    finally:
        with contextlib.suppress(Exception):  # it may have been killed, which is what some tests are about
            context.close()
