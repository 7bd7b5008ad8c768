from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from sidecar.errors import SidecarError
from sidecar.stores.base import Denied, Unavailable
from sidecar.sync.outcome import failed, no_checkpoint, still_busy
from sidecar.sync.rights import Fenced


def full_index() -> sqlite3.OperationalError:
    """As sqlite says it on a disk that takes no more."""
    index = sqlite3.connect(":memory:", isolation_level=None)
    index.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as caught:
        index.execute("CREATE TABLE files (path)")
    index.close()
    return caught.value


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (Fenced(), "fenced", "another instance"),
        (OSError(errno.ENOSPC, "No space left on device"), "no-room", "Free some disk space"),
        (full_index(), "no-room", "Free some disk space"),
        (OSError(errno.EIO, "Input/output error"), "failed", "tried again"),
        (Denied("the token may not write"), "denied", "may not write"),
        (Unavailable("away", retry_after=7.0), "unavailable", "away"),
        (SidecarError("something else"), "failed", "something else"),
        (KeyError("ours"), "failed", "KeyError in the sidecar itself"),
    ],
)
def test_a_failure_has_a_code_and_says_what_it_was(error: Exception, code: str, says: str) -> None:
    result = failed(error, Path("/state"))
    assert (result.ok, result.code, result.snapshot) == (False, code, None)
    assert says in result.error
    assert result.retry_after == (7.0 if code == "unavailable" else None)


def test_why_no_checkpoint_can_be_made() -> None:
    assert no_checkpoint(None, "held", 0.0) is None
    waits = no_checkpoint(None, "held", 12.4)
    assert waits is not None
    assert (waits.code, waits.retry_after) == ("", 12.4)
    for lease, why in (("fenced", "another instance"), ("unleased", "recovery failed")):
        aside = no_checkpoint("fenced/me", lease, 12.4)
        assert aside is not None
        assert aside.code == "fenced"
        assert why in aside.error
        assert "fenced/me" in aside.error


def test_who_had_no_turn_hears_what_holds_up_the_one_before() -> None:
    assert still_busy(None).error.endswith("the store has not answered yet")
    assert still_busy("the disk is full.").error.endswith("under way: the disk is full")
