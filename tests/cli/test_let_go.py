"""``forget`` and ``prune``: what they say, whom they ask, and what they do without an agent."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.commands import consent
from tests.cli.conftest import ODD, Kept
from tests.cli.desk import Desk
from tests.cli.fake import Script, agent


@pytest.fixture
def script(desk: Desk, tmp_path: Path) -> Iterator[Script]:
    """An agent that answers, at the desk's state dir."""
    desk.set(SIDECAR_STATE_DIR=str(tmp_path / "state"), SIDECAR_STORE=f"file://{tmp_path}/nowhere")
    with agent(tmp_path / "state/agent.sock", Script()) as made:
        yield made


class Terminal(io.StringIO):
    """Where somebody sits who answers."""

    def isatty(self) -> bool:
        return True


def answering(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(f"{word}\n"))
    monkeypatch.setattr(consent, "_asks", lambda: True)


GOES = {
    "before": "3.7",
    "path": "conf",
    "entries": 3,
    "files": 2,
    "bytes": 2_000_000,
    "parts": [{"path": "conf", "files": 2, "bytes": 2_000_000}],
    "more": 0,
}


def test_nothing_goes_without_a_yes(desk: Desk, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script.body = GOES
    answer = desk("forget", "conf")
    assert answer.code == 2
    assert "--yes" in answer.err
    assert "2 files, 2.0 MB" in answer.err, "what would go is said first"
    answering(monkeypatch, "n")
    assert desk("forget", "conf").code == 1
    answering(monkeypatch, "")
    assert desk("forget", "conf").code == 1
    assert {path for _, path, _ in script.asked} == {"/_sidecar/forget?path=conf&dry-run=1"}
    answering(monkeypatch, "Y")
    script.body = {**GOES, "snapshot": "3.8", "revision": "f" * 40}
    answer = desk("forget", "conf")
    assert (answer.code, answer.out) == (0, "f" * 40 + "\n")
    assert "sidecar ls 3.7" in answer.err
    assert script.asked[-1][1] == "/_sidecar/forget?path=conf&dry-run=0"


def test_a_dry_run_only_asks(desk: Desk, script: Script) -> None:
    script.body = GOES
    answer = desk("forget", "conf", "--dry-run")
    assert (answer.code, answer.lines) == (0, ["conf  2 files  2.0 MB"])
    assert desk("forget", "conf", "-n", "--json").json == GOES
    assert desk("forget", "a b" + "\udcff", "-n").code == 0
    assert script.asked[-1][1] == "/_sidecar/forget?path=a+b%FF&dry-run=1"
    script.status, script.body = 422, {"error": "nothing", "detail": "'data' is declared in SIDECAR_PATHS"}
    answer = desk("forget", "data", "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert "declared in SIDECAR_PATHS" in answer.err
    script.status, script.body = 503, {"error": "unavailable", "detail": "the Hub answers 500"}
    assert desk("forget", "data", "--yes").code == 75


def test_without_an_agent_it_is_done_under_a_lease_of_its_own(desk: Desk, world: Kept) -> None:
    data = world.roots[0].path
    desk.set(SIDECAR_PATHS=f"data={data}")
    answer = desk("forget", "conf", "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert "sidecar restore" in answer.err, "the rules of a sync apply"
    assert desk("restore").code == 0
    for name, says in (("data", "SIDECAR_PATHS"), (f"{data}/a.txt", "SIDECAR_PATHS"), ("nowhere", "nothing at")):
        answer = desk("forget", name, "--yes")
        assert answer.code == 1
        assert says in answer.err
    assert desk("forget", world.roots[1].path, "--dry-run", "--json").json["parts"] == [
        {"path": "conf", "files": 1, "bytes": 7}
    ]
    assert len(desk("snapshots", "--json").json) == 2
    answer = desk("forget", "conf", "--yes", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["files"], answer.json["before"]) == (1, "1.2")
    assert answer.json["snapshot"] == desk("snapshots", "--json").json[0]["snapshot"]
    assert "conf" not in desk("ls").out
    assert desk("cat", "conf", "--revision", "1.2").out == "[conf]\n"
    assert Path(world.roots[1].path).read_text() == "[conf]\n"
    desk.set(SIDECAR_EXCLUDE="sub/\nodd*")
    foreseen = desk("forget", "data", "--dry-run").out
    assert "data/sub " in foreseen
    assert "31mname" in foreseen
    assert "\x1b" not in foreseen, "a name may not colour the terminal"
    assert desk("forget", data, "-y").code == 0
    left = {line.split("  ")[-1] for line in desk("ls").lines}
    assert "data/a.txt" in left
    assert not [name for name in left if "sub" in name or "odd" in name]
    assert (Path(data) / "sub/b.bin").exists()
    assert (Path(data) / ODD).exists()
    assert desk("sync").code == 0
    assert "data/sub" not in desk("ls").out, "and it stays so"


PAST = {
    "commits": 40,
    "stays": [{"snapshot": "3.7", "revision": "f" * 40, "at": "2026-11-24T20:00:00Z", "branch": None}],
    "goes": 12,
    "newest_that_goes": "3.6",
    "oldest_that_goes": "1.1",
    "kept": ["kept/2.2"],
    "others": ["fenced/me"],
    "squashes": True,
    "frees": None,
    "nothing": False,
}


def test_pruning_says_what_it_destroys(desk: Desk, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script.body = PAST
    answer = desk("prune", "--keep-last", "1", "--keep-within", "30d")
    assert answer.code == 2
    for words in ("12 (1.1 to 3.6)", "can't be brought back", "36 hours", "kept/2.2", "fenced/me", "--yes"):
        assert words in answer.err
    assert script.asked[-1][1] == "/_sidecar/prune?dry-run=1&keep-last=1&keep-within=30d"
    answering(monkeypatch, "no")
    assert desk("prune").code == 1
    assert script.asked[-1][1] == "/_sidecar/prune?dry-run=1"
    answer = desk("prune", "--yes")
    assert answer.code == 0
    assert "left: 1 snapshot" in answer.err
    assert script.asked[-1][1] == "/_sidecar/prune?dry-run=0"
    assert desk("prune", "-y", "--json").json == PAST
    assert desk("prune", "-n").lines[1].split() == ["3.7", "2026-11-24T20:00:00Z", "f" * 12]
    script.body = {**PAST, "goes": 0, "nothing": True}
    answer = desk("prune")
    assert answer.code == 0
    assert "nothing to let go of" in answer.err
    script.body = {**PAST, "squashes": False, "frees": 3_000_000}
    assert "frees 3.0 MB" in desk("prune", "-n").err
    script.status, script.body = 409, {"error": "fenced", "detail": "another instance holds the lease"}
    assert desk("prune", "--yes").code == 1


@pytest.mark.parametrize("wrong", ["--keep-last=0", "--keep-last=x", "--keep-within=30", "--keep-within=soon"])
def test_a_retention_that_cannot_be_read_is_usage(desk: Desk, script: Script, wrong: str) -> None:
    assert desk("prune", wrong, "--yes").code == 2
    assert script.asked == []


def test_pruning_without_an_agent(desk: Desk, world: Kept) -> None:
    for n in range(4):
        (world.root / "a.txt").write_text(f"{n}")
        world.keep()
    assert [s["snapshot"] for s in desk("snapshots", "--json").json] == [f"1.{n}" for n in range(6, 0, -1)]
    asked = desk("prune", "--keep-last", "2", "--dry-run", "--json")
    assert (asked.code, asked.json["goes"]) == (0, 4), asked.err
    assert asked.json["frees"] > 0
    assert desk("prune", "--keep-last", "3").code == 2
    desk.set(SIDECAR_REVISION="1.2")
    refused = desk("prune", "--yes")
    assert refused.code == 1
    assert "SIDECAR_REVISION" in refused.err
    desk.set(SIDECAR_REVISION=None)
    assert len(desk("snapshots", "--json").json) == 6
    done = desk("prune", "--keep-last", "2", "--yes", "--json")
    assert done.code == 0, done.err
    assert [p["snapshot"] for p in done.json["stays"]] == ["1.6", "1.5"]
    assert [s["snapshot"] for s in desk("snapshots", "--json").json] == ["1.6", "1.5"]
    assert desk("cat", "data/a.txt", "--revision", "1.5").out == "2"
    verified = desk("verify", "--full")
    assert verified.code == 0, verified.err
    assert desk("restore").code == 0
    (world.root / "a.txt").write_text("and on")
    assert desk("sync").code == 0, "the lease was given back"
    assert desk("prune", "--keep-last", "2").code == 2
    again = desk("prune", "--keep-last", "9", "--yes")
    assert again.code == 0
    assert "nothing to let go of" in again.err
