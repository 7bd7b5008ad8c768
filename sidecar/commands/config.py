"""``config``: every setting, its value, where that came from, and what it means."""

from __future__ import annotations

import os
import textwrap
from argparse import Namespace
from dataclasses import asdict
from itertools import groupby

from sidecar import log
from sidecar.commands import words
from sidecar.errors import EX_CONFIG, EX_OK
from sidecar.settings import Row, explain, load, unsupported


def config(args: Namespace) -> int:
    """Prints all of it even where something is wrong; then each error, and exits with 78."""
    rows = explain(os.environ)
    if args.json:
        words.document([asdict(row) for row in rows])
    else:
        for group, members in groupby(rows, key=lambda row: row.group):
            print(f"{group}\n")
            for row in members:
                _show(row)
    errors = [row.error for row in rows if row.error]
    if not errors:
        errors = list(unsupported(load(os.environ, need_paths=False)))
    for error in errors:
        log.error(error)
    return EX_CONFIG if errors else EX_OK


def _show(row: Row) -> None:
    lines = [words.name(line) for line in (row.value or "").split("\n")]
    mark = "!" if row.error else " "
    print(f"{mark} {row.name} = {lines[0] if row.value is not None else '(unset)'}   [{row.source}]")
    for line in lines[1:]:
        print(f"  {' ' * len(row.name)}   {line}")
    print(textwrap.fill(row.meaning, 100, initial_indent="      ", subsequent_indent="      "))
    if row.default and row.source != "default":
        print(textwrap.fill(f"default: {row.default}", 100, initial_indent="      ", subsequent_indent="      "))
    print()
