"""An image as people build it: user 1000, the sidecar in an environment apart, and no Python on PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.journeys.space import REPO, Space


@contextmanager
def image() -> Iterator[tuple[Path, Space]]:
    """A folder that user 1000 may look into: entrypoint.sh, our package in /opt/sidecar, and a PATH without Python."""
    folder = Path(tempfile.mkdtemp(prefix="sidecar-image-"))
    try:
        folder.chmod(0o755)
        shutil.copy(REPO / "entrypoint.sh", folder / "entrypoint.sh")
        shutil.copytree(REPO / "sidecar", folder / "package/sidecar", ignore=shutil.ignore_patterns("__pycache__"))
        opt, version = folder / "opt/sidecar", f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = opt / "lib" / version / "site-packages"
        for made in (folder / "base", folder / "site", opt / "bin", site):
            made.mkdir(parents=True)
        (opt / "bin/python").symlink_to(folder / "base/bin" / version)
        (opt / "pyvenv.cfg").write_text(f"home = {folder}/base/bin\ninclude-system-site-packages = false\n")
        (site / "ours.pth").write_text(f"{folder}/package\n{folder}/site\n")
        script = opt / "bin/sidecar"
        script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={folder}/base/lib exec {opt}/bin/python -m sidecar "$@"\n')
        script.chmod(0o755)
        (folder / "bin").mkdir()
        for name in ("sh", "cat", "chmod", "mkdir", "sleep", "touch", "id", "env"):
            (folder / "bin" / name).symlink_to(str(shutil.which(name)))
        home = folder / "home"
        space = Space(home, f"file://{home}/store", paths=f"data={folder}/data")
        os.chown(home, 1000, 1000)
        space.env = {k: v for k, v in space.env.items() if k.startswith("SIDECAR_") and k != "SIDECAR_STATE_DIR"}
        space.env |= {"PATH": f"{folder}/bin", "HOME": str(home), "SPACE_SIDECAR_BIN": str(script)}
        space.state = home / ".local/state/sidecar"
        yield folder, space
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def enter(folder: Path, space: Space, *command: str) -> subprocess.CompletedProcess[str]:
    """`entrypoint.sh command` as user 1000. Our own Python may lie where that user can't look: it is mounted here."""
    tools = {name: shutil.which(name) for name in ("unshare", "sh", "mount", "setpriv")}
    binds = ((sys.base_prefix, folder / "base"), (sysconfig.get_path("purelib"), folder / "site"))
    mounts = " && ".join(f"{tools['mount']} --bind '{source}' '{target}'" for source, target in binds)
    become = f"{tools['setpriv']} --reuid 1000 --regid 1000 --clear-groups"
    return subprocess.run(
        [
            *(str(tools["unshare"]), "--mount", str(tools["sh"]), "-c", f'{mounts} && exec {become} "$@"', "sh"),
            *(str(folder / "entrypoint.sh"), *command),
        ],
        env=space.env,
        cwd=space.home,
        capture_output=True,
        text=True,
        timeout=30,
    )
