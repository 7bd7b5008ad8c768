"""What a head that isn't ours is: gone on from, somebody's edit, or somebody else's line."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.sync.rights import weigh

ASK, HAND, EDIT = "sidecar: lease requested by new", "sidecar: lease handing over", "by hand"
CLAIM, OURS, LATER = "sidecar: lease 8 claimed by new", "sidecar: snapshot 7.3", "sidecar: snapshot 8.1"


@pytest.mark.parametrize(
    ("verdict", "since", "how", "footing"),
    [
        ("requested", [ASK], {}, "ours"),
        ("mine", [HAND, ASK], {}, "ours"),
        ("withdrawn", [ASK, HAND], {}, "ours"),
        ("requested", [ASK, EDIT], {}, "edited"),
        ("mine", [EDIT], {}, "edited"),
        ("mine", [], {}, "edited"),
        ("fenced", [CLAIM], {}, "fenced"),
        ("fenced", [], {"gone": True, "same": True}, "fenced"),
        ("mine", [OURS], {"gone": True, "same": True}, "ours"),
        ("mine", [OURS], {"gone": True}, "edited"),
        ("lost", [EDIT], {}, "edited"),
        ("lost", [EDIT, CLAIM], {}, "fenced"),
        ("lost", [EDIT, LATER], {"gone": True}, "fenced"),
        ("lost", [EDIT, OURS], {"gone": True, "same": True}, "edited"),
        ("older", [EDIT], {}, "edited"),
        ("older", [EDIT, CLAIM], {}, "fenced"),
        ("older", [OURS], {"gone": True, "same": True}, "fenced"),  # a claim, squashed away
        ("lost", [EDIT, OURS], {"gone": True}, "fenced"),  # another of the same epoch, who has squashed since
    ],
)
def test_what_a_head_is_to_us(verdict: Any, since: list[str], how: dict[str, bool], footing: str) -> None:
    assert weigh(verdict, 7, since, gone=how.get("gone", False), same=how.get("same", False)) == footing
