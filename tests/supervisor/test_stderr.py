"""Log lines by hand, as the logging ones look."""

from __future__ import annotations

import json
import logging

from hypothesis import given
from hypothesis import strategies as st

from sidecar import log
from sidecar.stderr import json_line, text_line

ANYTHING = st.text(st.characters(), max_size=3000)


@given(ANYTHING, st.sampled_from(["info", "warning", "error"]), st.floats(0, 4e9))
def test_json_is_one_bounded_parsable_line(message: str, level: str, at: float) -> None:
    line = json_line(message, level, at)
    assert len(line) <= 2000
    assert line.count(b"\n") == 1
    read = json.loads(line)
    # A pair of lone surrogates comes back as the character that it stands for.
    assert message.encode("utf-16", "surrogatepass").startswith(read["message"].encode("utf-16", "surrogatepass"))
    assert read["level"] == level


@given(ANYTHING)
def test_text_is_one_bounded_line_without_escapes(message: str) -> None:
    line = text_line(message, "info")
    assert len(line) <= 2000
    assert line.startswith(b"sidecar ")
    assert line.endswith(b"\n")
    assert b"\x1b" not in line
    assert line.count(b"\n") == 1


def test_the_same_form_as_the_agents_lines(capsys) -> None:
    record = logging.LogRecord("sidecar", logging.WARNING, "", 0, 'a "b" \\ ü 𝄞', None, None)
    record.created, record.msecs = 1_800_000_000.25, 250.0
    try:
        log.setup("json")
        log.logger.handle(record)
        theirs = capsys.readouterr().err
        log.setup("text")
        log.logger.handle(record)
        theirs_text = capsys.readouterr().err
    finally:
        log.logger.handlers[:] = []
    assert json_line(record.getMessage(), "warning", record.created).decode() == theirs
    assert text_line(record.getMessage(), "warning").decode() == theirs_text
