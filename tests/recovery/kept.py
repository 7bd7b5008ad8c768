"""`python -m tests.recovery.kept SCENARIO BASE`: what section 5 lists, synced and restored; see `snapshot.alone`."""

from __future__ import annotations

import ctypes  # noqa: F401  (its library may lie where only root may read)
import os
import stat as st
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidecar.snapshot import stage as staging
from tests.sync.rig import Elsewhere, Rig

SCENARIOS: dict[str, Callable[[Path], None]] = {}
SOON = 4_102_444_800_123_456_789  # in the year 2100, to the nanosecond


def scenario(call: Callable[[Path], None]) -> Callable[[Path], None]:
    SCENARIOS[call.__name__] = call
    return call


def furnish(root: Path) -> None:
    """Everything that an entry keeps, of several owners."""
    for number, mode in enumerate((0o644, 0o600, 0o000, 0o444, 0o755, 0o4755, 0o2755, 0o6711, 0o1777)):
        path = root / f"mode-{mode:04o}"
        path.write_text(f"{mode:o}" * (number + 1))
        os.chown(path, 1000 + number % 3, 2000 + number % 2)
        os.chmod(path, mode)
        os.utime(path, ns=(1, number * 1_000_000_007 + 1))
    for name, mode in {"empty": 0o755, "private": 0o700, "shut": 0o000, "shared": 0o2775, "sticky": 0o1777}.items():
        (root / "folders" / name).mkdir(parents=True)
        os.chown(root / "folders" / name, 1000, 2000)
        (root / "folders" / name).chmod(mode)
        os.utime(root / "folders" / name, ns=(1, 987_654_321))
    (root / "shut-with-content").mkdir()
    (root / "shut-with-content/file").write_text("inside")
    (root / "shut-with-content").chmod(0o555)
    for name, target in {"good": "mode-0644", "dangling": "no/such", "absolute": "/etc/passwd", "up": "../.."}.items():
        (root / f"link-{name}").symlink_to(target)
    os.symlink(b"\xff\xfe\n", os.fsencode(root) + b"/link-odd")
    os.chown(root / "link-good", 1001, 2001, follow_symlinks=False)
    os.utime(root / "link-good", ns=(1, 123_456_789), follow_symlinks=False)
    (root / "hard-1").write_text("hard")
    os.link(root / "hard-1", root / "hard-2")
    for name, when in {"before-1970": -1_500_000_001, "soon": SOON}.items():
        (root / name).write_text(name)
        os.utime(root / name, ns=(1, when))
    (root / os.fsdecode(b"odd \xff\n\x1b[31m")).write_text("odd")
    os.utime(root, ns=(1, 5_000_000_005))
    os.chmod(root, 0o751)


def picture(root: Path, owner: bool) -> dict[str, tuple[Any, ...]]:
    out: dict[str, tuple[Any, ...]] = {}
    for path in [root, *root.rglob("*")]:
        s = os.lstat(path)
        who = (s.st_uid, s.st_gid) if owner else ()
        what: Any = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        # A link has no mode of its own.
        mode = 0 if path.is_symlink() else st.S_IMODE(s.st_mode)
        out[str(path.relative_to(root))] = (st.S_IFMT(s.st_mode), mode, s.st_mtime_ns, *who, what, s.st_nlink == 1)
    return out


def synced(base: Path) -> Rig:
    staging.SETTLE_NS = 0
    rig = Rig(base / "rig")
    furnish(rig.root)
    survey = rig.sync()
    assert not survey.unreadable, survey.unreadable
    return rig


def alike(found: dict[str, tuple[Any, ...]], wanted: dict[str, tuple[Any, ...]]) -> None:
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    for name, what in wanted.items():
        if not name.startswith("hard-"):
            assert found[name] == what, (name, found[name], what)
        else:
            assert found[name][:-1] == what[:-1], (name, found[name], what)
            assert found[name][-1] is True, "hard links come back as copies"


@scenario
def all_of_it_as_root(base: Path) -> None:
    rig = synced(base)
    alike(picture(rig.restored(), True), picture(rig.root, True))
    again = Elsewhere(base / "again", base / "rig/store", ("data",))
    assert rig.head is not None
    again.restore(rig.head, rig.manifest())
    os.chmod(again.root / "mode-4755", 0o600)
    os.chown(again.root / "mode-0644", 7, 7)
    (again.state / "index.db").unlink()
    done = again.restore(rig.head, rig.manifest())
    assert (done.fetched, done.conflict_count) == (0, 0)
    alike(picture(again.root, True), picture(rig.root, True))


def as_user(base: Path, groups: list[int]) -> None:
    rig = synced(base)
    wanted, owned = picture(rig.root, False), picture(rig.root, True)
    manifest, head = rig.manifest(), rig.head
    rig.close()
    assert head is not None
    (base / "mine").mkdir()
    os.chmod(base / "rig", 0o755)
    os.setgroups(groups)
    for path in (base / "mine", *(p for p in [base / "rig/store", *(base / "rig/store").rglob("*")])):
        os.chown(path, 1000, 1000, follow_symlinks=False)
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    world = Elsewhere(base / "mine/world", base / "rig/store", ("data",))
    world.restore(head, manifest)
    # Its owner may look at what is shut to anybody else only with the right mode; take the picture as it lets us.
    shut = [p for p in (world.root / "mode-0000", world.root / "folders/shut") if p.lstat().st_mode & 0o7777 == 0]
    assert len(shut) == 2, "modes that lock ourselves out are restored too"
    for path in world.root.rglob("*"):
        s, rel = os.lstat(path), str(path.relative_to(world.root))
        mode = 0 if path.is_symlink() else st.S_IMODE(s.st_mode)
        want = wanted[rel]
        # A group that isn't ours takes its set-gid bit with it: the system clears it.
        gone = 0o2000 if s.st_gid not in (1000, *groups) or owned[rel][4] not in (1000, *groups) else 0
        assert (st.S_IFMT(s.st_mode), mode | gone, s.st_mtime_ns) == (want[0], want[1] | gone, want[2]), (
            rel,
            oct(mode),
        )
        assert s.st_uid == 1000
        assert s.st_gid == (owned[rel][4] if owned[rel][4] in groups else 1000), (rel, s.st_gid)
        if path.is_symlink():
            assert os.readlink(path) == want[-2]
        elif path.is_file() and path not in shut:
            assert path.read_bytes() == want[-2]
    assert {str(p.relative_to(world.root)) for p in world.root.rglob("*")} == wanted.keys() - {"."}
    done = world.restore(head, manifest)
    assert (done.fetched, done.conflict_count, done.kept_newer) == (0, 0, 0)


@scenario
def without_the_right_to_chown(base: Path) -> None:
    as_user(base, [])


@scenario
def with_a_group_that_is_ours_too(base: Path) -> None:
    as_user(base, [2000])


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
