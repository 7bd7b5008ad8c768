from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.readers import DEFAULT_EXCLUDE
from sidecar.roots import Root
from sidecar.settings import Settings, explain, load
from sidecar.settings_table import SETTINGS

HOME = "/home/user"


def get(environ=None, **more):
    need = more.pop("need_paths", False)
    return load({"HOME": HOME, **(environ or {}), **more}, need_paths=need)


def errors(environ=None, **more):
    with pytest.raises(ConfigError) as raised:
        get(environ, **more)
    assert raised.value.exit_code == 78
    return raised.value.message.split("\n")


def error(environ=None, **more):
    (line,) = errors(environ, **more)
    return line


def test_the_defaults():
    s = get(SIDECAR_PATHS="/data", SIDECAR_STATE_DIR="/state", need_paths=True)
    assert s == Settings(
        roots=(Root("data", "/data"),),
        store=s.store,
        exclude=DEFAULT_EXCLUDE,
        state_dir="/state",
        token=None,
        endpoint=None,
        space_id=None,
        space_host=None,
        host="0.0.0.0",
        port=7861,
        upstream=None,
        prefix="",
        api_token=None,
        quiet_s=2,
        max_delay_s=30,
        commits_per_hour=30,
        squash_after=None,
        rescan_s=600,
        restore_timeout_s=300,
        on_restore_failure="exit",
        revision=None,
        cold_start="allow",
        identity="local",
        adopt=None,
        handoff_wait_s=30,
        stop_timeout_s=6,
        shutdown_grace_s=25,
        drill_s=None,
        keepalive_every_s=None,
        verify=(),
        resume=(),
        heartbeat_url=None,
        age_recipient=None,
        age_identity=None,
        public=False,
        log="text",
        log_level="info",
        warnings=(),
    )
    assert (s.store.kind, s.store.path, s.store.persistent) == ("folder", "/state/store", False)


GOOD = {
    "SIDECAR_PATHS": ("/data?layout=bundle", "roots", (Root("data", "/data", "bundle"),)),
    "SIDECAR_EXCLUDE": ("*.tmp", "exclude", ("*.tmp",)),
    "SIDECAR_STATE_DIR": ("~/s", "state_dir", "/home/user/s"),
    "HF_TOKEN": ("hf_x", "token", "hf_x"),
    "HF_ENDPOINT": ("http://127.0.0.1:9/", "endpoint", "http://127.0.0.1:9"),
    "SPACE_ID": ("me/app", "space_id", "me/app"),
    "SPACE_HOST": ("me-app.hf.space", "space_host", "me-app.hf.space"),
    "SIDECAR_HOST": ("127.0.0.1", "host", "127.0.0.1"),
    "SIDECAR_PORT": ("8000", "port", 8000),
    "SIDECAR_UPSTREAM": ("http://127.0.0.1:7861", "upstream", "http://127.0.0.1:7861"),
    "SIDECAR_PREFIX": ("/_s", "prefix", "/_s"),
    "SIDECAR_API_TOKEN": ("t", "api_token", "t"),
    "SIDECAR_QUIET": ("0.2s", "quiet_s", 0.2),
    "SIDECAR_MAX_DELAY": ("1m", "max_delay_s", 60.0),
    "SIDECAR_COMMITS_PER_HOUR": ("60", "commits_per_hour", 60),
    "SIDECAR_SQUASH_AFTER": ("2000", "squash_after", 2000),
    "SIDECAR_RESCAN": ("1h", "rescan_s", 3600.0),
    "SIDECAR_RESTORE_TIMEOUT": ("10m", "restore_timeout_s", 600.0),
    "SIDECAR_ON_RESTORE_FAILURE": ("continue", "on_restore_failure", "continue"),
    "SIDECAR_REVISION": ("7.113", "revision", "7.113"),
    "SIDECAR_COLD_START": ("refuse", "cold_start", "refuse"),
    "SIDECAR_VERIFY": ("hf-token\n!json: /x", "verify", ("hf-token", "!json: /x")),
    "SIDECAR_RESUME": ("./a\n./b", "resume", ("./a", "./b")),
    "SIDECAR_IDENTITY": ("me", "identity", "me"),
    "SIDECAR_ADOPT": ("old/app", "adopt", "old/app"),
    "SIDECAR_HANDOFF_WAIT": ("0", "handoff_wait_s", 0.0),
    "SIDECAR_STOP_TIMEOUT": ("3s", "stop_timeout_s", 3.0),
    "SIDECAR_SHUTDOWN_GRACE": ("1m", "shutdown_grace_s", 60.0),
    "SIDECAR_DRILL": ("1d", "drill_s", 86400.0),
    "SIDECAR_KEEPALIVE_EVERY": ("45m", "keepalive_every_s", 2700.0),
    "SIDECAR_HEARTBEAT_URL": ("https://hc.example/x/", "heartbeat_url", "https://hc.example/x/"),
    "SIDECAR_AGE_IDENTITY": ("AGE-SECRET-KEY-1X\n", "age_identity", "AGE-SECRET-KEY-1X"),
    "SIDECAR_PUBLIC": ("allow", "public", True),
    "SIDECAR_LOG": ("json", "log", "json"),
    "SIDECAR_LOG_LEVEL": ("WARNING", "log_level", "warning"),
}


