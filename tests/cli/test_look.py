"""Looking into the store: `snapshots`, `ls`, `cat`, `diff`."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sidecar.snapshot.manifest import RECOVERY, Manifest
from tests.cli.conftest import ODD, Kept
from tests.cli.desk import Desk
from tests.recovery.world import fill


def names(lines: list[str]) -> set[str]:
    return {line.split("  ")[-1].split(" -> ")[0].rstrip("/") for line in lines}


def test_snapshots_are_listed_newest_first(desk: Desk, shelf: Kept) -> None:
    answer = desk("snapshots")
    assert answer.code == 0
    head, *rows = answer.lines
    assert head.split() == ["SNAPSHOT", "WHEN", "AGE", "FILES", "SIZE", "CHANGED", "REVISION"]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        ("1.2", shelf.revisions[1][:12]),
        ("1.1", shelf.revisions[0][:12]),
    ]


def test_snapshots_as_json_and_limited(desk: Desk, shelf: Kept) -> None:
    found = desk("snapshots", "--json", "--limit", "1").json
    assert [(s["snapshot"], s["revision"]) for s in found] == [("1.2", shelf.revisions[1])]
    assert found[0]["at"].endswith("Z")
    limited = desk("snapshots", "--limit", "1")
    assert len(limited.lines) == 2
    assert "--limit" in limited.err
    assert desk("snapshots", "--limit", "0").code == 2


def test_snapshots_say_what_they_hold_and_where_they_are_kept(desk: Desk, world: Kept) -> None:
    import asyncio

    async def more() -> None:
        store = world.open_store()
        await store.keep(world.revisions[0], "kept/1.1")
        head = await store.head()
        body = "files: 1204\nbytes: 38000000\nchanged: 3"
        await store.commit(head, {"data/x": b"x"}, (), f"sidecar: snapshot 1.3\n\n{body}")
        await store.compact()
        await store.close()

    asyncio.run(more())
    answer = desk("snapshots")
    assert answer.lines[0].split()[-1] == "BRANCH"
    first, second = answer.lines[1:]
    assert "  1,204  38 MB  3 " in first
    assert second.split()[0] == "1.1"
    assert second.endswith(f"{world.revisions[0][:12]}  kept/1.1")
    found = desk("snapshots", "--json").json
    assert [(s["files"], s["bytes"], s["changed"], s["branch"]) for s in found] == [
        (1204, 38_000_000, 3, None),
        (None, None, None, "kept/1.1"),
    ]
    assert desk("cat", "data/gone", "--revision", "1.1").out == "soon", "what is kept is found by its number"


def test_lease_commits_are_no_snapshots(desk: Desk, world: Kept) -> None:
    import asyncio

    async def lease() -> None:
        store = world.open_store()
        for n in range(30):
            await store.commit(await store.head(), {".sidecar/lease.json": b"%d" % n}, (), "sidecar: lease 2")
        await store.close()

    asyncio.run(lease())
    assert [s["snapshot"] for s in desk("snapshots", "--json", "--limit", "1").json] == ["1.2"]
    assert [s["snapshot"] for s in desk("snapshots", "--json").json] == ["1.2", "1.1"]
    assert desk("cat", "conf").out == "[conf]\n", "the head is a lease commit, and has the newest snapshot"


def test_nothing_kept_yet_is_said_with_where_it_was_looked_for(desk: Desk, tmp_path: Path) -> None:
    desk.set(SIDECAR_STORE=f"file://{tmp_path}/nowhere", SIDECAR_STATE_DIR=str(tmp_path / "state"))
    for command in (["snapshots"], ["ls"], ["cat", "x"], ["verify"], ["restore", "--to", str(tmp_path / "out")]):
        answer = desk(*command)
        assert (answer.code, answer.out) == (69, "")
        assert f"{tmp_path}/nowhere" in answer.err
    desk.set(SIDECAR_STORE=None)
    assert "SIDECAR_STORE is not set" in desk("snapshots").err
    assert not (tmp_path / "out").exists()


def test_ls_shows_everything_as_ls_does(desk: Desk, shelf: Kept) -> None:
    answer = desk("ls")
    assert answer.code == 0
    shown = {line.split("  ")[-1]: line for line in answer.lines}
    assert shown["data/sub/run.sh"].startswith("-rwxr-x---")
    assert " 10 " in shown["data/sub/run.sh"]
    assert shown["data/link -> a.txt"].startswith("lrwxrwxrwx")
    assert shown["data/empty/"].startswith("d")
    assert "conf" in shown
    assert "1.2: 8 files" in answer.err, "a link counts, as in the list of snapshots"


def test_a_name_reaches_the_terminal_escaped_and_json_as_the_manifest_has_it(desk: Desk, shelf: Kept) -> None:
    answer = desk("ls")
    assert r"data/odd \xff\x0a\x1b[31mname" in names(answer.lines)
    assert b"\x1b" not in answer.raw
    listed = desk("ls", "--json").json
    assert (listed["snapshot"], listed["revision"]) == ("1.2", shelf.revisions[1])
    coded = [base64.b64decode(e["path_b64"]) for e in listed["entries"] if "path_b64" in e]
    assert coded == [os.fsencode(f"data/{ODD}")]
    (script,) = (e for e in listed["entries"] if e.get("path") == "data/sub/run.sh")
    assert (script["mode"], script["size"], script["kind"]) == (0o750, 10, "file")


@pytest.mark.parametrize(
    ("words", "holds"),
    [
        (["1.1"], "data/gone"),
        (["head", "data/sub"], "data/sub/b.bin"),
        (["data/sub"], "data/sub/b.bin"),
        (["data/sub/"], "data/sub/b.bin"),
        (["{root}/sub"], "data/sub/b.bin"),
        (["1.1", "{root}"], "data/gone"),
        (["{revision}", "data/gone"], "data/gone"),
        (["{beginning}"], "data/gone"),
        (["{conf}"], "conf"),
    ],
)
def test_ls_takes_a_snapshot_and_a_path_however_they_are_written(
    desk: Desk, shelf: Kept, words: list[str], holds: str
) -> None:
    values = {"root": shelf.root, "revision": shelf.revisions[0], "beginning": shelf.revisions[0][:8]}
    answer = desk("ls", *(w.format(**values, conf=shelf.roots[1].path) for w in words))
    assert answer.code == 0, answer.err
    assert holds in names(answer.lines)
    if words[-1].rstrip("/").endswith("sub"):
        assert names(answer.lines) == {"data/sub", "data/sub/b.bin", "data/sub/run.sh"}


def test_an_absolute_path_is_understood_without_settings_as_the_writer_had_it(desk: Desk, shelf: Kept) -> None:
    desk.set(SIDECAR_PATHS=None)
    assert desk("cat", shelf.root / "sub" / ".." / "a.txt").out == "one\ntwo\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["9.9"], 1, "no snapshot '9.9' (near it are 1.2, 1.1)"),
        (["head", "nope"], 1, "nothing at 'nope'"),
        (["nope"], 1, "no path in snapshot 1.2 and no snapshot"),
        (["a", "b", "c"], 2, "no more"),
        (["f" * 64], 1, "no path in snapshot 1.2 and no snapshot"),
    ],
)
def test_what_is_not_there_is_named(desk: Desk, shelf: Kept, words: list[str], code: int, said: str) -> None:
    answer = desk("ls", *words)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err


def test_a_beginning_that_fits_two_revisions_is_refused() -> None:
    from sidecar.commands.reading import choose
    from sidecar.errors import UsageError
    from sidecar.stores.base import Commit

    history = [Commit("abcd1", "sidecar: snapshot 1.2", 0.0), Commit("abcd2", "sidecar: snapshot 1.1 (x)", 0.0)]
    with pytest.raises(UsageError, match="2 revisions"):
        choose("abcd", history)
    assert choose("abcd1", history) == "abcd1"
    assert choose("1.1", history) == "abcd2"
    assert choose("abc", history) is None, "too short to mean anything"


def test_cat_gives_the_bytes_and_nothing_else(desk: Desk, shelf: Kept) -> None:
    answer = desk("cat", "data/sub/b.bin")
    assert (answer.code, answer.raw, answer.err) == (0, bytes(range(256)), "")
    assert desk("cat", "data/a.txt", "--revision", "1.1").out == "one\n"
    assert desk("cat", shelf.root / "gone", "--revision", shelf.revisions[0]).out == "soon"
    assert desk("cat", f"data/{ODD}").out == "odd", "a name that no terminal can show can be typed all the same"
    assert (desk("cat", "data/empty").code, desk("cat", "data/link").code) == (1, 1)
    assert "a link to 'a.txt'" in desk("cat", "data/link").err
    assert desk("cat", "data/gone").code == 1


def test_cat_of_an_empty_file(desk: Desk, world: Kept) -> None:
    fill(world.root, {"nothing": ""})
    world.keep()
    assert (desk("cat", "data/nothing").code, desk("cat", "data/nothing").raw) == (0, b"")


def test_diff_says_what_changed_and_how(desk: Desk, shelf: Kept) -> None:
    answer = desk("diff", "1.1")
    assert answer.code == 0
    assert answer.lines == [
        "~ data/a.txt  (4 B -> 8 B)",
        "- data/gone  (4 B)",
        "+ data/new  (4 B)",
        "m data/sub/run.sh  (0644 -> 0750)",
    ]
    assert "1.1 -> 1.2: 1 added, 1 deleted, 1 changed, 1 mode" in answer.err
    assert desk("diff", "1.2", "1.1").lines[1] == "+ data/gone  (4 B)"
    assert desk("diff", "head", shelf.revisions[1][:10]).lines == []


def test_a_snapshot_that_is_not_there_is_no_refusal_of_the_store(desk: Desk, shelf: Kept) -> None:
    for command in (["diff", "9.9"], ["diff", "1.1", "9.9"], ["verify", "--revision", "9.9"], ["cat", "conf"]):
        more = ["--revision", "9.9"] if command[0] == "cat" else []
        answer = desk(*command, *more)
        assert (answer.code, answer.out) == (1, "")
        assert "no snapshot '9.9' (near it are 1.2, 1.1)" in answer.err
    answer = desk("restore", "--revision", "1.3", "--dry-run")
    assert (answer.code, "near it are 1.2, 1.1" in answer.err) == (1, True)


def test_diff_as_json_has_both_entries(desk: Desk, world: Kept) -> None:
    (world.root / "link").unlink()
    fill(world.root, {"link/now a folder": "x", ODD: "other"})
    world.keep()
    found = desk("diff", "1.2", "--json").json
    assert (found["from"]["snapshot"], found["to"]["snapshot"]) == ("1.2", "1.3")
    changes = {c.get("path", "odd"): c for c in found["changes"]}
    assert {name: c["change"] for name, c in changes.items()} == {
        "data/link": "changed",
        "data/link/now a folder": "added",
        "odd": "changed",
    }
    assert (changes["data/link"]["before"]["kind"], changes["data/link"]["after"]["kind"]) == ("symlink", "dir")
    assert base64.b64decode(changes["odd"]["path_b64"]) == os.fsencode(f"data/{ODD}")
    assert "(symlink -> dir)" in desk("diff", "1.2").out


def test_reading_leaves_nothing_behind(desk: Desk, world: Kept, tmp_path: Path) -> None:
    before = {p: p.lstat().st_mtime_ns for p in sorted(world.base.rglob("*")) if "store" not in p.parts}
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    desk.set(TMPDIR=str(temporary))
    import tempfile

    tempfile.tempdir = None
    try:
        for command in (["snapshots"], ["ls"], ["cat", "conf"], ["diff", "1.1"], ["verify"], ["restore", "--dry-run"]):
            assert desk(*command).code == 0, command
    finally:
        tempfile.tempdir = None
    assert list(temporary.iterdir()) == []
    temporary.rmdir()
    after = {p: p.lstat().st_mtime_ns for p in sorted(world.base.rglob("*")) if "store" not in p.parts}
    assert after.keys() - before.keys() == {world.state / "drill.json"}, "verify is a drill, and noted as one"
    changed = {p for p in before if after[p] != before[p]}
    assert changed <= {world.state}, "where verify reads into, and clears up"


def test_a_damaged_manifest_is_an_error_that_names_the_way_out(desk: Desk, world: Kept) -> None:
    from sidecar.snapshot.manifest import PATH

    world.commit({PATH: b'{"format": 1, "entries": 7}'})
    answer = desk("ls")
    assert (answer.code, answer.out) == (1, "")
    assert "sidecar snapshots" in answer.err
    assert "Traceback" not in answer.err
    assert desk("ls", "1.1").code == 0


def test_a_flag_of_an_entry_is_shown(desk: Desk, world: Kept) -> None:
    from dataclasses import replace

    def stale(manifest: Manifest) -> Manifest:
        entries = {p: replace(e, flag="stale" if p == "data/app.db" else "") for p, e in manifest.entries.items()}
        return replace(manifest, entries=entries)

    world.snapshot(change=stale)
    assert any(line.endswith("data/app.db  [stale]") for line in desk("ls").lines)
    assert "marked stale" in desk("cat", "data/app.db").err
    assert stat.S_ISREG((world.root / "app.db").stat().st_mode)


def test_records_that_are_not_ours_spoil_no_table(desk: Desk, world: Kept) -> None:
    good = {"at": "2026-11-29T02:00:00Z", "instance": "good", "result": "ok", "files": 1204, "bytes": 38e6, "ms": 2100}
    odd: list[Any] = [
        {"at": None, "result": "x" * 5000, "bytes": 1e300, "files": True, "ms": 1e308, "snapshot_age_s": -7},
        {"at": "\x1b[2J", "checks": [{"result": "y" * 5000}, 7], "resume": {"state": ["z" * 5000]}, "clean": {}},
        {"at": good["at"], "instance": ["i" * 5000], "error": "\x1b[31mred"},
        "text",
    ]
    lines = [
        json.dumps(each if isinstance(each, str) else each | {"store": f"file://{world.base}/store"}) for each in odd
    ]
    (world.state / "recoveries.jsonl").write_text("\n".join(lines))
    world.commit({RECOVERY: json.dumps(good).encode()})
    answer = desk("recoveries")
    assert answer.code == 0
    assert "\x1b" not in answer.out + answer.err
    assert max(map(len, answer.lines)) < 300
    assert any(line.split()[2:3] == ["ok"] and "1,204" in line and "38 MB" in line for line in answer.lines)
    assert desk("recoveries", "--json", "--limit", "1").json[0]["at"] == good["at"]
