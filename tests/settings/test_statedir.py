from __future__ import annotations

import os
import stat

import pytest

from sidecar.errors import ConfigError
from sidecar.statedir import can_hold, choose_state_dir, ensure_state_dir


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_the_first_folder_that_can_be_written_is_chosen(tmp_path):
    home, xdg = tmp_path / "home", tmp_path / "xdg"
    environ = {"HOME": str(home), "XDG_STATE_HOME": str(xdg), "TMPDIR": str(tmp_path)}
    assert choose_state_dir(environ) == (f"{xdg}/sidecar", "XDG_STATE_HOME")
    xdg.write_text("a file is in the way")
    assert choose_state_dir(environ) == (f"{home}/.local/state/sidecar", "default")
    home.write_text("here too")
    assert choose_state_dir(environ) == (f"{tmp_path}/sidecar-{os.getuid()}", "the temp dir")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "xdg"]  # looking creates nothing


def test_a_relative_xdg_path_is_ignored(tmp_path):
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": "state"}
    assert choose_state_dir(environ)[0] == f"{tmp_path}/.local/state/sidecar"


def test_a_dangling_link_holds_nothing(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert not can_hold(f"{tmp_path}/link/sidecar")
    assert can_hold(f"{tmp_path}/new/deep/sidecar")


def test_it_is_made_private_and_left_as_it_is_where_it_exists(tmp_path):
    path = f"{tmp_path}/a/b"
    assert ensure_state_dir(path) == path
    assert mode(path) == 0o700
    os.chmod(path, 0o750)
    ensure_state_dir(path)
    assert mode(path) == 0o750
    assert os.listdir(path) == []


def test_a_file_in_its_place_is_a_configuration_error(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(ConfigError, match="SIDECAR_STATE_DIR") as raised:
        ensure_state_dir(f"{tmp_path}/f")
    assert raised.value.exit_code == 78


def test_a_folder_laid_out_by_somebody_else_in_a_shared_temp_dir_is_refused(tmp_path):
    shared = tmp_path / "tmp"
    shared.mkdir()
    os.chmod(shared, 0o1777)
    (tmp_path / "elsewhere").mkdir()
    (shared / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="symlink"):
        ensure_state_dir(f"{shared}/link")
    assert os.listdir(tmp_path / "elsewhere") == []
    (shared / "ours").mkdir(mode=0o755)
    ensure_state_dir(f"{shared}/ours")
    assert mode(shared / "ours") == 0o700
    if os.getuid() == 0:
        (shared / "theirs").mkdir()
        os.chown(shared / "theirs", 12345, 12345)
        with pytest.raises(ConfigError, match="user 12345"):
            ensure_state_dir(f"{shared}/theirs")