@pytest.mark.parametrize("name", GOOD)
def test_each_setting_reaches_its_field(name):
    text, field, value = GOOD[name]
    assert getattr(get({name: text}), field) == value


def test_no_setting_is_left_out_of_these_tests():
    tested = {*GOOD, "SIDECAR_STORE", "SIDECAR_TOKEN_FILE", "SIDECAR_AGE_RECIPIENT"}
    assert {s.name for s in SETTINGS} == tested
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert {s.field for s in SETTINGS} == fields - {"warnings"}


def test_an_empty_value_is_unset():
    environ = {s.name: "" for s in SETTINGS}
    assert get(environ) == get()
    assert get({name: "  " for name in environ if name not in ("HF_TOKEN", "SIDECAR_API_TOKEN")}) == get()
    assert get(SIDECAR_NO_SUCH="") == get()


def test_paths_are_required_only_where_they_are_needed():
    assert get().roots == ()
    assert "SIDECAR_PATHS is not set" in error(need_paths=True)


def test_every_error_is_reported_at_once_and_on_one_line_each():
    bad = {
        "SIDECAR_PATHS": "relative:/ok",
        "SIDECAR_EXCLUDE": "!",
        "SIDECAR_STATE_DIR": "state",
        "SIDECAR_STORE": "ftp://x/y",
        "HF_TOKEN": "hf_secret\n",
        "SIDECAR_TOKEN_FILE": "/no/such/token",
        "HF_ENDPOINT": "huggingface.co",
        "SPACE_ID": "app",
        "SPACE_HOST": "a b",
        "SIDECAR_HOST": "http://0.0.0.0",
        "SIDECAR_PORT": "80800",
        "SIDECAR_UPSTREAM": "127.0.0.1:7861",
        "SIDECAR_PREFIX": "sidecar",
        "SIDECAR_API_TOKEN": "a b",
        "SIDECAR_QUIET": "2",
        "SIDECAR_MAX_DELAY": "soon",
        "SIDECAR_COMMITS_PER_HOUR": "0",
        "SIDECAR_SQUASH_AFTER": "1,500",
        "SIDECAR_RESCAN": "0",
        "SIDECAR_RESTORE_TIMEOUT": "-1s",
        "SIDECAR_ON_RESTORE_FAILURE": "retry",
        "SIDECAR_REVISION": "a b",
        "SIDECAR_COLD_START": "yes",
        "SIDECAR_VERIFY": "nothing: x",
        "SIDECAR_RESUME": "json: /x",
        "SIDECAR_IDENTITY": "a b",
        "SIDECAR_ADOPT": "a\nb",
        "SIDECAR_HANDOFF_WAIT": "x",
        "SIDECAR_STOP_TIMEOUT": "x",
        "SIDECAR_SHUTDOWN_GRACE": "x",
        "SIDECAR_DRILL": "never",
        "SIDECAR_KEEPALIVE_EVERY": "0",
        "SIDECAR_HEARTBEAT_URL": "hc.example/x",
        "SIDECAR_AGE_RECIPIENT": "age1x",
        "SIDECAR_PUBLIC": "yes",
        "SIDECAR_LOG": "xml",
        "SIDECAR_LOG_LEVEL": "loud",
        "SIDECAR_PATH": "/data",
    }
    assert {s.name for s in SETTINGS} - {*bad, "SIDECAR_AGE_IDENTITY"} == set()
    lines = errors(bad, need_paths=True)
    named = {*bad, "SIDECAR_AGE_IDENTITY"} - {"SIDECAR_AGE_RECIPIENT"}  # the missing identity is what is named
    assert {line.split()[0].rstrip(":") for line in lines} == named
    assert len(lines) == len(named)
    for line in lines:
        assert "accepted: " in line or line.startswith(("SIDECAR_AGE_IDENTITY", "SIDECAR_PATH is no")), line


