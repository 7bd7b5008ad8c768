"""What Spaces say of themselves, as the operator of many sees it."""

from __future__ import annotations

import pytest

from sidecar.fleet.ping import Seen
from sidecar.fleet.roster import Space
from sidecar.fleet.survey import pinged, row

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
SPACE = Space("me/a", "https://me-a.hf.space")


def seen(last: str | None, uptime_s: float = 1e6, checklist: list[dict[str, str]] | None = None) -> Seen:
    body = {"keepalive": {"state": "ok", "last": last}, "uptime_s": uptime_s, "checklist": checklist or []}
    return Seen("me/a", "pass", "running", 200, body=body)


@pytest.mark.parametrize(
    ("answer", "state", "said"),
    [
        (seen("2027-01-15T07:20:00.000Z"), "pass", "pinged 40 min ago"),
        (seen("2027-01-15T06:30:00.000Z"), "pass", "2 h ago"),
        (seen("2027-01-15T06:29:00.000Z"), "fail", "every 45 min is expected"),
        (seen("2027-01-15T08:00:09.000Z"), "pass", "pinged 0 s ago"),
        (seen(None), "fail", "never pinged"),
        (seen(None, uptime_s=600.0), "unknown", "up for 10 min"),
        (seen("yesterday"), "fail", "never pinged"),
        (seen("2027-01-15T07:59:00Z", checklist=[{"id": "token-scope", "state": "fail"}]), "fail", "token-scope"),
        (seen("2027-01-15T07:59:00Z", checklist=[{"id": "token-scope", "state": "warn"}]), "pass", "pinged"),
        (Seen("me/a", "unreachable", "no answer within 30 s"), "fail", "no answer"),
        (Seen("me/a", "pass", "running", 200, body={"status": "pass"}), "fail", "can't be asked"),
    ],
)
def test_was_it_really_pinged_lately(answer, state, said):
    line = pinged(SPACE, answer, NOW)
    assert (line["id"], line["state"]) == ("me/a", state)
    assert said in line["text"]
    assert (line["fix"] is None) == (state == "pass")


def test_a_row_takes_what_is_there_and_asks_for_the_expected_version():
    body = {"phase": "running", "version": "0.1.0", "sync": {"snapshot": "7.1"}, "lease": 3, "keepalive": {"last": "x"}}
    answer = Seen("me/a", "pass", "running", 200, 12, body=body)
    found = row(SPACE, answer)
    assert {
        "id": "me/a",
        "state": "pass",
        "version": "0.1.0",
        "snapshot": "7.1",
        "epoch": None,
    }.items() <= found.items()
    other = row(Space("me/a", SPACE.url, version="0.2.0"), answer)
    assert (other["state"], other["text"]) == ("warn", "running; version 0.2.0 is expected")
    assert row(SPACE, Seen("me/a", "unreachable", "gone"))["phase"] is None
