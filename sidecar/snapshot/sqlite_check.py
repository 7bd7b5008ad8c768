"""What is done to the copy of a database, never to the database: let SQLite recover it, and read it through."""

from __future__ import annotations

import os
import re
import sqlite3
import struct

_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_OF_VALUES = re.compile(r"(NULL|TEXT|NUMERIC|non-\w+) value in |CHECK constraint failed in ")
"""Complaints about what the app keeps in its rows: true of the database as of the copy, and no damage."""

UNKNOWN_MOST = 100


class Unsound(Exception):
    """SQLite opens the copy, and finds it broken."""


def check(target: str) -> None:
    """Make the copy ``target`` whole and stand alone. Raises Unsound and sqlite3.Error."""
    settle_super_journal(target)
    db = sqlite3.connect(target, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous=OFF")
        busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise Unsound("the copy's log could not be folded in")
        found = damage(db)
        if found:
            raise Unsound(f"quick_check of the copy says: {found[0]}")
    finally:
        db.close()
    for ending in ("-journal", "-wal", "-shm"):
        if os.path.exists(target + ending):
            os.unlink(target + ending)


def damage(db: sqlite3.Connection) -> list[str]:
    """What is wrong with the database, by ``PRAGMA quick_check``: nothing where it is sound. Raises as that does."""
    db.execute("PRAGMA ignore_check_constraints=ON")
    return [line for line in quick_check(db) if line != "ok" and not _OF_VALUES.match(line)]


def quick_check(db: sqlite3.Connection) -> list[str]:
    """What ``PRAGMA quick_check`` says, although collations and functions of the app are not known here."""
    for _ in range(UNKNOWN_MOST):
        try:
            return [row[0] for row in db.execute("PRAGMA quick_check(100)")]
        except sqlite3.OperationalError as error:
            if not _stand_in(db, str(error)):
                raise
    raise Unsound("it needs too many collations and functions that only its app has")


def _stand_in(db: sqlite3.Connection, error: str) -> bool:
    unknown = re.search(r"(?:no such collation sequence|unknown function|no such function): (\w+)", error)
    if unknown is None:
        return False
    if "collation" in error:
        db.create_collation(unknown[1], lambda a, b: (a > b) - (a < b))
    else:
        db.create_function(unknown[1], -1, lambda *_: None, deterministic=True)
    return True


def settle_super_journal(target: str) -> None:
    """Decide here what a journal's super-journal decides: whether a commit across several databases took place.

    SQLite would look for that file itself, at its place beside the live databases, and might remove it there.
    """
    journal = f"{target}-journal"
    try:
        with open(journal, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 16, 0))
            tail = file.read(16)
            if len(tail) < 16 or tail[8:] != _JOURNAL_MAGIC:
                return
            length, checksum = struct.unpack(">II", tail[:8])
            if not 0 < length <= min(size - 20, 4096):
                return
            file.seek(size - 16 - length)
            name = file.read(length)
            # As SQLite does: a name that its sum doesn't fit is none.
            signed = sum(c - 256 if c > 127 else c for c in name)
            if (checksum - signed) & 0xFFFFFFFF:
                return
            committed = not os.path.lexists(os.fsdecode(name.split(b"\0")[0]))
            if not committed:
                file.truncate(size - length - 20)
    except FileNotFoundError:
        return
    if committed:
        os.unlink(journal)
