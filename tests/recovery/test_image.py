"""Shipped files over many containers: a newer default gets through, main's edits and deletions survive."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sidecar.recovery import image
from sidecar.recovery.choice import Image, Local, decide, printed
from sidecar.snapshot import stage as staging
from sidecar.snapshot.index import Index, Stat
from sidecar.snapshot.manifest import FOLDER, Entry, fingerprint
from tests.recovery.containers import Line, Shipped
from tests.snapshot.disk import FAST


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Where no disk has to turn for each commit."""
    with TemporaryDirectory(dir=FAST, prefix="sidecar-image-") as name:
        yield Path(name)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(staging, "SETTLE_NS", 0)
    return Line(tmp_path)


def test_the_first_snapshot_notes_what_the_image_brought_and_nothing_of_mains(line: Line) -> None:
    line.container({"conf": "A", "dir/b": "B", "link": link_to("conf")})
    (line.root / "own").write_text("mine")
    found = line.sync()
    assert found.shipped.keys() == {"data", "data/conf", "data/dir", "data/dir/b", "data/link"}
    assert found.shipped["data/conf"] == found.entries["data/conf"].sha256
    assert found.shipped["data/link"] == fingerprint("symlink", "", "conf")
    assert found.shipped["data/dir"] == FOLDER
    assert found.tombstones == {}


def test_update_after_update(line: Line) -> None:
    line.container({"conf": "A", "link": link_to("a")})
    (line.root / "own").write_text("mine")
    line.sync()
    for version in ("B", "C", "C", "D"):
        line.container({"conf": version, "link": link_to(version)})
        assert (line.read("conf"), os.readlink(line.root / "link"), line.read("own")) == (version, version, "mine")
        assert line.restored.conflict_count == 0
        assert line.sync().shipped["data/link"] == fingerprint("symlink", "", version)
    line.container({})
    assert (line.read("conf"), os.readlink(line.root / "link")) == ("D", "D"), "an image without it: the snapshot's"
    line.sync()
    line.container({"conf": "E"})
    assert line.read("conf") == "E"


def test_two_updates_without_a_sync_between(line: Line) -> None:
    line.container({"conf": "A"})
    line.sync()
    line.container({"conf": "B"})
    line.container({"conf": "C"})
    assert (line.read("conf"), line.restored.image_newer) == ("C", 1)


def test_an_edit_survives_and_is_an_edit_until_it_is_taken_back(line: Line) -> None:
    line.container({"conf": "A"})
    (line.root / "conf").write_text("edited")
    line.sync()
    line.container({"conf": "A"})
    assert (line.read("conf"), line.restored.conflict_count) == ("edited", 0), "the default is in every container"
    line.sync()
    line.container({"conf": "B"})
    assert (line.read("conf"), line.restored.conflict_count) == ("edited", 1), "a new default is worth a look"
    assert (next((line.state / "conflicts").iterdir()) / "data/conf").read_text() == "B"
    (line.root / "x").write_text("x")
    line.sync()
    line.container({"conf": "B"})
    assert (line.read("conf"), line.restored.conflict_count) == ("edited", 0)
    (line.root / "conf").write_text("B")
    line.sync()
    line.container({"conf": "C"})
    assert line.read("conf") == "C"


def test_what_main_wrote_is_never_a_default_though_an_image_ships_the_same(line: Line) -> None:
    line.container({})
    (line.root).mkdir()
    (line.root / "conf").write_text("mine")
    line.sync()
    line.container({"conf": "mine"})
    (line.root / "other").write_text("o")
    assert "data/conf" not in line.sync().shipped
    line.container({"conf": "newer"})
    assert line.read("conf") == "mine"


def test_a_volume_whose_index_was_lost_never_beats_the_snapshot(line: Line, tmp_path: Path) -> None:
    """Two disks of the same Space, one of them behind: what lies on it looks like an image's, and is old."""
    line.container({"conf": "default"})
    (line.root / "own").write_text("v1")
    line.sync()
    shutil.copytree(tmp_path / "disk", tmp_path / "old")
    line.container({"conf": "default", "own": "v1"})
    (line.root / "own").write_text("v2")
    line.sync()
    line.container({"conf": "default", "own": "v2"})
    (line.root / "other").write_text("o")
    line.sync()
    line.container({"conf": "default", "own": (tmp_path / "old/data/own").read_text()})
    assert line.read("own") == "v2"


