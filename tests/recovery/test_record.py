"""The recovery record: each step timed, and a file in the store that never grows without bound."""

from __future__ import annotations

import json
import time

import pytest

from sidecar.recovery.record import KEPT, Record, append


def test_a_record_tells_each_step_with_its_time_and_outcome() -> None:
    record = Record("me", started=0.0)
    with record.step("claim") as row:
        row["detail"] = "epoch 7"
        time.sleep(0.02)
    with pytest.raises(ValueError), record.step("restore"):
        raise ValueError
    record.facts["error"] = "so"
    document = record.document("failed")
    assert document["at"] == "1970-01-01T00:00:00Z"
    assert (document["instance"], document["result"], document["error"]) == ("me", "failed", "so")
    claim, restore = document["steps"]
    assert (claim["step"], claim["ok"], claim["detail"]) == ("claim", True, "epoch 7")
    assert 20 <= claim["ms"] < 2000
    assert (restore["step"], restore["ok"]) == ("restore", False)


def test_a_step_that_is_tried_again_stands_once_with_its_last_outcome() -> None:
    record = Record("me")
    for fails in (True, True, False):
        try:
            with record.step("claim"):
                assert not fails
        except AssertionError:
            pass
    assert [(s["step"], s["ok"]) for s in record.steps] == [("claim", True)]


def test_records_are_appended_one_a_line() -> None:
    one = append(None, {"n": 1})
    two = append(one, {"n": 2, "text": "a\nb"})
    assert one == b'{"n":1}\n'
    assert [json.loads(line) for line in two.splitlines()] == [{"n": 1}, {"n": 2, "text": "a\nb"}]


def test_the_newest_hundred_are_kept() -> None:
    raw: bytes | None = None
    for n in range(KEPT + 20):
        raw = append(raw, {"n": n})
    assert raw is not None
    assert [json.loads(line)["n"] for line in raw.splitlines()] == list(range(20, KEPT + 20))


@pytest.mark.parametrize("before", [b"", b"\n\n", b"garbage", b"\xff\xfe", b'[1]\nnull\n5\n"x"', b'{"n":', b"{}\r\n"])
def test_what_is_no_record_is_dropped(before: bytes) -> None:
    after = append(before, {"n": 1}).splitlines()
    assert json.loads(after[-1]) == {"n": 1}
    assert len(after) == (2 if before.startswith(b"{}") else 1)


def test_a_name_that_is_not_utf8_keeps_no_start_from_its_end() -> None:
    raw = append(b'{"n":0}\n', {"error": "can't read data/\udcff", "path": object()})
    assert len(raw.splitlines()) == 2
    assert json.loads(raw.splitlines()[1])["error"] == "can't read data/\udcff"
    again = append(raw, {"n": 2})
    assert json.loads(again.splitlines()[-1]) == {"n": 2}
