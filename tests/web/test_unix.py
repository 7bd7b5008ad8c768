from __future__ import annotations

import errno
import os
import socket
import stat

import pytest

from sidecar.commands.agent_client import over_socket
from sidecar.web import unix
from tests.web.serving import serving


def deep(folder, length):
    """A folder below ``folder`` whose socket's path is over ``length`` bytes long."""
    while len(os.fsencode(folder)) < length:
        folder = folder / ("d" * 40)
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077, 0o777])
def test_only_we_can_use_it_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with unix.listen(tmp_path / "agent.sock"):
            mode = os.stat(tmp_path / "agent.sock").st_mode
    finally:
        os.umask(before)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert os.listdir(tmp_path) == ["agent.sock"]


def test_the_socket_itself_is_never_open_to_others(tmp_path, monkeypatch):
    """Also not between bind and chmod, with a umask that takes nothing away."""
    seen = []
    monkeypatch.setattr(os, "chmod", lambda path, mode: seen.append(stat.S_IMODE(os.stat(path).st_mode)))
    before = os.umask(0)
    try:
        unix.listen(tmp_path / "agent.sock").close()
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_a_stale_socket_is_replaced(tmp_path):
    path = tmp_path / "agent.sock"
    unix.listen(path).close()  # closed, yet the file stays, as after a SIGKILL
    assert path.exists()
    with unix.listen(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))


def test_one_that_somebody_serves_is_not(tmp_path):
    path = tmp_path / "agent.sock"
    with unix.listen(path), socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(OSError, match="another agent") as raised:
            unix.listen(path)
        assert raised.value.errno == errno.EADDRINUSE
        client.connect(os.fspath(path))


def test_a_file_in_its_place_stays(tmp_path):
    path = tmp_path / "agent.sock"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        unix.listen(path)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["agent.sock"]


def test_a_path_of_any_length_will_do(tmp_path):
    for length in (90, 108, 300):
        folder = deep(tmp_path / str(length), length)
        with serving(folder) as one:
            assert stat.S_IMODE(os.stat(folder / "agent.sock").st_mode) == 0o600
            assert over_socket(folder / "agent.sock", "GET", "/livez", 5.0).body == {"ok": True}
            assert one.web.problems == {}
        assert os.listdir(folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="root may drop to another user here")
def test_another_user_is_kept_out(tmp_path):
    os.chmod(tmp_path, 0o755)
    with serving(tmp_path) as one:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setuid(1000)
            probe = socket.socket(socket.AF_UNIX)
            os.fchdir(os.open("/", os.O_PATH))
            os.write(writer, str(probe.connect_ex(os.fspath(one.socket_path))).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert int(os.read(reader, 9)) == errno.EACCES
        os.close(reader)
        os.close(writer)
