"""docs/failures.md as the tests read it: what is promised of each fault."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DOC = Path(__file__).resolve().parents[2] / "docs/failures.md"
COLUMNS = ("fault", "health", "status says", "checkpoint", "a start", "the app sees", "kept", "heals")


@dataclass(frozen=True)
class Row:
    """One fault. ``says`` are the words in the status' error or note, none where nothing is said.

    ``checkpoint`` is the HTTP status of a checkpoint under the fault; ``code`` the exit code of a start that meets it,
    None where it starts all the same.
    """

    fault: str
    verdict: str
    notes: frozenset[str]
    says: tuple[str, ...]
    checkpoint: int
    code: int | None
    start_notes: frozenset[str]


def rows() -> Mapping[str, Row]:
    """By the fault's name, in the table's order. Raises AssertionError for a line that can't be read."""
    lines = [line for line in DOC.read_text().splitlines() if line.startswith("|")]
    assert _cells(lines[0]) == COLUMNS, lines[0]
    found = [_row(_cells(line)) for line in lines[2:]]
    assert len({row.fault for row in found}) == len(found), "no fault twice"
    return {row.fault: row for row in found}


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split(" | "))


def _row(cells: tuple[str, ...]) -> Row:
    assert len(cells) == len(COLUMNS), cells
    fault, health, says, checkpoint, start = cells[:5]
    verdict, notes = _verdict(health)
    runs, start_notes = ("runs" in start), _verdict(start)[1]
    code = re.search(r"\bexit (\d+)", start)
    assert runs is not bool(code), f"{fault}: a start either runs or exits: {start!r}"
    asked = re.match(r"(\d{3})\b", checkpoint)
    assert asked, f"{fault}: {checkpoint!r} is no HTTP status"
    return Row(
        fault,
        verdict,
        notes,
        tuple(re.findall(r"“([^”]+)”", says)),
        int(asked[1]),
        int(code[1]) if code else None,
        start_notes,
    )


def _verdict(cell: str) -> tuple[str, frozenset[str]]:
    verdict = re.match(r"pass|warn|fail|runs|exit", cell)
    assert verdict, f"{cell!r} is no verdict"
    return verdict[0], frozenset(re.findall(r"`([a-z-]+)`", cell))
