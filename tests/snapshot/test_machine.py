"""What a disk's own failure is called, and with what a start ends for it."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from sidecar.errors import EX_CONFIG, EX_TEMPFAIL
from sidecar.snapshot import machine


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/state/x")


def sql_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = code
    return error


EXTENDED = sqlite3.SQLITE_READONLY | (1 << 8)


@pytest.mark.parametrize(
    ("error", "code", "exit_code", "fix"),
    [
        (os_error(errno.ENOSPC), "no-room", EX_TEMPFAIL, "Free some"),
        (os_error(errno.EDQUOT), "no-room", EX_TEMPFAIL, "Free some"),
        (sql_error(sqlite3.SQLITE_FULL), "no-room", EX_TEMPFAIL, "Free some"),
        (os_error(errno.EROFS), "failed", EX_CONFIG, "writable for user"),
        (os_error(errno.EACCES), "failed", EX_CONFIG, "writable for user"),
        (sql_error(sqlite3.SQLITE_CANTOPEN), "failed", EX_CONFIG, "writable for user"),
        (sql_error(EXTENDED), "failed", EX_CONFIG, "writable for user"),
        (sql_error(sqlite3.SQLITE_BUSY), "failed", EX_TEMPFAIL, "SIDECAR_STATE_DIR"),
    ],
)
def test_a_failure_of_the_disk_says_what_to_do(
    error: OSError | sqlite3.OperationalError, code: str, exit_code: int, fix: str
) -> None:
    said, found = machine.staging_failed(error, Path("/state"))
    assert found == code
    assert "staging failed" in said
    assert ("Free some disk space" in said) is (code == "no-room"), "who has room is not told to make some"
    ends = machine.start_failed(error, Path("/state"))
    assert ends.exit_code == exit_code
    assert fix in ends.message
    assert "Nothing was changed" in ends.message
