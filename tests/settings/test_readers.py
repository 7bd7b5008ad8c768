from __future__ import annotations

import os

import pytest

from sidecar import readers
from sidecar.readers import DEFAULT_EXCLUDE, Unreadable


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("command: ./check.sh --fast", (False, "command", "./check.sh --fast")),
        ("!command: test -s /data/x: y", (True, "command", "test -s /data/x: y")),
        ("http: http://127.0.0.1:7860/ok?full=1", (False, "http", "http://127.0.0.1:7860/ok?full=1")),
        ("! sqlite: /data/x.db", (True, "sqlite", "/data/x.db")),
        ("json:~/x.json", (False, "json", "~/x.json")),
        ("cookies: /data/Cookies", (False, "cookies", "/data/Cookies")),
        ("jwt: /data/t", (False, "jwt", "/data/t")),
        ("hf-token", (False, "hf-token", "")),
        ("!hf-token", (True, "hf-token", "")),
    ],
)
def test_checks(line, expected):
    assert readers.parse_check(line) == expected
    assert readers.checks(f"\n  {line}\n\n") == (line,)


@pytest.mark.parametrize(
    "line",
    [
        "./check.sh",
        "http://127.0.0.1/ok",
        "http: ftp://x/",
        "http: http://",
        "sqlite: x.db",
        "sqlite:",
        "hf-token: x",
        "SQLITE: /x",
        "!",
        "command:  ",
        "json: ~bob/x",
    ],
)
def test_what_is_no_check(line):
    with pytest.raises(Unreadable) as raised:
        readers.checks(f"hf-token\n{line}\n{line}")
    assert len(raised.value.details) == 2


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("./a.sh x", (False, False, "./a.sh x")),
        ("command: ./b.sh", (False, False, "./b.sh")),
        ("!./a.sh", (True, False, "./a.sh")),
        ("! command: ./a.sh", (True, False, "./a.sh")),
        ("after-ready: curl -f http://127.0.0.1:7861/resume", (False, True, "curl -f http://127.0.0.1:7861/resume")),
        ("after-ready: command: ./a.sh", (False, True, "./a.sh")),
        ("/c: d", (False, False, "/c: d")),
    ],
)
def test_commands_to_resume(line, parsed):
    assert readers.commands(f"\n {line} \n\n./other\n") == (line, "./other")
    assert readers.parse_command(line) == parsed


@pytest.mark.parametrize(
    "line", ["sqlite: /x", "!http: http://x/", "hf-token", "command:", "!", "after-ready:", "!after-ready: ./a.sh"]
)
def test_what_is_no_command_to_resume(line):
    with pytest.raises(Unreadable):
        readers.commands(line)


def test_exclude_replaces_the_default_or_adds_to_it():
    assert readers.exclude("*.tmp\n\n # words\n/build/") == ("*.tmp", "/build/")
    assert readers.exclude("*.tmp\n+default\n!x.pid") == ("*.tmp", *DEFAULT_EXCLUDE, "!x.pid")
    assert readers.exclude("#") == ()
    assert readers.exclude("a\\ \n  b  \r\nc") == ("a\\ ", "b", "c")


@pytest.mark.parametrize("line", ["!", "x\\", "a[z-a]", "/", "+defaults"])
def test_what_is_no_pattern(line):
    with pytest.raises(Unreadable) as raised:
        readers.exclude(f"ok\n{line}")
    assert len(raised.value.details) == 1
    assert repr(line) in raised.value.details[0]


def test_the_default_leaves_out_a_browsers_locks_and_little_else():
    from pathspec import GitIgnoreSpec

    out = GitIgnoreSpec.from_lines(DEFAULT_EXCLUDE).match_file
    left_out = ["a/__pycache__/x.pyc", ".cache/huggingface/hub/x", "p/SingletonLock", "p/SingletonSocket"]
    left_out += ["p/SingletonCookie", "doc/.~lock.x.odt#", "run/app.pid", ".cache/uv/x"]
    kept = [
        "x.py",
        ".cache/fontconfig/x",
        "Singleton",
        "x.pidx",
        "p/Cookies",
        "node_modules/x",
        ".git/config",
    ]
    assert [p for p in left_out if not out(p)] == []
    assert [p for p in kept if out(p)] == []


@pytest.mark.parametrize("text", ["hf_x", "not-a-token", "a", "tökén", "x=y;z"])
def test_a_token_of_any_shape(text):
    assert readers.secret(text) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("hf_x\n", "a line break at its end"),
        (" hf_x", "whitespace at its start"),
        ("hf_x \t", "whitespace at its end"),
        ("hf x", "whitespace inside"),
        ("hf\0x", "a control character inside"),
        ("hf_x\x7f", "a control character at its end"),
        ("hf\u00a0x", "whitespace inside"),
        ("\ufeff \n", "whitespace"),
    ],
)
def test_a_token_with_what_copying_adds(text, part):
    with pytest.raises(ValueError, match=part):
        readers.secret(text)


def test_a_mounted_token(tmp_path):
    path = tmp_path / "token"
    path.write_bytes(b"hf_x\r\n")
    assert readers.token_file(str(path)) == "hf_x"


def test_a_mounted_token_that_is_not_there_or_not_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text("hf_s3cr3t\nhf_s3cr3t\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, part in [
        ("none", "No such file"),
        (".", "Is a directory"),
        ("pipe", "is empty"),
        ("empty", "is empty"),
        ("two", "a line break inside"),
        ("bytes", "no text"),
    ]:
        with pytest.raises(ValueError, match=part) as raised:
            readers.token_file(f"{tmp_path}/{name}")
        assert f"{tmp_path}/{name}" in str(raised.value)
        assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "value"), [("::", "::"), ("[::1]", "::1"), ("0.0.0.0", "0.0.0.0"), ("a-b.c", "a-b.c")]
)
def test_hosts(text, value):
    assert readers.host(text) == value


@pytest.mark.parametrize("text", ["http://x", "0.0.0.0:80", "a b", "a/b", "localhost:7860", "1:2:3"])
def test_what_is_no_host(text):
    with pytest.raises(ValueError):
        readers.host(text)


def test_urls():
    upstream = readers.web_url("http", bare=True)
    assert upstream("http://127.0.0.1:7861/") == "http://127.0.0.1:7861"
    assert upstream("http://[::1]:7861") == "http://[::1]:7861"
    for text in (
        "127.0.0.1:7861",
        "https://x",
        "http://x/path",
        "http://me@x",
        "http://x:99999",
        "http://x:0",
        "http://",
    ):
        with pytest.raises(ValueError):
            upstream(text)
    assert readers.endpoint("https://hub.local/api/") == "https://hub.local/api"
    assert readers.web_url("https")("https://x/hook/") == "https://x/hook/"


def test_prefixes():
    assert readers.url_prefix("/_sidecar") == "/_sidecar"
    assert readers.url_prefix("/a/b-c/") == "/a/b-c"
    for text in ("sidecar", "/", "//", "/a//b", "/a b", "/..", "/a?b", "/ä"):
        with pytest.raises(ValueError):
            readers.url_prefix(text)
