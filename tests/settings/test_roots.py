from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.roots import LAYOUTS, Root, check_roots, parse_roots, spell

HOME = "/home/user"


def roots(value, home=HOME):
    parsed = parse_roots(value, home)
    assert parsed.problems == ()
    return parsed.roots


def problem(value, home=HOME):
    parsed = parse_roots(value, home)
    assert len(parsed.problems) == 1, parsed
    return parsed.problems[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/data", Root("data", "/data")),
        ("/data/", Root("data", "/data")),
        ("//srv//app/./x", Root("srv/app/x", "/srv/app/x")),
        ("~/.n8n", Root("home/user/.n8n", "/home/user/.n8n")),
        ("~", Root("home/user", "/home/user")),
        ("data=/home/user/data", Root("data", "/home/user/data")),
        ("profile=~/p?layout=bundle", Root("profile", "/home/user/p", "bundle")),
        ("/data?layout=mirror", Root("data", "/data", "mirror")),
        ("/a=b/c", Root("a=b/c", "/a=b/c")),
        ("n=/a=b", Root("n", "/a=b")),
        ("/with space/ü", Root("with space/ü", "/with space/ü")),
        ("  /data  ", Root("data", "/data")),
        ("/a:b\n", Root("a:b", "/a:b")),
    ],
)
def test_one_entry(value, expected):
    assert roots(value) == (expected,)


def test_separated_by_colons_or_one_a_line():
    expected = (Root("data", "/data"), Root("n", "/x"), Root("home/user/y", "/home/user/y"))
    assert roots("/data:n=/x:~/y") == expected
    assert roots("/data\nn=/x\n~/y") == expected
    assert roots("\n  /data\r\n\n  n=/x\r\n  ~/y\n") == expected
    assert roots("/data::n=/x:~/y:") == expected


def test_lines_make_a_colon_part_of_the_path_and_say_so_where_two_paths_look_meant():
    assert roots("/a:b\n/c") == (Root("a:b", "/a:b"), Root("c", "/c"))
    assert parse_roots("/a:b\n/c", HOME).warnings == ()
    (warning,) = parse_roots("/data:/config\n", HOME).warnings
    assert "one path" in warning


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("data", "relative"),
        ("./data", "relative"),
        ("data=x", "relative"),
        ("data=", "missing"),
        ("/", "whole file system"),
        ("x=//", "whole file system"),
        ("/a/../b", "'..'"),
        ("~bob/x", "another user"),
        ("/data?layuot=bundle", "layout="),
        ("/data?layout=zip", "auto, bundle, mirror"),
        ("/data?", "layout="),
        ("/a?b?layout=auto", "layout="),
        ("/.hidden", "for example hidden=/.hidden"),
        (".sidecar=/x", "starts with '.'"),
        ("..=/x", "starts with '.'"),
        ("README.md=/x", "README.md"),
        ("/README.md/x", "README.md"),
        ("=/x", "empty"),
        ("a\tb=/x", "control character"),
        ("/caf\udce9", "not UTF-8"),
        (":", "no path"),
        ("\n \n", "no path"),
        ("x=/a:x=/b", "both named 'x'"),
        ("a=/x:/a/b", "lie in each other"),
    ],
)
def test_one_line_for_each_mistake(value, part):
    assert part in problem(value)
    assert "\n" not in problem(value)


def test_names_are_compared_by_their_segments():
    assert len(roots("/data:/database:/data2")) == 3


def test_every_mistake_in_one_pass():
    parsed = parse_roots("/ok:x:/:/a?b", HOME)
    assert parsed.roots == (Root("ok", "/ok"),)
    assert len(parsed.problems) == 3


def test_a_tilde_falls_back_to_the_account_where_home_is_no_path():
    assert roots("~/x", home=None)[0].path.startswith("/")
    assert roots("~/x", home="relative")[0].path.startswith("/")


SEGMENT = st.text(
    st.characters(codec="utf-8", exclude_characters="/?:=\0\n\r\t~", exclude_categories=["Cc", "Z"]),
    min_size=1,
    max_size=8,
).filter(lambda s: not s.startswith(".") and s != "README.md" and s.strip() == s)


@st.composite
def any_root(draw):
    path = "/" + "/".join(draw(st.lists(SEGMENT, min_size=1, max_size=4)))
    name = draw(st.one_of(st.just(path[1:]), SEGMENT))
    return Root(name, path, draw(st.sampled_from(LAYOUTS)))


@given(any_root(), st.sampled_from(["", "\n"]))
def test_a_root_survives_being_spelled_and_read(root, end):
    assert roots(spell(root) + end) == (root,)


@given(st.text(max_size=30))
def test_any_text_is_roots_with_safe_names_or_problems(text):
    parsed = parse_roots(text, HOME)
    assert parsed.roots or parsed.problems
    for root in parsed.roots:
        assert root.path.startswith("/")
        assert root.path != "/"
        segments = [*root.path[1:].split("/"), *root.name.split("/")]
        assert not {"", ".", ".."} & set(segments)
        assert not root.name.startswith(".")


# --- roots beside each other, with the disk consulted


def check(value, state="/nowhere/state", store=None):
    return check_roots(roots(value), state, store)


def test_roots_may_not_lie_in_each_other(tmp_path):
    (text,) = check(f"{tmp_path}/a:b={tmp_path}/a/b").problems
    assert f"{tmp_path}/a/b' lies in '{tmp_path}/a'" in text
    (text,) = check(f"{tmp_path}/a:b={tmp_path}/a").problems
    assert "declared twice" in text
    assert check(f"{tmp_path}/a:b={tmp_path}/ab").problems == ()


def test_overlap_through_a_symlink_is_found(tmp_path):
    (tmp_path / "real/in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (text,) = check(f"a={tmp_path}/real:b={tmp_path}/link/in").problems
    assert "through a symlink" in text
    (text,) = check(f"a={tmp_path}/real:b={tmp_path}/link").problems
    assert "same folder" in text


def test_a_root_that_is_a_symlink_is_a_warning(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "not there yet")
    checked = check(f"{tmp_path}/link")
    assert checked.problems == ()
    (warning,) = checked.warnings
    assert "not there yet" in warning
    (tmp_path / "root").symlink_to("/")
    (text,) = check(f"{tmp_path}/root").problems
    assert "symlink to /" in text


def test_a_root_may_contain_the_state_dir_but_not_be_it_or_lie_in_it(tmp_path):
    state = f"{tmp_path}/a/state"
    assert check(f"{tmp_path}/a", state).problems == ()
    for path in (state, f"{state}/x"):
        (text,) = check(path, state).problems
        assert "state dir" in text
    (tmp_path / "a/state").mkdir(parents=True)
    (tmp_path / "link").symlink_to(state)
    (text,) = check(f"{tmp_path}/link/x", state).problems
    assert "state dir" in text


def test_a_folder_store_and_a_root_stay_apart(tmp_path):
    for path in ("store", "store/x", ""):
        (text,) = check(f"r={tmp_path}/{path}", store=f"{tmp_path}/store").problems
        assert "SIDECAR_STORE" in text
    assert check(f"{tmp_path}/data", store=f"{tmp_path}/store").problems == ()
    assert check(f"{tmp_path}", f"{tmp_path}/state", f"{tmp_path}/state/store").problems == ()