def test_a_deleted_default_stays_deleted_until_another_comes(line: Line) -> None:
    shipped: Shipped = {"conf": "A", "gone/sample": "s", "gone/deep/x": "x", "link": link_to("conf"), "other": "O"}
    line.container(shipped)
    (line.root / "conf").unlink()
    (line.root / "link").unlink()
    shutil.rmtree(line.root / "gone")
    found = line.sync()
    assert found.tombstones.keys() == {
        *("data/conf", "data/link", "data/gone", "data/gone/sample", "data/gone/deep", "data/gone/deep/x"),
    }
    for _ in range(2):
        line.container(shipped)
        assert (sorted(os.listdir(line.root)), line.restored.buried) == (["other"], 6)
        assert line.restored.conflict_count == 0
        line.sync()
    line.container({**shipped, "conf": "B", "gone/deep/y": "y", "link": link_to("other")})
    assert (line.read("conf"), os.readlink(line.root / "link")) == ("B", "other")
    assert (line.read("gone/deep/y"), line.read("gone/deep/x"), line.read("gone/sample")) == ("y", None, None)
    assert line.sync().tombstones.keys() == {"data/gone/sample", "data/gone/deep/x"}
    line.container({**shipped, "conf": "C"})
    assert line.read("conf") == "C"


def test_deleted_before_the_first_snapshot_and_between_restore_and_sync(line: Line) -> None:
    line.container({"conf": "A", "other": "O"})
    (line.root / "conf").unlink()
    line.sync()
    line.container({"conf": "A", "other": "O", "new": "n"})
    (line.root / "new").unlink()
    line.sync()
    line.container({"conf": "A", "other": "O", "new": "n"})
    assert sorted(os.listdir(line.root)) == ["other"]


def test_what_is_excluded_is_not_shipped(line: Line) -> None:
    line.patterns = ("cache/", "*.pid")
    line.container({"cache/large": "L", "x.pid": "1", "conf": "A"})
    assert line.sync().shipped.keys() == {"data", "data/conf"}


def test_newly_excluded_is_not_deleted(line: Line) -> None:
    line.container({"conf": "A", "other": "O"})
    line.sync()
    line.container({"conf": "A", "other": "O"})
    (line.root / ".sidecarignore").write_text("conf\n")
    found = line.sync()
    assert "data/conf" in found.entries
    assert found.tombstones == {}


@pytest.mark.parametrize("edited", [False, True])
def test_a_file_that_the_next_image_ships_as_a_folder(line: Line, edited: bool) -> None:
    line.container({"conf": "A"})
    if edited:
        (line.root / "conf").write_text("edited")
    line.sync()
    line.container({"conf/one": "1"})
    assert (line.read("conf"), line.read("conf/one")) == (("edited", None) if edited else (None, "1"))
    line.sync()
    line.container({"conf/one": "2"})
    assert (line.read("conf"), line.read("conf/one")) == (("edited", None) if edited else (None, "2"))


@pytest.mark.parametrize("mains", [False, True])
def test_a_folder_that_the_next_image_ships_as_a_file(line: Line, mains: bool) -> None:
    line.container({"conf/one": "1", "conf/two": "2", "other": "O"})
    if mains:
        (line.root / "conf/own").write_text("mine")
    line.sync()
    line.container({"conf": "B", "other": "O"})
    assert line.read("conf") == (None if mains else "B")
    assert line.read("conf/own") == ("mine" if mains else None)
    found = line.sync()
    assert found.entries["data/conf"].kind == ("dir" if mains else "file")
    line.container({"conf": "C", "other": "O"})
    assert line.read("conf") == (None if mains else "C")


def test_a_single_file_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "SETTLE_NS", 0)
    line = Line(tmp_path, single=True)
    line.container({"": "A"})
    line.sync()
    line.container({"": "B"})
    assert line.read() == "B"
    line.sync()
    line.root.unlink()
    assert line.sync().tombstones.keys() == {"conf.json"}
    line.container({"": "B"})
    assert line.read() is None
    line.container({"": "C"})
    assert line.read() == "C"


