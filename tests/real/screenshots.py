"""Takes the pictures in docs/: ``python -m tests.real.screenshots FOLDER``. The pages are real, the data made up."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from sidecar.state import State
from tests.real import samples
from tests.real.chromium import browser
from tests.web.serving import serving

SHOTS = {
    "status-light": (samples.well, "light", 1000),
    "status-dark": (samples.away, "dark", 1000),
    "status-phone": (samples.restoring, "light", 390),
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with browser() as chromium:
        for name, (make, scheme, width) in SHOTS.items():
            state: State = make()
            with TemporaryDirectory() as private, serving(Path(private), state) as one:
                page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
                page.goto(f"http://127.0.0.1:{one.port}/status")
                page.screenshot(path=folder / f"{name}.png", full_page=True)
                page.close()
            print(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