def test_an_error_names_the_variable_what_it_held_and_what_is_accepted():
    assert error(SIDECAR_LOG="xml") == "SIDECAR_LOG held 'xml'; accepted: text or json"
    assert "(is it 30s?)" in error(SIDECAR_QUIET="30")
    assert error(SIDECAR_LOG="x" * 5000).count("x") < 300


@pytest.mark.parametrize("held", ["abc", "", "1.5"])
@pytest.mark.parametrize("name", ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"])
def test_what_the_hubs_client_would_die_of_is_said_at_start(name, held):
    line = error({name: held}, SIDECAR_STORE="hf://datasets/alice/app")
    assert line == f"{name} held {held!r}: huggingface_hub can't read it; accepted: whole seconds, for example 10"
    assert get({name: "30"}, SIDECAR_STORE="hf://datasets/alice/app")
    assert get({name: held}, SIDECAR_STORE="file:///store"), "no other store reads it"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SIDECAR_PATH", "SIDECAR_PATHS"),
        ("SIDECAR_QUITE", "SIDECAR_QUIET"),
        ("SIDECAR_HF_TOKEN", "HF_TOKEN"),
        ("SIDECAR_STOP_TIMOUT", "SIDECAR_STOP_TIMEOUT"),
        ("SIDECAR_EXCLUDES", "SIDECAR_EXCLUDE"),
    ],
)
def test_a_misspelt_setting_gets_the_nearest_known_name(name, nearest):
    line = error({name: "s3cr3t-value"})
    assert f"{name} is no setting; did you mean {nearest}?" in line
    assert "s3cr3t" not in line


def test_unknown_names():
    assert "sidecar config" in error(SIDECAR_XQZ="1")
    assert get(SIDECAR_RECOVERY_EPOCH="7", SIDECARX="1", HF_HOME="/x") == get()
    assert load({"HOME": HOME, "SIDECAR_PATH": "x"}, need_paths=False, reject_unknown=False) == get()


# --- defaults that hang on something else


def test_the_default_store_is_the_spaces_dataset_where_there_is_a_token():
    s = get(SPACE_ID="me/app", HF_TOKEN="hf_x")
    assert (s.store.repo, s.store.persistent, s.identity, s.on_restore_failure) == (
        "me/app-state",
        True,
        "me/app",
        "wait",
    )
    assert not get(SPACE_ID="me/app").store.persistent
    assert not get(HF_TOKEN="hf_x").store.persistent
    assert get(SPACE_ID="me/app", HF_TOKEN="hf_x", SIDECAR_STORE="file:///s").store.path == "/s"


def test_the_port_hangs_on_the_upstream():
    assert get(SIDECAR_UPSTREAM="http://127.0.0.1:7861").port == 7860
    assert get(SIDECAR_UPSTREAM="http://127.0.0.1:7861", SIDECAR_PORT="8000").port == 8000


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0"])
def test_a_front_door_that_opens_onto_itself(host):
    assert "SIDECAR_PORT" in error(SIDECAR_UPSTREAM=f"http://{host}:7860")
    assert get(SIDECAR_UPSTREAM="http://app:7860").port == 7860


def test_a_space_is_who_it_is():
    s = get(SPACE_ID="me/app", SIDECAR_IDENTITY="other")
    assert s.identity == "me/app"
    assert "SIDECAR_IDENTITY is not used" in s.warnings[0]


