"""What is excluded: git's own answers over random patterns and trees, and our own files wherever they lie."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sidecar.readers import DEFAULT_EXCLUDE
from sidecar.snapshot import exclude
from sidecar.snapshot.exclude import Excluder, Patterns, ignore_lines, own_paths
from sidecar.snapshot.gitignore import parse


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repo")
    subprocess.run(["git", "init", "-q", path], check=True)
    return path


def git_ignores(repo: Path, lines: list[str], kinds: dict[str, bool]) -> set[str]:
    """The paths that git says are ignored in a real tree of ``kinds`` (is it a folder?), asked in one process."""
    for path, folder in kinds.items():
        at = repo / path
        (at if folder else at.parent).mkdir(parents=True, exist_ok=True)
        if not folder:
            at.touch()
    (repo / ".git" / "info" / "exclude").write_bytes(os.fsencode("\n".join(lines) + "\n"))
    try:
        asked = b"".join(os.fsencode(p) + b"\0" for p in kinds)
        git = ["git", "-C", str(repo), "check-ignore", "--no-index", "-z", "--stdin"]
        done = subprocess.run(git, input=asked, stdout=subprocess.PIPE)
    finally:
        for top in {p.split("/")[0] for p in kinds}:
            shutil.rmtree(repo / top) if (repo / top).is_dir() else (repo / top).unlink()
    assert done.returncode in (0, 1)
    return {os.fsdecode(p) for p in done.stdout.split(b"\0") if p}


def we_ignore(lines: list[str], kinds: dict[str, bool]) -> set[str]:
    """The same question to us; a path under an excluded folder is excluded, as a walk never gets there."""
    excluder = Excluder("/nonexistent", lines, ())
    return {p for p, folder in kinds.items() if excluder.hides(p, folder)}


names = st.sampled_from(["a", "b", "ab", "a.b", "a b", "b\nb", "a\\", "[a]", "é", "#", "!a", "-", "a ", "*"])
paths = st.tuples(st.lists(names, min_size=1, max_size=4), st.booleans()).map(lambda t: "/".join(t[0]) + "/" * t[1])
sets = ["[ab]", "[!a]", "[^b]", "[a-z]", "[[:alpha:]]", "[]a]", "[!]]", "[a-]", "[-a]", "[\\]]", "[a", "]"]
marks = ["#", "!", "\\!", "\\#", ".", "$", "(", "|", "+", "-", "\\a", "\\*", "\\ ", " ", "é"]
pieces = st.sampled_from(["a", "b", "*", "**", "***", "?", "/", "/", *sets, *marks])
patterns = st.tuples(st.sampled_from(["", "", "!", "/", "**/"]), st.lists(pieces, min_size=1, max_size=5)).map(
    lambda t: t[0] + "".join(t[1])
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(patterns, min_size=1, max_size=5), st.lists(paths, min_size=1, max_size=25, unique=True))
@example(["*", "!a/"], ["a/", "a/b", "b"])
@example(["a/**", "!a/b"], ["a/", "a/b", "a/a", "a/a/b"])
@example(["a/**/b"], ["a/b", "a/a/b", "a/a/b/a", "ab"])
@example(["*/"], ["a/", "a", "a/b/"])
@example(["**/"], ["a/", "a", "b/a/"])
@example(["a.b"], ["a.b\n", "a\n/a.b"])
@example(["a/*", "!a/b"], ["a/b", "a/a"])
@example(["a/", "!a/"], ["a/", "a/b"])
@example(["a ", "b\\ "], ["a", "a ", "b", "b "])
def test_we_exclude_what_git_ignores(repo: Path, lines: list[str], asked: list[str]) -> None:
    # git counts a name's bytes where we count its characters.
    asked = [p for p in asked if not ("é" in p and any("?" in x or "[" in x for x in lines))]
    kinds: dict[str, bool] = {}
    for path in asked:  # one path can't be a folder and a file in one tree
        parts = path.rstrip("/").split("/")
        for n in range(1, len(parts)):
            kinds["/".join(parts[:n])] = True
        kinds.setdefault("/".join(parts), path.endswith("/"))
    assert we_ignore(lines, kinds) == git_ignores(repo, lines, kinds)


def test_a_line_that_can_match_nothing_is_passed_over_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    exclude._compiled.cache_clear()
    logging.getLogger("sidecar").propagate = True
    with caplog.at_level(logging.WARNING, "sidecar"):
        for _ in range(3):  # once for each scan
            found = Patterns(["a[z-a]", "x\\", "[a", "!", "[[:nope:]]", "*.pid"])
    assert found.match("a.pid", False)
    assert not found.match("az", False)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 5, said
    assert "'a[z-a]'" in said[0]
    assert "is passed over" in said[0]


@pytest.mark.parametrize("line", ["a[z-a]", "x\\", "[a", "[\\", "!", "/", "[[:nope:]]"])
def test_such_a_line_says_why(line: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(line)


@pytest.mark.parametrize("line", ["", "   ", "#", "# a", "\r"])
def test_a_blank_line_or_a_comment_is_no_pattern(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("path", "is_dir", "out"),
    [
        ("__pycache__", True, True),
        ("__pycache__", False, False),
        ("src/deep/__pycache__", True, True),
        (".cache/huggingface", True, True),
        (".cache", True, False),
        ("home/.cache/pip", True, False),  # a pattern with a slash inside stands for one place under the root
        ("profile/SingletonLock", False, True),
        ("profile/SingletonSocket", False, True),
        ("profile/SingletonCookie", False, True),
        ("profile/Singletons", False, False),
        (".~lock.budget.ods#", False, True),
        ("app.pid", False, True),
        ("app.pid\n", False, False),
        ("app.pid.bak", False, False),
        (".sidecarignore", False, False),
    ],
)
def test_the_defaults(path: str, is_dir: bool, out: bool) -> None:
    assert Patterns(DEFAULT_EXCLUDE).match(path, is_dir) is out


def test_a_folder_and_all_below_it_are_hidden(tmp_path: Path) -> None:
    e = Excluder(str(tmp_path), ["cache/", "!cache/keep", "*.tmp"], ())
    assert e.hides("cache", True)
    assert e.hides("cache/keep", False)
    assert e.hides("a/cache/deep/x", False)
    assert not e.hides("cache", False), "a file of that name isn't what the pattern means"
    assert e.hides("a/x.tmp", False)
    assert not e.hides("a/x", False)


def test_the_roots_own_ignore_file_comes_after_the_setting(tmp_path: Path) -> None:
    (tmp_path / ".sidecarignore").write_bytes(b"\xef\xbb\xbf*.log\r\n!keep.log\n\xff\xfe.bin\na[z-a]\n# no\n")
    e = Excluder(str(tmp_path), ["*.tmp", "!x.log"], ())
    assert e.excluded("x.log", "x.log", False)
    assert not e.excluded("keep.log", "keep.log", False)
    assert e.excluded("x.tmp", "x.tmp", False)
    odd = os.fsdecode(b"\xff\xfe.bin")
    assert e.excluded(odd, odd, False)


@pytest.mark.parametrize("kind", ["none", "folder", "pipe", "dangling"])
def test_an_ignore_file_that_is_no_file_is_none(tmp_path: Path, kind: str) -> None:
    at = tmp_path / ".sidecarignore"
    if kind == "folder":
        at.mkdir()
    elif kind == "pipe":
        os.mkfifo(at)
    elif kind == "dangling":
        at.symlink_to("nowhere")
    assert [line for line in ignore_lines(str(tmp_path)) if line] == []
    assert Excluder(str(tmp_path), (), ()).unread == ""


@pytest.mark.parametrize("target", ["/proc/self/mem", ".sidecarignore"])
def test_an_ignore_file_that_cannot_be_read_is_said(tmp_path: Path, target: str) -> None:
    (tmp_path / ".sidecarignore").symlink_to(target)
    assert Excluder(str(tmp_path), (), ()).unread


def test_nothing_stays_open(tmp_path: Path) -> None:
    (tmp_path / ".sidecarignore").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        ignore_lines(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_our_own_paths_are_out_wherever_they_lie(tmp_path: Path) -> None:
    home = tmp_path / "home"
    state, store, hf = home / "state", home / "deep" / "store", home / "hf"
    for folder in (state, store, hf):
        folder.mkdir(parents=True)
    own = own_paths(str(state), {"HF_HOME": str(hf)}, str(store))
    e = Excluder(str(home), (), own)
    assert e.excluded("state", "state", True)
    assert e.excluded("deep/store", "store", True)
    assert e.excluded("hf", "hf", True)
    assert e.hides("state/index.db", False)
    assert not e.excluded("deep", "deep", True)
    assert not e.excluded("state2", "state2", True)
    assert sys.prefix == sys.base_prefix or os.path.realpath(sys.prefix) in own


def test_our_own_paths_are_found_through_links(tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "state").mkdir(parents=True)
    (tmp_path / "home").symlink_to(real)
    own = own_paths(str(tmp_path / "home" / "state"), {}, None)
    for root in (real, tmp_path / "home"):
        assert Excluder(str(root), (), own).excluded("state", "state", True)


def test_staging_is_out_and_no_pattern_brings_it_back(tmp_path: Path) -> None:
    e = Excluder(str(tmp_path), ["!.sidecar-tmp-x"], ())
    assert e.excluded("a/.sidecar-tmp-x", ".sidecar-tmp-x", True)