def test_a_disk_that_survives_ships_nothing_anew(line: Line) -> None:
    line.container({"conf": "A"})
    line.sync()
    (line.root / "conf").write_text("after the last sync")
    (line.root / "own").write_text("mine")
    line.container({}, fresh=False)
    assert line.read("conf") == "after the last sync"
    found = line.sync()
    assert found.shipped.keys() == {"data", "data/conf"}
    assert found.shipped["data/conf"] != found.entries["data/conf"].sha256


def test_a_start_that_was_cut_off_before_its_first_snapshot_notes_nothing_anew(line: Line) -> None:
    line.container({"conf": "A"})
    (line.root / "own").write_text("mine")
    line.container({}, fresh=False)
    assert line.sync().shipped.keys() == {"data", "data/conf"}


def test_on_a_disk_that_survives_a_deletion_elsewhere_moves_aside(line: Line, tmp_path: Path) -> None:
    line.container({"conf": "A", "other": "O"})
    line.sync()
    for name in ("disk", "state"):
        shutil.copytree(tmp_path / name, tmp_path / f"kept-{name}")
    line.container({"conf": "A", "other": "O"})
    (line.root / "conf").unlink()
    line.sync()
    for name in ("disk", "state"):
        shutil.rmtree(tmp_path / name)
        os.rename(tmp_path / f"kept-{name}", tmp_path / name)
    done = line.container({}, fresh=False)
    assert (line.read("conf"), line.read("other")) == (None, "O")
    assert done.conflicts is not None
    assert (done.conflicts / "data/conf").read_text() == "A"


def test_an_older_revision_on_a_fresh_disk(line: Line) -> None:
    line.container({"conf": "A"})
    (line.root / "own").write_text("1")
    line.sync()
    first = line.head
    (line.root / "own").write_text("2")
    (line.root / "conf").unlink()
    line.sync()
    line.container({"conf": "B"}, revision=first)
    assert (line.read("conf"), line.read("own")) == ("B", "1")


def test_killed_between_journal_and_end_it_goes_on_as_it_began(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    from sidecar.recovery import job

    line.container({"conf": "A", "gone": "g"})
    (line.root / "gone").unlink()
    (line.root / "own").write_text("mine")
    line.sync()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "apply", killed)
        with pytest.raises(KeyboardInterrupt):
            line.container({"conf": "B", "gone": "g"})
    assert (line.read("conf"), line.read("gone")) == ("B", "g")
    line.container({}, fresh=False)
    assert (line.read("conf"), line.read("gone"), line.read("own")) == ("B", None, "mine")
    found = line.sync()
    assert found.shipped["data/conf"] == found.entries["data/conf"].sha256, "noted as it was found at first"
    assert "data/own" not in found.shipped


def test_past_the_bound_it_is_the_snapshots(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MOST_BYTES", 10)
    line.container({"conf": "A", "large": "L" * 20})
    found = line.sync()
    assert "data/conf" in found.shipped
    assert "data/large" not in found.shipped
    line.container({"conf": "B", "large": "M" * 20})
    assert (line.read("conf"), line.read("large")) == ("B", "L" * 20)
    index = Index(line.base / "other.db")
    seen = image.look(index, line.roots, (), (), lambda: None)
    index.close()
    assert (seen.left, seen.bytes) == (1, 1)


def test_the_verdicts() -> None:
    def local(content: str) -> Local:
        return Local("file", Stat(1, 1, 1, 1, 1), 1, 0o644, 0, 0, 1, 1, sha256=content * 64)

    def verdict(entry: str, here: str, shipped: str | None, brought: str | None) -> str:
        e = Entry("p", "file", 0o644, 0, 0, 1, 1, entry * 64)
        known = Image({"p": brought * 64} if brought else {}, {"p": shipped * 64} if shipped else {})
        return decide(e, local(here), None, "bring", False, known)

    assert verdict("a", "b", "a", "b") == "image"
    assert verdict("e", "a", "a", "a") == "replace"
    assert verdict("e", "b", "a", "b") == "conflict"
    assert verdict("a", "b", None, "b") == "conflict", "nobody says that the snapshot's was a default"
    assert verdict("a", "b", "a", None) == "conflict", "nobody says that an image brought it"
    assert verdict("a", "c", "a", "b") == "conflict", "changed since it was looked at"
    assert verdict("a", "a", "a", "a") == "keep"
    assert printed(local("a")) == "a" * 64