def test_the_token_file_goes_first(tmp_path):
    (tmp_path / "token").write_text("hf_from_file\n")
    s = get(SIDECAR_TOKEN_FILE=f"{tmp_path}/token", HF_TOKEN="hf_other", SPACE_ID="me/app")
    assert s.token == "hf_from_file"
    assert "different tokens" in s.warnings[0]
    assert s.store.repo == "me/app-state"
    assert f"{tmp_path}/none" in error(SIDECAR_TOKEN_FILE=f"{tmp_path}/none")
    s = get(SIDECAR_TOKEN_FILE=f"{tmp_path}/token", SIDECAR_PATHS=str(tmp_path), SIDECAR_STATE_DIR="/s")
    assert "kept in the store" in s.warnings[0]


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({"SIDECAR_HANDOFF_WAIT": "14s"}, "taken for dead"),
        ({"SIDECAR_COMMITS_PER_HOUR": "101"}, "SIDECAR_COMMITS_PER_HOUR is 101"),
        ({"SIDECAR_QUIET": "1m"}, "longer than SIDECAR_MAX_DELAY"),
        ({"SIDECAR_STOP_TIMEOUT": "25s"}, "SIDECAR_SHUTDOWN_GRACE"),
    ],
)
def test_values_that_are_accepted_with_a_warning(environ, part):
    (warning,) = get(environ).warnings
    assert part in warning


def test_values_just_inside_give_no_warning():
    environ = {"SIDECAR_HANDOFF_WAIT": "15s", "SIDECAR_COMMITS_PER_HOUR": "100", "SIDECAR_QUIET": "30s"}
    assert get(environ, SIDECAR_STOP_TIMEOUT="24s").warnings == ()


def test_a_recipient_needs_an_identity():
    assert "SIDECAR_AGE_IDENTITY" in error(SIDECAR_AGE_RECIPIENT="age1x")
    assert get(SIDECAR_AGE_RECIPIENT="age1x", SIDECAR_AGE_IDENTITY="AGE-SECRET-KEY-1X").age_recipient == "age1x"


def test_off_is_off():
    s = get(SIDECAR_DRILL="off", SIDECAR_SQUASH_AFTER="OFF", SIDECAR_REVISION="head")
    assert (s.drill_s, s.squash_after, s.revision) == (None, None, None)


def test_roots_are_checked_against_our_own_folders(tmp_path):
    assert "state dir" in error(SIDECAR_PATHS=f"{tmp_path}/s/x", SIDECAR_STATE_DIR=f"{tmp_path}/s")
    assert "SIDECAR_STORE" in error(SIDECAR_PATHS=f"{tmp_path}/x", SIDECAR_STORE=f"file://{tmp_path}/x/store")
    assert get(SIDECAR_PATHS=str(tmp_path), SIDECAR_STATE_DIR=f"{tmp_path}/s").warnings == ()


def test_without_need_of_a_store_a_bad_one_is_a_warning():
    s = load({"HOME": HOME, "SIDECAR_STORE": "ftp://me:s3cr3t@x/y"}, need_paths=False, need_store=False)
    assert not s.store.persistent
    assert "SIDECAR_STORE" in s.warnings[0]
    assert "s3cr3t" not in s.warnings[0]


# --- secrets

SECRET = "Zq7xSECRETx7qZ"
LEAKY = {
    "HF_TOKEN": SECRET,
    "SIDECAR_API_TOKEN": SECRET,
    "SIDECAR_AGE_IDENTITY": f"AGE-SECRET-KEY-1{SECRET}",
    "SIDECAR_HEARTBEAT_URL": f"https://hc.example/{SECRET}",
    "SIDECAR_STORE": f"git+https://me:{SECRET}@host/x",
    "SIDECAR_VERIFY": f"command: curl -H 'Authorization: Bearer {SECRET}' x",
    "SIDECAR_RESUME": f"API_TOKEN={SECRET} ./x",
}


@pytest.mark.parametrize("name", [*LEAKY, None])
def test_no_secret_in_repr_or_config(name):
    environ = LEAKY if name is None else {name: LEAKY[name]}
    assert SECRET not in repr(get(environ))
    rows = explain({"HOME": HOME, **environ})
    assert SECRET not in repr(rows)
    assert [row for row in rows if row.name in environ and row.source != "environment"] == []


