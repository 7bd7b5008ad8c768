"""`config`: everything that is set, where from, what it means, and what is wrong with it."""

from __future__ import annotations

from sidecar.settings_table import SETTINGS
from tests.cli.desk import Desk


def test_it_shows_every_setting(desk: Desk) -> None:
    desk.set(SIDECAR_PATHS="/data:/srv/x", SIDECAR_QUIET="3s")
    answer = desk("config")
    assert (answer.code, answer.err) == (0, "")
    for setting in SETTINGS:
        assert f" {setting.name} = " in answer.out
        assert setting.meaning.split()[0] in answer.out
    assert "SIDECAR_QUIET = 3s   [environment]" in answer.out
    assert "default: 2s" in answer.out


def test_secrets_are_masked_in_both_forms(desk: Desk) -> None:
    desk.set(HF_TOKEN="hf_verysecretindeed", SIDECAR_API_TOKEN="apisecretxyz")
    for form in ([], ["--json"]):
        answer = desk("config", *form)
        assert answer.code == 0
        assert "secretindeed" not in answer.out + answer.err
        assert "apisecretxyz" not in answer.out + answer.err
        assert "HF_TOKEN" in answer.out


def test_mistakes_are_all_told_and_exit_with_78(desk: Desk) -> None:
    desk.set(SIDECAR_QUITE="1s", SIDECAR_PORT="many", SIDECAR_PATHS="relative")
    answer = desk("config")
    assert answer.code == 78
    assert "did you mean SIDECAR_QUIET?" in answer.err
    assert "SIDECAR_PORT" in answer.err
    assert "SIDECAR_PATHS" in answer.err
    assert "! SIDECAR_PORT = many" in answer.out, "all of it is shown all the same"
    rows = {row["name"]: row for row in desk("config", "--json").json}
    assert rows["SIDECAR_PORT"]["error"]
    assert rows["SIDECAR_QUIET"]["error"] is None
    assert rows["SIDECAR_QUITE"]["error"]


def test_a_value_cannot_draw_on_the_terminal(desk: Desk) -> None:
    desk.set(SIDECAR_EXCLUDE="a\n\x1b[2Jb")
    assert b"\x1b" not in desk("config").raw


def test_what_run_would_refuse_is_no_good_configuration(desk: Desk) -> None:
    desk.set(SIDECAR_STORE="git+https://example.com/x.git")
    answer = desk("config")
    assert answer.code == 78
    assert "git stores are not in this version" in answer.err
    assert "SIDECAR_STORE = git+https://example.com/x.git" in answer.out
