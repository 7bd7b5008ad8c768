from __future__ import annotations

import os
from pathlib import Path

from sidecar.snapshot.mounts import mount_of, within

TABLE = r"""21 1 254:0 / / rw - ext4 /dev/vda rw
30 21 0:27 / /data rw - tmpfs tmpfs rw
31 21 254:0 /vol /data/sub\040dir rw - ext4 /dev/vda rw
32 21 254:0 /vol /data/sub\040dir rw - ext4 /dev/vda rw
"""


def test_the_longest_and_newest_mount_counts(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    for path, expected in [
        ("/etc/passwd", "21"),
        ("/data", "30"),
        ("/database", "21"),
        ("/data/x", "30"),
        ("/data/sub dir/x", "32"),
    ]:
        assert mount_of(path, str(table)) == expected


def test_what_is_mounted_at_a_place_or_below_it(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    for path, expected in [
        ("/data", True),
        ("/data/sub dir", True),
        ("/data/sub", False),
        ("/dat", False),
        ("/etc", False),
    ]:
        assert within(path, str(table)) is expected


def test_where_it_cannot_be_told() -> None:
    assert mount_of("/", "/nowhere") is None
    assert mount_of(os.getcwd()) is not None
    assert within("/", "/nowhere") is False