@given(
    st.sampled_from(sorted(s.name for s in SETTINGS)),
    st.sampled_from(["{}", "{}\n", "x{}", " {} {}", "{}:/x", "!{}"]),
)
def test_a_secret_is_in_no_message_wherever_it_was_put(name, form):
    environ = {
        "HOME": HOME,
        "HF_TOKEN": f"{SECRET}\n",
        "SIDECAR_API_TOKEN": SECRET,
        name: form.format(SECRET, SECRET),
    }
    with pytest.raises(ConfigError) as raised:
        load({**environ, "HF_ENDPOINT": SECRET, "SIDECAR_UNKNOWN": SECRET}, need_paths=True)
    assert SECRET not in raised.value.message
    assert SECRET not in repr(explain(environ))


@pytest.mark.parametrize(
    "store",
    ["https://me:{}@x/y", "git+https://me:{}/z@x/y", "postgresql://me:{}#z@x/y", "hf://{}@datasets/me/x"],
)
def test_a_store_url_that_cant_be_read_shows_no_password(store):
    line = error(SIDECAR_STORE=store.format(SECRET))
    assert line.startswith("SIDECAR_STORE held")
    assert SECRET not in line


@given(
    st.dictionaries(
        st.sampled_from(sorted(s.name for s in SETTINGS if s.name != "SIDECAR_TOKEN_FILE")),
        st.text(max_size=15),
    )
)
def test_any_environment_gives_settings_or_a_configuration_error(environ):
    environ = {name: text.replace("\0", "") for name, text in environ.items()}
    rows = explain({"HOME": HOME, **environ})
    wrong = [line for row in rows if row.error for line in row.error.split("\n")]
    if wrong:
        assert errors(environ) == wrong
    else:
        get(environ)


# --- sidecar config


def test_config_rows_say_where_a_value_comes_from(tmp_path):
    (tmp_path / "token").write_text("hf_x")
    environ = {
        "HOME": HOME,
        "SIDECAR_TOKEN_FILE": f"{tmp_path}/token",
        "SPACE_ID": "me/app",
        "SIDECAR_QUIET": "1s",
        "SIDECAR_UPSTREAM": "http://127.0.0.1:7861",
        "SIDECAR_PORT": "x",
        "SIDECAR_PATH": "x",
        "XDG_STATE_HOME": str(tmp_path),
    }
    rows = {row.name: row for row in explain(environ)}
    seen = {name: (row.value, row.source) for name, row in rows.items()}
    assert seen["HF_TOKEN"] == ("***", "SIDECAR_TOKEN_FILE")
    assert seen["SIDECAR_STORE"] == ("hf://datasets/me/app-state", "SPACE_ID")
    assert seen["SIDECAR_ON_RESTORE_FAILURE"] == ("wait", "SPACE_ID")
    assert seen["SIDECAR_IDENTITY"] == ("me/app", "SPACE_ID")
    assert seen["SIDECAR_QUIET"] == ("1s", "environment")
    assert seen["SIDECAR_MAX_DELAY"] == ("30s", "default")
    assert seen["SIDECAR_PORT"] == ("x", "environment")
    assert seen["SIDECAR_STATE_DIR"] == (f"{tmp_path}/sidecar", "XDG_STATE_HOME")
    assert seen["SIDECAR_PATHS"] == (None, "default")
    assert "SIDECAR_PORT held 'x'" in (rows["SIDECAR_PORT"].error or "")
    assert "did you mean SIDECAR_PATHS" in (rows["SIDECAR_PATH"].error or "")
    assert [row.name for row in rows.values() if row.error] == ["SIDECAR_PORT", "SIDECAR_PATH"]
    json.dumps([dataclasses.asdict(row) for row in rows.values()])


def test_each_default_in_words_is_the_default():
    for setting in SETTINGS:
        if setting.read is not None and setting.fallback not in (None, (), ""):
            text = "\n".join(setting.fallback) if isinstance(setting.fallback, tuple) else setting.default
            assert setting.read(text) == setting.fallback, setting.name


def test_loading_is_cheap():
    """By what it imports: a time limit would fail on a busy machine."""
    program = (
        "import sys; from sidecar.settings import load\n"
        "load({'SIDECAR_PATHS': '/data', 'HOME': '/', 'SIDECAR_STORE': 'file:///s'}, need_paths=True)\n"
        "print(*sorted(set(sys.modules) & {'asyncio', 'pathspec', 'huggingface_hub', 'difflib', 'json',"
        " 'pathlib', 'tempfile', 'subprocess', 'logging', 'socket', 'argparse'}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {os.getcwd()!r})\n{program}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == ""
