"""State that no root covers is found, within bounds; what is rebuilt, ours or covered is passed over."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from sidecar.snapshot.uncovered import Search, search, to_declare


def database(path: Path, *, wal: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path)
    if wal:
        db.execute("PRAGMA journal_mode=WAL")
    db.executescript("CREATE TABLE t (n); INSERT INTO t VALUES (1);")
    db.close()
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def paths(found: Search) -> dict[str, str]:
    return {f.path: f.kind for f in found.found}


def test_databases_and_logins_are_told_by_their_bytes_and_names(tmp_path):
    home = tmp_path / "home"
    database(home / "bot/queue", wal=True)
    database(home / ".n8n/database.sqlite")
    state = '{\n  "cookies": [{"name": "sid", "domain": ".x.org", "value": "s3cret"}], "origins": []}'
    write(home / "session.json", state)
    write(home / "jar/cookies.txt", "# Netscape HTTP Cookie File\n")
    write(home / "notes.json", '{"a": 1}')
    write(home / "recipes.json", '{"cookies": ["oat", "rye"]}')
    write(home / "text", "SQLite format 3\0" + "x" * 100)
    write(home / "empty/Cookies", "")
    assert paths(search([str(home)], [])) == {
        str(home / "bot/queue"): "SQLite database",
        str(home / ".n8n/database.sqlite"): "SQLite database",
        str(home / "session.json"): "login",
        str(home / "jar/cookies.txt"): "login",
    }


def test_what_is_covered_ours_rebuilt_or_not_there_is_passed_over(tmp_path):
    home = tmp_path / "home"
    for folder in ("data", "data/deep", "state", ".cache/x", ".mypy_cache/3.11", "app/node_modules/y", ".venv/lib"):
        database(home / folder / "a.db")
    one = database(home / "single.db")
    (tmp_path / "elsewhere").mkdir()
    database(tmp_path / "elsewhere/b.db")
    (home / "link").symlink_to(tmp_path / "elsewhere")
    (home / "also.db").symlink_to(tmp_path / "elsewhere/b.db")
    os.mkfifo(home / "pipe.db")
    (tmp_path / "alias").symlink_to(home / "data")
    covered = [str(tmp_path / "alias"), str(home / "state"), str(one)]
    assert search([str(home), str(tmp_path / "gone")], covered) == Search((), True)
    assert search([str(home / "data/deep")], covered) == Search((), True), "a working directory inside of a root"


def test_the_search_is_bounded_in_depth_entries_and_time(tmp_path):
    top = database(tmp_path / "a.db")
    database(tmp_path / "1/2/3/b.db")
    assert paths(search([str(tmp_path)], [])).keys() == {str(top), str(tmp_path / "1/2/3/b.db")}
    shallow = search([str(tmp_path)], [], depth=2)
    assert (list(paths(shallow)), shallow.complete) == ([str(top)], False)
    assert not search([str(tmp_path)], [], entries=3).complete
    began = time.monotonic()
    assert search([str(tmp_path)], [], seconds=0.0) == Search((), False)
    assert time.monotonic() - began < 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_can_not_be_read_is_passed_over(tmp_path):
    database(tmp_path / "a/x.db")
    (tmp_path / "a").chmod(0)
    assert search([str(tmp_path)], []).found == ()
    (tmp_path / "a").chmod(0o700)


def test_what_to_declare_covers_all_and_is_nested_nowhere(tmp_path):
    home = tmp_path / "home"
    database(home / "top.db")
    database(home / ".n8n/database.sqlite")
    database(home / ".n8n/sub/more.sqlite")
    database(home / "app/beside.db")
    database(home / "app/data/kept.db")
    roots = [str(home / "app/data")]
    found = search([str(home)], roots)
    assert to_declare(found.found, [str(home)], roots) == (
        str(home / ".n8n"),
        str(home / "app/beside.db"),
        str(home / "top.db"),
    )
