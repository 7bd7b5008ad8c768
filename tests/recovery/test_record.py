"""The recovery record: each step timed, and a file in the store that never grows without bound."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sidecar.recovery import diary
from sidecar.recovery.record import KEPT, LARGEST, MOST, Record, append, newest, read, summary


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


def start(n: int, **more: object) -> dict[str, object]:
    return {"at": f"2026-01-01T00:00:{n % 60:02}Z", "instance": f"i{n}", "result": "ok", **more}


def test_what_is_said_later_of_a_start_takes_the_place_of_what_was_said_first() -> None:
    raw = append(None, start(1), start(2), start(1, resume="done"))
    assert [(d["instance"], d.get("resume")) for d in read(raw)] == [("i1", "done"), ("i2", None)]


def test_bytes_are_bounded_too_and_the_newest_stays_whatever_it_takes() -> None:
    raw: bytes | None = None
    for n in range(60):
        raw = append(raw, start(n, error="x" * 900, skipped=[f"{'d' * 400}/{m}" for m in range(19)]))
    assert raw is not None
    assert MOST / 2 < len(raw) <= MOST
    assert read(raw)[-1]["instance"] == "i59"
    assert len(read(raw)) < 60


def test_a_record_that_is_too_long_keeps_what_matters() -> None:
    long = start(1, snapshot="7.1", skipped=["s" * 200] * 5000, error="e" * 5000, steps=[{"step": "claim", "ms": 1}])
    (found,) = read(append(None, long))
    assert (found["snapshot"], found["shortened"], found["steps"]) == ("7.1", True, [{"step": "claim", "ms": 1}])
    assert len(found["skipped"]) == 20
    worst = start(2, snapshot="7.2", **{f"k{n}": ["s" * 1000] * 20 for n in range(50)})
    raw = append(None, worst)
    assert len(raw) <= LARGEST
    assert read(raw)[0]["snapshot"] == "7.2"


def test_newest_first_and_in_the_same_second_the_later_one() -> None:
    first, later = start(5), {**start(5), "instance": "later"}
    assert [d["instance"] for d in newest([start(1), first, later, start(0)], 3)] == ["later", "i5", "i1"]


def test_what_tells_no_time_is_never_the_newest() -> None:
    odd: list[dict[str, Any]] = [{"at": None}, {"at": 9e9}, {"at": "zzz"}, {}]
    assert newest([odd[0], start(1), *odd[1:]], 1) == [start(1)]


def test_a_line_for_people_names_each_step_and_what_failed() -> None:
    record = Record("me")
    with record.step("claim") as row:
        row["detail"] = "epoch 7"
    with pytest.raises(ValueError), record.step("restore"):
        raise ValueError
    document = record.document("failed", 2100)
    assert summary(document) == "recovery failed in 2.1 s: claim 0.0 s (epoch 7), restore 0.0 s (failed)"
    assert summary(Record("me").document("failed", 0)) == "recovery failed in 0.0 s: no step was done"


def test_the_diary_keeps_the_last_starts_of_each_store(tmp_path: Path) -> None:
    for n in range(30):
        diary.write(tmp_path, "file:///a" if n % 2 else "file:///b", start(n))
    diary.write(tmp_path, "file:///a", start(29, result="failed"))
    found = diary.read(tmp_path, "file:///a")
    assert [d["instance"] for d in found] == [f"i{n}" for n in range(11, 30, 2)]
    assert found[-1] == start(29, result="failed")
    assert diary.read(tmp_path, "file:///c") == []


def test_a_diary_that_cannot_be_kept_stops_nothing(tmp_path: Path) -> None:
    diary.write(tmp_path / "gone", "s", start(1))
    (tmp_path / diary.NAME).mkdir()
    diary.write(tmp_path, "s", start(1))
    assert diary.read(tmp_path, "s") == []
    (tmp_path / diary.NAME).rmdir()
    (tmp_path / diary.NAME).write_bytes(b"\xff\n{}\n")
    diary.write(tmp_path, "s", start(1))
    assert diary.read(tmp_path, "s") == [start(1)]
