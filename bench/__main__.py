"""`make bench`: every figure that the project claims, measured on this machine in one run."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.figure import Figure

ALL = ("start", "durable", "idle", "health", "web", "sync", "restore", "upload", "memory", "sqlite", "door")


def main() -> int:
    """Print a table; 1 where a figure misses its goal."""
    parser = argparse.ArgumentParser("bench", description=__doc__)
    parser.add_argument("only", nargs="*", choices=[*ALL, []], help="which to run (all)")
    chosen = parser.parse_args().only or ALL
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}, {platform.release()}")
    figures: list[Figure] = []
    for name in chosen:
        with TemporaryDirectory(prefix="sidecar-bench-") as folder:
            for figure in importlib.import_module(f"bench.{name}").measure(Path(folder)):
                figures.append(figure)
                print(figure.line(), flush=True)
    missed = [f for f in figures if not f.good]
    print(f"{len(figures) - len(missed)} of {len(figures)} figures within their goal")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
